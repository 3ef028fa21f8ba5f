"""The pool over replicas that live in this process and fail on demand: the real host, a scripted engine, no Ray."""

import asyncio
import random
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Collection, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager
from functools import partial
from typing import Any

import pytest
from ray.exceptions import (
    ActorDiedError,
    ActorUnavailableError,
    OutOfMemoryError,
    RaySystemError,
    RayTaskError,
    RuntimeEnvSetupError,
    WorkerCrashedError,
)
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from orchestrator.core.config import PolicyConfig, StepConfig
from orchestrator.core.errors import PoolExhausted, ProblemError, PromptTooLong, ReplicaError, UserError
from orchestrator.core.flops import ModelShape
from orchestrator.core.ledger import Ledger
from orchestrator.core.nouns import Message, Problem, Status
from orchestrator.core.protocols import Finish, Generation, Segment
from orchestrator.policy import PolicyPool
from orchestrator.policy import blueprint as policy_blueprint
from orchestrator.policy.engines.contract import Delta, PolicyInfo
from orchestrator.policy.host import ClientForgotten, PolicyHost
from orchestrator.policy.prompts import PromptEncoder
from orchestrator.ray_calls import ReplicaLost
from orchestrator.replicas import blueprint as blueprints
from orchestrator.replicas import keeper as keepers
from tests.fakes import open_session
from tests.rooms import roomy
from tests.waiting import until

WORDS = ["a", "b", "c", "\n\n", "d"]
INFO = PolicyInfo(
    context_length=1000,
    shape=ModelShape(weights_per_token=1, head_weights=1, num_layers=1, attention_width=1),
    fingerprint="same",
    kv_capacity_tokens=400,
    max_num_seqs=8,
)


class CountingEngine:
    """Writes the token of each position, so that what is lost or repeated shows. Waits while `open` is cleared."""

    def __init__(self) -> None:
        self.tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="a"))
        self.tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
        self.tokenizer.decoder = decoders.Fuse()
        self.context_length = INFO.context_length
        self.steps = 0
        self.on_token: Callable[[], None] = lambda: None
        self.most_looks = 0  # at a long prompt that it is reading, until it may write
        self.open = asyncio.Event()
        self.open.set()
        self.running: list[Generation] = []
        self.started: list[Generation] = []
        self.most_tokens_reserved = 0
        self.ended: set[str] = set()  # names of aborted requests

    @property
    def num_running(self) -> int:
        return len(self.running)

    @property
    def progress(self) -> int:
        if self.most_looks and not self.open.is_set():
            self.steps += 1
            if self.steps == self.most_looks:
                self.open.set()
        return self.steps

    def counters(self) -> dict[str, int]:
        return {}

    async def abort(self, name: str) -> None:
        self.ended.add(name)

    async def stream(
        self, name: str, generation: Generation, stop_token_ids: Sequence[int]
    ) -> AsyncGenerator[Delta, None]:
        self.running.append(generation)
        self.started.append(generation)
        reserved = sum(len(g.prefix_ids) + g.max_tokens for g in self.running)
        self.most_tokens_reserved = max(self.most_tokens_reserved, reserved)
        try:
            start = len(generation.prefix_ids)
            for position in range(start, start + generation.max_tokens):
                await self.open.wait()
                await asyncio.sleep(0)
                if name in self.ended:
                    yield Delta((), 0, Finish.ABORTED)
                    return
                self.steps += 1
                self.on_token()
                last = position == start + generation.max_tokens - 1
                yield Delta((position % len(WORDS),), 0, Finish.LENGTH if last else None)
        finally:
            self.running.remove(generation)

    def render(self, messages: Sequence[Message], template: Mapping[str, Any]) -> str:
        if messages[0].content == "refused":
            raise ProblemError("the chat template refuses these messages")
        return messages[0].content


