"""Facts about the host that serves a StreamingPRM: whatever happens to states, scores are those of the whole text."""

from collections.abc import Sequence
from random import Random

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from orchestrator.core.nouns import Score
from verifiers.contract import Answer, Missing, Read, Run, Unreadable
from verifiers.streaming import StreamingHost, pack
from verifiers.streaming_prm import StreamingPRM, beta_std


def host(prm: StreamingPRM, slots: int = 64, host_slots: int = 0, batch_tokens: int = 256) -> StreamingHost:
    return StreamingHost("tiny", prm, slots=slots, host_slots=host_slots, batch_tokens=batch_tokens)


@torch.inference_mode()
def whole(prm: StreamingPRM, token_ids: Sequence[int], boundaries: Sequence[int]) -> list[Score]:
    """Scores from the model itself, reading everything at once."""
    output = prm(torch.tensor([token_ids]), torch.tensor([len(token_ids)]), prm.initial_state(1))
    mean = output.mean_logit[0].sigmoid()
    std = beta_std(mean, output.concentration[0])
    return [Score(mean=float(mean[b - 1]), std=float(std[b - 1])) for b in boundaries]


def assert_same(answer: Answer, wanted: Sequence[Score]) -> None:
    assert isinstance(answer, Read), answer
    assert [s.mean for s in answer.scores] == pytest.approx([s.mean for s in wanted], abs=1e-4)
    assert [s.std for s in answer.scores] == pytest.approx([s.std for s in wanted], abs=1e-4)


def tokens(rng: Random, count: int) -> tuple[int, ...]:
    return tuple(rng.randrange(32) for _ in range(count))


def test_reading_in_pieces_gives_the_scores_of_reading_the_whole(prm: StreamingPRM) -> None:
    rng, reader = Random(0), host(prm)
    for trial in range(20):
        text = tokens(rng, rng.randint(1, 90))
        cuts = sorted({rng.randint(1, len(text)) for _ in range(rng.randint(0, 6))} | {len(text)})
        start, parent = 0, None
        for cut in cuts:
            run = Run(
                key=f"{trial}-{cut}",
                token_ids=text[start:cut],
                boundaries=(cut - start,),
                parent=parent,
                parent_tokens=start,
            )
            [answer] = reader.read([run])
            assert_same(answer, whole(prm, text, [cut]))
            assert isinstance(answer, Read) and answer.tokens_read == cut - start
            start, parent = cut, run.key


def test_children_of_one_parent_are_read_in_one_call_and_do_not_disturb_each_other(prm: StreamingPRM) -> None:
    rng, reader = Random(1), host(prm)
    prompt = tokens(rng, 20)
    reader.read([Run(key="root", token_ids=prompt)])
    tails = [tokens(rng, rng.randint(1, 40)) for _ in range(12)]
    runs = [
        Run(key=f"c{i}", token_ids=tail, boundaries=(len(tail),), parent="root", parent_tokens=20)
        for i, tail in enumerate(tails)
    ]
    for _ in range(2):  # the parent is as it was
        for answer, tail in zip(reader.read(runs), tails, strict=True):
            assert_same(answer, whole(prm, prompt + tail, [20 + len(tail)]))


def test_a_long_text_is_read_in_pieces_that_fit(prm: StreamingPRM) -> None:
    text = tokens(Random(2), 333)
    [answer] = host(prm, batch_tokens=50).read([Run(key="a", token_ids=text, boundaries=(10, 51, 100, 333))])
    assert_same(answer, whole(prm, text, [10, 51, 100, 333]))


def test_a_run_may_start_from_another_run_of_the_same_call(prm: StreamingPRM) -> None:
    text = tokens(Random(3), 30)
    child = Run(key="child", token_ids=text[10:], boundaries=(20,), parent="root", parent_tokens=10)
    root = Run(key="root", token_ids=text[:10])
    answers = host(prm).read([child, root, root])
    assert_same(answers[0], whole(prm, text, [30]))
    assert [a.tokens_read for a in answers if isinstance(a, Read)] == [20, 10, 0]


