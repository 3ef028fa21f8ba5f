import asyncio
from pathlib import Path

import pandas as pd
import pytest

from experiments.judging import JudgePlan, _judge, _Problem, open_folder, plan_judging, table
from orchestrator.core.errors import UserError
from orchestrator.core.nouns import Status, Step, Trajectory
from tests.fakes import ScriptedPolicy, TextVerifier, ids, problem

CONFIG = """
name: judged
results_dir: {results}
data: {{name: tinymath, num_problems: {num_problems}, metadata_fields: [answer]}}
policy: {{model: experiments/tinymath/models/policy}}
n: 2
verifiers:
  prm: {{name: streaming_prm, model: experiments/tinymath/models/prm}}
  oracle: {{name: exact_match}}
"""


def plan(folder: Path, num_problems: int = 2, *overrides: str) -> JudgePlan:
    path = folder / "judge.yaml"
    path.write_text(CONFIG.format(results=folder, num_problems=num_problems))
    return plan_judging(path, overrides)


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("verifiers.prm.model=nowhere", "verifiers.prm: verifier: no folder nowhere"),
        ("verifiers.oracle.name=orakle", "verifiers.oracle: verifier: unknown name"),
        ("n=0", "n: must be >= 1, got 0"),
        ("name=a/b", "wanted a plain file name, got 'a/b'"),
    ],
)
def test_a_mistake_is_found_before_anything_is_started(tmp_path, override, words):
    with pytest.raises(UserError, match=words):
        plan(tmp_path, 2, override)


def test_a_folder_is_resumed_or_replaced_on_purpose_only(tmp_path):
    open_folder(plan(tmp_path), resume=False, overwrite=False)
    kept = tmp_path / "judged" / "kept"
    kept.touch()
    with pytest.raises(UserError, match="exists; wanted --resume"):
        open_folder(plan(tmp_path), resume=False, overwrite=False)
    open_folder(plan(tmp_path, 2, "problems_in_flight=3"), resume=True, overwrite=False)
    with pytest.raises(UserError, match="holds solutions of another configuration"):
        open_folder(plan(tmp_path, 3), resume=True, overwrite=False)
    assert kept.exists()
    open_folder(plan(tmp_path, 3), resume=False, overwrite=True)
    assert not kept.exists()


async def test_a_solution_that_can_not_be_judged_has_no_score_and_leaves_the_others_theirs(tmp_path):
    def solution(*texts: str) -> Trajectory:
        steps = tuple(Step(token_ids=ids(text), text=text) for text in texts)
        return Trajectory(
            problem=problem(), prompt_ids=ids("Q:"), steps=steps, status=Status.FINISHED, answer=texts[-1]
        )

    judged = _Problem(
        solutions=[solution("a\n\n", "b"), solution("why?\n\n", "c")],
        labels=[(1.0, 0.0), (None, None)],
        correct=[True, False],
    )
    verifier = TextVerifier(lambda text: None if "?" in text else len(text) / 10, scores_steps=True)
    good, bad = await asyncio.wait_for(_judge(plan(tmp_path), ScriptedPolicy({}), verifier, [judged]), 10)
    assert (good["scores"], good["unjudged"], good["labels"]) == ([0.3, 0.4], None, [1.0, 0.0])
    assert (bad["scores"], bad["unjudged"], bad["correct"]) == (None, "a riddle", False)
    assert good["tokens"] == bad["tokens"] == 7


def test_the_table_says_what_each_verifier_finds_and_costs(tmp_path):
    made = plan(tmp_path)
    open_folder(made, resume=False, overwrite=False)

    def rows(*judged: tuple[str, bool, list[float] | None]) -> pd.DataFrame:
        return pd.DataFrame(
            {
                "problem_id": name,
                "answer": "1" if correct else "2",
                "correct": correct,
                "labels": [1.0, float(correct)],
                "scores": scores,
                "unjudged": None,
                "tokens": 10.0,
                "flops": 2e6,
            }
            for name, correct, scores in judged
        )

    perfect = rows(*[(p, c, [0.9, 0.8 if c else 0.1]) for p in ("p1", "p2") for c in (True, False)])
    perfect.to_parquet(made.folder / "prm.parquet")
    unsure = rows(("p1", True, [None, 1.0]), ("p1", False, None), ("p2", True, [None, 0.0]), ("p2", False, [None, 1.0]))
    unsure.to_parquet(made.folder / "oracle.parquet")
    prm, oracle = table(made).rows
    all_of_it = "100.0 [100, 100]"
    assert prm == ["prm", all_of_it, all_of_it, all_of_it, all_of_it, "10", "2 M", "0.0%"]
    assert oracle[:3] == ["oracle", "-", "-"] and oracle[3].startswith("50.0") and oracle[7] == "25.0%"
    assert "a random choice is right in 50.0%, a majority in" in table(made).title
    assert "| prm | 100.0" in (made.folder / "verifiers.md").read_text()


def test_the_shipped_comparison_names_verifiers_that_are_registered():
    from experiments.config import PROJECT_ROOT, load_yaml
    from experiments.judging import JudgeConfig
    from orchestrator.verifier.check import verifier_options

    config, _ = load_yaml(PROJECT_ROOT / "configs" / "verifiers.yaml", JudgeConfig)
    assert len(config.verifiers) >= 8
    for verifier in config.verifiers.values():
        verifier_options(verifier)