class LocalReplica:
    """Looks like an actor's handle: `replica.method.remote(...)`."""

    def __init__(self, steps: StepConfig, start_error: Exception | None) -> None:
        self.engine = CountingEngine()
        self.now = 0.0
        self.host = PolicyHost(self.engine, steps, admission=roomy(), clock=lambda: self.now)
        self.prompts = PromptEncoder(self.engine)
        self.dead = asyncio.Event()
        self.death: Exception = ActorDiedError()  # what calls raise from then on
        self.polled = asyncio.Event()
        self.stopped = False  # it answers nothing, as after SIGSTOP
        self.hanging = ""  # a method that it never answers
        self.unanswered: set[str] = set()  # methods that were called since
        self._start_error = start_error
        self._answers: set[asyncio.Future[Any]] = set()

    def __getattr__(self, method: str) -> Any:
        return type("Method", (), {"remote": partial(self._call, method)})

    async def _call(self, method: str, *args: Any) -> Any:
        if self.dead.is_set():
            raise self.death
        if self.stopped or method == self.hanging:
            self.unanswered.add(method)
            await self.dead.wait()
            raise self.death
        if method == "begin":
            return 1234, "here"
        if method == "load":
            if self._start_error is not None:
                raise self._start_error
            return INFO
        result = getattr(self.prompts if method == "encode" else self.host, method)(*args)
        if not asyncio.iscoroutine(result):
            return result
        answer = asyncio.ensure_future(result)  # it goes on where its caller does not wait for it any more, as Ray's do
        self._answers.add(answer)
        answer.add_done_callback(self._answers.discard)
        death = asyncio.ensure_future(self.dead.wait())
        try:
            await asyncio.wait([answer, death], return_when=asyncio.FIRST_COMPLETED)
            if self.dead.is_set():
                raise self.death
            if method == "poll":
                self.polled.set()
            return answer.result()
        finally:
            death.cancel()

    async def end(self) -> None:
        await self.host.stop()
        self.prompts.close()
        for answer in self._answers:
            answer.cancel()
        await asyncio.gather(*self._answers, return_exceptions=True)


class Cluster:
    """All replicas that were ever created, in order."""

    def __init__(self) -> None:
        self.replicas: list[LocalReplica] = []
        self.start_errors: list[Exception] = []  # of those that are created next
        self.on_create: Callable[[LocalReplica], None] = lambda replica: None

    def create(self, cls: type, config: PolicyConfig, steps: StepConfig, *_: object) -> LocalReplica:
        self.replicas.append(LocalReplica(steps, self.start_errors.pop(0) if self.start_errors else None))
        self.on_create(self.replicas[-1])
        return self.replicas[-1]

    async def end(self) -> None:
        for replica in self.replicas:
            await replica.end()


@pytest.fixture
async def cluster(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Cluster]:
    cluster = Cluster()
    monkeypatch.setattr(blueprints, "create_actor", cluster.create)
    monkeypatch.setattr(blueprints, "free_resources", lambda: {})
    monkeypatch.setattr(policy_blueprint, "resources", lambda config: {})
    monkeypatch.setattr(blueprints, "kill_actor", lambda actor: actor.dead.set())
    yield cluster
    await cluster.end()


Open = Callable[..., AbstractAsyncContextManager[PolicyPool]]


@pytest.fixture
def opened(cluster: Cluster) -> Open:
    @asynccontextmanager
    async def opened(**options: Any) -> AsyncIterator[PolicyPool]:
        config = PolicyConfig(**{"model": "tiny", "replicas": 2, "max_restarts": 1, **options})
        async with asyncio.timeout(30), PolicyPool.open(config, StepConfig()) as pool:
            yield pool

    return opened


def sample(start: int, max_tokens: int = 30, **options: object) -> Generation:
    fields = {"seed": 0, "temperature": 1.0, "top_p": 1.0, **options}
    return Generation(prefix_ids=tuple(range(start)), max_tokens=max_tokens, **fields)  # type: ignore[arg-type]


def expected(generation: Generation) -> list[int]:
    start = len(generation.prefix_ids)
    return [position % len(WORDS) for position in range(start, start + generation.max_tokens)]


async def run(
    pool: PolicyPool, requests: Sequence[Generation], at_first: Callable[[], None] = lambda: None
) -> list[list[Segment]]:
    """The segments of each request; `at_first` is called when the first one has arrived."""
    written: list[list[Segment]] = [[] for _ in requests]
    async with aclosing(pool.generate(requests)) as segments:
        async for index, segment in segments:
            written[index].append(segment)
            if sum(map(len, written)) == 1:
                at_first()
    return written


