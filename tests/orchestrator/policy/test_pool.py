"""The pool over two real engines that serve the tiny policy."""

import asyncio
import os
import signal
from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from experiments.tinymath.task import generate as tiny_problems
from orchestrator.core.confidence import ConfidenceFloor, group_means
from orchestrator.core.config import PolicyConfig, StepConfig
from orchestrator.core.errors import ProblemError, PromptTooLong, UserError
from orchestrator.core.nouns import Problem
from orchestrator.core.protocols import Finish, Generation, Segment
from orchestrator.policy import PolicyPool

MODEL = Path(__file__).parents[3] / "experiments" / "tinymath" / "models" / "policy"


def problems(number: int) -> list[Problem]:
    return [Problem.from_prompt(p.id, p.prompt) for p in tiny_problems("test", number) if p.level > 3]


def sample(prefix_ids: Sequence[int], seed: int = 0, **options: object) -> Generation:
    fields = {"max_tokens": 160, "temperature": 1.0, "top_p": 1.0, **options}
    return Generation(prefix_ids=tuple(prefix_ids), seed=seed, **fields)  # type: ignore[arg-type]


async def run(pool: PolicyPool, requests: Sequence[Generation]) -> list[list[Segment]]:
    """The segments of each request, in order."""
    written: list[list[Segment]] = [[] for _ in requests]
    async with aclosing(pool.generate(requests)) as segments:
        async for index, segment in segments:
            assert not written[index] or written[index][-1].finish is None
            written[index].append(segment)
    return written


def ids(segments: Sequence[Segment]) -> list[int]:
    return [token_id for segment in segments for token_id in segment.token_ids]


async def test_a_sequence_comes_in_steps_and_ends_with_its_end_token(policy_pool: PolicyPool) -> None:
    [prompt] = await policy_pool.encode(problems(20)[:1])
    written = await run(policy_pool, [sample(prompt, seed) for seed in range(8)])
    [(eos,)] = await policy_pool.encode_text(["<eos>"])
    for segments in written:
        *steps, last = segments
        assert all(step.text.endswith("\n\n") and step.text.count("\n\n") == 1 for step in steps)
        assert all(step.finish is None for step in steps)
        assert last.finish in (Finish.EOS, Finish.LENGTH)
        assert (last.token_ids[-1] == eos) == (last.finish is Finish.EOS)
        assert len(ids(segments)) <= 160
    assert any(segments[-1].finish is Finish.EOS for segments in written)


async def test_the_same_seed_gives_the_same_tokens_alone_and_among_others(policy_pool: PolicyPool) -> None:
    prompts = await policy_pool.encode(problems(40)[:12])
    together = await run(policy_pool, [sample(p, seed) for seed, p in enumerate(prompts) for _ in range(2)])
    assert [ids(one) for one in together[::2]] == [ids(other) for other in together[1::2]]
    [alone] = await run(policy_pool, [sample(prompts[3], 3)])
    assert ids(alone) == ids(together[6])
    others = await run(policy_pool, [sample(prompts[3], seed) for seed in range(100, 116)])
    assert len({tuple(ids(other)) for other in others}) > 1


async def test_more_prompt_tokens_than_one_engine_step_takes_do_no_harm(policy_pool: PolicyPool) -> None:
    [prompt] = await policy_pool.encode(problems(20)[:1])
    long = [(number % 20 + 5, *prompt * 8)[:450] for number in range(60)]  # 27,000 tokens at once
    written = await run(policy_pool, [sample(ids, seed, max_tokens=4) for seed, ids in enumerate(long)])
    assert all(segments[-1].finish is not None for segments in written)
    assert await policy_pool.stats()
    assert all(replica["running"] == 0 for replica in await policy_pool.stats())


async def test_temperature_zero_ignores_the_seed(policy_pool: PolicyPool) -> None:
    [prompt] = await policy_pool.encode(problems(20)[:1])
    written = await run(policy_pool, [sample(prompt, seed, temperature=0.0) for seed in range(4)])
    assert len({tuple(ids(segments)) for segments in written}) == 1


async def test_steps_chained_one_by_one_are_the_steps_of_one_sequence(policy_pool: PolicyPool) -> None:
    [prompt] = await policy_pool.encode(problems(20)[:1])
    [whole] = await run(policy_pool, [sample(prompt, temperature=0.0)])
    chained: list[Segment] = []
    while not chained or chained[-1].finish is Finish.BOUNDARY:
        request = sample((*prompt, *ids(chained)), temperature=0.0, until_step=True)
        [[segment]] = await run(policy_pool, [request])
        chained.append(segment)
    assert [(s.token_ids, s.text) for s in chained] == [(s.token_ids, s.text) for s in whole]
    assert len(chained) > 2
    assert chained[-1].finish is whole[-1].finish


