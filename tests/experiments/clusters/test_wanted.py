"""What a configuration wants of a cluster, whichever command reads it."""

from pathlib import Path

import pytest

from experiments.clusters.wanted import wanted_of
from experiments.config import PROJECT_ROOT
from orchestrator.core.errors import UserError
from orchestrator.pools.record import PoolRecord, write_record


def wanted_by(tmp_path: Path, text: str, *overrides: str):
    path = tmp_path / "config.yaml"
    path.write_text(text)
    return wanted_of(path, overrides)


@pytest.mark.parametrize("path", sorted((PROJECT_ROOT / "configs").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_shipped_configuration_is_read(path: Path) -> None:
    assert all(Path(folder.path).is_absolute() or "results" in folder.path for folder in wanted_of(path).folders)


def test_the_address_of_the_command_line_wins(tmp_path: Path) -> None:
    assert wanted_by(tmp_path, "ray: {address: auto}").ray.address == "auto"
    path = tmp_path / "config.yaml"
    assert wanted_of(path, address="10.0.0.1:6379").ray.address == "10.0.0.1:6379"
    assert wanted_of(None).ray.address is None


def test_the_cluster_of_a_named_pool_is_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    write_record(PoolRecord(name="tiny", address="10.0.0.7:6379"))
    assert wanted_by(tmp_path, "pool: tiny").ray.address == "10.0.0.7:6379"
    assert wanted_by(tmp_path, "pool: tiny\nray: {address: auto}").ray.address == "auto"


def test_the_folders_of_all_models_are_wanted_and_hub_ids_are_not(tmp_path: Path) -> None:
    wanted = wanted_by(
        tmp_path,
        """
policy: {model: Qwen/Qwen2.5-1.5B-Instruct, tokenizer: /models/tokenizer}
verifiers:
  tiny: {model: /models/prm}
  both: {name: ensemble, options: {members: [{model: /models/prm}, {model: /models/orm}]}}
""",
    )
    assert {(folder.key, folder.path) for folder in wanted.folders} == {
        ("policy.tokenizer", "/models/tokenizer"),
        ("verifiers.tiny.model", "/models/prm"),
        ("verifiers.both.options.members[0].model", "/models/prm"),
        ("verifiers.both.options.members[1].model", "/models/orm"),
    }


def test_a_server_has_the_model_and_an_endpoint_its_port(tmp_path: Path) -> None:
    served = wanted_by(
        tmp_path, "alias: x\nport: 9000\npolicy: {engine: openai, model: /m, urls: ['http://a/v1'], tokenizer: /t}"
    )
    assert [folder.key for folder in served.folders] == ["policy.tokenizer"]
    assert served.endpoint == ("127.0.0.1", 9000) and not served.vllm
    assert wanted_by(tmp_path, "policy: {model: /m}").endpoint is None


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("policy: {modl: /m}", "modl"),
        ("policy: [1]", "policy"),
        ("ray: {adress: auto}", "adress"),
        ("alias: x\npolicy: {model: /m}\nport: many", "port"),
        ("pool: tiny", "no pool 'tiny' was started here"),
    ],
)
def test_a_mistake_in_what_it_reads_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, named: str
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    with pytest.raises(UserError, match=named):
        wanted_by(tmp_path, text)