def ids(segments: Sequence[Segment]) -> list[int]:
    return [token_id for segment in segments for token_id in segment.token_ids]


async def test_a_killed_replica_loses_and_repeats_nothing_and_is_replaced(cluster: Cluster, opened: Open) -> None:
    requests = [sample(start) for start in range(1, 13)]
    async with opened() as pool:
        written = await run(pool, requests, at_first=cluster.replicas[0].dead.set)
        assert [ids(segments) for segments in written] == [expected(request) for request in requests]
        assert all([s.finish for s in segments[:-1]] == [None] * (len(segments) - 1) for segments in written)
        assert any(segments[-1].discarded_tokens for segments in written)  # what was in no step yet
        await until(lambda: pool.num_ready == 2)
        assert len(cluster.replicas) == 3


async def test_what_is_resumed_has_a_seed_of_its_own(cluster: Cluster, opened: Open) -> None:
    async with opened(replicas=1) as pool:
        await run(pool, [sample(1, seed=7)], at_first=cluster.replicas[0].dead.set)
    [first], [second] = (replica.engine.started for replica in cluster.replicas)
    assert first.seed == 7 != second.seed
    assert len(second.prefix_ids) + second.max_tokens == len(first.prefix_ids) + first.max_tokens


MORTAL = {"replicas": 1, "max_restarts": 20, "stall_timeout_s": 0.2}


class Doom:
    """Has replicas die at the tokens that `deaths` counts, once the pool knows what they are writing."""

    def __init__(self, deaths: Collection[int]) -> None:
        self.deaths = deaths
        self.num_tokens = 0
        self.dying: list[asyncio.Task[None]] = []

    def __call__(self, replica: LocalReplica) -> None:
        replica.engine.on_token = partial(self.on_token, replica)

    def on_token(self, replica: LocalReplica) -> None:
        self.num_tokens += 1
        if self.num_tokens in self.deaths:
            replica.engine.open.clear()
            self.dying.append(asyncio.create_task(self.die(replica)))

    async def die(self, replica: LocalReplica) -> None:
        replica.polled.clear()
        await replica.polled.wait()
        replica.dead.set()


async def test_a_budget_is_used_up_exactly_wherever_replicas_die(cluster: Cluster, opened: Open) -> None:
    """What a fault threw away is on the ledger, is not paid for, and changes no result."""

    async def search(deaths: Collection[int]) -> tuple[list[tuple[Status, int]], Ledger]:
        """Statuses and lengths of three candidates, and what they cost."""
        cluster.on_create = Doom(deaths)
        async with opened(**MORTAL) as pool, open_session(pool, budget=40) as session:
            root = await session.start(Problem.from_prompt("p", "a"))
            candidates = await session.rollout([root], 3, scored=False)
            assert session.remaining.policy_tokens == 0
            return [(candidate.status, candidate.num_tokens) for candidate in candidates], session.ledger

    whole, ledger = await search(())
    assert (sum(length for _, length in whole), ledger.generated_tokens, ledger.discarded_tokens) == (40, 40, 0)
    rng = random.Random(0)
    for num_deaths in [1, 2, 3, 4]:
        found, ledger = await search([4, *rng.sample(range(5, 41), num_deaths - 1)])  # 4: within the first steps
        assert found == whole
        assert ledger.discarded_tokens > 0
        assert ledger.generated_tokens - ledger.discarded_tokens == 40


async def test_a_budget_is_never_exceeded_where_steps_are_cut_and_replicas_die(cluster: Cluster, opened: Open) -> None:
    rng = random.Random(0)
    for _ in range(4):
        cluster.on_create = Doom(rng.sample(range(1, 41), 3))
        async with opened(**MORTAL) as pool, open_session(pool, budget=40) as session:
            beams = [await session.start(Problem.from_prompt("p", "a"))]
            while beams:
                children = await session.expand(beams, 2, scored=False)
                beams = [child for child in children if not child.status.done][:2]
                left = session.remaining.policy_tokens
                assert left is not None and left >= 0
            assert left == 0


