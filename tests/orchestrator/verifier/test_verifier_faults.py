"""Facts about verifiers that fail, on real Ray actors: what can't be judged is found, and everything else is judged."""

import os
import select
import signal
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import pytest_asyncio

from orchestrator.core.config import VerifierConfig
from orchestrator.core.errors import PoolExhausted, ReplicaError
from orchestrator.core.protocols import ScoreRequest, Verdict
from orchestrator.verifier.pool import VerifierPool
from orchestrator.verifier.resolve import resolve
from verifiers import VERIFIERS, VerifierEntry

RAISES, LEAVES, FORGETS, HANGS, CRASHES, SLOW = range(90, 96)  # what the host does at a reading's last token
HOSTS = """
import os
import signal
import subprocess
import threading
import time
from pathlib import Path

from orchestrator.core.nouns import Score
from verifiers.contract import Missing, Read, VerifierInfo


class Faulty:
    info = VerifierInfo(name="faulty", model_hash="", tokenizer_fingerprint="", state_bytes=0, flops_per_token=0.0)

    @classmethod
    def load(cls, settings):
        return cls()

    def read(self, runs):
        return [self.answer(run) for run in runs if run.token_ids[-1] != 92]

    def answer(self, run):
        if run.parent is not None:
            return Missing()
        last = run.token_ids[-1]
        if last == 90:
            raise KeyError("poison")
        if last == 91:
            raise SystemExit(3)
        if last == 93:
            threading.Event().wait()
        if last == 94:
            os.kill(os.getpid(), signal.SIGKILL)
        if last == 95:
            time.sleep(0.2)
        mean = {80: float("nan"), 81: 1.5, 82: "high", 83: -0.1}.get(last, len(run.token_ids) / 100)
        scores = () if last == 84 else (Score(mean=mean),) * len(run.boundaries)
        return Read(scores=scores, tokens_read=len(run.token_ids), flops=0.0)

    def release(self, keys):
        pass

    def export(self, keys):
        return [None for _ in keys]


class Parent(Faulty):
    @classmethod
    def load(cls, settings):
        child = subprocess.Popen(["sleep", "600"])
        child.send_signal(signal.SIGSTOP)
        Path(__file__).with_name("child").write_text(str(child.pid))
        return cls()


class DiesOnce(Faulty):
    @classmethod
    def load(cls, settings):
        mark = Path(__file__).with_name("died_once")
        if not mark.exists():
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return cls()
"""

pytestmark = pytest.mark.usefixtures("local_ray")


@pytest.fixture(scope="module")
def config(local_ray: Path) -> Iterator[VerifierConfig]:
    (local_ray / "faulty.py").write_text(HOSTS)
    with pytest.MonkeyPatch.context() as patch:
        for name in ("Faulty", "DiesOnce", "Parent"):
            patch.setitem(VERIFIERS, name, VerifierEntry(host=f"faulty:{name}"))
        yield VerifierConfig(name="Faulty", max_restarts=1, stall_timeout_s=4.0, start_timeout_s=120)


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def pool(config: VerifierConfig) -> AsyncIterator[VerifierPool]:
    """One replica that may be restarted once, shared by tests that lose it more often."""
    async with VerifierPool.open(resolve(config)) as opened:
        yield opened


def readings(count: int, *, fault: int = 0, at: Sequence[int] = ()) -> list[ScoreRequest]:
    """Of growing lengths, those `at` these places with a last token that the host fails on."""
    texts = [(*range(length), fault if length in at else 0) for length in range(count)]
    return [ScoreRequest(token_ids=text, boundaries=(len(text),)) for text in texts]


def means(verdicts: Sequence[Verdict]) -> list[float | None]:
    return [verdict.scores[0].mean if verdict.unjudged is None else None for verdict in verdicts]


