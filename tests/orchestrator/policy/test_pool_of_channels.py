"""Facts about a model that thinks in channels, as gpt-oss does, on a real engine with a tiny random model (`make
engines`: the engine takes half a minute)."""

from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path

import pytest
import pytest_asyncio
import torch
from transformers import AutoTokenizer, Qwen3Config, Qwen3ForCausalLM

from orchestrator.core.config import PolicyConfig, StepConfig
from orchestrator.core.nouns import Problem
from orchestrator.core.protocols import Generation, Sampling
from orchestrator.policy import PolicyPool
from orchestrator.search import SearchRuntime, solve
from strategies.self_consistency import SelfConsistency
from tests.fakes import PlainAnswers

TINY = Path(__file__).parents[3] / "experiments" / "tinymath" / "models" / "policy"
CHANNELS = ("<|channel|>", "<|message|>", "<|start|>", "<|end|>", "<|return|>")
TEMPLATE = (
    "{% for message in messages %}{{ message['content'] }}{% endfor %}"
    "{% if add_generation_prompt %}<|start|>assistant<|channel|>{% endif %}{# <|channel|>final<|message|> #}"
)
pytestmark = [pytest.mark.engines, pytest.mark.timeout(600)]


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def pool(local_ray: Path, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[PolicyPool]:
    folder = tmp_path_factory.mktemp("channels")
    tokenizer = AutoTokenizer.from_pretrained(TINY)
    tokenizer.add_tokens(["analysis", "assistant", "final"])
    tokenizer.add_special_tokens({"additional_special_tokens": list(CHANNELS)})
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    shape = {"hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = Qwen3Config(vocab_size=len(tokenizer), num_key_value_heads=2, head_dim=32, eos_token_id=None, **shape)
    Qwen3ForCausalLM(config).save_pretrained(folder)
    settings = PolicyConfig(model=str(folder), kv_cache_gib=0.1, max_model_len=512, start_timeout_s=500)
    async with PolicyPool.open(settings, StepConfig()) as opened:
        yield opened


async def test_what_is_written_in_the_last_channel_is_the_reply(pool: PolicyPool) -> None:
    assert pool.thinking is not None and pool.thinking.start == "<|channel|>"
    [prompt] = await pool.encode([Problem.from_prompt("p", "Box with 20 pens")])
    [ending] = await pool.encode_text([pool.thinking.ending])
    assert len(ending) == 6, "each special token and each word is a token"
    for begun, thinks in (((), True), (ending[:-1], True), (ending, False)):
        request = Generation(
            prefix_ids=(*prompt, *begun), num_prompt=len(prompt), max_tokens=20, seed=1, temperature=1.0, top_p=1.0
        )
        async with aclosing(pool.generate([request])) as stream:
            segments = [segment async for _, segment in stream]
        assert segments[0].thinking is thinks


async def test_thinking_that_is_capped_goes_on_in_the_last_channel(pool: PolicyPool) -> None:
    sampling = Sampling(max_tokens=90, max_thinking_tokens=12)
    runtime = SearchRuntime(policy=pool, verifier=None, sampling=sampling, answers=PlainAnswers())
    problem = Problem.from_prompt("p", "Box with 20 pens")
    outcome = await solve(problem, SelfConsistency(n=8).search, runtime.session(1), timeout_s=200)
    assert outcome.result is not None, outcome.error
    assert pool.thinking is not None
    for trajectory in (candidate.trajectory for candidate in outcome.result.candidates):
        assert trajectory.thinking_tokens <= 12 and trajectory.thoughts.endswith(pool.thinking.ending)
        assert trajectory.reply and pool.thinking.ending not in trajectory.reply