def test_a_lost_parent_is_reported_and_never_guessed(prm: StreamingPRM) -> None:
    reader = host(prm)
    reader.read([Run(key="root", token_ids=(1, 2, 3))])
    lost = Run(key="a", token_ids=(4,), boundaries=(1,), parent="gone", parent_tokens=3)
    other = Run(key="b", token_ids=(4,), boundaries=(1,), parent="root", parent_tokens=2)
    found = Run(key="c", token_ids=(4,), boundaries=(1,), parent="root", parent_tokens=3)
    assert [type(answer) for answer in reader.read([lost, other, found])] == [Missing, Missing, Read]


def test_more_children_than_slots_are_read_or_reported(prm: StreamingPRM) -> None:
    reader = host(prm, slots=2, host_slots=1)
    reader.read([Run(key="root", token_ids=(1, 2, 3))])
    runs = [
        Run(key=f"c{i}", token_ids=(i,), boundaries=(1,), parent="root", parent_tokens=3, keep_parent=i < 6)
        for i in range(7)
    ]
    answers = reader.read(runs)
    assert len(answers) == 7 and isinstance(answers[0], Read)
    for i, answer in enumerate(answers):
        if not isinstance(answer, Missing):
            assert_same(answer, whole(prm, (1, 2, 3, i), [4]))


def test_a_parent_that_nobody_will_fork_from_is_freed_after_its_last_child(prm: StreamingPRM) -> None:
    reader = host(prm, slots=3)
    reader.read([Run(key="root", token_ids=(1, 2, 3))])
    runs = [
        Run(key=f"c{i}", token_ids=(1,) * i, boundaries=(i,), parent="root", parent_tokens=3, keep_parent=False)
        for i in (1, 100)  # two micro-batches
    ]
    assert [type(answer) for answer in reader.read(runs)] == [Read, Read]
    assert "root" not in reader.store


def test_a_score_that_is_not_finite_is_an_error_and_no_score(prm: StreamingPRM) -> None:
    broken = StreamingPRM(prm.config)
    torch.nn.init.constant_(broken.embedding.weight[3:4].data, float("nan"))  # a NaN in the softmax: everything is
    [answer] = host(broken).read([Run(key="a", token_ids=(1, 2), boundaries=(2,))])
    assert isinstance(answer, Unreadable) and "not a finite number" in answer.reason
    [answer] = host(broken).read([Run(key="a", token_ids=(1, 3))])
    assert isinstance(answer, Unreadable) and "state is not finite" in answer.reason


def test_a_token_outside_the_vocabulary_spoils_only_its_own_run(prm: StreamingPRM) -> None:
    answers = host(prm).read([Run(key="a", token_ids=(1, 32)), Run(key="b", token_ids=(1, 31), boundaries=(2,))])
    assert answers[0] == Unreadable(reason="token id 32 is outside the verifier's vocabulary of 32")
    assert_same(answers[1], whole(prm, (1, 31), [2]))


def test_an_empty_run_copies_the_state(prm: StreamingPRM) -> None:
    reader = host(prm)
    reader.read([Run(key="a", token_ids=(1, 2)), Run(key="b", token_ids=(), parent="a", parent_tokens=2)])
    assert torch.equal(reader.store.get(["a"]), reader.store.get(["b"]))


