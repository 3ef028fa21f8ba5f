"""`headrace train-prm` as a user meets it: verifiers that load, a training that resumes, mistakes said in one line."""

import json
import os
import random
import signal
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
import transformers
import yaml
from rich.console import Console
from safetensors.torch import load_file, save_file

from experiments import cli
from experiments.config import PROJECT_ROOT
from experiments.tinymath.corruptions import corrupt
from experiments.tinymath.task import generate
from experiments.tinymath.tokenizer import build_tokenizer, completion_ids
from experiments.training.prm import train
from experiments.training.prm_plan import plan_prm
from orchestrator.core.errors import UserError
from tests.labelled import labelled
from verifiers.streaming_prm import StreamingPRM
from verifiers.training.labelled import write_labelled
from verifiers.training.streaming import StreamingTrainee

MODELS = PROJECT_ROOT / "experiments" / "tinymath" / "models"
TINY = {"width": 16, "num_layers": 1, "mlp_width": 16, "inner": 16, "head_dim": 8, "state_dim": 4, "chunk_len": 8}
LLAMA = {
    "model_type": "llama",
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
}


@pytest.fixture(scope="module")
def solutions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    tokenizer, rng = build_tokenizer(), random.Random(0)
    rows = [
        labelled(tokenizer, problem, completion_ids(tokenizer, text))
        for problem in generate("train", 12)
        for text in (problem.solution, corrupt(problem.solution, rng))
    ]
    path = tmp_path_factory.mktemp("labelled") / "train.parquet"
    write_labelled(rows, path)
    return path


@pytest.fixture
def config(tmp_path: Path, solutions: Path) -> Any:
    """Writes a good configuration, with changes."""

    def write(**changes: Any) -> Path:
        given = {
            "out": str(tmp_path / "out"),
            "data": {"train": str(solutions), "validation_share": 0.25},
            "tokenizer": str(MODELS / "policy"),
            "model": {"kind": "streaming_prm", "sizes": TINY, "tbptt_tokens": 32},
            "steps": 4,
            "batch_tokens": 400,
            "validate_every": 2,
        }
        path = tmp_path / "train.yaml"
        path.write_text(yaml.safe_dump({**given, **changes}))
        return path

    return write


def trained(path: Path, *, resume: bool = False) -> bool:
    plan = plan_prm(path, (), resume=resume, overwrite=False)
    return train(plan, Console(quiet=True), resume=resume)


def test_a_streaming_prm_is_trained_calibrated_and_on_record(config: Any, tmp_path: Path) -> None:
    assert trained(config())
    out = tmp_path / "out"
    assert StreamingPRM.from_pretrained(out).config.temperature != 1.0
    history = pq.read_table(out / "training.parquet").to_pandas()
    assert list(history["step"]) == [1, 2, 3, 4]
    assert history["step_auroc"].notna().tolist() == [False, True, False, True]
    assert {"loss", "boundary", "token", "lm", "evidence", "consistency", "tokens", "seconds"} <= set(history)
    for picture in ("training.png", "reliability.png"):
        assert (out / picture).stat().st_size > 1000
    assert transformers.AutoTokenizer.from_pretrained(out).chat_template
    assert not (out / "checkpoint.pt").exists()
    with pytest.raises(UserError, match="finished"):
        plan_prm(config(), (), resume=True, overwrite=False)


@pytest.mark.parametrize(
    ("kind", "auto"),
    [
        ("two_class_prm", transformers.AutoModelForTokenClassification),
        ("orm", transformers.AutoModelForSequenceClassification),
    ],
)
def test_transformer_verifiers_are_trained_and_load(config: Any, tmp_path: Path, kind: str, auto: Any) -> None:
    assert trained(config(model={"kind": kind, "sizes": LLAMA, "separator": "\n"}))
    model = auto.from_pretrained(tmp_path / "out")
    assert model.config.num_labels == (2 if kind == "two_class_prm" else 1)
    assert transformers.AutoTokenizer.from_pretrained(tmp_path / "out").eos_token == "<eos>"
    assert json.loads((tmp_path / "out" / "training.json").read_text())["temperature"] > 0


def test_a_base_that_lacks_more_than_a_head_is_refused(config: Any, tmp_path: Path) -> None:
    base = tmp_path / "base"
    sizes = {**LLAMA, "vocab_size": len(build_tokenizer())}
    llama = transformers.LlamaForCausalLM(transformers.AutoConfig.for_model(**sizes))
    llama.save_pretrained(base)
    assert trained(config(model={"kind": "orm", "base": str(base)}))
    weights = load_file(base / "model.safetensors")
    weights.pop("model.norm.weight")
    save_file(weights, base / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match=r"lacks 1 weights, the first is model\.norm\.weight"):
        trained(config(out=str(tmp_path / "other"), model={"kind": "orm", "base": str(base)}))


