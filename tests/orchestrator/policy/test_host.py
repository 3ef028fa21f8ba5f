"""The host over a scripted engine, stepped by the test: no vLLM, no waiting."""

import asyncio
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models

from orchestrator.core.confidence import ConfidenceFloor, StepConfidence, TokenConfidence
from orchestrator.core.config import StepConfig
from orchestrator.core.errors import ProblemError, ReplicaError
from orchestrator.core.nouns import Message
from orchestrator.core.protocols import Finish, Generation, Segment
from orchestrator.core.thinking import ThinkingMarkers
from orchestrator.policy.admission import Admission
from orchestrator.policy.engines.contract import Delta
from orchestrator.policy.host import ClientForgotten, PolicyHost, Work
from tests.rooms import roomy
from tests.waiting import until

WORDS = ["<eos>", "\n", "\n\n", "a", "b"]
EOS, NEWLINE, BLANK, A, B = range(5)


class ScriptedEngine:
    """Gives the deltas that the test feeds it, keyed by the request's seed."""

    def __init__(self) -> None:
        self.tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<eos>"))
        self.tokenizer.decoder = decoders.Fuse()
        self.context_length = 100
        self.progress = 0
        self.tokenizer.add_special_tokens([AddedToken("<eos>", special=True)])
        self.feeds: dict[int, asyncio.Queue[Delta | BaseException]] = {}
        self.stop_token_ids: dict[int, list[int]] = {}
        self.aborted: list[int] = []
        self.seeds: dict[str, int] = {}  # by the request's name

    @property
    def num_running(self) -> int:
        return len(self.feeds)

    def counters(self) -> dict[str, int]:
        return {"preemptions": 0}

    async def abort(self, name: str) -> None:
        seed = self.seeds.get(name)  # unknown to vLLM, too, before its stream is asked for
        if seed in self.feeds:
            self.aborted.append(seed)
            self.feeds[seed].put_nowait(Delta((), 7, Finish.ABORTED))

    async def stream(
        self, name: str, generation: Generation, stop_token_ids: Sequence[int]
    ) -> AsyncGenerator[Delta, None]:
        self.seeds[name] = generation.seed
        feed = self.feeds[generation.seed] = asyncio.Queue()
        self.stop_token_ids[generation.seed] = list(stop_token_ids)
        finished = False
        try:
            while not finished:
                delta = await feed.get()
                if isinstance(delta, BaseException):
                    raise delta
                finished = delta.finish is not None
                yield delta
        finally:
            del self.feeds[generation.seed]
            if not finished:
                self.aborted.append(generation.seed)

    def render(self, messages: Sequence[Message], template: Mapping[str, Any]) -> str:
        return " ".join(message.content for message in messages)

    async def feed(self, seed: int, *token_ids: int, finish: Finish | None = None, **told: object) -> None:
        await until(lambda: seed in self.feeds)
        self.feeds[seed].put_nowait(Delta(token_ids, 7, finish, **told))  # type: ignore[arg-type]


def work(seed: int, **options: object) -> Work:
    fields = {"prefix_ids": (A,), "max_tokens": 50, "seed": seed, "temperature": 1.0, "top_p": 1.0, **options}
    return Work(generation=Generation(**fields))  # type: ignore[arg-type]


@pytest.fixture
def engine() -> ScriptedEngine:
    return ScriptedEngine()


@pytest.fixture
async def host(engine: ScriptedEngine):  # type: ignore[no-untyped-def]
    host = PolicyHost(engine, StepConfig(), admission=roomy(), clock=lambda: engine_clock[0], client_timeout_s=30.0)
    engine_clock[0] = 0.0
    host.connect("me")
    yield host
    await host.stop()


engine_clock = [0.0]


async def segments(host: PolicyHost, number: int) -> list[tuple[int, Segment]]:
    items: list[tuple[int, Segment]] = []
    while len(items) < number:
        batch = await host.poll("me", 5.0)
        assert batch.items, "a heartbeat where segments were due"
        items += batch.items  # type: ignore[arg-type]
    return items


async def test_steps_arrive_as_soon_as_they_end(host: PolicyHost, engine: ScriptedEngine) -> None:
    host.update("me", [(1, work(1))], [])
    await engine.feed(1, A)
    await engine.feed(1, BLANK)
    assert await segments(host, 1) == [(1, Segment(token_ids=(A, BLANK), text="a\n\n", cached_tokens=7))]
    await engine.feed(1, B)
    await engine.feed(1, EOS, finish=Finish.EOS)
    last = Segment(token_ids=(B, EOS), text="b", finish=Finish.EOS, cached_tokens=7)
    assert await segments(host, 1) == [(1, last)]
    assert engine.aborted == []


