"""API keys: how they are kept, found and read again."""

import hashlib
import os
from pathlib import Path

import pytest

from orchestrator.core.errors import UserError
from orchestrator.serving import keys
from orchestrator.serving.key_classes import KeyClass, KeysConfig
from orchestrator.serving.keys import Keyring, new_key, read_keys


@pytest.fixture(autouse=True)
def looks_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keys, "_LOOK_AGAIN_S", 0.0)


def write(file: Path, *lines: str) -> None:
    """In one step, as editors and Kubernetes do."""
    made = file.with_suffix(".new")
    made.write_text("\n".join(lines))
    os.replace(made, file)


def test_a_line_has_the_hash_of_its_key_and_not_the_key() -> None:
    key, record = new_key("alice")
    assert record.line == f"alice:sha256:{hashlib.sha256(key.encode()).hexdigest()}"
    assert key not in record.line and len(key) > 40
    assert new_key("alice")[0] != key


def test_a_line_is_read_back_with_its_class() -> None:
    _, record = new_key("alice", "trial")
    assert read_keys(f"# keys\n\n{record.line}\n", "file", ["trial"]) == (record,)


@pytest.mark.parametrize("name", ["", "a:b", "a b", "a\nb", "x" * 65])
def test_a_name_that_would_break_its_line_is_refused(name: str) -> None:
    with pytest.raises(UserError, match="name: wanted"):
        new_key(name)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("hr-secret", "line 2 is not NAME"),
        ("bob:sha256:abc", "line 2 is not NAME"),
        (f"bob:sha256:{'0' * 64}:gold", "line 2: keys.classes has no class 'gold'"),
        (f"alice:sha256:{'0' * 64}", "line 2 has the name of another line, alice"),
    ],
)
def test_a_wrong_line_is_named_by_its_number_and_not_shown(line: str, words: str) -> None:
    with pytest.raises(UserError, match=words) as caught:
        read_keys(f"alice:sha256:{'1' * 64}\n{line}", "file", [])
    assert "hr-secret" not in str(caught.value)


def test_keys_of_the_variable_and_of_the_file_are_found_and_no_others(tmp_path: Path) -> None:
    (first, one), (second, two), (third, three) = (new_key(name) for name in ("one", "two", "three"))
    write(tmp_path / "keys", three.line)
    keyring = Keyring(KeysConfig(file=str(tmp_path / "keys")), f"{one.line};{two.line}")
    assert [keyring.find(key) for key in (first, second, third)] == [one, two, three]
    assert keyring.find(new_key("one")[0]) is None
    assert keyring.find("") is None and keyring.find("\udcff") is None


def test_a_file_that_changes_is_read_again_and_one_that_breaks_leaves_the_keys(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (old, one), (new, two) = new_key("one"), new_key("two", "trial")
    file = tmp_path / "keys"
    write(file, one.line)
    keyring = Keyring(KeysConfig(file=str(file), classes={"trial": KeyClass()}), None)
    assert keyring.find(new) is None
    write(file, two.line)
    assert (keyring.find(old), keyring.find(new)) == (None, two)
    write(file, two.line, new)
    assert keyring.find(new) == two
    assert "line 2 is not NAME" in caplog.text and new not in caplog.text
    file.unlink()
    assert keyring.find(new) == two
    write(file)
    assert keyring.find(new) is None
    assert keyring.configured


def test_a_file_that_is_missing_at_the_start_is_the_users_mistake(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"keys.file: can't read .*: No such file"):
        Keyring(KeysConfig(file=str(tmp_path / "none")), None)
