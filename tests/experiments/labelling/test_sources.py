from dataclasses import replace
from itertools import accumulate
from pathlib import Path
from unittest.mock import AsyncMock

import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models

from experiments.doctor import TINY_POLICY
from experiments.labelling.estimates import Estimation
from experiments.labelling.labellers import Judged
from experiments.labelling.sources import Labelled, Recorded, Sampled, as_labelled
from experiments.replay.recording import RecordedProblem, Sample
from experiments.tinymath.task import generate
from orchestrator.core.answers import AnswerFormat
from orchestrator.core.answers.exact import ExactAnswers
from orchestrator.core.errors import ProblemError, UserError
from orchestrator.core.nouns import Problem, Status, Step, Trajectory
from tests.experiments.labelling.solving import NoisySolver, opening
from tests.fakes import ScriptedPolicy, TextVerifier, ThinkingPolicy
from verifiers.training.labelled import LabelledSolution

PROBLEM = Problem.from_prompt("p1", "Q:")
STEPS = ("Kim: 1 + 2 = 3\n\n", "Eve: 3 + 4 = 7\n\n", "Answer: 7")
TEXT = "".join(STEPS)


def recorded(text=TEXT, n=None):
    tokenizer = Tokenizer.from_file(str(Path(TINY_POLICY) / "tokenizer.json"))
    ids = [tokenizer.encode(step, add_special_tokens=False).ids for step in STEPS]
    ids[-1].append(tokenizer.token_to_id("<eos>"))
    sample = Sample(
        token_ids=tuple(token for step in ids for token in step),
        ends=tuple(accumulate(map(len, ids))),
        text=text,
        answer="7",
        correct=True,
        undecided=None,
        aggregate_score=None,
        truncated=False,
    )
    problem = RecordedProblem(problem=PROBLEM, prompt_ids=(-1,), samples=(sample, sample), scores={})
    return Recorded(open_session=opening(ScriptedPolicy({})), tokenizer=tokenizer, problems={"p1": problem}, n=n)


async def test_recorded_samples_come_with_the_steps_that_the_policy_wrote():
    solutions, _ = await recorded().solutions(PROBLEM)
    assert len(solutions) == 2 and len((await recorded(n=1).solutions(PROBLEM))[0]) == 1
    assert tuple(step.text for step in solutions[0].steps) == STEPS
    assert (solutions[0].status, solutions[0].answer) == (Status.FINISHED, "7")
    row = as_labelled(solutions[0], (1.0, 0.5, 0.0), "monte_carlo", ["\n\n"])
    assert row.completions == ("Kim: 1 + 2 = 3", "Eve: 3 + 4 = 7", "Answer: 7")
    assert row.prompt == "Q:" and row.prompt_ids == solutions[0].prompt_ids
    assert row.step_ids == tuple(step.token_ids for step in solutions[0].steps)


TAGS = ("<think>", "</think>")


def thinking_sample(steps: tuple[str, ...], prompt: str, special: bool) -> Recorded:
    """A recording of a model that thinks. Its markers are special tokens, or text like any."""
    tokenizer = Tokenizer(models.BPE({chr(code): code for code in range(128)}, []))
    tokenizer.decoder = decoders.Fuse()
    if special:
        tokenizer.add_special_tokens([AddedToken(tag, special=True) for tag in TAGS])
    ids = [tokenizer.encode(step, add_special_tokens=False).ids for step in steps]
    sample = Sample(
        token_ids=tuple(token for step in ids for token in step),
        ends=tuple(accumulate(map(len, ids))),
        text="".join(steps),
        answer="7",
        correct=True,
        undecided=None,
        aggregate_score=None,
        truncated=False,
    )
    policy = ThinkingPolicy({})
    policy.encode = AsyncMock(return_value=[tuple(tokenizer.encode(prompt, add_special_tokens=False).ids)])
    problem = RecordedProblem(problem=PROBLEM, prompt_ids=(-1,), samples=(sample,), scores={})
    return Recorded(open_session=opening(policy), tokenizer=tokenizer, problems={"p1": problem}, n=None)


