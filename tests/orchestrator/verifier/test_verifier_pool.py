"""Facts about the verifier pool, on real Ray actors: whatever is lost or moved, scores are those of the whole text."""

import asyncio
import os
import select
import signal
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest
import pytest_asyncio
import torch

from orchestrator.core.config import VerifierConfig
from orchestrator.core.errors import PoolExhausted, ReplicaError, UserError
from orchestrator.core.nouns import Problem, StateHandle
from orchestrator.core.protocols import ScoreRequest, Solution, Verdict
from orchestrator.verifier.pool import VerifierPool
from orchestrator.verifier.resolve import resolve
from tests.orchestrator.verifier.conftest import Whole
from verifiers import VERIFIERS, VerifierEntry
from verifiers.streaming_prm import StreamingPRM

pytestmark = pytest.mark.usefixtures("local_ray")


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def pool(checkpoint: Path, local_ray: None) -> AsyncIterator[VerifierPool]:
    """Two healthy replicas, shared by the tests that break nothing."""
    config = VerifierConfig(model=str(checkpoint), replicas=2, slots=256, host_slots=0, start_timeout_s=120)
    async with VerifierPool.open(resolve(config)) as opened:
        yield opened


def tokens(seed: int, count: int) -> tuple[int, ...]:
    rng = Random(seed)
    return tuple(rng.randrange(32) for _ in range(count))


def assert_same(verdict: Verdict, whole: Whole, reading: ScoreRequest) -> StateHandle:
    wanted = whole(reading.token_ids, reading.boundaries)
    assert [s.mean for s in verdict.scores] == pytest.approx([s.mean for s in wanted], abs=1e-4)
    assert [s.std for s in verdict.scores] == pytest.approx([s.std for s in wanted], abs=1e-4)
    assert verdict.handle is not None and verdict.handle.num_tokens == len(reading.token_ids)
    return verdict.handle


def children(
    parent: Sequence[int], handle: StateHandle | None, count: int, keep_parent: bool = True
) -> list[ScoreRequest]:
    texts = [(*parent, *tokens(1000 + i, 5 + i)) for i in range(count)]
    return [
        ScoreRequest(token_ids=text, boundaries=(len(text),), handle=handle, keep_parent=keep_parent) for text in texts
    ]


async def scored(pool: VerifierPool, readings: Sequence[ScoreRequest], whole: Whole) -> list[Verdict]:
    """Scores the readings and checks them against the whole texts."""
    verdicts = await pool.score(readings)
    for verdict, reading in zip(verdicts, readings, strict=True):
        assert_same(verdict, whole, reading)
    return verdicts


async def read(pool: VerifierPool, text: tuple[int, ...]) -> StateHandle:
    """The state after `text`."""
    [verdict] = await pool.score([ScoreRequest(token_ids=text, boundaries=())])
    assert verdict.handle is not None
    return verdict.handle


async def test_a_text_streamed_in_any_pieces_gets_the_scores_of_the_whole(pool: VerifierPool, whole: Whole) -> None:
    async def stream(seed: int) -> None:
        rng, text = Random(seed), tokens(seed, 60)
        cuts = sorted({rng.randint(1, 60) for _ in range(5)} | {60})
        handle = None
        for start, end in zip([0, *cuts], cuts, strict=False):
            boundaries = tuple(sorted({rng.randint(start + 1, end), end}))
            reading = ScoreRequest(token_ids=text[:end], boundaries=boundaries, handle=handle, keep_parent=False)
            [verdict] = await pool.score([reading])
            handle = assert_same(verdict, whole, reading)
            assert (verdict.verifier_tokens, verdict.reingested_tokens) == (end - start, 0)
            assert verdict.flops == (end - start) * pool.info.flops_per_token

    await asyncio.gather(*(stream(seed) for seed in range(12)))


async def test_a_prompt_is_read_once_for_all_its_children(pool: VerifierPool, whole: Whole) -> None:
    prompt = tokens(1, 30)
    root = await read(pool, prompt)
    readings = children(prompt, root, 16)
    for _ in range(2):  # forks leave their parent and each other alone
        verdicts = await scored(pool, readings, whole)
        assert [v.verifier_tokens for v in verdicts] == [5 + i for i in range(16)]
        assert {v.reingested_tokens for v in verdicts} == {0}