async def test_what_goes_on_from_a_stopped_sequence_encodes_only_the_token_that_it_ended_with(
    policy_pool: PolicyPool,
) -> None:
    [prompt] = await policy_pool.encode(problems(30)[-1:])
    [[step]] = await run(policy_pool, [sample(prompt, until_step=True)])
    prefix = (*prompt, *step.token_ids)
    forks = await run(policy_pool, [sample(prefix, seed) for seed in range(8)])
    assert len(prefix) % 32 not in (0, 1)  # its last block is partly filled, with more than the last token
    assert {segments[-1].cached_tokens for segments in forks} == {len(prefix) - 1}
    elsewhere = await run(policy_pool, [sample((*prefix[:-2], prefix[-1], prefix[-2]), until_step=True)])
    assert elsewhere[0][-1].cached_tokens <= len(prefix) - 3  # another text


async def test_a_block_that_was_kept_reads_like_one_that_was_encoded(policy_pool: PolicyPool) -> None:
    prompts = await policy_pool.encode(problems(60)[20:40])
    greedy = [sample(prompt, temperature=0.0, logprobs=0) for prompt in prompts]
    whole = await run(policy_pool, greedy)
    cut = await run(policy_pool, [replace(request, until_step=True) for request in greedy])
    rest = await run(
        policy_pool,
        [replace(r, prefix_ids=(*r.prefix_ids, *ids(step))) for r, step in zip(greedy, cut, strict=True)],
    )
    for once, first, then in zip(whole, cut, rest, strict=True):
        assert ids(first) + ids(then) == ids(once)
        logprobs = [segment.logprob for segment in [*first, *then]]
        assert logprobs == pytest.approx([segment.logprob for segment in once], abs=1e-3)


async def test_confidence_is_that_of_a_plain_forward_pass(policy_pool: PolicyPool) -> None:
    [prompt] = await policy_pool.encode(problems(20)[:1])
    plain, asked = await run(policy_pool, [sample(prompt, 3), sample(prompt, 3, logprobs=20)])
    assert ids(plain) == ids(asked) and {segment.confidence for segment in plain} == {None}
    model = AutoModelForCausalLM.from_pretrained(MODEL, dtype=torch.float32)
    with torch.no_grad():
        logits = model(torch.tensor([[*prompt, *ids(asked)]])).logits[0, len(prompt) - 1 : -1]
    logprobs = logits.log_softmax(-1)
    top = logprobs.topk(20).values
    shares = (top - top.logsumexp(-1, keepdim=True)).exp()
    entropy = -(shares * shares.log()).sum(-1)
    self_certainty = -(20 * shares).log().mean(-1)
    start = 0
    for segment in asked:
        span = slice(start, start := start + len(segment.token_ids))
        told = segment.confidence
        assert told is not None
        assert told.tokens == pytest.approx((-top.mean(-1))[span].tolist(), abs=1e-3)
        assert told.entropy == pytest.approx(entropy[span].mean().item(), abs=1e-3)
        assert told.self_certainty == pytest.approx(self_certainty[span].mean().item(), abs=1e-3)
        own = logprobs[range(len(ids(asked))), ids(asked)]
        assert segment.logprob == pytest.approx(own[span].sum().item(), abs=1e-3)