@pytest.mark.parametrize("special", [True, False])
@pytest.mark.parametrize(
    ("prompt", "steps", "wanted"),
    [
        ("Q:", ("<think>a\n\n", "b</think>", "\n\nSo\n\n", "Answer: 7"), (True, True, False, False)),
        ("Q:<think>", ("a\n\n", "b</think>", "Answer: 7"), (True, True, False)),
        ("Q:<think></think>", ("a\n\n", "Answer: 7"), (False, False)),
        ("Q:", ("No thought.\n\n", "Answer: 7"), (False, False)),
        ("Q:", ("<think>cut\n\n", "off"), (True, True)),
    ],
)
async def test_recorded_steps_of_a_model_that_thinks_are_thinking_up_to_its_marker(prompt, steps, wanted, special):
    [[solution], _] = await thinking_sample(steps, prompt, special).solutions(PROBLEM)
    assert [(step.text, step.thinking) for step in solution.steps] == list(zip(steps, wanted, strict=True))


async def test_a_recorded_step_that_is_half_thinking_becomes_two():
    [[solution], _] = await thinking_sample(("<think>a</think>b\n\n", "c"), "Q:", True).solutions(PROBLEM)
    assert [(s.text, s.thinking) for s in solution.steps] == [
        ("<think>a</think>", True),
        ("b\n\n", False),
        ("c", False),
    ]


async def test_a_judge_of_text_is_shown_what_comes_after_recorded_thinking():
    source = thinking_sample(("<think>a\n\n", "b</think>", "So\n\n", "Answer: 7"), "Q:", True)
    solutions, _ = await source.solutions(PROBLEM)
    verifier = TextVerifier(lambda text: 0.75, scores_steps=True)
    open_session = opening(ThinkingPolicy({}), verifier)
    judged = Judged(open_session=open_session, estimation=Estimation.soft, threshold=0.5)
    [labels], _ = await judged.label(PROBLEM, solutions)
    assert labels == (None, None, 0.75, 0.75)
    assert {step for solution in verifier.asked for step in solution.steps} == {"So\n\n", "Answer: 7"}


async def test_samples_of_another_tokenizer_are_refused():
    with pytest.raises(UserError, match=r"a sample of p1 reads 'Something else', and by the tokenizer of"):
        await recorded(text="Something else").solutions(PROBLEM)


async def test_labelled_solutions_are_the_same_when_they_are_taken_up_again():
    [made] = generate("train", 1)
    problem = Problem.from_prompt(made.id, made.prompt)
    sampled, _ = await Sampled(open_session=opening(NoisySolver([made])), n=4).solutions(problem)
    rows = [as_labelled(s, (0.5,) * len(s.steps), "monte_carlo", ["\n\n"]) for s in sampled]
    source = Labelled(solutions_of={made.id: rows}, delimiter="\n\n", answers=ExactAnswers(AnswerFormat.parse(None)))
    again, _ = await source.solutions(problem)
    for before, after in zip(sampled, again, strict=True):
        assert (after.prompt_ids, after.steps, after.answer) == (before.prompt_ids, before.steps, before.answer)


async def test_thinking_and_delimiters_are_the_same_when_labelled_solutions_are_taken_up_again():
    steps = (
        Step(token_ids=(1, 2), text="5?\n", thinking=True),
        Step(token_ids=(3,), text="Answer: 5</think>", thinking=True),
        Step(token_ids=(4,), text="So\n\n"),
        Step(token_ids=(5,), text="Answer: 7\n\n"),
    )
    sampled = Trajectory(problem=PROBLEM, prompt_ids=(9,), steps=steps, status=Status.TRUNCATED)
    row = as_labelled(sampled, (1.0,) * 4, "exact", ["\n\n", "\n"])
    assert row.completions == ("5?", "Answer: 5</think>", "So", "Answer: 7")
    source = Labelled(
        solutions_of={PROBLEM.id: [row]}, delimiter="\n\n", answers=ExactAnswers(AnswerFormat.parse(None))
    )
    [again], _ = await source.solutions(PROBLEM)
    assert again == replace(sampled, answer="7")


async def test_solutions_without_tokens_cannot_be_taken_up():
    row = LabelledSolution(problem_id="p1", source="prm800k", prompt="Q:", completions=("a",), labels=(1.0,))
    with pytest.raises(ProblemError, match="no token ids"):
        await Labelled(
            solutions_of={"p1": [row]}, delimiter="\n\n", answers=ExactAnswers(AnswerFormat.parse(None))
        ).solutions(PROBLEM)
