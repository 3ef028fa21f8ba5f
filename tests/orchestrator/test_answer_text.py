"""Text of an answer that is told while it is written: what is told stays."""

import pytest

from orchestrator.core.errors import ReplicaError
from orchestrator.core.ledger import Budget
from orchestrator.core.nouns import Step
from orchestrator.core.protocols import Segment
from orchestrator.core.search_events import SearchEvent, TextWritten
from orchestrator.search import solve
from orchestrator.session.answer_text import AnswerText
from strategies.best_of_n import BestOfN
from strategies.budget_forcing import BudgetForcing
from strategies.greedy import Greedy
from tests import fakes
from tests.fakes import ScriptedPolicy, ScriptedStream, TableVerifier, ThinkingPolicy, open_session, problem


def steps(*texts: str) -> list[Step]:
    return [Step(token_ids=(1,), text=text) for text in texts]


class Told:
    def __init__(self, *stop: str) -> None:
        self.pieces: list[str] = []
        self.text = AnswerText(lambda path, text, thinking: self.pieces.append(text), stop)

    def early(self, text: str, begin: int) -> None:
        self.text.early((0,), text, begin=begin, thinking=False)

    def steps(self, *texts: str, ended: bool = False) -> None:
        self.text.steps((0,), steps(*texts), ended=ended)


def test_a_step_brings_what_was_not_told_of_it() -> None:
    told = Told()
    told.early("a", 0)
    told.early("b", 1)
    told.steps("abc")
    told.early("d", 0)
    told.steps("abc", "de", ended=True)
    assert told.pieces == ["a", "b", "c", "d", "e"]


def test_what_may_begin_a_stop_text_waits_for_the_next_step() -> None:
    told = Told("\n\nQ")
    told.steps("a\n\n")
    assert told.pieces == ["a"]
    told.early("b", 0)
    assert "".join(told.pieces) == "a\n\nb"
    told.steps("a\n\n", "b\n\n")
    told.steps("a\n\n", "b", ended=True)  # the stop text was cut off
    assert "".join(told.pieces) == "a\n\nb"


def test_what_another_replica_writes_again_is_told_once() -> None:
    told = Told()
    told.early("abc", 0)
    told.early("a", 0)  # from the begin of the step
    told.early("bcd", 1)
    assert "".join(told.pieces) == "abcd"


def test_what_another_replica_writes_otherwise_is_an_error() -> None:
    told = Told()
    told.early("abc", 0)
    with pytest.raises(ReplicaError, match="shown already"):
        told.early("ax", 0)


async def told_of(strategy, policy, verifier=None, **options):
    told: list[SearchEvent] = []
    session = open_session(policy, verifier, observer=told.append, streams=True, **options)
    outcome = await solve(problem(), strategy.search, session, timeout_s=10)
    assert outcome.result is not None, outcome.error
    [candidate] = outcome.result.candidates
    return candidate.trajectory, [event for event in told if isinstance(event, TextWritten)]


async def test_a_rollout_is_told_as_it_is_written() -> None:
    for strategy in (Greedy(), BestOfN(n=1)):
        policy = ScriptedPolicy({"Q:": ["ab\n\nAnswer: 1"]})
        trajectory, texts = await told_of(strategy, policy, TableVerifier(lambda text: 0.5))
        assert "".join(event.text for event in texts) == trajectory.text
        assert [event.text for event in texts[:4]] == ["a", "b", "\n", "\n"]


class InOneBurst(ScriptedStream):
    async def __anext__(self) -> tuple[int, Segment]:
        for item in self.turn:
            return item
        raise StopAsyncIteration


async def test_text_that_arrives_together_with_the_step_before_it_comes_after_that(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(fakes, "ScriptedStream", InOneBurst)
    trajectory, texts = await told_of(Greedy(), ScriptedPolicy({"Q:": ["ab\n\ncd\n\nAnswer: 1"]}))
    assert "".join(event.text for event in texts) == trajectory.text


async def test_a_marker_that_is_taken_back_was_never_told() -> None:
    script = {"Q:": ["<think>a</think>b"], "aWait": ["c</think>d"], "</think>": ["Answer: 1"]}
    strategy = BudgetForcing(min_thinking_tokens=9, max_waits=1)
    trajectory, texts = await told_of(strategy, ThinkingPolicy(script))
    assert trajectory.text == "<think>aWaitc</think>Answer: 1"
    assert "".join(event.text for event in texts) == trajectory.text
    assert "".join(event.text for event in texts if event.thinking) == trajectory.thoughts


async def test_an_answer_that_a_budget_cuts_is_told_as_far_as_it_goes() -> None:
    policy = ScriptedPolicy({"Q:": ["abc\n\ndef"]})
    trajectory, texts = await told_of(Greedy(), policy, budget=Budget(policy_tokens=6))
    assert "".join(event.text for event in texts) == trajectory.text == "abc\n\nd"


async def test_an_answer_is_told_up_to_its_stop_text() -> None:
    policy = ScriptedPolicy({"Q:": ["ab\n\nQ: c"]})
    trajectory, texts = await told_of(Greedy(), policy, stop=["\n\nQ:"])
    assert "".join(event.text for event in texts) == trajectory.text == "ab"