async def test_a_stop_string_is_found_although_its_replica_died_within_it(cluster: Cluster, opened: Open) -> None:
    async with opened(replicas=1) as pool:
        [segments] = await run(pool, [sample(1, stop=("\n\nda",))], at_first=cluster.replicas[0].dead.set)
    assert segments[-1].finish is Finish.STOP
    assert "".join(segment.text for segment in segments) == "bc\n\nda"


async def test_without_replicas_and_restarts_callers_are_told(cluster: Cluster, opened: Open) -> None:
    async with opened(replicas=1, max_restarts=0) as pool:
        with pytest.raises(PoolExhausted, match="none of 1 replicas is left"):
            await run(pool, [sample(1)], at_first=cluster.replicas[0].dead.set)
        with pytest.raises(PoolExhausted):
            await run(pool, [sample(1)])
        with pytest.raises(PoolExhausted):
            await pool.encode([Problem.from_prompt("p", "text")])


async def test_a_pool_whose_replicas_were_used_up_serves_again_once_a_loss_is_forgotten(
    cluster: Cluster, opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keepers, "_FORGETS_S", 0.5)
    async with opened(replicas=1, max_restarts=0) as pool:
        with pytest.raises(PoolExhausted):
            await run(pool, [sample(1)], at_first=cluster.replicas[0].dead.set)
        await until(lambda: pool.num_ready == 1, pause_s=0.01)
        assert ids((await run(pool, [sample(2)]))[0]) == expected(sample(2))
        assert await pool.encode([Problem.from_prompt("p", "a b")]) == [(0, 1)]


async def test_prompts_encoded_together_fail_alone(opened: Open, cluster: Cluster) -> None:
    async with opened(replicas=1) as pool:
        texts = ["a", "b b", "refused", "b" * 2001, "c"]
        results = await asyncio.gather(
            *(pool.encode([Problem.from_prompt(text, text)]) for text in texts), return_exceptions=True
        )
        assert [r if isinstance(r, list) else type(r) for r in results] == [
            [(0,)],
            [(1, 1)],
            ProblemError,
            PromptTooLong,  # the longest token has two characters, the context 1000 tokens
            [(2,)],
        ]


async def test_restarts_that_fail_are_counted_and_end(cluster: Cluster, opened: Open) -> None:
    async with opened(replicas=1, max_restarts=3) as pool:
        cluster.start_errors = [ActorDiedError() for _ in range(3)]
        with pytest.raises(PoolExhausted):
            await run(pool, [sample(1)], at_first=cluster.replicas[0].dead.set)
    assert len(cluster.replicas) == 4


async def test_a_replica_that_dies_while_it_loads_is_started_again(cluster: Cluster, opened: Open) -> None:
    cluster.start_errors = [ActorDiedError(), ReplicaError("the engine could not start")]
    async with opened(replicas=1, max_restarts=2) as pool:
        assert ids((await run(pool, [sample(1)]))[0]) == expected(sample(1))
    assert len(cluster.replicas) == 3


async def test_a_pool_does_not_open_when_the_restarts_of_a_replica_are_used_up(cluster: Cluster, opened: Open) -> None:
    cluster.start_errors = [ActorDiedError() for _ in range(4)]
    with pytest.raises(ReplicaLost):
        async with opened(replicas=2, max_restarts=1):
            pass
    assert all(replica.dead.is_set() for replica in cluster.replicas)


@pytest.mark.parametrize(
    ("hanging", "why"),
    [("begin", r"did not start in 0\.1 s; it needs 0 CPU and 0 GPU"), ("load", r"no answer within 0\.1 s")],
)
async def test_a_first_start_that_takes_too_long_is_not_tried_again(
    cluster: Cluster, opened: Open, hanging: str, why: str
) -> None:
    def hang(replica: LocalReplica) -> None:
        replica.hanging = hanging

    cluster.on_create = hang
    with pytest.raises(ReplicaLost, match=why):
        async with opened(replicas=1, start_timeout_s=0.1):
            pass
    assert len(cluster.replicas) == 1