def test_an_interrupt_saves_and_a_resumed_training_ends_the_same(
    config: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = tmp_path / "whole"
    assert trained(config(out=str(whole)))
    learn = StreamingTrainee.backward

    def interrupted(self: StreamingTrainee, batch: Any, step: int) -> dict[str, float]:
        if step == 2:
            os.kill(os.getpid(), signal.SIGINT)
        return learn(self, batch, step)

    with monkeypatch.context() as patch:
        patch.setattr(StreamingTrainee, "backward", interrupted)
        assert not trained(config())
    assert pq.read_table(tmp_path / "out" / "training.parquet").num_rows == 3
    with pytest.raises(UserError, match="other data or another configuration"):
        trained(config(seed=1), resume=True)
    assert trained(config(), resume=True)
    resumed = StreamingPRM.from_pretrained(tmp_path / "out")
    assert resumed.model_hash == StreamingPRM.from_pretrained(whole).model_hash


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"data": {"train": "nowhere.parquet"}}, "no labelled solutions at nowhere.parquet"),
        ({"tokenizer": "nowhere"}, "no folder nowhere"),
        ({"model": {"kind": "streaming_prm"}}, "wanted either base, or sizes"),
        ({"model": {"kind": "orm", "base": str(MODELS / "prm")}}, "wanted a transformer"),
        ({"model": {"kind": "streaming_prm", "base": str(MODELS / "policy")}}, "wanted HeadraceStreamingPRM"),
        ({"model": {"kind": "two_class_prm", "sizes": LLAMA, "separator": "ки"}}, "no tokens for the separator 'ки'"),
        (
            {"model": {"kind": "streaming_prm", "base": str(MODELS / "prm"), "step_delimiter": "\n"}},
            "step_delimiter: got",
        ),
        (
            {"model": {"kind": "streaming_prm", "base": str(MODELS / "prm"), "freeze_trunk": True}},
            "wanted loss.lm and lm_steps of 0",
        ),
        ({"epochs": 1}, "either steps or epochs"),
        ({"lm_steps": 1, "model": {"kind": "orm", "sizes": LLAMA}}, "0 for orm"),
        ({"steps": 0}, "steps: must be >= 1"),
    ],
)
def test_a_mistake_is_said_before_anything_is_loaded(config: Any, changes: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        plan_prm(config(**changes), (), resume=False, overwrite=False)


def test_the_command_says_a_mistake_in_one_line(
    config: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["headrace", "train-prm", str(config()), "model.sizes.widht=8"])
    with pytest.raises(SystemExit) as exit_:
        cli.main()
    message = capsys.readouterr().err
    assert exit_.value.code == 2 and message.count("\n") == 1 and "widht" in message


def test_data_that_teach_nothing_are_refused(config: Any, tmp_path: Path, solutions: Path) -> None:
    tokenizer = build_tokenizer()
    right = [labelled(tokenizer, p, completion_ids(tokenizer, p.solution)) for p in generate("train", 4)]
    write_labelled(right, tmp_path / "right.parquet")
    with pytest.raises(UserError, match="wanted right and wrong steps"):
        plan_prm(config(data={"train": str(tmp_path / "right.parquet")}), (), resume=False, overwrite=False)
    both = {"train": str(solutions), "validation": str(solutions)}
    with pytest.raises(UserError, match="12 problems of the validation data are among the training data"):
        plan_prm(config(data=both), (), resume=False, overwrite=False)


def test_epochs_become_steps(config: Any) -> None:
    one = plan_prm(config(steps=None, epochs=1), (), resume=False, overwrite=False).settings.num_steps
    three = plan_prm(config(steps=None, epochs=3), (), resume=False, overwrite=False).settings.num_steps
    assert one > 1 and three >= 3 * one - 3


def test_a_fresh_head_on_the_shipped_trunk_starts_without_an_opinion(config: Any) -> None:
    from experiments.training.prm import _make_trainee

    model = {"kind": "streaming_prm", "base": str(MODELS / "prm"), "reset_head": True}
    plan = plan_prm(config(model=model), (), resume=False, overwrite=False)
    torch.manual_seed(0)
    trainee = _make_trainee(plan)
    base = StreamingPRM.from_pretrained(MODELS / "prm")
    assert trainee.model.state_dict()["embedding.weight"].equal(base.embedding.weight)
    assert not trainee.model.state_dict()["head.weight"].equal(base.head.weight)


def test_the_shipped_configuration_is_valid(tmp_path: Path, solutions: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(PROJECT_ROOT)
    overrides = [f"data.train={solutions}", "data.validation=null", f"out={tmp_path / 'out'}"]
    plan = plan_prm(Path("configs/train_prm.yaml"), overrides, resume=False, overwrite=False)
    assert plan.settings.num_steps == plan.config.steps
