"""Facts about the proof that something works."""

import asyncio

import pytest

from orchestrator.core.errors import ReplicaError
from orchestrator.serving import health
from orchestrator.serving.health import Proof


class Attempts:
    """Each waits for the gate, then fails if there is an error."""

    def __init__(self) -> None:
        self.count = 0
        self.gate = asyncio.Event()
        self.gate.set()
        self.error: ReplicaError | None = None

    async def __call__(self) -> None:
        self.count += 1
        await self.gate.wait()
        if self.error is not None:
            raise self.error


@pytest.fixture
def attempts() -> Attempts:
    return Attempts()


async def test_many_questions_at_once_and_soon_after_are_one_attempt(attempts: Attempts) -> None:
    proof = Proof(attempts)
    attempts.gate.clear()
    asked = [asyncio.create_task(proof.holds()) for _ in range(5)]
    await asyncio.sleep(0)
    attempts.gate.set()
    assert await asyncio.gather(*asked) == [True] * 5
    assert await proof.holds()
    assert attempts.count == 1


async def test_who_asks_and_leaves_ends_no_attempt(attempts: Attempts) -> None:
    proof = Proof(attempts)
    attempts.gate.clear()
    leaving, staying = [asyncio.create_task(proof.holds()) for _ in range(2)]
    await asyncio.sleep(0)
    leaving.cancel()
    attempts.gate.set()
    assert await staying


async def test_a_failure_shows_at_the_next_attempt_and_so_does_recovery(
    attempts: Attempts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(health, "_TRY_AGAIN_S", -1.0)
    proof = Proof(attempts)
    assert await proof.holds()
    attempts.error = ReplicaError("none is left")
    assert not await proof.holds()
    attempts.error = None
    assert await proof.holds()


async def test_a_proof_outlasts_an_attempt_that_is_slow_but_not_one_that_never_ends(
    attempts: Attempts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(health, "_TRY_AGAIN_S", -1.0)
    monkeypatch.setattr(health, "_TIMEOUT_S", 0.01)
    proof = Proof(attempts)
    assert await proof.holds()
    attempts.gate.clear()
    assert await proof.holds()
    monkeypatch.setattr(health, "_PROVEN_S", 0.0)
    assert not await proof.holds()
    attempts.gate.set()
