"""Between TRL and the judges: the right problem, the right order, and never a made-up reward."""

import asyncio
from collections.abc import Iterator
from dataclasses import replace

import pytest

from experiments.tinymath.task import generate
from experiments.tinymath.tokenizer import build_tokenizer, completion_ids, prompt_ids
from experiments.training.rewards import Codec, Completion, GraderJudge, Rewards, Source, VerifierJudge, weighted_sum
from orchestrator.core.config import StepConfig, VerifierConfig
from orchestrator.core.errors import HeadraceError, UserError
from orchestrator.core.nouns import Comparison, Problem
from orchestrator.verifier.resolve import resolve
from tests.experiments.residue import HOST, ResidueHost, residue
from tests.fakes import ANSWERS
from verifiers import VERIFIERS, VerifierEntry

TOKENIZER = build_tokenizer()
MADE = generate("train", 3)
PROBLEMS = [Problem.from_prompt(made.id, made.prompt) for made in MADE]


class ScriptedGrader:
    """Right is `answers`; says which problems it was asked about. `hard` and `broken` are ids of problems."""

    def __init__(self, hard: str = "", broken: str = "") -> None:
        self.asked: list[tuple[str, list[str | None]]] = []
        self._hard = hard
        self._broken = broken

    async def grade(self, problem, answers):
        self.asked.append((problem.id, list(answers)))
        await asyncio.sleep(0)
        if problem.id == self._hard:
            return [Comparison(equal=None, reason="too hard") for _ in answers]
        if problem.id == self._broken:
            raise KeyError(problem.id)
        return [Comparison(equal=answer == problem.id) for answer in answers]


@pytest.fixture
def runner() -> Iterator[asyncio.Runner]:
    with asyncio.Runner() as runner:
        yield runner


def written(problem: str, text: str) -> Completion:
    return Completion(
        problem=Problem.from_prompt(problem, "?"), prompt_ids=(1, 2), token_ids=(3, 4), text=text, ended=True
    )


def unheard(**_):
    """Of the answers nothing is told."""


def test_a_grader_sees_each_problem_once_and_verdicts_come_back_in_order(runner):
    grader = ScriptedGrader()
    mixed = [written("1", "Answer: 1"), written("2", "Answer: 1"), written("1", "no"), written("2", "Answer: 2")]
    assert GraderJudge(grader, ANSWERS, runner, unheard)(mixed) == [1.0, 0.0, 0.0, 1.0]
    assert sorted(grader.asked) == [("1", ["1", None]), ("2", ["1", "2"])]


def test_a_problem_that_can_not_be_graded_has_no_reward_and_others_keep_theirs(runner):
    grader = ScriptedGrader(hard="2")
    assert GraderJudge(grader, ANSWERS, runner, unheard)([written("2", "Answer: 2"), written("1", "Answer: 1")]) == [
        None,
        1.0,
    ]


def test_each_answer_that_is_graded_is_told(runner):
    told = []
    cut = replace(written("1", "Answ"), ended=False)
    judge = GraderJudge(ScriptedGrader(), ANSWERS, runner, lambda **seen: told.append(seen))
    judge([written("1", "Answer: 1"), cut])
    assert told == [
        {"answer": "1", "status": "finished", "undecided": None, "text": "Answer: 1"},
        {"answer": None, "status": "truncated", "undecided": None, "text": "Answ"},
    ]


def test_a_grader_that_fails_otherwise_ends_the_training(runner):
    with pytest.raises(KeyError):
        GraderJudge(ScriptedGrader(broken="2"), ANSWERS, runner, unheard)(
            [written("1", "Answer: 1"), written("2", "Answer: 2")]
        )


def test_a_sum_without_one_of_its_parts_is_no_reward():
    assert weighted_sum([1.0, 0.5], [1.0, 2.0]) == 2.0
    assert weighted_sum([0.0, 0.0], [1.0, 2.0]) == 0.0
    assert weighted_sum([1.0, None], [1.0, 2.0]) is None


