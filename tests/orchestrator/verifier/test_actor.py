"""One replica of a verifier, without Ray: what callers that leave do to those who stay."""

import asyncio
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import pytest

from orchestrator.core.config import VerifierConfig
from orchestrator.core.nouns import Score
from orchestrator.verifier import actor as actors
from orchestrator.verifier.actor import TurnLapsed, VerifierActor, VerifierRaised
from orchestrator.verifier.resolve import ResolvedVerifier
from tests.waiting import until
from verifiers import VerifierEntry
from verifiers.contract import Answer, HostSettings, Missing, Read, Run, VerifierInfo


@dataclass
class Reads:
    """What the host was asked, and the gate that each reading waits for."""

    calls: list[list[str]] = field(default_factory=list)  # the keys of each micro-batch
    released: list[str] = field(default_factory=list)
    began: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))
    gate: threading.Event = field(default_factory=threading.Event)
    error: Exception | None = None
    raises_on: str = ""  # a key
    lacks: str = ""  # the key of a parent


class GatedHost:
    """Scores a run by its length."""

    info = VerifierInfo(name="gated", model_hash="", tokenizer_fingerprint="", state_bytes=0, flops_per_token=0)

    def __init__(self, reads: Reads) -> None:
        self.reads = reads

    @classmethod
    def load(cls, settings: HostSettings) -> "GatedHost":
        return cls(settings.options)

    def read(self, runs: Sequence[Run]) -> list[Answer]:
        self.reads.calls.append([run.key for run in runs])
        self.reads.began.release()
        self.reads.gate.wait()
        if self.reads.error is not None:
            raise self.reads.error
        if self.reads.raises_on in {run.key for run in runs}:
            raise ValueError("it is bad")
        return [
            Missing()
            if run.parent == self.reads.lacks != ""
            else Read(scores=(Score(mean=len(run.token_ids) / 100),), tokens_read=len(run.token_ids), flops=0.0)
            for run in runs
        ]

    def release(self, keys: Sequence[str]) -> None:
        self.reads.released += keys


async def loaded(reads: Reads, batch_tokens: int) -> VerifierActor:
    entry = VerifierEntry(host="tests.orchestrator.verifier.test_actor:GatedHost")
    config = VerifierConfig(batch_tokens=batch_tokens)
    actor = VerifierActor(ResolvedVerifier(config=config, entry=entry, options=reads))
    await actor.load()
    return actor


def run(key: str, num_tokens: int) -> Run:
    return Run(key=key, token_ids=(0,) * num_tokens, boundaries=(num_tokens,))


async def score(actor: VerifierActor, key: str, num_tokens: int) -> float:
    [answer] = await actor.read([run(key, num_tokens)])
    assert isinstance(answer, Read)
    return answer.scores[0].mean


@pytest.fixture
def reads() -> Reads:
    return Reads()


async def begun(reads: Reads) -> None:
    await asyncio.to_thread(reads.began.acquire)


@pytest.mark.parametrize("batch_tokens", [1, 7, 1000])
@pytest.mark.parametrize("leaving", [[0], [1], [2], [0, 1], [0, 2], [1, 2], [0, 1, 2]])
async def test_callers_that_leave_change_nothing_for_those_who_stay(
    reads: Reads, batch_tokens: int, leaving: list[int]
) -> None:
    actor = await loaded(reads, batch_tokens)
    calls = [asyncio.create_task(score(actor, "old-0", 1))]
    await begun(reads)
    calls += [asyncio.create_task(score(actor, f"old-{index}", index + 1)) for index in (1, 2)]
    await asyncio.sleep(0)  # these wait in the queue
    for index in leaving:
        calls[index].cancel()
    later = [asyncio.create_task(score(actor, f"new-{index}", index + 10)) for index in range(3)]
    await asyncio.wait([calls[index] for index in leaving])
    reads.gate.set()
    assert await asyncio.gather(*later) == [0.10, 0.11, 0.12]
    stayed = [index for index in range(3) if index not in leaving]
    assert [await calls[index] for index in stayed] == [(index + 1) / 100 for index in stayed]
    asked = [key for keys in reads.calls for key in keys]
    assert asked == ["old-0", *(f"old-{i}" for i in stayed if i), "new-0", "new-1", "new-2"]


