"""Facts about the look at a verifier's configuration before anything is loaded."""

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from orchestrator.config import VerifierConfig
from orchestrator.core.errors import UserError
from orchestrator.verifier.check import check_verifier, verifier_host


@pytest.fixture
def own(config: VerifierConfig, tmp_path: Path) -> VerifierConfig:
    """A copy of the checkpoint that a test may spoil."""
    shutil.copytree(config.model, tmp_path / "prm")
    return replace(config, model=str(tmp_path / "prm"))


def test_a_good_checkpoint_passes(config: VerifierConfig) -> None:
    check_verifier(config)


def test_an_unknown_name_lists_the_valid_ones_and_the_nearest(config: VerifierConfig) -> None:
    with pytest.raises(UserError, match=r"unknown name 'streaming_pmr', valid .*\bstreaming_prm\b.*; did you mean"):
        check_verifier(replace(config, name="streaming_pmr"))
    with pytest.raises(UserError, match=r"valid names are .*\bstreaming_prm\b[^;]*$"):
        check_verifier(replace(config, name="oracle"))


def test_a_missing_folder_is_named(own: VerifierConfig) -> None:
    with pytest.raises(UserError, match=r"verifier: no folder .*prn"):
        check_verifier(replace(own, model=str(Path(own.model).with_name("prn"))))
    with pytest.raises(UserError, match="model must be the folder of a checkpoint, got nothing"):
        check_verifier(replace(own, model=""))


def test_a_checkpoint_of_another_architecture_is_refused(own: VerifierConfig) -> None:
    (Path(own.model) / "config.json").write_text(json.dumps({"architectures": ["LlamaForCausalLM"]}))
    with pytest.raises(UserError, match="architecture LlamaForCausalLM, streaming_prm wants HeadraceStreamingPRM"):
        check_verifier(own)


def test_a_truncated_checkpoint_is_refused(own: VerifierConfig) -> None:
    weights = Path(own.model) / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(UserError, match="cut off"):
        check_verifier(own)


def test_the_check_loads_neither_torch_nor_ray() -> None:
    code = "import sys, orchestrator.verifier.check, verifiers; print(*({'torch', 'ray', 'vllm'} & set(sys.modules)))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert loaded.stdout.split() == []


def test_the_engine_option_says_which_host_serves() -> None:
    assert verifier_host(VerifierConfig(name="qwen_prm")) == "verifiers.transformer_prm:TransformerHost"
    config = VerifierConfig(name="qwen_prm", options={"engine": "vllm"})
    assert verifier_host(config) == "orchestrator.verifier.pooling_host:PoolingHost"
    with pytest.raises(UserError, match="options of math_shepherd: kv_cache_gib"):
        verifier_host(VerifierConfig(name="math_shepherd", options={"engine": "vllm"}))
    with pytest.raises(UserError, match="kv_cache_gib must be > 0, got 0"):
        verifier_host(VerifierConfig(name="orm", options={"kv_cache_gib": 0}))