def codec() -> Codec:
    return Codec(PROBLEMS, TOKENIZER, {TOKENIZER.eos_token_id})


def sampled() -> list[list[int]]:
    """Correct completions, the last one cut before its end token."""
    rows = [completion_ids(TOKENIZER, made.solution) for made in MADE]
    return [*rows[:-1], rows[-1][:-1]]


def test_prompts_are_those_that_the_tiny_policy_was_trained_on():
    assert codec().prompt_ids == {made.id: tuple(prompt_ids(TOKENIZER, made.prompt)) for made in MADE}


def test_completions_are_read_as_a_run_reads_them():
    read = [codec().completion(made.id, ids) for made, ids in zip(MADE, sampled(), strict=True)]
    assert [completion.text for completion in read] == [made.solution for made in MADE]
    assert [completion.ended for completion in read] == [True, True, False]


def test_a_verifier_reads_prompt_and_completion_and_keeps_nothing():
    host = ResidueHost("residue")
    judge = VerifierJudge(host, reads_text=False, steps=StepConfig(), tokenizer=TOKENIZER.backend_tokenizer)
    completions = [codec().completion(made.id, ids) for made, ids in zip(MADE, sampled(), strict=True)]
    whole = [completion.prompt_ids + completion.token_ids for completion in completions]
    assert judge(completions) == [residue(ids) for ids in whole]
    assert [(run.token_ids, run.boundaries) for run in host.runs] == [(ids, (len(ids),)) for ids in whole]
    assert not host.held


def test_a_verifier_of_text_gets_the_steps_and_judges_the_last():
    host = ResidueHost("residue")
    judge = VerifierJudge(host, reads_text=True, steps=StepConfig(), tokenizer=TOKENIZER.backend_tokenizer)
    judge([codec().completion(made.id, ids) for made, ids in zip(MADE, sampled(), strict=True)])
    for made, problem, run in zip(MADE, PROBLEMS, host.runs, strict=True):
        assert run.solution is not None and run.solution.problem == problem
        steps = made.solution.split("\n\n")
        assert list(run.solution.steps) == [f"{step}\n\n" for step in steps[:-1]] + steps[-1:]
        assert run.solution.asked == (len(steps) - 1,)
    assert [run.solution.ended for run in host.runs] == [True, True, False]


def test_a_verifier_of_another_vocabulary_is_refused(monkeypatch):
    monkeypatch.setitem(VERIFIERS, "residue", VerifierEntry(host=HOST))
    monkeypatch.setattr(ResidueHost, "load", classmethod(lambda cls, settings: cls(settings.name, fingerprint="other")))
    with pytest.raises(UserError, match="another tokenizer"):
        VerifierJudge.load(resolve(VerifierConfig(name="residue")), StepConfig(), TOKENIZER)


def test_what_can_not_be_judged_is_masked_and_counted():
    logged: dict[str, float] = {}
    sources = {
        "grader": Source(judge=lambda completions: [1.0, None, 0.0], weight=1.0),
        "verifier": Source(judge=lambda completions: [0.5, 0.5, None], weight=2.0),
    }
    rewards = Rewards(sources, codec())
    arguments = {
        "completion_ids": sampled(),
        "problem_id": [made.id for made in MADE],
        "log_metric": logged.__setitem__,
    }
    assert rewards(**arguments, prompts=[], trainer_state=None) == [2.0, None, None]
    assert logged == {"reward_grader": 0.5, "reward_verifier": 0.5, "masked": pytest.approx(2 / 3)}


def test_a_batch_that_can_not_be_judged_at_all_is_an_error():
    rewards = Rewards({"grader": Source(judge=lambda completions: [None] * 3, weight=1.0)}, codec())
    with pytest.raises(HeadraceError, match="grader could judge none of 3 completions"):
        rewards(completion_ids=sampled(), problem_id=[made.id for made in MADE], log_metric=lambda name, value: None)
