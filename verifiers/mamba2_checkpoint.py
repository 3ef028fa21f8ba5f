"""A Mamba-2 language model (arXiv 2405.21060) as the trunk of a streaming PRM, from either layout that it comes in.

These are state-spaces' own (`ssm_cfg` in config.json) and transformers' Mamba2ForCausalLM. The PRM's language logits
are those of the checkpoint; its verifier block and head are fresh and must be trained.
"""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor
from transformers import Mamba2Config

from orchestrator.core.checkpoints import read_checkpoint_config
from verifiers.streaming_prm import PRMConfig, StreamingPRM, check_tensors

_MAMBA1 = {"mamba", "falcon_mamba"}
_HYBRIDS = {"bamba", "falcon_h1", "granitemoehybrid", "jamba", "nemotron_h", "zamba", "zamba2"}
_WHY_NOT_MAMBA1 = (
    "a Mamba-1 model, wanted Mamba-2: Mamba-1 has a rate of forgetting for each channel and state number, where this "
    "verifier's recurrence has one per head"
)
_WHY_NOT_HYBRID = (
    "a hybrid with attention layers, wanted a pure Mamba-2: attention keeps every token's keys and values, so there is "
    "no state of fixed size to carry"
)
# Of state-spaces' `ssm_cfg`: sizes, with their defaults; what only initialisation or speed see; what must be as here.
_SIZES = {"d_state": 128, "d_conv": 4, "expand": 2, "headdim": 64, "ngroups": 1, "bias": False, "conv_bias": True}
_NO_MATTER = "layer conv_init A_init_range dt_min dt_max dt_init_floor chunk_size use_mem_eff_path".split()
_FIXED: dict[str, Any] = {
    **{"d_ssm": None, "D_has_hdim": False, "rmsnorm": True, "norm_before_gate": False},
    "dt_limit": [0.0, float("inf")],
}
_NAMES = (
    (re.compile(r"backbone\.embeddings?\.weight"), r"embedding.weight"),
    (re.compile(r"backbone\.layers\.(.*)"), r"trunk.\1"),
    (re.compile(r"backbone\.norm_f\.weight"), r"trunk_norm.weight"),
)


def read_mamba2_config(path: str | Path) -> PRMConfig:
    """Sizes of the PRM whose trunk the checkpoint in the folder `path` can be; reads config.json only.

    Raises ValueError for Mamba-1, hybrids and everything else that is not a Mamba-2 language model.
    """
    return _as_prm_config(_read_config(path))


def load_mamba2(path: str | Path, config: PRMConfig | None = None) -> StreamingPRM:
    """A PRM in fp32 with the checkpoint's trunk; what is fresh is drawn from torch's global generator.

    `config` is that of `read_mamba2_config` with another delimiter, fingerprint or chunk length. Raises ValueError.
    """
    written = _read_config(path)
    tensors = _as_ours(_read_tensors(Path(path)), tied_head=written.tie_word_embeddings)
    model = StreamingPRM(config or _as_prm_config(written))
    own = model.state_dict()
    wanted = {name: own[name] for name in own if name.split(".")[0] in ("embedding", "trunk", "trunk_norm", "lm_head")}
    if not written.use_conv_bias:  # which is a bias of zero
        tensors |= {name: torch.zeros_like(own[name]) for name in wanted if name.endswith("conv1d.bias")}
    check_tensors(tensors, wanted, f"Mamba-2 checkpoint {path}", "a Mamba-2 language model")
    model.load_state_dict(own | tensors)
    return model.eval()


def _read_config(path: str | Path) -> Mamba2Config:
    """In transformers' terms."""
    raw = read_checkpoint_config(str(path), "Mamba-2 checkpoint")
    what = f"Mamba-2 checkpoint {path}"
    own_layout, model_type = "ssm_cfg" in raw, raw.get("model_type")
    for refused, why in ((_MAMBA1, _WHY_NOT_MAMBA1), (_HYBRIDS, _WHY_NOT_HYBRID)):
        if model_type in refused:
            raise ValueError(f"{what}: got {model_type}, {why}")
    if model_type != "mamba2" and not own_layout:
        raise ValueError(f"{what}: model_type, got {model_type!r}, wanted 'mamba2' or state-spaces' own layout")
    try:
        config = _from_state_spaces(raw, what) if own_layout else Mamba2Config.from_pretrained(path)
    except StrictDataclassError as error:
        raise ValueError(f"{what}: {error}") from None
    for name, got, wanted in (
        ("use_bias", config.use_bias, False),
        ("rms_norm", raw.get("rms_norm", True), True),
        ("hidden_act", config.hidden_act, "silu"),
        ("time_step_limit", list(config.time_step_limit), [0.0, float("inf")]),
    ):
        if got != wanted:
            raise ValueError(f"{what}: {name}, got {got!r}, wanted {wanted!r}, the only kind that is supported")
    return config