def sure(*confidences: float) -> list[TokenConfidence]:
    return [TokenConfidence(confidence, 0.5, 2.0) for confidence in confidences]


async def test_each_step_has_the_confidence_of_its_own_tokens(host: PolicyHost, engine: ScriptedEngine) -> None:
    host.update("me", [(1, work(1, logprobs=2))], [])
    await engine.feed(1, A, BLANK, B, logprobs=[-1.0, -2.0, -4.0], confidences=sure(3.0, 5.0, 7.0))
    await engine.feed(1, EOS, finish=Finish.EOS, logprobs=[-8.0], confidences=sure(9.0))
    [(_, first), (_, last)] = await segments(host, 2)
    assert (first.logprob, last.logprob) == (-3.0, -12.0)
    assert (first.confidence, last.confidence) == (
        StepConfidence((3.0, 5.0), 0.5, 2.0),
        StepConfidence((7.0, 9.0), 0.5, 2.0),
    )


async def test_a_sequence_ends_with_the_token_that_brings_a_group_below_the_floor(
    host: PolicyHost, engine: ScriptedEngine
) -> None:
    floor = ConfidenceFloor(group_tokens=2, least=4.0)
    host.update("me", [(1, work(1, logprobs=2, floor=floor))], [])
    await engine.feed(1, A, BLANK, B, A, B, confidences=sure(1.0, 7.0, 5.0, 2.0, 9.0))  # the first is no whole group
    [(_, first), (_, last)] = await segments(host, 2)
    assert (first.token_ids, first.finish) == ((A, BLANK), None)
    assert (last.token_ids, last.finish, last.discarded_tokens) == ((B, A), Finish.DOUBT, 1)
    assert last.confidence is not None and last.confidence.tokens == (5.0, 2.0)
    assert engine.aborted == [1]


async def test_a_sequence_that_goes_on_elsewhere_remembers_the_group_that_it_was_in(
    host: PolicyHost, engine: ScriptedEngine
) -> None:
    floor = ConfidenceFloor(group_tokens=3, least=4.0)
    host.update("me", [(1, replace(work(1, logprobs=2, floor=floor), confidences=(5.0, 2.0)))], [])
    await engine.feed(1, A, B, confidences=sure(4.0, 9.0))
    [(_, last)] = await segments(host, 1)
    assert (last.token_ids, last.finish) == ((A,), Finish.DOUBT)


async def test_one_poll_carries_what_accumulated_of_many_sequences(host: PolicyHost, engine: ScriptedEngine) -> None:
    host.update("me", [(seed, work(seed)) for seed in range(8)], [])
    for seed in range(8):
        await engine.feed(seed, A, finish=Finish.LENGTH)
    await until(lambda: not engine.feeds)
    batch = await host.poll("me", 5.0)
    assert sorted(request_id for request_id, _ in batch.items) == list(range(8))
    assert batch.pending_tokens == 0
    assert host.stats()["sampled_tokens"] == 8


async def test_a_sequence_until_a_step_stops_at_the_token_that_the_engine_knows(
    host: PolicyHost, engine: ScriptedEngine
) -> None:
    host.update("me", [(1, work(1, until_step=True))], [])
    await engine.feed(1, A)
    await engine.feed(1, BLANK, finish=Finish.BOUNDARY)
    [(_, segment)] = await segments(host, 1)
    assert (segment.token_ids, segment.finish, segment.discarded_tokens) == ((A, BLANK), Finish.BOUNDARY, 0)
    assert engine.stop_token_ids[1] == [BLANK]
    assert engine.aborted == []


async def test_a_delimiter_that_spans_tokens_aborts_and_counts_what_was_sampled_past_it(
    host: PolicyHost, engine: ScriptedEngine
) -> None:
    host.update("me", [(1, work(1, until_step=True))], [])
    await engine.feed(1, A, NEWLINE)
    await engine.feed(1, NEWLINE, B, B)
    [(_, segment)] = await segments(host, 1)
    assert (segment.token_ids, segment.finish) == ((A, NEWLINE, NEWLINE), Finish.BOUNDARY)
    assert segment.discarded_tokens == 2
    await until(lambda: engine.aborted == [1])
    assert (await host.poll("me", 0.0)).pending_tokens == 0


async def test_a_stop_string_ends_a_sequence_and_is_a_segment_of_its_own(
    host: PolicyHost, engine: ScriptedEngine
) -> None:
    host.update("me", [(1, work(1, stop=("ab",)))], [])
    await engine.feed(1, B, A)
    await engine.feed(1, B, A, A)
    before, stop = [segment for _, segment in await segments(host, 2)]
    assert (before.token_ids, before.finish) == ((B,), None)
    assert (stop.token_ids, stop.finish, stop.discarded_tokens) == ((A, B), Finish.STOP, 2)


