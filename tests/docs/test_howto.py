"""The programs of the how-to pages, run with the tiny pair: the pools that all tests share stand for their own."""

from pathlib import Path
from typing import Any

import pytest

from orchestrator.core.config import PolicyConfig
from tests.docs.pages import ROOT, blocks
from tests.fakes import ScriptedPolicy, TableVerifier, open_session, problem
from verifiers import VERIFIERS


def write_programs(name: str, folder: Path) -> str:
    """Writes the programs of a how-to but the last into the folder, and returns the last: it searches."""
    *modules, search = blocks(ROOT / "docs" / "howto" / name, "python")
    for module in modules:
        assert module.title is not None
        (folder / module.title).write_text(module.text)
    return search.text


async def printed_by(search: str, capsys: pytest.CaptureFixture[str]) -> dict[str, str]:
    """What a program prints that ends with `asyncio.run(main())`."""
    names: dict[str, Any] = {}
    exec(search.replace("asyncio.run(main())", ""), names)
    await names["main"]()
    return dict(line.split(": ") for line in capsys.readouterr().out.splitlines())


async def test_the_strategy_searches_with_the_tiny_pair(
    shared_policy: list[PolicyConfig],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    search = write_programs("strategy.md", tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    printed = await printed_by(search, capsys)
    assert int(printed["answer"]) >= 0 and printed["candidates"] == "2" and int(printed["policy tokens"]) > 40


async def test_the_strategy_finishes_only_the_first_steps_that_it_keeps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_programs("strategy.md", tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    from first_step import FirstStep

    policy = ScriptedPolicy({"Q:": ["a\n\n", "b\n\n", "c\n\n"], "\n\n": ["Answer: 1"]})
    belief = {"a": 0.2, "b": 0.9, "c": 0.5}
    verifier = TableVerifier(lambda text: belief[text[2]])
    async with open_session(policy, verifier) as session:
        result = await FirstStep(n=3, keep=2).search(problem(), session)
    assert [candidate.trajectory.text[0] for candidate in result.candidates] == ["b", "c"]
    assert (result.chosen, result.answer, verifier.states) == (0, "1", {})
    with pytest.raises(ValueError, match="keep must be between 1 and n=3, got 4"):
        FirstStep(n=3, keep=4)


async def test_the_rule_judges_the_tiny_policys_sums(
    shared_policy: list[PolicyConfig],
    local_ray: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    search = write_programs("verifier.md", local_ray)
    monkeypatch.syspath_prepend(local_ray)
    monkeypatch.setitem(VERIFIERS, "sums", VERIFIERS["regex"])  # so that the page's own is taken away again
    printed = await printed_by(search, capsys)
    assert int(printed["answer"]) >= 0 and 0 <= float(printed["score"]) <= 1 and printed["rule"] == "SumsHost"