def in_the_actor(error: Exception) -> RayTaskError:
    """As Ray hands over what an actor's method raised."""
    return RayTaskError("start", "its traceback", error)


async def test_a_model_that_can_not_be_loaded_is_told_at_once(cluster: Cluster, opened: Open) -> None:
    cluster.start_errors = [in_the_actor(UserError("no such model"))]
    with pytest.raises(UserError, match="no such model"):
        async with opened(replicas=1, max_restarts=3):
            pass
    assert len(cluster.replicas) == 1


async def test_what_was_loaded_once_is_loaded_again_whatever_the_engine_says(cluster: Cluster, opened: Open) -> None:
    async with opened(replicas=1, max_restarts=2) as pool:
        cluster.start_errors = [in_the_actor(UserError("the memory is not free yet"))]
        [segments] = await run(pool, [sample(1)], at_first=cluster.replicas[0].dead.set)
        assert ids(segments) == expected(sample(1))
    assert len(cluster.replicas) == 3


@pytest.mark.parametrize(
    "error",
    [
        ActorUnavailableError("its node does not answer", None),
        OutOfMemoryError("the node has no memory left"),
        RaySystemError("the raylet is gone"),
        RuntimeEnvSetupError("no environment"),
        WorkerCrashedError(),
        in_the_actor(AssertionError("an invariant")),
    ],
    ids=lambda error: type(error).__name__,
)
async def test_whatever_ray_says_of_a_lost_replica_it_is_replaced(
    error: Exception, cluster: Cluster, opened: Open
) -> None:
    async with opened(replicas=1, max_restarts=2) as pool:
        cluster.replicas[0].death = error
        cluster.start_errors = [error]
        [segments] = await run(pool, [sample(1)], at_first=cluster.replicas[0].dead.set)
        assert ids(segments) == expected(sample(1))
    assert len(cluster.replicas) == 3  # the second one did not start


async def test_a_stopped_replica_is_replaced_and_what_it_was_asked_is_asked_again(
    cluster: Cluster, opened: Open
) -> None:
    async with opened(replicas=1, stall_timeout_s=0.2) as pool:
        cluster.replicas[0].stopped = True
        encoded, [segments], text = await asyncio.gather(
            pool.encode([Problem.from_prompt("p", "a b")]), run(pool, [sample(1)]), pool.encode([])
        )
        assert (encoded, ids(segments), text) == ([(0, 1)], expected(sample(1)), [])
    assert "encode" in cluster.replicas[0].unanswered
    assert cluster.replicas[0].dead.is_set()
    assert len(cluster.replicas) == 2


async def test_a_question_that_a_replica_fails_on_is_its_loss(cluster: Cluster, opened: Open) -> None:
    async with opened(replicas=1) as pool:
        cluster.replicas[0].encode = type("Method", (), {"remote": failing})
        assert await pool.encode([Problem.from_prompt("p", "a b")]) == [(0, 1)]
    assert len(cluster.replicas) == 2


async def failing(*args: object) -> None:
    raise in_the_actor(AssertionError("an invariant"))


async def test_statistics_leave_out_a_replica_that_dies_meanwhile(cluster: Cluster, opened: Open) -> None:
    async with opened(max_restarts=0) as pool:
        cluster.replicas[1].stopped = True
        asking = asyncio.create_task(pool.stats())
        await until(lambda: "stats" in cluster.replicas[1].unanswered)
        cluster.replicas[1].dead.set()
        assert [stat["replica"] for stat in await asking] == [0]
        await until(lambda: pool.num_ready == 1)
        assert [stat["replica"] for stat in await pool.stats()] == [0]


async def test_a_busy_replica_without_progress_counts_as_dead(cluster: Cluster, opened: Open) -> None:
    async with opened(replicas=1, stall_timeout_s=0.2, max_restarts=10) as pool:
        cluster.replicas[0].engine.open.clear()
        [segments] = await run(pool, [sample(1)])
        assert ids(segments) == expected(sample(1))
    assert len(cluster.replicas) > 1