async def test_released_states_cost_time_and_change_no_score(pool: VerifierPool, whole: Whole) -> None:
    prompt = tokens(2, 30)
    root = await read(pool, prompt)
    pool.release([root])
    pool.release([root, root])
    await read(pool, prompt)  # a later tick: the release has gone out
    verdicts = await scored(pool, children(prompt, root, 4), whole)
    assert sum(v.reingested_tokens for v in verdicts) == 30
    again = await scored(pool, children(prompt, root, 4), whole)  # it was rebuilt under its old handle
    assert sum(v.reingested_tokens for v in again) == 0


async def test_a_boundary_that_the_carry_is_past_is_read_from_the_tokens(pool: VerifierPool, whole: Whole) -> None:
    text = tokens(3, 20)
    handle = await read(pool, text[:10])
    [verdict] = await scored(pool, [ScoreRequest(token_ids=text, boundaries=(10, 20), handle=handle)], whole)
    assert (verdict.verifier_tokens, verdict.reingested_tokens) == (20, 10)


async def test_a_moved_state_serves_its_old_handles(pool: VerifierPool, whole: Whole) -> None:
    prompt = tokens(4, 30)
    root = await read(pool, prompt)
    moved = await pool.migrate(root, 1 - root.replica)
    assert moved.replica == 1 - root.replica
    for handle in (moved, root, replace(moved)):
        for verdict in await scored(pool, children(prompt, handle, 2), whole):
            assert verdict.handle is not None and verdict.handle.replica == moved.replica
            assert verdict.reingested_tokens == 0
    back = await pool.migrate(moved, root.replica)
    [verdict] = await scored(pool, children(prompt, back, 1), whole)
    assert (verdict.handle and verdict.handle.replica, verdict.reingested_tokens) == (root.replica, 0)
    pool.release([root])
    await read(pool, prompt)
    assert await pool.migrate(back, moved.replica) is back  # nothing there to move


