from math import ceil, log2

import pytest

from experiments.data.graders import Grader
from experiments.data.sets.tinymath import TinyMath
from experiments.labelling.estimates import Estimation, hardened
from experiments.labelling.labellers import BinarySearch, Exact, Judged, MonteCarlo
from experiments.labelling.sources import Sampled
from experiments.tinymath.task import generate
from orchestrator.core.nouns import Problem, Status, Step, Trajectory
from tests.experiments.labelling.solving import NoisySolver, opening, unheard
from tests.fakes import ANSWERS, EOS, ScriptedPolicy, TableVerifier, ids

MADE = generate("train", 12)
PROBLEMS = [Problem.from_prompt(made.id, made.prompt) for made in MADE]
LABELS = TinyMath(name="tinymath", split="train", num_problems=len(MADE)).step_labels()
GRADER = Grader({made.id: made.answer for made in MADE}, ANSWERS)
K = 4


def monte_carlo(policy, estimation=Estimation.soft, threshold=0.0, k=K, grader=GRADER, seed=0, on_answer=unheard):
    return MonteCarlo(
        open_session=opening(policy, seed=seed),
        grader=grader,
        k=k,
        on_answer=on_answer,
        estimation=estimation,
        threshold=threshold,
    )


async def sampled(problem, n=4):
    solutions, _ = await Sampled(open_session=opening(NoisySolver(MADE)), n=n).solutions(problem)
    return solutions


def written(*steps, answer):
    made = tuple(Step(token_ids=ids(text), text=text) for text in steps)
    problem = Problem.from_prompt("p1", "Q:")
    return Trajectory(problem=problem, prompt_ids=ids("Q:"), steps=made, status=Status.FINISHED, answer=answer)


async def test_a_soft_label_is_the_share_of_right_completions_and_the_last_ones_is_the_solutions_own():
    policy = ScriptedPolicy({"a\n\n": ["b\n\nAnswer: 7", "b\n\nAnswer: 1"], "b\n\n": ["Answer: 7"] + ["Answer: 1"] * 3})
    solution = written("a\n\n", "b\n\n", "Answer: 1", answer="1")
    labeller = monte_carlo(policy, grader=Grader({"p1": "7"}, ANSWERS))
    [labels], cost = await labeller.label(solution.problem, [solution])
    assert labels == (0.5, 0.25, 0.0)
    assert (cost.candidates, cost.generated_tokens) == (2 * K, K * len("b\n\nAnswer: 7") + K + K * len("Answer: 7") + K)
    assert [request.prefix_ids for request in policy.requests[::K]] == [ids("Q:a\n\n"), ids("Q:a\n\nb\n\n")]


@pytest.mark.parametrize("threshold", [0.0, 0.25])
async def test_hard_labels_are_those_of_looking_everywhere_at_fewer_rollouts(threshold):
    spent = 0
    for problem in PROBLEMS:
        solutions = await sampled(problem)
        soft, everywhere = await monte_carlo(NoisySolver(MADE)).label(problem, solutions)
        hard, cost = await monte_carlo(NoisySolver(MADE), Estimation.hard, threshold).label(problem, solutions)
        assert hard == [hardened(labels, threshold) for labels in soft]
        spent += cost.candidates - everywhere.candidates
    assert spent < 0


async def test_labels_do_not_depend_on_which_steps_are_asked_about_or_on_what_else_runs():
    problem = PROBLEMS[0]
    solutions = await sampled(problem)
    together, _ = await monte_carlo(NoisySolver(MADE)).label(problem, solutions)
    first, _ = await monte_carlo(NoisySolver(MADE)).label(problem, solutions[:1])
    other_seed, _ = await monte_carlo(NoisySolver(MADE), seed=1).label(problem, solutions)
    assert together[:1] == first and together != other_seed


async def test_solutions_that_begin_alike_share_rollouts_and_labels():
    problem = PROBLEMS[0]
    [solution] = await sampled(problem, 1)
    [once], alone = await monte_carlo(NoisySolver(MADE)).label(problem, [solution])
    [a, b], both = await monte_carlo(NoisySolver(MADE)).label(problem, [solution, solution])
    assert a == b == once and both.candidates == alone.candidates == K * (len(solution.steps) - 1)


