from itertools import accumulate
from pathlib import Path

import pytest
from tokenizers import Tokenizer

from experiments.doctor import TINY_POLICY
from experiments.labelling.sources import Labelled, Recorded, Sampled, as_labelled
from experiments.replay.recording import RecordedProblem, Sample
from experiments.tinymath.task import generate
from orchestrator.core.answers import AnswerFormat
from orchestrator.core.answers.exact import ExactAnswers
from orchestrator.core.errors import ProblemError, UserError
from orchestrator.core.nouns import Problem, Status
from tests.experiments.labelling.solving import NoisySolver, opening
from tests.fakes import ScriptedPolicy
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


async def test_solutions_without_tokens_cannot_be_taken_up():
    row = LabelledSolution(problem_id="p1", source="prm800k", prompt="Q:", completions=("a",), labels=(1.0,))
    with pytest.raises(ProblemError, match="no token ids"):
        await Labelled(
            solutions_of={"p1": [row]}, delimiter="\n\n", answers=ExactAnswers(AnswerFormat.parse(None))
        ).solutions(PROBLEM)
