"""A Mamba-2 checkpoint of either layout becomes a trunk with the same language logits; anything else is refused."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import Mamba2Config, Mamba2ForCausalLM
from transformers.models.mamba2 import modeling_mamba2

from verifiers.mamba2_checkpoint import load_mamba2, read_mamba2_config
from verifiers.streaming_prm import StreamingPRM

SIZES: dict[str, Any] = {
    "vocab_size": 40, "hidden_size": 32, "num_hidden_layers": 2, "head_dim": 16, "num_heads": 4, "state_size": 8,
    "chunk_size": 8, "layer_norm_epsilon": 1e-3, "pad_token_id": 0, "bos_token_id": 0, "eos_token_id": 0,
}  # fmt: skip
STATE_SPACES = {
    "d_model": 32, "d_intermediate": 0, "n_layer": 2, "vocab_size": 37, "attn_layer_idx": [], "attn_cfg": {},
    "ssm_cfg": {"layer": "Mamba2", "headdim": 16, "d_state": 8}, "rms_norm": True, "residual_in_fp32": True,
    "fused_add_norm": True, "pad_vocab_size_multiple": 8, "tie_embeddings": True,
}  # fmt: skip


def reference(**fields: Any) -> Mamba2ForCausalLM:
    """transformers' model; every weight drawn, so that none can be forgotten."""
    torch.manual_seed(0)
    model = Mamba2ForCausalLM(Mamba2Config(**SIZES | fields)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    model.tie_weights()
    return model


def write(folder: Path, config: dict[str, Any]) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def state_spaces(model: Mamba2ForCausalLM, folder: Path, **ssm: Any) -> Path:
    """What mamba-ssm's `save_pretrained` writes."""
    write(folder, STATE_SPACES | {"ssm_cfg": {**STATE_SPACES["ssm_cfg"], **ssm}})
    tensors = {name.replace("embeddings", "embedding"): tensor for name, tensor in model.state_dict().items()}
    torch.save(tensors, folder / "pytorch_model.bin")
    return folder


@torch.no_grad()
def assert_same_logits(prm: StreamingPRM, model: Mamba2ForCausalLM) -> None:
    """Whole, and in ragged pieces with states carried over."""
    ids, ends = torch.randint(37, (3, 21)), torch.tensor([21, 13, 5])
    wanted = model(ids, use_cache=False).logits
    torch.testing.assert_close(prm(ids, ends, prm.initial_state(3)).lm_logits[0], wanted[0], atol=1e-4, rtol=1e-4)
    state, position = prm.initial_state(3), torch.zeros(3, dtype=torch.long)
    for lengths in (torch.tensor([6, 9, 0]), torch.tensor([15, 4, 5])):
        piece = torch.stack([row[p : p + 15] for row, p in zip(torch.cat([ids, ids], 1), position, strict=True)])
        output = prm(piece, lengths, state)
        for row, (p, n) in enumerate(zip(position, lengths, strict=True)):
            torch.testing.assert_close(output.lm_logits[row, :n], wanted[row, p : p + n], atol=1e-4, rtol=1e-4)
        state, position = output.state, position + lengths


@pytest.mark.parametrize(
    "fields", [{"n_groups": 1}, {"n_groups": 1, "tie_word_embeddings": True, "use_conv_bias": False}]
)
def test_a_checkpoint_of_transformers_gives_its_logits(tmp_path: Path, fields: dict[str, Any]) -> None:
    model = reference(**fields)
    model.save_pretrained(tmp_path)
    assert_same_logits(load_mamba2(tmp_path), model)


def test_a_checkpoint_in_shards_gives_its_logits(tmp_path: Path) -> None:
    model = reference(n_groups=1)
    model.save_pretrained(tmp_path, max_shard_size="10KB")
    assert not (tmp_path / "model.safetensors").exists()
    assert_same_logits(load_mamba2(tmp_path), model)


def test_a_checkpoint_of_state_spaces_gives_the_same_logits(tmp_path: Path) -> None:
    model = reference(n_groups=1, tie_word_embeddings=True, layer_norm_epsilon=1e-5)
    prm = load_mamba2(state_spaces(model, tmp_path))
    assert prm.config.vocab_size == 40  # 37, padded
    assert_same_logits(prm, model)


def test_heads_in_groups_are_normed_within_them_as_mamba_ssm_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """transformers' kernels do so too, and its plain PyTorch does not: here it is made to."""
    whole = modeling_mamba2.MambaRMSNormGated.forward

    def within_groups(self: Any, x: torch.Tensor, gate: torch.Tensor) -> torch.Tensor:
        weight, self.weight = self.weight, torch.nn.Parameter(torch.ones(()))
        parts = [whole(self, part, z) for part, z in zip(x.chunk(2, -1), gate.chunk(2, -1), strict=True)]
        self.weight = weight
        return torch.cat(parts, -1) * weight

    monkeypatch.setattr(modeling_mamba2.MambaRMSNormGated, "forward", within_groups)
    model = reference(n_groups=2, tie_word_embeddings=True, layer_norm_epsilon=1e-5)
    model.save_pretrained(tmp_path / "transformers")
    for folder in (tmp_path / "transformers", state_spaces(model, tmp_path / "state_spaces", ngroups=2)):
        assert_same_logits(load_mamba2(folder), model)


def test_the_prm_has_a_fresh_head_and_is_saved_and_loaded_as_any_other(tmp_path: Path) -> None:
    reference(n_groups=2).save_pretrained(tmp_path)
    config = replace(read_mamba2_config(tmp_path), step_delimiter="\n", tokenizer_fingerprint="abc", chunk_len=16)
    prm = load_mamba2(tmp_path, config)
    prm.save_pretrained(tmp_path / "prm")
    loaded = StreamingPRM.from_pretrained(tmp_path / "prm")
    assert loaded.config == config and loaded.model_hash == prm.model_hash
    ids, lengths = torch.randint(37, (2, 9)), torch.tensor([9, 4])
    with torch.no_grad():
        scores = [m(ids, lengths, m.initial_state(2)).mean_logit[0] for m in (prm, loaded)]
    assert torch.equal(*scores) and scores[0].isfinite().all()


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"model_type": "mamba"}, "got mamba, a Mamba-1 model, wanted Mamba-2: .* for each channel"),
        ({"model_type": "falcon_mamba"}, "a Mamba-1 model"),
        (STATE_SPACES | {"ssm_cfg": {}}, "a Mamba-1 model"),
        *(
            ({"model_type": name}, f"got {name}, a hybrid with attention .* no state of fixed size")
            for name in ("jamba", "bamba", "zamba2", "nemotron_h", "granitemoehybrid", "falcon_h1")
        ),
        (STATE_SPACES | {"attn_layer_idx": [9]}, "a hybrid with attention"),
        ({"model_type": "llama"}, "model_type, got 'llama', wanted 'mamba2'"),
        (SIZES | {"model_type": "mamba2", "num_heads": 3}, "hidden_size \\* expand"),
        (SIZES | {"model_type": "mamba2", "use_bias": True}, "use_bias, got True, wanted False"),
        (STATE_SPACES | {"d_intermediate": 64}, "d_intermediate, got 64, wanted 0"),
        (STATE_SPACES | {"ssm_cfg": {"layer": "Mamba2", "norm_before_gate": True}}, "norm_before_gate, got True"),
        (STATE_SPACES | {"ssm_cfg": {"layer": "Mamba2", "colour": 1}}, r"unknown keys \['colour'\]"),
    ],
)
def test_what_is_no_pure_mamba2_is_refused_before_weights_are_read(
    tmp_path: Path, config: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        load_mamba2(write(tmp_path, config))


def test_missing_and_wrong_weights_are_refused(tmp_path: Path) -> None:
    write(tmp_path, STATE_SPACES)
    with pytest.raises(ValueError, match=r"holds no weights, wanted model.safetensors or pytorch_model.bin"):
        load_mamba2(tmp_path)
    (tmp_path / "pytorch_model.bin").write_bytes(b"no weights")
    with pytest.raises(ValueError, match=r"pytorch_model\.bin is corrupt"):
        load_mamba2(tmp_path)
    reference(n_groups=1).save_pretrained(tmp_path / "cut")
    tensors = load_file(tmp_path / "cut" / "model.safetensors")
    del tensors["backbone.layers.1.mixer.conv1d.bias"]
    save_file(tensors, tmp_path / "cut" / "model.safetensors")
    with pytest.raises(ValueError, match=r"missing \['trunk.1.mixer.conv1d.bias'\]"):
        load_mamba2(tmp_path / "cut")
    torch.save({"backbone.embedding.weight": torch.zeros(40, 32)}, tmp_path / "pytorch_model.bin")
    with pytest.raises(ValueError, match=r"missing \['trunk.0.mixer.A_log', .*wanted exactly those of a Mamba-2"):
        load_mamba2(tmp_path)