async def test_a_stop_string_may_have_begun_before_the_request(host: PolicyHost, engine: ScriptedEngine) -> None:
    host.update("me", [(1, work(1, stop=("ab",), seen="a"))], [])
    await engine.feed(1, B, A)
    [(_, stop)] = await segments(host, 1)
    assert (stop.token_ids, stop.finish, stop.discarded_tokens) == ((B,), Finish.STOP, 1)


async def test_a_boundary_wins_over_the_length_and_the_end_of_the_sequence_over_a_boundary(
    host: PolicyHost, engine: ScriptedEngine
) -> None:
    host.update("me", [(1, work(1, until_step=True)), (2, work(2, until_step=True)), (3, work(3))], [])
    await engine.feed(1, BLANK, finish=Finish.LENGTH)
    await engine.feed(2, A, EOS, finish=Finish.EOS)
    await engine.feed(3, A, BLANK, finish=Finish.LENGTH)
    finishes = {request_id: segment.finish for request_id, segment in await segments(host, 3)}
    assert finishes == {1: Finish.BOUNDARY, 2: Finish.EOS, 3: Finish.LENGTH}


async def test_aborting_frees_the_engine(host: PolicyHost, engine: ScriptedEngine) -> None:
    host.update("me", [(1, work(1)), (2, work(2))], [])
    await engine.feed(1, A)
    await engine.feed(2, A)
    await until(lambda: host.stats()["sampled_tokens"] == 2)
    assert (await host.poll("me", 0.0)).pending_tokens == 2
    host.update("me", [], [1, 99])  # an unknown one is no error: it may have ended meanwhile
    await until(lambda: engine.aborted == [1])
    assert (await host.poll("me", 0.0)).pending_tokens == 1
    assert host.stats()["running"] == 1


async def test_a_request_that_is_aborted_as_it_comes_ends_before_the_engine_sees_it(
    host: PolicyHost, engine: ScriptedEngine
) -> None:
    host.update("me", [(1, work(1))], [1])
    [(_, last)] = await segments(host, 1)
    assert (last.finish, last.token_ids) == (Finish.ABORTED, ())
    assert (engine.feeds, host.stats()["waiting"]) == ({}, 0)


async def test_requests_of_many_clients_wait_for_room_and_those_of_one_that_left_take_none(
    engine: ScriptedEngine,
) -> None:
    admission = Admission(capacity_tokens=2 * 51, max_num_seqs=100)  # two of `work`
    host = PolicyHost(engine, StepConfig(), admission=admission)
    for client in ("me", "lone", "gone"):
        host.connect(client)
    host.update("me", [(seed, work(seed)) for seed in range(4)], [])
    host.update("gone", [(0, work(10))], [])
    host.update("lone", [(0, work(20))], [])
    await until(lambda: set(engine.feeds) == {0, 1})
    assert (host.stats()["waiting"], host.stats()["reserved_tokens"]) == (4, 102)
    host.forget("gone")
    await engine.feed(0, A, finish=Finish.LENGTH)
    await until(lambda: set(engine.feeds) == {1, 20})  # and not the greedy client's third
    host.update("me", [], [3])
    assert {request for request, _ in await segments(host, 2)} == {0, 3}
    await engine.feed(20, A, finish=Finish.LENGTH)
    await until(lambda: set(engine.feeds) == {1, 2})
    await host.stop()
    assert (admission.num_reserved, admission.num_waiting) == (0, 0)


async def test_a_request_counts_with_what_was_read_of_its_prefix_and_sampled(engine: ScriptedEngine) -> None:
    class Counting(Admission):
        def end(self, client: str, request: int, computed: int = 0) -> bool:
            counted[request] = computed
            return super().end(client, request, computed)

    counted: dict[int, int] = {}
    host = PolicyHost(engine, StepConfig(), admission=Counting(capacity_tokens=10**6, max_num_seqs=100))
    host.connect("me")
    host.update("me", [(1, work(1, prefix_ids=(A,) * 10)), (2, work(2))], [])
    for seed in (1, 2):
        await engine.feed(seed, A, B)
        await engine.feed(seed, A, finish=Finish.LENGTH)
    await until(lambda: set(counted) == {1, 2})
    assert counted == {1: 3 + 3, 2: 0 + 3}  # the scripted cache holds 7 tokens
    await host.stop()