@given(lengths=st.lists(st.integers(0, 300), max_size=40), max_rows=st.integers(1, 8), max_tokens=st.integers(1, 600))
def test_micro_batches_hold_every_row_once_within_bounds(lengths: list[int], max_rows: int, max_tokens: int) -> None:
    batches = pack(lengths, max_rows=max_rows, max_tokens=max_tokens, pass_tokens=64)
    assert sorted(i for batch in batches for i in batch) == list(range(len(lengths)))
    for batch in batches:
        assert len(batch) <= max_rows
        padded = len(batch) * max(lengths[i] for i in batch)
        assert len(batch) == 1 or padded <= max_tokens
        assert padded - sum(lengths[i] for i in batch) <= max(64, 0.15 * padded)


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    seed=st.integers(0, 2**32),
    slots=st.integers(1, 4),
    host_slots=st.integers(0, 2),
    batch_tokens=st.integers(1, 64),
    steps=st.lists(
        st.sampled_from(["advance", "advance", "fork", "fork", "release", "evict", "migrate", "crash"]),
        min_size=1,
        max_size=14,
    ),
)
def test_no_schedule_of_forks_releases_evictions_moves_and_crashes_changes_a_score(
    prm: StreamingPRM, seed: int, slots: int, host_slots: int, batch_tokens: int, steps: list[str]
) -> None:
    rng = Random(seed)
    hosts = [host(prm, slots, host_slots, batch_tokens) for _ in range(2)]
    texts: dict[str, tuple[int, ...]] = {"root": tokens(rng, 5)}  # all that was ever read, by key
    place = {"root": 0}
    hosts[0].read([Run(key="root", token_ids=texts["root"])])
    for number, step in enumerate(steps):
        parent = rng.choice(sorted(texts))
        here = place[parent]
        if step == "release":
            hosts[here].release([parent])
        elif step == "migrate":
            hosts[1 - here].import_([parent], hosts[here].export([parent]))
            hosts[here].release([parent])
            place[parent] = 1 - here
        elif step == "evict":  # others come, and push out what is not used
            for other in range(slots + host_slots):
                hosts[here].read([Run(key=f"{number}.other.{other}", token_ids=(1,))])
            assert parent not in hosts[here].store
        elif step == "crash":  # the replica is restarted, and holds nothing
            hosts[here] = host(prm, slots, host_slots, batch_tokens)
        else:
            runs = []
            for child in range(1 if step == "advance" else rng.randint(2, 4)):
                tail = tokens(rng, rng.randint(0, 20))
                key = f"{number}.{child}"
                texts[key], place[key] = texts[parent] + tail, here
                runs.append(
                    Run(
                        key=key,
                        token_ids=tail,
                        boundaries=(len(tail),) if tail else (),
                        parent=parent,
                        parent_tokens=len(texts[parent]),
                        keep_parent=step == "fork",
                    )
                )
            for run, answer in zip(runs, hosts[here].read(runs), strict=True):
                text = texts[run.key]
                again = answer
                if isinstance(answer, Missing):
                    [again] = hosts[here].read([Run(key=run.key, token_ids=text, boundaries=(len(text),))])
                    assert_same(again, whole(prm, text, [len(text)]))
                else:
                    assert_same(again, whole(prm, text, [len(text)] if run.boundaries else []))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_states_carried_on_a_gpu_give_the_scores_of_the_cpu(prm: StreamingPRM) -> None:
    """Forked, spilled to host memory and read in batches of unlike lengths."""
    rng = Random(0)
    texts = [tokens(rng, rng.randint(20, 90)) for _ in range(12)]
    reader = StreamingHost("tiny", StreamingPRM(prm.config), slots=8, host_slots=64, batch_tokens=256, device="cuda")
    reader.model.load_state_dict(prm.state_dict())
    reader.read([Run(key=f"{i}", token_ids=text[:9]) for i, text in enumerate(texts)])
    runs = [
        Run(
            key=f"{i}-{child}",
            token_ids=(*text[9:], child),
            boundaries=(len(text) - 8,),
            parent=f"{i}",
            parent_tokens=9,
        )
        for i, text in enumerate(texts)
        for child in range(3)
    ]
    for run, answer in zip(runs, reader.read(runs), strict=True):
        text = (*texts[int(run.parent or 0)][:9], *run.token_ids)
        assert_same(answer, whole(prm, text, [len(text)]))
