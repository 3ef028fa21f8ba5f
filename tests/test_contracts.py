"""The import contracts of `make check` mean what they say: a violation breaks each."""

import ast
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("orchestrator", "strategies", "verifiers", "experiments")


@pytest.fixture(scope="module")
def copied(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("contracts")
    for package in PACKAGES:
        shutil.copytree(ROOT / package, folder / package, ignore=_no_code)
    shutil.copy(ROOT / "pyproject.toml", folder)
    return folder


def _no_code(_: str, names: list[str]) -> list[str]:
    return [name for name in names if "." in name and not name.endswith(".py")]


def lint(folder: Path) -> subprocess.CompletedProcess[str]:
    command = [str(Path(sys.executable).with_name("lint-imports")), "--no-cache"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120)


@pytest.mark.parametrize(
    ("module", "imported", "contract"),
    [
        ("orchestrator/core/nouns.py", "numpy", "the core imports"),
        ("orchestrator/core/nouns.py", "orchestrator.routing", "the rooms of the runtime"),
        ("strategies/greedy.py", "orchestrator.session", "strategies are pure"),
        ("strategies/greedy.py", "torch", "strategies are pure"),
        ("strategies/greedy.py", "verifiers.rules", "strategies are pure"),
        ("verifiers/rules.py", "orchestrator.results", "verifiers know"),
        ("verifiers/rules.py", "ray", "verifiers know"),
        ("orchestrator/runner.py", "strategies.greedy", "the runtime does not know"),
        ("orchestrator/session/session.py", "orchestrator.runner", "the rooms of the runtime"),
        ("orchestrator/policy/pool.py", "orchestrator.verifier.pool", "the rooms of the runtime"),
    ],
)
def test_a_wrong_import_breaks_its_contract(copied: Path, module: str, imported: str, contract: str) -> None:
    path = copied / module
    before = path.read_text()
    path.write_text(f"{before}\nimport {imported}\n")
    try:
        output = lint(copied).stdout
    finally:
        path.write_text(before)
    found = [line for line in output.splitlines() if " BROKEN" in line]
    assert any(name.startswith(contract) for name in found), found


def test_a_new_room_has_its_place_in_the_layers(copied: Path) -> None:
    assert lint(copied).returncode == 0
    room = copied / "orchestrator" / "attic.py"
    room.touch()
    try:
        assert lint(copied).returncode == 1
    finally:
        room.unlink()


def test_the_core_imports_nothing_but_the_standard_library_and_itself() -> None:
    for path in (ROOT / "orchestrator" / "core").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom):
                names = [node.module or ""]
            else:
                names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            for name in names:
                assert name.startswith("orchestrator.core") or name.partition(".")[0] in sys.stdlib_module_names, path