async def test_children_of_an_overloaded_replica_are_read_by_another(pool: VerifierPool, whole: Whole) -> None:
    prompt = tokens(5, 30)
    root = await read(pool, prompt)
    readings = [
        ScoreRequest(token_ids=prompt + tokens(i, 300), boundaries=(330,), handle=root, keep_parent=i % 2 == 0)
        for i in range(40)
    ]
    verdicts = await scored(pool, readings, whole)
    assert {v.handle.replica for v in verdicts if v.handle} == {0, 1}
    assert sum(v.verifier_tokens for v in verdicts) == 40 * 300  # the prompt's state was copied, not rebuilt
    assert all(replica.pending_tokens == 0 for replica in pool.replicas())


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many readings each call carries."""
    counts: list[int] = []
    serve = VerifierPool._serve

    async def counted(self: VerifierPool, target: object, epoch: int, source: object, jobs: Sequence[object]) -> None:
        counts.append(len(jobs))
        await serve(self, target, epoch, source, jobs)  # type: ignore[arg-type]

    monkeypatch.setattr(VerifierPool, "_serve", counted)
    return counts


async def test_one_tick_is_one_call(pool: VerifierPool, calls: list[int]) -> None:
    for seed in range(4):  # each replica has shown its pace by then: until it has, a call is one reading
        await pool.score([ScoreRequest(token_ids=tokens(100 + seed, 9), boundaries=(9,))])
    calls.clear()
    await asyncio.gather(*(pool.score([ScoreRequest(token_ids=tokens(i, 9), boundaries=(9,))] * 2) for i in range(8)))
    assert sum(calls) == 16 and len(calls) <= 2  # replicas


async def test_what_comes_while_replicas_are_busy_shares_the_next_call(
    pool: VerifierPool, whole: Whole, calls: list[int]
) -> None:
    pids = [replica.pid for replica in pool.replicas() if replica.pid is not None]
    async with asyncio.TaskGroup() as tasks:
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)  # busy until all have come
        try:
            for seed in range(60):
                tasks.create_task(scored(pool, [ScoreRequest(token_ids=tokens(seed, 20), boundaries=(20,))], whole))
                await asyncio.sleep(0)  # each in a tick of its own
                await asyncio.sleep(0)
        finally:
            for pid in pids:
                os.kill(pid, signal.SIGCONT)
    assert sum(calls) == 60 and len(calls) <= 20


async def test_bad_readings_are_refused_and_fail_nobody_else(pool: VerifierPool, whole: Whole) -> None:
    text = tokens(6, 9)
    handle = await read(pool, text)
    for bad, message in (
        (ScoreRequest(token_ids=text, boundaries=(0,)), r"within 1\.\.9, got \(0,\)"),
        (ScoreRequest(token_ids=text, boundaries=(4, 4)), r"must increase"),
        (ScoreRequest(token_ids=text, boundaries=(10,)), r"within 1\.\.9"),
        (ScoreRequest(token_ids=text[:5], boundaries=(5,), handle=handle), "handle covers 9 tokens, the reading has 5"),
    ):
        with pytest.raises(ValueError, match=message):
            await pool.score([bad])
    good = ScoreRequest(token_ids=text, boundaries=(9,))
    strange = ScoreRequest(token_ids=(1, 99), boundaries=(2,))
    [first, refused], [second] = await asyncio.gather(pool.score([good, strange]), pool.score([good]))
    assert refused.unjudged is not None and "token id 99 is outside the verifier's vocabulary" in refused.unjudged
    assert (refused.scores, refused.handle, refused.verifier_tokens) == ((), None, 0)
    assert_same(first, whole, good)
    assert_same(second, whole, good)


async def test_a_caller_that_leaves_disturbs_nobody(pool: VerifierPool, whole: Whole) -> None:
    reading = ScoreRequest(token_ids=tokens(7, 200), boundaries=(200,))
    leaving = asyncio.create_task(pool.score([reading] * 3))
    staying = asyncio.create_task(scored(pool, [reading], whole))
    await asyncio.sleep(0)
    leaving.cancel()
    await staying
    assert leaving.cancelled()


async def test_hello_says_who_it_is(pool: VerifierPool, prm: StreamingPRM) -> None:
    info = pool.info
    assert (info.name, info.model_hash) == ("streaming_prm", prm.model_hash)
    assert info.state_bytes == 4 * prm.state_numel
    assert info.flops_per_token == prm.config.flops_per_token


@pytest.mark.parametrize("host_slots", [0, 1])
async def test_eviction_costs_time_and_never_changes_scores(
    config: VerifierConfig, whole: Whole, host_slots: int
) -> None:
    async with VerifierPool.open(resolve(replace(config, slots=2, host_slots=host_slots))) as pool:
        prompt = tokens(8, 20)
        root = await read(pool, prompt)
        first = await scored(pool, children(prompt, root, 6), whole)
        readings = [
            ScoreRequest(
                token_ids=(*r.token_ids, 1, 2), boundaries=(len(r.token_ids) + 2,), handle=v.handle, keep_parent=keep
            )
            for r, v in zip(children(prompt, root, 6), first, strict=True)
            for keep in (True, False)
        ]
        second = await scored(pool, readings, whole)
        assert sum(v.reingested_tokens for v in second) > 0
        for verdict in second:
            assert verdict.verifier_tokens == 2 + verdict.reingested_tokens


async def test_a_killed_replica_changes_no_score(config: VerifierConfig, whole: Whole) -> None:
    async with VerifierPool.open(resolve(replace(config, replicas=2, max_restarts=0))) as pool:
        prompt = tokens(9, 40)
        root = await read(pool, prompt)
        pid = pool.replicas()[root.replica].pid
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        verdicts = await scored(pool, children(prompt, root, 4), whole)  # in flight when it is noticed
        assert sum(v.reingested_tokens for v in verdicts) == 40  # once for all of them
        assert {v.handle.replica for v in verdicts if v.handle} == {1 - root.replica}
        assert pool.replicas()[root.replica].epoch == 1
        assert all(replica.pending_tokens == 0 for replica in pool.replicas())
        later = await scored(pool, children(prompt, root, 4), whole)
        assert sum(v.reingested_tokens for v in later) == 0


async def test_the_only_replica_is_restarted_and_then_given_up(config: VerifierConfig, whole: Whole) -> None:
    async with VerifierPool.open(resolve(replace(config, max_restarts=1))) as pool:
        prompt = tokens(10, 40)
        root = await read(pool, prompt)
        pid = pool.replicas()[0].pid
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        verdicts = await scored(pool, children(prompt, root, 2), whole)
        assert sum(v.reingested_tokens for v in verdicts) == 40
        assert all(v.handle is not None and v.handle.epoch == 1 for v in verdicts)
        pid = pool.replicas()[0].pid
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        with pytest.raises(PoolExhausted, match="none of 1 replicas is left after 1 restarts each"):
            await pool.score(children(prompt, root, 2))
        with pytest.raises(PoolExhausted):
            await pool.score([ScoreRequest(token_ids=prompt, boundaries=(1,))])


async def test_a_stalled_replica_counts_as_dead(config: VerifierConfig) -> None:
    async with VerifierPool.open(resolve(replace(config, max_restarts=0, stall_timeout_s=3.0))) as pool:
        prompt = tokens(11, 40)
        root = await read(pool, prompt)
        pid = pool.replicas()[0].pid
        assert pid is not None
        process = os.pidfd_open(pid)
        os.kill(pid, signal.SIGSTOP)
        with pytest.raises(PoolExhausted, match="no progress for 3 s"):
            await pool.score(children(prompt, root, 2))
        [ended], _, _ = select.select([process], [], [], 10)  # it is killed, too
        os.close(ended)


SLOW_HOST = """
import time
from verifiers.rules import RuleHost


