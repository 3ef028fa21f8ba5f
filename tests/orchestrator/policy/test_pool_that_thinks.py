"""Facts about models that think, on real engines with tiny random models that have the published chat templates
(`make engines`: each engine takes half a minute)."""

from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path

import pytest
import pytest_asyncio
import torch
from transformers import AutoTokenizer, Qwen3Config, Qwen3ForCausalLM

from orchestrator.core.config import PolicyConfig, StepConfig
from orchestrator.core.nouns import Problem, Status
from orchestrator.core.protocols import Generation, Sampling, Segment
from orchestrator.core.thinking import ThinkingMarkers
from orchestrator.policy import PolicyPool
from orchestrator.search import SearchRuntime, solve
from strategies.budget_forcing import BudgetForcing
from strategies.self_consistency import SelfConsistency
from tests.fakes import PlainAnswers

TINY = Path(__file__).parents[3] / "experiments" / "tinymath" / "models" / "policy"
TEMPLATES = {  # how they open the model's turn
    "qwen3": "<assistant>{% if not enable_thinking | default(true) %}<think>\n\n</think>\n\n{% endif %}",
    "deepseek": "<assistant><think>\n",
}
TURN = "{% for message in messages %}{{ message['content'] }}{% endfor %}{% if add_generation_prompt %}"
MARKERS = ThinkingMarkers(start="<think>", end="</think>")
PROBLEMS = [Problem.from_prompt(f"p{n}", f"Box with {n} pens") for n in range(20, 36)]
pytestmark = [pytest.mark.engines, pytest.mark.timeout(600)]


@pytest_asyncio.fixture(scope="module", loop_scope="session", params=TEMPLATES)
async def pool(
    request: pytest.FixtureRequest, local_ray: Path, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[tuple[str, PolicyPool]]:
    folder = tmp_path_factory.mktemp(request.param)
    tokenizer = AutoTokenizer.from_pretrained(TINY)
    tokenizer.add_tokens(["<think>", "</think>"])
    tokenizer.chat_template = TURN + TEMPLATES[request.param] + "{% endif %}{# </think> #}"
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    shape = {"hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = Qwen3Config(vocab_size=len(tokenizer), num_key_value_heads=2, head_dim=32, eos_token_id=None, **shape)
    Qwen3ForCausalLM(config).save_pretrained(folder)
    settings = PolicyConfig(model=str(folder), kv_cache_gib=0.1, max_model_len=512, start_timeout_s=500)
    async with PolicyPool.open(settings, StepConfig()) as opened:
        yield request.param, opened


async def written(pool: PolicyPool, requests: list[Generation]) -> list[list[Segment]]:
    segments: list[list[Segment]] = [[] for _ in requests]
    async with aclosing(pool.generate(requests)) as stream:
        async for index, segment in stream:
            segments[index].append(segment)
    return segments


async def test_thinking_is_told_from_the_reply_in_every_sequence(pool: tuple[str, PolicyPool]) -> None:
    name, policy = pool
    assert policy.thinking == MARKERS
    [end] = await policy.encode_text(["</think>"])
    prompts = await policy.encode(PROBLEMS)
    begun = await policy.encode_text(["<think>" if name == "qwen3" else ""])
    requests = [
        Generation(
            prefix_ids=(*prompt, *begun[0]), num_prompt=len(prompt), max_tokens=150, seed=i, temperature=1.0, top_p=1.0
        )
        for i, prompt in enumerate(prompts)
    ]
    ended = 0
    for segments in await written(policy, requests):
        tokens = [token_id for segment in segments for token_id in segment.token_ids]
        thinking = [t for segment in segments if segment.thinking for t in segment.token_ids]
        if end[0] in tokens:
            ended += 1
            assert thinking == tokens[: tokens.index(end[0]) + 1]
        else:
            assert thinking == tokens
    assert 0 < ended < len(requests), "some end, and some are cut off"


async def test_a_model_that_does_not_begin_to_think_replies(pool: tuple[str, PolicyPool]) -> None:
    name, policy = pool
    prompts = await policy.encode(PROBLEMS)
    requests = [
        Generation(prefix_ids=p, num_prompt=len(p), max_tokens=20, seed=i, temperature=1.0, top_p=1.0)
        for i, p in enumerate(prompts)
    ]
    for segments in await written(policy, requests):
        begins = segments[0].text.lstrip().startswith("<think>")
        assert segments[0].thinking is (name == "deepseek" or begins)


async def test_votes_and_budget_forcing_know_the_thinking(pool: tuple[str, PolicyPool]) -> None:
    _, policy = pool
    runtime = SearchRuntime(policy=policy, verifier=None, sampling=Sampling(max_tokens=60), answers=PlainAnswers())
    outcome = await solve(PROBLEMS[0], SelfConsistency(n=4).search, runtime.session(1), timeout_s=200)
    assert outcome.result is not None, outcome.error
    for candidate in outcome.result.candidates:
        trajectory = candidate.trajectory
        assert trajectory.thoughts + trajectory.reply == trajectory.text
        assert trajectory.cost.thinking_tokens == trajectory.thinking_tokens
    forced = await solve(PROBLEMS[1], BudgetForcing(max_thinking_tokens=16).search, runtime.session(2), timeout_s=200)
    assert forced.result is not None, forced.error
    [candidate] = forced.result.candidates
    assert "</think>" in candidate.trajectory.text or candidate.trajectory.status is not Status.FINISHED


async def test_no_thinking_is_longer_than_its_cap_and_the_answer_follows(pool: tuple[str, PolicyPool]) -> None:
    name, policy = pool
    sampling = Sampling(max_tokens=80, max_thinking_tokens=12)
    runtime = SearchRuntime(policy=policy, verifier=None, sampling=sampling, answers=PlainAnswers())
    outcome = await solve(PROBLEMS[2], SelfConsistency(n=16).search, runtime.session(1), timeout_s=200)
    assert outcome.result is not None, outcome.error
    trajectories = [candidate.trajectory for candidate in outcome.result.candidates]
    assert all(t.thinking_tokens <= 12 and t.num_tokens <= 80 for t in trajectories)
    if name == "deepseek":
        capped = [t for t in trajectories if any(step.forced for step in t.steps)]  # others ended by themselves
        assert len(capped) > len(trajectories) // 2
        assert all(t.thoughts.endswith("</think>") and t.thinking_tokens == 12 for t in capped)
        assert any(t.reply for t in capped)
    ledger = outcome.result.ledger
    assert ledger.generated_tokens - ledger.discarded_tokens == sum(t.generated_tokens for t in trajectories)
    assert all(t.status.done for t in trajectories) and ledger.candidates == len(trajectories) == 16
