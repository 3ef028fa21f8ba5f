"""Checks of a checkpoint's folder before anything heavy is loaded. Reads headers only; imports no torch, no vLLM.

Every mistake is a UserError that says what, what was got and what was wanted.
"""

import difflib
import json
import os
import re
from pathlib import Path
from typing import Any

from orchestrator.core.errors import NotHere, UserError

_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
_TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json")
_MAX_HEADER_BYTES = 100_000_000  # the format's own limit


def check_policy_checkpoint(model: str, what: str = "policy") -> None:
    """Checks what `policy.model` names. A hub id passes, unless HF_HUB_OFFLINE is set and it is not in the cache.
    `what` names the part of the system in messages."""
    if _is_hub_id(model):
        if os.environ.get("HF_HUB_OFFLINE", "0") not in ("", "0") and not _hub_folder(model).is_dir():
            raise NotHere(
                f"{what}: no folder {model}, and as a hub id it is not in the local cache (HF_HUB_OFFLINE is set); "
                "wanted a folder with a Hugging Face checkpoint"
            )
        return
    config = read_checkpoint_config(model, what)
    architectures = config.get("architectures") or []
    if not any("CausalLM" in name or "LMHead" in name for name in architectures):
        got = ", ".join(architectures) or "no architecture"
        raise UserError(f"{what}: {model} is not a causal language model: got {got}, wanted ...ForCausalLM")
    check_safetensors(model, what)
    if not any((Path(model) / name).is_file() for name in _TOKENIZERS):
        raise UserError(f"{what}: {model} has no tokenizer: wanted one of {', '.join(_TOKENIZERS)}")


def special_tokens(model: str) -> set[str]:
    """The texts of the tokens that decoding leaves out, as the folder's `tokenizer.json` has them; none where there is
    no such file."""
    try:
        tokenizer = json.loads((Path(model) / "tokenizer.json").read_bytes())
    except (OSError, ValueError):
        return set()
    added = tokenizer.get("added_tokens") if isinstance(tokenizer, dict) else None
    return {token["content"] for token in added or [] if isinstance(token, dict) and token.get("special")}


def read_checkpoint_config(path: str, what: str) -> dict[str, Any]:
    """The folder's config.json. `what` names the part of the system in messages."""
    folder = Path(path)
    if not folder.is_dir():
        raise NotHere(f"{what}: no folder {path}{_nearest(folder)}; wanted a folder with a Hugging Face checkpoint")
    file = folder / "config.json"
    if not file.is_file():
        found = ", ".join(sorted(entry.name for entry in folder.iterdir())[:8]) or "nothing"
        raise UserError(f"{what}: {path} is not a checkpoint: wanted config.json in it, got {found}")
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:  # bad JSON or bad UTF-8
        raise UserError(f"{what}: {file} is not JSON: {error}") from None
    if not isinstance(config, dict):
        raise UserError(f"{what}: {file}: got {type(config).__name__}, wanted a JSON object")
    return config


def check_safetensors(path: str, what: str) -> None:
    """Checks that the folder's safetensors files are whole: present, headers readable, no byte missing."""
    folder = Path(path)
    files = sorted(folder.glob("*.safetensors"))
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        try:
            files = [folder / name for name in sorted(set(json.loads(index.read_text("utf-8"))["weight_map"].values()))]
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise UserError(f"{what}: {index} is corrupt: {error!r}") from None
    if not files:
        raise UserError(f"{what}: {path} holds no weights: wanted model.safetensors")
    for file in files:
        if not file.is_file():
            raise UserError(f"{what}: {file} is missing, but {index.name} names it")
        _check_file(file, what)


def _check_file(file: Path, what: str) -> None:
    """A file is 8 bytes (header size, little endian), a JSON header, then the tensors that the header places."""
    size = file.stat().st_size
    with file.open("rb") as stream:
        header_bytes = int.from_bytes(stream.read(8), "little")
        if size < 8 or header_bytes > min(size - 8, _MAX_HEADER_BYTES):
            raise UserError(f"{what}: {file} is corrupt: {size} bytes, its header alone would take {header_bytes}")
        try:
            header = json.loads(stream.read(header_bytes))
            entries = [entry for name, entry in header.items() if name != "__metadata__"]
            data_bytes = max((entry["data_offsets"][1] for entry in entries), default=0)
            wanted = 8 + header_bytes + int(data_bytes)
        except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
            raise UserError(f"{what}: {file} is corrupt: its header can't be read ({error!r})") from None
    if size != wanted:
        raise UserError(f"{what}: {file} is corrupt or was cut off: got {size} bytes, its header wants {wanted}")


def _is_hub_id(model: str) -> bool:
    """`org/name`, unless that is a folder here or could be a path that was mistyped."""
    return _HUB_ID.fullmatch(model) is not None and not model.startswith(".") and not Path(model).parent.is_dir()


def _hub_folder(model: str) -> Path:
    home = Path(os.environ.get("HF_HOME", Path.home() / ".cache" / "huggingface"))
    return Path(os.environ.get("HF_HUB_CACHE", home / "hub")) / f"models--{model.replace('/', '--')}"


def _nearest(folder: Path) -> str:
    """Of the folders beside it, the one with the nearest name."""
    if not folder.parent.is_dir():
        return ""
    siblings = [entry.name for entry in folder.parent.iterdir() if entry.is_dir()]
    near = difflib.get_close_matches(folder.name, siblings, n=1)
    return f" (did you mean {folder.parent / near[0]}?)" if near else ""