async def test_binary_search_finds_the_labels_of_looking_everywhere_at_logarithmic_cost():
    """Where a rollout errs never unless its prefix did: then the estimates are exact and monotone."""
    exact = Exact(step_labels=LABELS)
    for problem in PROBLEMS:
        for solution in await sampled(problem):
            faultless = NoisySolver(MADE, mistakes=0.0)
            search = BinarySearch(open_session=opening(faultless), grader=GRADER, k=K, on_answer=unheard)
            [labels], cost = await search.label(problem, [solution])
            [everywhere], _ = await monte_carlo(faultless, Estimation.hard).label(problem, [solution])
            [truth], _ = await exact.label(problem, [solution])
            assert labels == everywhere == truth
            right = labels[-1] == 1
            assert cost.candidates <= (0 if right else K * ceil(log2(len(labels))))


async def test_a_verifiers_scores_are_soft_labels_and_its_doubts_end_hard_ones():
    solution = written("a\n\n", "b\n\n", "Answer: 1", answer="1")
    scores = {"Q:a\n\n": 0.8, "Q:a\n\nb\n\n": 0.3, "Q:a\n\nb\n\nAnswer: 1": 0.6}
    policy = ScriptedPolicy({})
    for estimation, wanted in ((Estimation.soft, tuple(scores.values())), (Estimation.hard, (1.0, 0.0, 0.0))):
        verifier = TableVerifier(lambda text: scores[text])
        judged = Judged(open_session=opening(policy, verifier), estimation=estimation, threshold=0.5)
        [labels], cost = await judged.label(solution.problem, [solution])
        assert labels == wanted and cost.verifier_tokens == len(solution.token_ids)
        assert not verifier.states, "every state is freed"


async def test_exact_labels_are_of_the_policys_own_steps():
    solution = MADE[0].solution.split("\n\n")
    steps = [f"{text}\n\n" for text in solution]
    problem = PROBLEMS[0]
    for given, wanted in (
        (steps, (1.0,) * len(steps)),
        ([*steps[:1], "oops\n\n", *steps[2:]], (1.0,) + (0.0,) * (len(steps) - 1)),
        ([*steps[:1], "\n\n"], (1.0, 0.0)),
    ):
        [labels], _ = await Exact(step_labels=LABELS).label(problem, [written(*given, answer=None)])
        assert labels == wanted


async def test_an_end_token_after_a_delimiter_is_no_step_of_its_own():
    policy = ScriptedPolicy({"Q:": ["a\n\nAnswer: 7\n\n"]})
    [solution], cost = await Sampled(open_session=opening(policy), n=1).solutions(Problem.from_prompt("p1", "Q:"))
    assert [step.token_ids for step in solution.steps] == [ids("a\n\n"), (*ids("Answer: 7\n\n"), EOS)]
    assert solution.answer == "7" and cost.generated_tokens == len(solution.completion_ids)


async def test_a_fault_of_the_policy_is_no_label():
    policy = NoisySolver(MADE)
    solutions = await sampled(PROBLEMS[0])
    policy.fails_after = 3
    with pytest.raises(RuntimeError, match="a scripted failure"):
        await monte_carlo(policy).label(PROBLEMS[0], solutions)


async def test_the_answers_of_solutions_and_of_rollouts_are_told_with_their_texts():
    told, solver = [], NoisySolver(MADE)
    solutions = await sampled(PROBLEMS[0], n=1)
    await monte_carlo(solver, on_answer=lambda **seen: told.append(seen)).label(PROBLEMS[0], solutions)
    assert told[0] == {
        "answer": solutions[0].answer,
        "status": "finished",
        "undecided": None,
        "text": solutions[0].reply,
    }
    assert len(told) == 1 + K * (len(solutions[0].steps) - 1)
    assert all(seen["answer"] is not None and seen["text"].startswith(solutions[0].steps[0].text) for seen in told)