class SlowHost(RuleHost):
    def judge(self, solution):
        time.sleep(1.5)
        return 1.0
"""


async def test_where_a_run_may_take_seconds_the_deadline_is_of_each(local_ray: Path, monkeypatch) -> None:
    (local_ray / "slow.py").write_text(SLOW_HOST)
    entry = VerifierEntry(host="slow:SlowHost", scores_steps=False, reads_text=True, one_run_per_call=True)
    monkeypatch.setitem(VERIFIERS, "slow", entry)
    solution = Solution(problem=Problem.from_prompt("p", "?"), steps=("42",), asked=(0,), ended=True)
    reading = ScoreRequest(token_ids=(1,), boundaries=(1,), solution=solution)
    async with VerifierPool.open(resolve(VerifierConfig(name="slow", max_restarts=0, stall_timeout_s=5.0))) as pool:
        verdicts = await pool.score([reading] * 5)  # together longer than the deadline
    assert [verdict.scores[0].mean for verdict in verdicts] == [1.0] * 5


async def test_a_score_that_is_not_finite_is_none_and_what_was_read_is_counted(
    config: VerifierConfig, prm: StreamingPRM, tmp_path: Path
) -> None:
    broken = StreamingPRM(prm.config)
    broken.load_state_dict(prm.state_dict())
    torch.nn.init.constant_(broken.head.bias.data, float("nan"))
    broken.save_pretrained(tmp_path)
    async with VerifierPool.open(resolve(replace(config, model=str(tmp_path)))) as pool:
        [verdict] = await pool.score([ScoreRequest(token_ids=(1, 2), boundaries=(2,))])
        assert verdict.unjudged is not None and "not a finite number" in verdict.unjudged
        assert (verdict.scores, verdict.handle, verdict.verifier_tokens) == ((), None, 2)
        assert [stats["tokens_read"] for stats in await pool.stats()] == [2]
    with pytest.raises(ReplicaError, match="closed"):
        await pool.score([ScoreRequest(token_ids=(1, 2), boundaries=(2,))])


async def test_a_checkpoint_that_cannot_be_loaded_is_the_users_error(config: VerifierConfig, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no folder"):
        async with VerifierPool.open(resolve(replace(config, model=str(tmp_path / "nowhere")))):
            pass


async def test_a_cluster_without_room_is_said_and_not_waited_for(config: VerifierConfig) -> None:
    with pytest.raises(ReplicaError, match="did not start in 1 s; it needs 1000 CPU and 0 GPU, free in the cluster"):
        async with VerifierPool.open(resolve(replace(config, num_cpus=1000, start_timeout_s=1.0))):
            pass
