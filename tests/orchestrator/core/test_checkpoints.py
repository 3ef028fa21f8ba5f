import json
import struct
from pathlib import Path

import pytest

from orchestrator.core.checkpoints import check_policy_checkpoint, check_safetensors, read_checkpoint_config
from orchestrator.core.errors import UserError


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    folder = tmp_path / "tiny-policy"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"architectures": ["LlamaForCausalLM"]}))
    (folder / "tokenizer.json").write_text("{}")
    header = json.dumps({"w": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}}).encode()
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + bytes(16))
    return folder


def test_a_whole_checkpoint_passes(checkpoint: Path) -> None:
    check_policy_checkpoint(str(checkpoint))


def test_the_shipped_policy_passes() -> None:
    check_policy_checkpoint(str(Path(__file__).parents[3] / "experiments/tinymath/models/policy"))


def test_a_missing_folder_names_the_nearest_one(checkpoint: Path) -> None:
    with pytest.raises(UserError, match=r"no folder .*tiny-polcy \(did you mean .*tiny-policy\?\)"):
        check_policy_checkpoint(str(checkpoint.parent / "tiny-polcy"))


def test_a_folder_without_config_is_no_checkpoint(checkpoint: Path) -> None:
    (checkpoint / "config.json").unlink()
    with pytest.raises(UserError, match=r"wanted config.json in it, got model.safetensors, tokenizer.json"):
        read_checkpoint_config(str(checkpoint), "policy")


@pytest.mark.parametrize("content", [b"{", b"\xff\xfe", b"[1]"], ids=["cut", "not text", "list"])
def test_a_config_that_is_no_json_object_is_refused(checkpoint: Path, content: bytes) -> None:
    (checkpoint / "config.json").write_bytes(content)
    with pytest.raises(UserError, match=r"policy: .*config.json"):
        check_policy_checkpoint(str(checkpoint))


def test_a_verifier_is_no_policy(checkpoint: Path) -> None:
    (checkpoint / "config.json").write_text(json.dumps({"architectures": ["HeadraceStreamingPRM"]}))
    with pytest.raises(UserError, match=r"got HeadraceStreamingPRM, wanted ...ForCausalLM"):
        check_policy_checkpoint(str(checkpoint))


def test_weights_that_were_cut_off_are_refused(checkpoint: Path) -> None:
    file = checkpoint / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(UserError, match=r"was cut off: got \d+ bytes, its header wants \d+"):
        check_policy_checkpoint(str(checkpoint))


@pytest.mark.parametrize(
    "content",
    [b"", b"abc", bytes(100), b"\xff" * 100, struct.pack("<Q", 2) + b"[]"],
    ids=["empty", "short", "zeros", "huge header", "list"],
)
def test_weights_without_a_readable_header_are_refused(checkpoint: Path, content: bytes) -> None:
    (checkpoint / "model.safetensors").write_bytes(content)
    with pytest.raises(UserError, match=r"verifier: .*model.safetensors is corrupt"):
        check_safetensors(str(checkpoint), "verifier")


def test_weights_must_be_there(checkpoint: Path) -> None:
    (checkpoint / "model.safetensors").unlink()
    with pytest.raises(UserError, match="holds no weights"):
        check_policy_checkpoint(str(checkpoint))


def test_every_shard_that_the_index_names_must_be_there(checkpoint: Path) -> None:
    index = {"weight_map": {"a": "model.safetensors", "b": "model-2.safetensors"}}
    (checkpoint / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(UserError, match=r"model-2.safetensors is missing"):
        check_policy_checkpoint(str(checkpoint))


def test_a_tokenizer_must_be_there(checkpoint: Path) -> None:
    (checkpoint / "tokenizer.json").unlink()
    with pytest.raises(UserError, match="has no tokenizer"):
        check_policy_checkpoint(str(checkpoint))


def test_a_hub_id_passes_unless_offline_and_not_cached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    check_policy_checkpoint("some-org/some-model")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(UserError, match="not in the local cache"):
        check_policy_checkpoint("some-org/some-model")
    (tmp_path / "models--some-org--some-model").mkdir()
    check_policy_checkpoint("some-org/some-model")