def _as_prm_config(config: Mamba2Config) -> PRMConfig:
    return PRMConfig(
        vocab_size=config.vocab_size,
        mixer="mamba2",
        width=config.hidden_size,
        num_layers=config.num_hidden_layers,
        mlp_width=0,
        inner=config.expand * config.hidden_size,
        head_dim=config.head_dim,
        state_dim=config.state_size,
        num_groups=config.n_groups,
        conv_len=config.conv_kernel,
        norm_eps=config.layer_norm_epsilon,
        tied_head=config.tie_word_embeddings,
    )


def _from_state_spaces(raw: Mapping[str, Any], what: str) -> Mamba2Config:
    """From state-spaces' own terms."""
    ssm = raw["ssm_cfg"]
    if ssm.get("layer", "Mamba1") != "Mamba2":
        raise ValueError(f"{what}: got {_WHY_NOT_MAMBA1}")
    if raw.get("attn_layer_idx"):
        raise ValueError(f"{what}: got {_WHY_NOT_HYBRID}")
    if unknown := sorted(ssm.keys() - {*_SIZES, *_NO_MATTER, *_FIXED}):
        raise ValueError(f"{what}: ssm_cfg, got unknown keys {unknown}")
    if missing := sorted({"d_model", "n_layer", "vocab_size"} - raw.keys()):
        raise ValueError(f"{what}: config.json, got no {', '.join(missing)}")
    for name, got, wanted in (
        ("d_intermediate", raw.get("d_intermediate", 0), 0),
        *((name, ssm.get(name, wanted), wanted) for name, wanted in _FIXED.items()),
    ):
        if got != wanted:
            raise ValueError(f"{what}: {name}, got {got!r}, wanted {wanted!r}, the only kind that is supported")
    sizes = {name: ssm.get(name, default) for name, default in _SIZES.items()}
    return Mamba2Config(
        hidden_size=raw["d_model"],
        num_hidden_layers=raw["n_layer"],
        vocab_size=raw["vocab_size"] + -raw["vocab_size"] % raw.get("pad_vocab_size_multiple", 8),
        tie_word_embeddings=raw.get("tie_embeddings", True),
        expand=sizes["expand"],
        num_heads=sizes["expand"] * raw["d_model"] // sizes["headdim"],
        head_dim=sizes["headdim"],
        state_size=sizes["d_state"],
        conv_kernel=sizes["d_conv"],
        n_groups=sizes["ngroups"],
        use_bias=sizes["bias"],
        use_conv_bias=sizes["conv_bias"],
    )


def _read_tensors(folder: Path) -> dict[str, Tensor]:
    """Of safetensors, or else of torch's own files; whole or in shards."""
    for name in ("model.safetensors", "pytorch_model.bin"):
        files = [folder / name] if (folder / name).is_file() else []
        if (index := folder / f"{name}.index.json").is_file():
            files = [
                folder / shard for shard in sorted(set(json.loads(index.read_text("utf-8"))["weight_map"].values()))
            ]
        tensors: dict[str, Tensor] = {}
        for file in files:
            if not file.is_file():
                raise ValueError(f"Mamba-2 checkpoint: {file} is missing, but {index.name} names it")
            try:
                safe = file.suffix == ".safetensors"
                tensors |= load_file(file) if safe else torch.load(file, map_location="cpu", weights_only=True)
            except (SafetensorError, UnpicklingError, RuntimeError, EOFError) as error:
                raise ValueError(f"Mamba-2 checkpoint: {file} is corrupt: {error}") from None
        if tensors:
            return tensors
    raise ValueError(f"Mamba-2 checkpoint: {folder} holds no weights, wanted model.safetensors or pytorch_model.bin")


def _as_ours(tensors: Mapping[str, Tensor], *, tied_head: bool) -> dict[str, Tensor]:
    ours = {}
    for name, tensor in tensors.items():
        for pattern, replacement in _NAMES:
            name = pattern.sub(replacement, name)
        if not (tied_head and name == "lm_head.weight"):  # which some files hold twice
            ours[name] = tensor.float()
    return ours
