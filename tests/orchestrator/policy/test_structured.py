"""Answers that are held to a JSON schema, by a real engine (`make engines`: it takes half a minute to start)."""

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
from orchestrator.core.protocols import Sampling
from orchestrator.policy import PolicyPool
from orchestrator.search import SearchRuntime, solve
from strategies.self_consistency import SelfConsistency
from tests.fakes import PlainAnswers

SCHEMA = {
    "type": "object",
    "properties": {"answer": {"enum": ["one", "two"]}, "sure": {"type": "boolean"}},
    "required": ["answer", "sure"],
    "additionalProperties": False,
}
pytestmark = [pytest.mark.engines, pytest.mark.timeout(900)]


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def pool(local_ray: Path, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[PolicyPool]:
    """A random model of bytes, of which one is missing: it can't write an é."""
    folder = tmp_path_factory.mktemp("bytes")
    alphabet = sorted(set(ByteLevel.alphabet()) - {"Ã"})  # how the first byte of é is written
    backend = Tokenizer(models.BPE({char: i for i, char in enumerate(alphabet)}, []))
    backend.pre_tokenizer, backend.decoder = ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    backend.add_special_tokens([AddedToken("<eos>", special=True)])
    PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<eos>").save_pretrained(folder)
    torch.manual_seed(0)
    shape = {"hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    eos = backend.token_to_id("<eos>")
    config = LlamaConfig(vocab_size=eos + 1, num_key_value_heads=2, eos_token_id=eos, bos_token_id=None, **shape)
    LlamaForCausalLM(config).save_pretrained(folder)
    settings = PolicyConfig(model=str(folder), kv_cache_gib=0.1, max_model_len=512, start_timeout_s=600)
    async with PolicyPool.open(settings, StepConfig()) as opened:
        yield opened


async def written(pool: PolicyPool, schema: object) -> list[str] | Exception | None:
    runtime = SearchRuntime(policy=pool, verifier=None, answers=PlainAnswers(), sampling=Sampling(max_tokens=400))
    problem = Problem.from_prompt("p", "Q:", json_schema=json.dumps(schema))
    outcome = await solve(problem, SelfConsistency(n=4).search, runtime.session(0), timeout_s=200)
    if outcome.result is None:
        return outcome.error
    return [candidate.trajectory.text for candidate in outcome.result.candidates]


async def test_every_candidate_fits_the_schema(pool: PolicyPool) -> None:
    texts = await written(pool, SCHEMA)
    assert isinstance(texts, list) and len(texts) == 4
    for text in texts:
        told = json.loads(text)
        assert told["answer"] in ("one", "two") and isinstance(told["sure"], bool)


@pytest.mark.parametrize(
    ("schema", "words"),
    [({"type": "nonsense"}, "the engine refuses the JSON schema"), ({"enum": ["é"]}, "has no tokens that go on")],
)
async def test_a_schema_that_cannot_be_met_is_the_problems_error_and_the_engine_goes_on(
    pool: PolicyPool, schema: object, words: str
) -> None:
    error = await written(pool, schema)
    assert isinstance(error, ProblemError) and words in str(error), error
    assert isinstance(await written(pool, SCHEMA), list)
