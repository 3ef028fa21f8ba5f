"""The commands of docs/policies.md that start other servers are read by the installed vLLM and Ray; none is started."""

import re
import shlex
from pathlib import Path

import pytest

DOCS = (Path(__file__).parents[4] / "docs" / "policies.md").read_text()
COMMANDS = re.findall(r"`vllm serve (MODEL[^`]*)`", DOCS)


def parsed(command: str):
    from vllm.entrypoints.launchers.cli_args import make_arg_parser
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    _, *arguments = shlex.split(command)
    return make_arg_parser(FlexibleArgumentParser(exit_on_error=False)).parse_args(["--model", "MODEL", *arguments])


@pytest.mark.parametrize("command", COMMANDS)
def test_vllm_knows_every_argument_that_is_documented(command: str) -> None:
    assert parsed(command).model == "MODEL"


def test_they_split_a_model_and_hand_its_cache_over() -> None:
    split = next(parsed(command) for command in COMMANDS if "--pipeline-parallel-size" in command)
    assert (split.tensor_parallel_size, split.pipeline_parallel_size) == (8, 2)
    handed = next(parsed(command) for command in COMMANDS if "--kv-transfer-config" in command)
    assert handed.kv_transfer_config.is_kv_producer and handed.kv_transfer_config.is_kv_consumer


def test_an_argument_that_vllm_does_not_know_would_be_seen() -> None:
    with pytest.raises(SystemExit):
        parsed("MODEL --no-such-argument 1")


def test_ray_serve_llm_takes_the_documented_configuration() -> None:
    [program] = [block for block in re.findall(r"```python\n(.*?)```", DOCS, re.DOTALL) if "build_openai_app" in block]
    defined, run = program.split("serve.run(")
    names: dict[str, object] = {}
    exec(defined, names)
    config = names["config"]
    assert config.model_id == "NAME" and config.engine_kwargs == {"tensor_parallel_size": 2}  # type: ignore[attr-defined]
    assert run.startswith("build_openai_app(")
