"""Searches from Python: what the README shows, on the real engines that all tests share."""

import re
from pathlib import Path
from typing import Any

import pytest

from experiments.doctor import TINY_POLICY
from orchestrator import api
from orchestrator.core.config import PolicyConfig
from orchestrator.core.errors import UserError
from strategies.beam_search import BeamSearch
from strategies.greedy import Greedy

README = Path(__file__).parents[2] / "README.md"


async def test_the_readmes_search_runs(shared_policy: list[PolicyConfig], capsys: pytest.CaptureFixture[str]) -> None:
    blocks = re.findall(r"```python search\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    [code] = blocks
    names: dict[str, Any] = {}
    exec(code.replace("asyncio.run(main())", ""), names)
    await names["main"]()
    printed = dict(line.split(": ") for line in capsys.readouterr().out.splitlines())
    assert printed.keys() == {"answer", "score", "policy tokens", "verifier tokens"}
    assert int(printed["answer"]) and 0 <= float(printed["score"]) <= 1
    assert int(printed["policy tokens"]) > 100 < int(printed["verifier tokens"])
    assert Path(shared_policy[0].model).name == "policy"


async def test_equal_seeds_give_equal_answers_and_a_strategy_without_its_verifier_is_the_users_error(
    shared_policy: list[PolicyConfig],
) -> None:
    async with api.open_headrace(str(TINY_POLICY)) as headrace:
        first, again = [await headrace.search("How many?", Greedy(), seed=3) for _ in range(2)]
        assert first.candidates[0].trajectory.completion_ids == again.candidates[0].trajectory.completion_ids
        with pytest.raises(UserError, match="the run has no verifier"):
            await headrace.search("How many?", BeamSearch(n=4, beam_width=2))
