"""The examples of CONTRIBUTING.md, run as they stand there."""

import re
from pathlib import Path

import pytest

from orchestrator.core.config import VerifierConfig
from orchestrator.core.protocols import ScoreRequest
from orchestrator.verifier.pool import VerifierPool
from orchestrator.verifier.resolve import resolve
from tests.fakes import ScriptedPolicy, TableVerifier, open_session, problem
from verifiers import VERIFIERS, VerifierEntry

GUIDE = Path(__file__).parent.parent / "CONTRIBUTING.md"


def example(name: str) -> str:
    [code] = re.findall(rf"```python {name}\n(.*?)```", GUIDE.read_text(), re.DOTALL)
    return code


async def test_the_strategy_of_the_guide_stops_when_it_is_convinced(tmp_path, monkeypatch):
    (tmp_path / "until_convinced.py").write_text(example("strategy"))
    monkeypatch.syspath_prepend(tmp_path)
    from until_convinced import UntilConvinced

    policy = ScriptedPolicy({"Q:": ["Answer: 1", "Answer: 2", "Answer: 3"]})
    belief = {"1": 0.2, "2": 0.95, "3": 0.5}
    async with open_session(policy, TableVerifier(lambda text: belief[text[-1]])) as session:
        result = await UntilConvinced(n=3).search(problem(), session)
    assert (result.answer, len(result.candidates)) == ("2", 2)
    with pytest.raises(ValueError, match="n must be >= 1, got 0"):
        UntilConvinced(n=0)


async def test_the_verifier_of_the_guide_scores_in_a_pool(monkeypatch, local_ray):
    (local_ray / "brevity.py").write_text(example("verifier"))
    entry = VerifierEntry(host="brevity:BrevityHost")
    monkeypatch.setitem(VERIFIERS, "brevity", entry)
    async with VerifierPool.open(resolve(VerifierConfig(name="brevity"))) as pool:
        [prefix] = await pool.score([ScoreRequest(token_ids=(1, 2), boundaries=())])
        [whole] = await pool.score([ScoreRequest(token_ids=(1, 2, 3, 4), boundaries=(3, 4), handle=prefix.handle)])
    assert [score.mean for score in whole.scores] == pytest.approx([0.99**3, 0.99**4])
    assert whole.verifier_tokens == 2