async def test_a_poll_of_an_idle_host_is_a_heartbeat(host: PolicyHost) -> None:
    assert (await host.poll("me", 0.0)).items == []


async def test_a_client_that_does_not_poll_is_forgotten_and_its_requests_are_aborted(
    host: PolicyHost, engine: ScriptedEngine
) -> None:
    host.connect("other")
    host.update("me", [(1, work(1))], [])
    host.update("other", [(1, work(2))], [])
    await engine.feed(1, A)
    await engine.feed(2, A)
    engine_clock[0] = 20.0
    await host.poll("other", 0.0)
    assert host.forget_stalled() == []
    engine_clock[0] = 31.0
    assert host.forget_stalled() == ["me"]
    await until(lambda: engine.aborted == [1])
    with pytest.raises(ClientForgotten):
        await host.poll("me", 0.0)
    host.connect("me")
    assert (await host.poll("me", 0.0)).items == []
    assert host.stats()["running"] == 1


async def test_a_poll_from_before_a_client_connected_anew_takes_nothing(
    host: PolicyHost, engine: ScriptedEngine
) -> None:
    left = asyncio.create_task(host.poll("me", 60.0))  # whoever called it is gone
    await asyncio.sleep(0.01)
    host.connect("me")
    host.update("me", [(2, work(2))], [])
    await engine.feed(2, A, finish=Finish.LENGTH)
    await until(lambda: not engine.feeds)
    with pytest.raises(ClientForgotten):
        await left
    assert [request_id for request_id, _ in await segments(host, 1)] == [2]


async def test_a_refused_request_fails_alone(host: PolicyHost, engine: ScriptedEngine) -> None:
    host.update("me", [(1, work(1)), (2, work(2))], [])
    await until(lambda: len(engine.feeds) == 2)
    engine.feeds[1].put_nowait(ProblemError("no"))
    await engine.feed(2, A, finish=Finish.LENGTH)
    items = dict(await segments(host, 2))
    assert isinstance(items[1], ProblemError)
    assert items[2].finish is Finish.LENGTH


async def test_when_the_engine_dies_every_poll_raises(host: PolicyHost, engine: ScriptedEngine) -> None:
    host.update("me", [(1, work(1))], [])
    await until(lambda: 1 in engine.feeds)
    polling = asyncio.create_task(host.poll("me", 5.0))
    engine.feeds[1].put_nowait(ReplicaError("dead"))
    with pytest.raises(ReplicaError, match=r"policy engine died: .*dead"):
        await polling


async def test_a_request_that_the_engine_cancels_by_itself_is_not_waited_for_in_silence(
    host: PolicyHost, engine: ScriptedEngine
) -> None:
    host.update("me", [(1, work(1))], [])
    await until(lambda: 1 in engine.feeds)
    engine.feeds[1].put_nowait(asyncio.CancelledError())
    with pytest.raises(ReplicaError, match=r"CancelledError.*by none of ours"):
        await host.poll("me", 5.0)


async def test_a_sequence_stops_where_its_thinking_has_had_its_tokens(engine: ScriptedEngine) -> None:
    host = PolicyHost(engine, StepConfig(), admission=roomy(), thinking=ThinkingMarkers(start="a", end="b"))
    host.connect("me")
    host.update("me", [(1, work(1, num_prompt=1, max_thinking=3, prefix_ids=(NEWLINE,)))], [])
    await engine.feed(1, A, NEWLINE, A, A)
    await engine.feed(1, A, finish=Finish.ABORTED)
    [(_, segment)] = await segments(host, 1)
    assert (segment.token_ids, segment.finish, segment.thinking) == ((A, NEWLINE, A), Finish.THOUGHT, True)
    assert segment.discarded_tokens == 2
    await host.stop()


@pytest.mark.parametrize(
    ("prefix_ids", "stops"),
    [((NEWLINE,), []), ((NEWLINE, A), [NEWLINE, BLANK, B]), ((NEWLINE, A, B), [BLANK])],
    ids=["before", "thinking", "answer"],
)
async def test_an_engine_stops_only_where_a_step_of_the_phase_ends(
    engine: ScriptedEngine, prefix_ids: tuple[int, ...], stops: list[int]
) -> None:
    steps = StepConfig(thinking_delimiters=["\n"])
    host = PolicyHost(engine, steps, admission=roomy(), thinking=ThinkingMarkers(start="a", end="b"))
    host.connect("me")
    host.update("me", [(1, work(1, num_prompt=1, until_step=True, prefix_ids=prefix_ids))], [])
    await until(lambda: 1 in engine.stop_token_ids)
    assert sorted(engine.stop_token_ids[1]) == stops
    await host.stop()