async def test_a_replica_that_reads_a_long_prompt_makes_progress(cluster: Cluster, opened: Open) -> None:
    async with opened(replicas=1, stall_timeout_s=1.0, max_restarts=0) as pool:
        engine = cluster.replicas[0].engine
        engine.open.clear()
        engine.most_looks = 6  # of which one comes each 0.5 s: three times as long as a replica may stall
        assert ids((await run(pool, [sample(1)]))[0]) == expected(sample(1))


async def test_an_idle_replica_never_stalls(cluster: Cluster, opened: Open) -> None:
    async with opened(replicas=1, stall_timeout_s=0.5, max_restarts=0) as pool:
        await asyncio.sleep(1.0)  # past the deadline
        assert ids((await run(pool, [sample(1)]))[0]) == expected(sample(1))


async def test_a_replica_that_forgot_this_client_gets_its_requests_again(cluster: Cluster, opened: Open) -> None:
    replica_of: list[LocalReplica] = cluster.replicas

    def forget() -> None:
        replica_of[0].now = 1000.0
        assert replica_of[0].host.forget_stalled()

    async with opened(replicas=1, max_restarts=0) as pool:
        requests = [sample(start) for start in range(1, 5)]
        written = await run(pool, requests, at_first=forget)
    assert [ids(segments) for segments in written] == [expected(request) for request in requests]
    assert len(cluster.replicas) == 1


async def test_requests_wait_until_they_fit_the_kv_cache_first_come_first_served(
    cluster: Cluster, opened: Open
) -> None:
    async with opened(replicas=1) as pool:
        requests = [sample(start, max_tokens=120) for start in range(1, 9)]
        written = await run(pool, requests)
    engine = cluster.replicas[0].engine
    assert engine.most_tokens_reserved <= INFO.kv_capacity_tokens
    assert [len(g.prefix_ids) for g in engine.started] == list(range(1, 9))
    assert all(segments[-1].finish for segments in written)


async def test_a_request_larger_than_the_kv_cache_runs_alone(cluster: Cluster, opened: Open) -> None:
    async with opened(replicas=1) as pool:
        written = await run(pool, [sample(1, max_tokens=600), sample(2)])
    assert [len(ids(segments)) for segments in written] == [600, 30]


async def test_a_family_stays_on_one_replica(cluster: Cluster, opened: Open) -> None:
    async with opened() as pool:
        await run(pool, [sample(100), sample(100)])
        await run(pool, [sample(120), sample(110)])  # children, later
    assert sorted(len(replica.engine.started) for replica in cluster.replicas) == [0, 4]


async def test_closing_the_generator_takes_its_requests_off_the_queue_and_the_engine(
    cluster: Cluster, opened: Open
) -> None:
    async with opened(replicas=1) as pool:
        async with aclosing(pool.generate([sample(1, max_tokens=390) for _ in range(5)])) as segments:
            await anext(segments)
        assert ids((await run(pool, [sample(2)]))[0]) == expected(sample(2))
        assert len(cluster.replicas[0].engine.started) == 2  # the others never left the queue
        assert (await pool.stats())[0]["running"] == 0


async def test_closing_the_pool_tells_its_callers(cluster: Cluster, opened: Open) -> None:
    async with opened(replicas=1) as pool:
        cluster.replicas[0].engine.open.clear()
        calling = asyncio.create_task(run(pool, [sample(1)]))
        await until(lambda: bool(cluster.replicas[0].engine.running))
    with pytest.raises(PoolExhausted, match="closed"):
        await calling


async def test_what_can_not_run_is_refused_at_once(opened: Open) -> None:
    async with opened(replicas=1) as pool:
        with pytest.raises(ValueError, match="max_tokens >= 1"):
            await run(pool, [sample(1, max_tokens=0)])
        with pytest.raises(ValueError, match="needs a prefix"):
            await run(pool, [sample(0)])
        assert await run(pool, []) == []


async def test_a_pool_that_closes_while_a_replica_forgets_it_waits_for_nothing(cluster: Cluster, opened: Open) -> None:
    async with opened(replicas=1) as pool:
        [replica] = pool._serving.values()
        replica._loss.set_exception(ClientForgotten("it did not poll for too long"))
