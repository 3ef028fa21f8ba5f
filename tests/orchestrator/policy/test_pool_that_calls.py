"""Calls of tools through a pool with a real engine (`make engines`: it takes half a minute to start)."""

import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
import torch
from tokenizers import AddedToken, Tokenizer, decoders, models
from tokenizers.pre_tokenizers import ByteLevel
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from orchestrator.core.config import PolicyConfig, StepConfig
from orchestrator.core.errors import ProblemError
from orchestrator.core.nouns import Problem
from orchestrator.core.protocols import ReadsCalls, Sampling
from orchestrator.core.tools import Call, Reply, ToolChoice, Tools
from orchestrator.policy import PolicyPool
from orchestrator.search import SearchRuntime, solve
from strategies.self_consistency import SelfConsistency
from tests.fakes import PlainAnswers

TEMPLATE = """
{%- for tool in tools or [] %}{{ tool | tojson + '\\n' }}{%- endfor %}
{%- if tools %}{{ 'Call them in <tool_call></tool_call>\\n' }}{%- endif %}
{%- for message in messages %}{{ message.role + ': ' + message.content + '\\n' }}{%- endfor %}
"""
PARAMETERS = {
    "type": "object",
    "properties": {"city": {"enum": ["Oslo", "Rome"]}},
    "required": ["city"],
    "additionalProperties": False,
}
WEATHER = {"type": "function", "function": {"name": "weather", "parameters": PARAMETERS}}
pytestmark = [pytest.mark.engines, pytest.mark.timeout(900)]


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def pool(local_ray: Path, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[PolicyPool]:
    """A random model of bytes, with a template that has Qwen's markers of calls."""
    folder = tmp_path_factory.mktemp("calls")
    backend = Tokenizer(models.BPE({char: i for i, char in enumerate(sorted(ByteLevel.alphabet()))}, []))
    backend.pre_tokenizer, backend.decoder = ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    backend.add_special_tokens([AddedToken("<eos>", special=True)])
    PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<eos>", chat_template=TEMPLATE).save_pretrained(folder)
    torch.manual_seed(0)
    shape = {"hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    eos = backend.token_to_id("<eos>")
    config = LlamaConfig(vocab_size=eos + 1, num_key_value_heads=2, eos_token_id=eos, bos_token_id=None, **shape)
    LlamaForCausalLM(config).save_pretrained(folder)
    settings = PolicyConfig(model=str(folder), kv_cache_gib=0.1, max_model_len=1024, start_timeout_s=600)
    async with PolicyPool.open(settings, StepConfig()) as opened:
        yield opened


async def test_a_replica_reads_calls_with_the_parser_of_its_template(pool: PolicyPool) -> None:
    assert isinstance(pool, ReadsCalls) and pool.tool_parser == "hermes"
    text = 'Hm.<tool_call>{"name": "weather", "arguments": {"city": "Oslo"}}</tool_call>'
    [ids] = await pool.encode_text([text])
    tools = Tools(given=(WEATHER,))
    [found, none] = await pool.read_calls(tools, [Reply(text=t, token_ids=ids, ended=False) for t in (text, "Hm.")])
    assert found is not None and none is None
    assert (found.content, found.calls) == ("Hm.", (Call(name="weather", arguments='{"city": "Oslo"}'),))
    with pytest.raises(ProblemError, match="vLLM does not take these tools"):
        await pool.read_calls(Tools(given=({"type": "function"},)), [])


@pytest.mark.parametrize("choice", [ToolChoice.NAMED, ToolChoice.REQUIRED, ToolChoice.AUTO])
async def test_calls_that_are_forced_fit_their_parameters(pool: PolicyPool, choice: ToolChoice) -> None:
    """A random model makes no call of its own accord."""
    name = "weather" if choice is ToolChoice.NAMED else None
    tools = Tools(given=(WEATHER,), choice=choice, name=name, parallel=False)
    problem = Problem.from_prompt("p", "Q:", tools=tools, json_schema=tools.json_schema)
    runtime = SearchRuntime(policy=pool, verifier=None, answers=PlainAnswers(), sampling=Sampling(max_tokens=200))
    outcome = await solve(problem, SelfConsistency(n=4).search, runtime.session(0), timeout_s=200)
    assert outcome.result is not None, outcome.error
    for candidate in outcome.result.candidates:
        calling = candidate.trajectory.calling
        if choice is ToolChoice.AUTO:
            assert calling is None
            continue
        assert calling is not None, candidate.trajectory.text
        [call] = calling.calls
        assert call.name == "weather" and json.loads(call.arguments)["city"] in ("Oslo", "Rome")