async def test_each_call_on_which_the_verifier_raises_is_told_and_later_ones_are_read(reads: Reads) -> None:
    actor = await loaded(reads, 5)
    reads.error = RuntimeError("a poison input")
    first = asyncio.create_task(score(actor, "first", 1))
    await begun(reads)
    together = [asyncio.create_task(score(actor, f"together-{index}", 3)) for index in range(2)]
    after = asyncio.create_task(score(actor, "after", 2))
    await asyncio.sleep(0)  # they are in the queue
    reads.gate.set()
    outcomes = await asyncio.gather(first, *together, after, return_exceptions=True)
    assert reads.calls == [["first"], ["together-0", "together-1"], ["together-0"], ["together-1"], ["after"]]
    assert [str(outcome) for outcome in outcomes] == ["RuntimeError: a poison input"] * 4
    assert all(isinstance(outcome, VerifierRaised) for outcome in outcomes)
    reads.error = None
    assert await score(actor, "next", 4) == 0.04


async def test_what_a_caller_released_is_released_though_it_left(reads: Reads) -> None:
    actor = await loaded(reads, 5)
    reading = asyncio.create_task(score(actor, "read", 1))
    await begun(reads)
    leaving = asyncio.create_task(actor.release(["state"]))
    await asyncio.sleep(0)
    leaving.cancel()
    await asyncio.wait([leaving])
    reads.gate.set()
    await reading
    await actor.release([])  # the thread has come so far
    assert reads.released == ["state"]


async def test_readings_of_one_call_on_which_the_verifier_raises_are_no_fault_of_another_call(reads: Reads) -> None:
    actor = await loaded(reads, batch_tokens=100)
    first = asyncio.create_task(score(actor, "first", 10))
    await begun(reads)
    others = [asyncio.create_task(score(actor, key, 10)) for key in ("bad", "good")]
    await until(lambda: len(actor._requests) == 2)
    reads.raises_on = "bad"
    reads.gate.set()
    bad, good = await asyncio.gather(*others, return_exceptions=True)
    assert (await first, good) == (0.1, 0.1)
    assert isinstance(bad, VerifierRaised)
    assert reads.calls == [["first"], ["bad", "good"], ["bad"], ["good"]]


async def test_a_reading_that_has_the_turn_is_read_alone_and_the_others_after_it(reads: Reads) -> None:
    actor = await loaded(reads, batch_tokens=100)
    reads.gate.set()
    turn = await actor.turn()
    others = [asyncio.create_task(score(actor, key, 1)) for key in ("b", "c")]
    await asyncio.sleep(0.05)
    assert reads.calls == []
    await actor.read([run("a", 3)], turn)
    await asyncio.gather(*others)
    assert reads.calls == [["a"], ["b", "c"]]


async def test_no_turn_is_given_while_something_is_read(reads: Reads) -> None:
    actor = await loaded(reads, batch_tokens=100)
    first = asyncio.create_task(score(actor, "a", 1))
    await begun(reads)
    turn = asyncio.create_task(actor.turn())
    await asyncio.sleep(0.05)
    assert not turn.done()
    reads.gate.set()
    await first
    await actor.read([run("b", 1)], await turn)
    assert reads.calls == [["a"], ["b"]]


async def test_a_turn_that_nobody_uses_lapses(reads: Reads, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(actors, "_TURN_S", 0.05)
    actor = await loaded(reads, batch_tokens=100)
    reads.gate.set()
    turn = await actor.turn()
    assert await score(actor, "b", 1) == 0.01
    with pytest.raises(TurnLapsed):
        await actor.read([run("a", 1)], turn)


async def test_states_that_a_raising_host_did_not_make_are_held_for_nobody(reads: Reads) -> None:
    actor = await loaded(reads, batch_tokens=100)
    reads.gate.set()
    await actor.read([run("client/parent", 1)])
    reads.raises_on = "client/bad"
    bad = replace(run("client/bad", 1), parent="client/parent", parent_tokens=1, keep_parent=False)
    with pytest.raises(VerifierRaised):
        await actor.read([bad, run("client/beside", 1)])
    assert (await actor.stats())["states"] == 1  # the parent, which nothing replaced
    await actor.forget("client")
    assert reads.released == ["client/parent"] and await actor.clients() == []


async def test_a_state_that_was_found_missing_is_held_for_nobody(reads: Reads) -> None:
    actor = await loaded(reads, batch_tokens=100)
    reads.gate.set()
    reads.lacks = "client/gone"
    await actor.read([replace(run("client/lost", 1), parent="client/gone", parent_tokens=1), run("client/read", 1)])
    assert (await actor.stats())["states"] == 1 and await actor.clients() == ["client"]