async def test_a_sequence_stops_where_its_confidence_falls_below_the_floor(policy_pool: PolicyPool) -> None:
    [prompt] = await policy_pool.encode(problems(20)[:1])
    [whole] = await run(policy_pool, [sample(prompt, 3, logprobs=20)])
    tokens = [token for segment in whole if segment.confidence is not None for token in segment.confidence.tokens]
    means = group_means(tokens, 8)
    early = sorted(means[: len(means) // 2])
    gap, least = max((above - below, (above + below) / 2) for below, above in pairwise(early))
    assert gap > 0.05  # what rounding does between two runs changes nothing
    floor = ConfidenceFloor(group_tokens=8, least=least)
    [stopped] = await run(policy_pool, [sample(prompt, 3, logprobs=20, floor=floor)])
    length = 8 + next(at for at, mean in enumerate(means) if mean < floor.least)
    assert (ids(stopped), stopped[-1].finish) == (ids(whole)[:length], Finish.DOUBT)
    assert stopped[-1].discarded_tokens <= 8 < len(ids(whole)) - length


async def test_a_stop_string_of_several_tokens_ends_a_sequence(policy_pool: PolicyPool) -> None:
    [prompt] = await policy_pool.encode(problems(20)[:1])
    [segments] = await run(policy_pool, [sample(prompt, temperature=0.0, stop=("Answer:",))])
    assert segments[-1].finish is Finish.STOP
    assert segments[-1].text == "Answer:"
    assert len(segments[-1].token_ids) == 2
    assert not any("Answer" in segment.text for segment in segments[:-1])


async def test_max_tokens_and_the_context_cap_a_sequence(policy_pool: PolicyPool) -> None:
    [prompt] = await policy_pool.encode(problems(20)[:1])
    [[segment]] = await run(policy_pool, [sample(prompt, max_tokens=2)])
    assert (len(segment.token_ids), segment.finish) == (2, Finish.LENGTH)
    long = (prompt * 50)[: policy_pool.context_length - 1]
    [[segment]] = await run(policy_pool, [sample(long)])
    assert len(segment.token_ids) == 1
    with pytest.raises(PromptTooLong, match="leaves no room"):
        await run(policy_pool, [sample((*long, 1))])


async def test_a_request_that_the_engine_refuses_fails_its_call_alone(policy_pool: PolicyPool) -> None:
    [prompt] = await policy_pool.encode(problems(20)[:1])
    fine = asyncio.create_task(run(policy_pool, [sample(prompt)]))
    with pytest.raises(ProblemError, match="temperature"):
        await run(policy_pool, [sample(prompt, temperature=9.0)])
    assert (await fine)[0][-1].finish is not None


async def test_many_calls_share_both_replicas_and_wait_for_room(policy_pool: PolicyPool) -> None:
    before = {stat["replica"]: stat["sampled_tokens"] for stat in await policy_pool.stats()}
    prompts = await policy_pool.encode(problems(60)[:24])
    calls = [run(policy_pool, [sample(p, seed) for seed in range(8)]) for p in prompts]  # 192 > 2 x 40 in flight
    written = await asyncio.gather(*calls)
    assert all(segments[-1].finish for call in written for segments in call)
    after = {stat["replica"]: stat["sampled_tokens"] for stat in await policy_pool.stats()}
    shares = [after[replica] - before[replica] for replica in before]
    assert sum(shares) == sum(len(ids(s)) + s[-1].discarded_tokens for call in written for s in call)
    assert min(shares) > 0.25 * sum(shares)


async def test_closing_the_generator_frees_the_engines(policy_pool: PolicyPool) -> None:
    [prompt] = await policy_pool.encode(problems(20)[:1])
    async with aclosing(policy_pool.generate([sample(prompt, seed) for seed in range(100)])) as segments:
        async for _ in segments:
            break
    async with asyncio.timeout(30):
        while any(stat["running"] for stat in await policy_pool.stats()):
            pass  # each look is a round trip
    [after] = await run(policy_pool, [sample(prompt)])
    assert after[-1].finish is not None


async def test_a_model_that_can_not_be_loaded_is_the_users_mistake(local_ray: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="can't be read"):
        async with PolicyPool.open(PolicyConfig(model=str(tmp_path), start_timeout_s=600.0), StepConfig()):
            pass


async def test_a_replica_killed_at_work_loses_and_repeats_no_step(policy_pool: PolicyPool) -> None:
    """Greedy answers are the same whoever writes them, and however often it is resumed."""
    prompts = await policy_pool.encode(problems(60)[:24])
    requests = [sample(prompt, temperature=0.0) for prompt in prompts]
    undisturbed = await run(policy_pool, requests)
    [*_, victim] = await policy_pool.stats()
    replica = policy_pool._serving[victim["replica"]]
    written: list[list[Segment]] = [[] for _ in requests]
    half_done = 0
    async with asyncio.timeout(600):
        async for index, segment in policy_pool.generate(requests):
            written[index].append(segment)
            if not half_done:
                half_done = sum(1 for request in replica.requests.values() if request.token_ids)
                if half_done:
                    os.kill(victim["pid"], signal.SIGKILL)
    assert half_done
    assert replica.requests == {}
    assert [[(s.token_ids, s.text) for s in one] for one in written] == [
        [(s.token_ids, s.text) for s in one] for one in undisturbed
    ]
