"""Facts about the look at a policy's configuration before anything is loaded."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from orchestrator.core.config import PolicyConfig
from orchestrator.core.errors import UserError
from orchestrator.policy.engines.arguments import check_names
from orchestrator.policy.resolve import is_chat_api, refuse_chat_api, resolve_policy

MODEL = str(Path(__file__).parents[3] / "experiments" / "tinymath" / "models" / "policy")
SERVED = PolicyConfig(engine="openai", model="m", urls=["http://a:1/v1", "http://b:1/v1"], tokenizer=MODEL)


def test_a_checkpoint_is_where_the_caller_finds_it() -> None:
    assert resolve_policy(PolicyConfig(model="m"), lambda path: MODEL).model == MODEL
    with pytest.raises(UserError, match="policy: no folder nowhere"):
        resolve_policy(PolicyConfig(model="nowhere"))


def test_each_server_is_a_replica_and_its_model_is_no_folder() -> None:
    found = resolve_policy(SERVED, "/found/{}".format)
    assert (found.replicas, found.model, found.tokenizer) == (2, "m", f"/found/{MODEL}")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"engine": "vlm"}, r"policy\.engine: unknown name 'vlm', valid names are vllm, openai"),
        ({"urls": []}, r"policy\.urls: wanted the address of one server or more"),
        ({"urls": ["a:8000/v1"]}, r"policy\.urls: wanted http://host:8000/v1, got a:8000/v1"),
        ({"urls": ["http://me:secret@a:1/v1"]}, "a key does not belong in an address; wanted api_key_env"),
        ({"replicas": 3}, r"policy\.replicas: each of 2 urls is a replica, got 3"),
        ({"api_key_env": "NO_SUCH_KEY"}, "the environment variable NO_SUCH_KEY is not set"),
        ({"dtype": "float16"}, r"policy\.dtype: means nothing to the engine openai, got float16"),
        ({"engine_args": {"quantization": "fp8"}}, r"policy\.engine_args: means nothing to the engine openai"),
    ],
)
def test_what_can_not_be_a_servers_policy_is_the_users_error(changes: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message) as raised:
        resolve_policy(replace(SERVED, **changes))
    assert "secret" not in str(raised.value)


def test_what_is_of_servers_means_nothing_to_an_engine_here() -> None:
    with pytest.raises(UserError, match=r"policy\.urls: means nothing to the engine vllm"):
        resolve_policy(replace(SERVED, engine="vllm", model=MODEL))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("max_model_len", "max_model_len can't be set here: wanted policy.max_model_len instead"),
        ("enable_prefix_caching", "Headrace needs it as it is"),
    ],
)
def test_arguments_that_headrace_owns_are_refused_with_its_own_setting(name: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        resolve_policy(PolicyConfig(model=MODEL, engine_args={name: 1}))


def test_an_argument_that_the_engine_does_not_know_is_named_with_the_nearest() -> None:
    check_names({"quantization": "fp8"}, ["quantization"])
    with pytest.raises(UserError, match="vLLM knows no 'quantisation'; did you mean quantization"):
        check_names({"quantisation": "fp8"}, ["quantization", "model"])


def test_the_look_loads_neither_torch_nor_ray_nor_a_client() -> None:
    code = "import sys, orchestrator.policy.resolve; print(*({'torch', 'ray', 'vllm', 'openai'} & set(sys.modules)))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert loaded.stdout.split() == []


def test_who_needs_token_ids_refuses_a_chat_api() -> None:
    assert is_chat_api(replace(SERVED, tokenizer="")) and not is_chat_api(SERVED)
    refuse_chat_api(SERVED, "label")
    with pytest.raises(UserError, match=r"policy\.tokenizer: label needs token ids"):
        refuse_chat_api(replace(SERVED, tokenizer=""), "label")


def test_a_chat_api_has_no_tool_parser() -> None:
    with pytest.raises(UserError, match=r"policy\.tool_parser: hermes needs policy\.tokenizer"):
        resolve_policy(replace(SERVED, tokenizer="", tool_parser="hermes"))