@pytest.mark.parametrize(
    ("fault", "lost", "reason"),
    [
        (RAISES, 0, "the verifier raises on it: KeyError: 'poison'"),
        (LEAVES, 0, "the verifier raises on it: SystemExit: 3"),
        (FORGETS, 0, "ValueError: the host gave 0 answers, wanted one for each of 1 runs"),
        (CRASHES, 2, "two replicas were lost while they read it; verifier: replica 0: ActorDiedError"),
        (HANGS, 2, "two replicas were lost while they read it; verifier: replica 0: no progress for 4 s"),
    ],
)
async def test_a_reading_on_which_the_verifier_fails_is_unjudged_and_all_others_are_judged(
    pool: VerifierPool, fault: int, lost: int, reason: str
) -> None:
    wanted = means(await pool.score(readings(20)))
    before = pool.replicas()[0].epoch
    verdicts = await pool.score(readings(20, fault=fault, at=[7]))
    assert means(verdicts) == [*wanted[:7], None, *wanted[8:]]
    assert reason in (verdicts[7].unjudged or "")
    assert (verdicts[7].scores, verdicts[7].handle) == ((), None)
    assert means(await pool.score(readings(20))) == wanted
    assert pool.replicas()[0].epoch == before + lost
    assert pool.replicas()[0].pending_tokens == 0


async def test_scores_that_can_not_be_are_no_scores(pool: VerifierPool) -> None:
    verdicts = await pool.score([ScoreRequest(token_ids=(1, 80 + kind), boundaries=(2,)) for kind in range(5)])
    for verdict, reason in zip(
        verdicts,
        [
            "the score is not a finite number (mean nan",
            "the score is outside [0, 1] (mean 1.5",
            "the score is not a number (mean 'high'",
            "the score is outside [0, 1] (mean -0.1",
            "the verifier gave 0 scores, wanted 1",
        ],
        strict=True,
    ):
        assert reason in (verdict.unjudged or "") and verdict.scores == () and verdict.verifier_tokens == 2


async def test_a_slow_verifier_is_not_taken_for_a_dead_one(config: VerifierConfig) -> None:
    text = (0,) * 20 + (SLOW,)
    async with VerifierPool.open(resolve(replace(config, max_restarts=0))) as pool:
        assert means(await pool.score([ScoreRequest(token_ids=text, boundaries=(21,))] * 40)) == [0.21] * 40  # 8 s


@pytest.mark.parametrize(("fault", "why"), [(CRASHES, "ActorDiedError"), (RAISES, "one reading after another")])
async def test_a_verifier_that_fails_on_everything_uses_its_restarts_up(
    config: VerifierConfig, fault: int, why: str
) -> None:
    async with VerifierPool.open(resolve(config)) as pool:
        with pytest.raises(PoolExhausted, match=f"none of 1 replicas is left after 1 restarts each; last: .*{why}"):
            await pool.score(readings(9, fault=fault, at=range(9)))


async def test_a_replica_that_dies_while_it_loads_is_started_again(config: VerifierConfig, local_ray: Path) -> None:
    with pytest.raises(ReplicaError, match="replica 0, while it loaded: ActorDiedError"):
        async with VerifierPool.open(resolve(replace(config, name="DiesOnce", max_restarts=0))):
            pass
    (local_ray / "died_once").unlink()
    async with VerifierPool.open(resolve(replace(config, name="DiesOnce"))) as pool:
        assert means(await pool.score(readings(1))) == [0.01]


async def test_counters_are_those_of_the_replicas_that_can_tell_them(config: VerifierConfig) -> None:
    async with VerifierPool.open(resolve(replace(config, max_restarts=0))) as pool:
        await pool.score(readings(2))
        told = {"tokens_read": 3, "waiting": 0, "states": 2, "slots": config.slots, "replica": 0, "epoch": 0}
        assert await pool.stats() == [told]
        pid = pool.replicas()[0].pid
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        assert await pool.stats() == []
        with pytest.raises(PoolExhausted, match="replica 0: ActorDiedError"):
            await pool.score(readings(1))


async def test_a_replica_that_is_lost_takes_its_children_along_though_neither_can_answer(
    config: VerifierConfig, local_ray: Path
) -> None:
    async with VerifierPool.open(resolve(replace(config, name="Parent", max_restarts=0))) as pool:
        child = os.pidfd_open(int((local_ray / "child").read_text()))
        pid = pool.replicas()[0].pid
        assert pid is not None
        os.kill(pid, signal.SIGSTOP)
        with pytest.raises(PoolExhausted, match="no progress for 4 s"):
            await pool.score(readings(1))
        ended, _, _ = select.select([child], [], [], 60)
        os.close(child)
        assert ended
