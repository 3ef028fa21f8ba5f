import asyncio
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path

import pytest

from experiments.judging import run as judging
from experiments.judging.rows import Judgement, read_judgements
from experiments.judging.run import JudgePlan, _judge, _Problem, open_writers, plan_judging
from experiments.judging.table import table
from orchestrator.core.errors import ReplicaError, UserError
from orchestrator.core.ledger import Ledger
from orchestrator.core.nouns import Comparison, Status, Step, Trajectory
from tests.fakes import ScriptedPolicy, TextVerifier, ids, open_session, problem

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


def test_a_rule_looks_for_answers_where_the_data_set_has_them(tmp_path: Path) -> None:
    assert plan(tmp_path).verifiers["oracle"].options.answer is None  # tinymath's are where a rule looks anyway
    assert plan(tmp_path, 2, "data.answer=last_number").verifiers["oracle"].options.answer == "last_number"
    assert plan(tmp_path, 2, "data.name=word_problems").verifiers["oracle"].options.answer == "last_number"


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


def judgements(problem_id: str, *judged: tuple[bool, list[float | None] | None]) -> list[Judgement]:
    return [
        Judgement(
            problem_id=problem_id,
            answer="1" if correct else "2",
            answer_group=0 if correct else 1,
            correct=correct,
            labels=[1.0, float(correct)],
            scores=scores,
            unjudged=None if scores else "a riddle",
        )
        for correct, scores in judged
    ]


COST = Ledger(verifier_tokens=20, verifier_flops=4e6)


def fill(made: JudgePlan, by_verifier: Mapping[str, Sequence[list[Judgement]]]) -> None:
    with open_writers(made, resume=True, overwrite=False) as writers:
        for name, rows in by_verifier.items():
            for of_problem in rows:
                writers.judgements[name].add(of_problem, COST)


def test_a_folder_is_resumed_or_replaced_on_purpose_only(tmp_path):
    one = judgements("p1", (True, [0.9, 0.8]))
    fill(plan(tmp_path), {"prm": [one]})
    with (
        pytest.raises(UserError, match="already holds results; wanted --resume"),
        open_writers(plan(tmp_path), resume=False, overwrite=False),
    ):
        pass
    with open_writers(plan(tmp_path, 2, "problems_in_flight=3"), resume=True, overwrite=False) as writers:
        assert (writers.judgements["prm"].done(), writers.judgements["oracle"].done()) == ({"p1"}, frozenset())
        with pytest.raises(ValueError, match="p1 was already judged"):
            writers.judgements["prm"].add(one, COST)
        with (
            pytest.raises(UserError, match="another run is writing"),
            open_writers(plan(tmp_path), resume=True, overwrite=False),
        ):
            pass
    with (
        pytest.raises(UserError, match=r"differs in data\.num_problems"),
        open_writers(plan(tmp_path, 3), resume=True, overwrite=False),
    ):
        pass
    with open_writers(plan(tmp_path, 3), resume=False, overwrite=True) as writers:
        assert writers.judgements["prm"].done() == frozenset()


def test_a_copied_shard_is_refused_by_readers_and_by_a_resume(tmp_path):
    fill(plan(tmp_path), {"prm": [judgements("p1", (True, [0.9, 0.8]))]})
    shards = list((tmp_path / "judged").rglob("part-000000.parquet"))
    assert len(shards) == 2
    for shard in shards:
        shard.with_name("part-000007.parquet").write_bytes(shard.read_bytes())
    with pytest.raises(UserError, match=r"holds p1, and so does .*; was a shard copied"):
        read_judgements(next(shard for shard in shards if shard.parent.name == "costs").parents[1])
    with pytest.raises(UserError, match="was a shard copied"):
        fill(plan(tmp_path), {})


def test_a_verifier_may_be_added_and_another_one_of_its_name_is_refused(tmp_path):
    fill(plan(tmp_path), {"prm": [judgements("p1", (True, [0.9, 0.8]))]})
    added = "verifiers.form={name: regex, options: {pattern: x}}"
    with open_writers(plan(tmp_path, 2, added), resume=True, overwrite=False) as writers:
        assert list(writers.judgements) == ["prm", "oracle", "form"]
        assert writers.judgements["prm"].done() == {"p1"}
    with (
        pytest.raises(UserError, match=r"differs in verifier\.name"),
        open_writers(plan(tmp_path, 2, "verifiers.prm.name=retokenized_prm"), resume=True, overwrite=False),
    ):
        pass


async def test_a_solution_that_can_not_be_judged_has_no_score_and_leaves_the_others_theirs(tmp_path):
    def solution(*texts: str) -> Trajectory:
        steps = tuple(Step(token_ids=ids(text), text=text) for text in texts)
        return Trajectory(
            problem=problem(), prompt_ids=ids("Q:"), steps=steps, status=Status.FINISHED, answer=texts[-1]
        )

    judged = _Problem(
        solutions=[solution("a\n\n", "b"), solution("why?\n\n", "c")],
        labels=[(1.0, 0.0), (None, None)],
        groups=[0, 1],
        grades=[Comparison(equal=True), Comparison(equal=False)],
    )
    verifier = TextVerifier(lambda text: None if "?" in text else len(text) / 10, scores_steps=True)
    (good, bad), ledger = await asyncio.wait_for(_judge(lambda: open_session(ScriptedPolicy({}), verifier), judged), 10)
    assert (good.scores, good.unjudged, good.labels) == ([0.3, 0.4], None, (1.0, 0.0))
    assert (bad.scores, bad.unjudged, bad.correct) == (None, "a riddle", False)
    assert ledger.verifier_tokens == 2 * 7


def test_the_table_says_what_each_verifier_finds_and_costs_where_all_have_judged(tmp_path):
    made = plan(tmp_path)
    perfect = [judgements(p, *[(c, [0.9, 0.8 if c else 0.1]) for c in (True, False)]) for p in ("p1", "p2", "p3")]
    unsure = [
        judgements("p1", (True, [None, 1.0]), (False, None)),
        judgements("p2", (True, [None, 0.0]), (False, [None, 1.0])),
    ]
    fill(made, {"prm": perfect, "oracle": unsure})
    assert "Verifiers on 2 problems" in table(made).title
    assert "a random choice is right in 50.0%, a majority in" in table(made).title
    prm, oracle = table(made).rows
    all_of_it = "100.0 [100, 100]"
    assert prm == ["prm", all_of_it, all_of_it, all_of_it, all_of_it, "10", "2 M", "0.0%"]
    assert oracle[:3] == ["oracle", "-", "-"] and oracle[3].startswith("50.0") and oracle[7] == "25.0%"
    assert "| prm | 100.0" in (made.folder / "verifiers.md").read_text()


def test_where_not_all_have_judged_a_problem_there_is_no_table(tmp_path):
    fill(plan(tmp_path), {"prm": [judgements("p1", (True, [0.9, 0.8]))]})
    with pytest.raises(UserError, match=r"no problem in .* that all verifiers have judged"):
        table(plan(tmp_path))


def test_the_shipped_comparison_names_verifiers_that_are_registered():
    from experiments.config import PROJECT_ROOT, load_yaml
    from experiments.judging.run import JudgeConfig
    from orchestrator.verifier.resolve import resolve

    config, _ = load_yaml(PROJECT_ROOT / "configs" / "verifiers.yaml", JudgeConfig)
    assert len(config.verifiers) >= 8
    for verifier in config.verifiers.values():
        resolve(verifier)


def without_engines(monkeypatch, policy, verifier):
    async def open_pools(*_, **__):
        return policy, None

    async def open_verifier(*_, **__):
        return verifier

    monkeypatch.setattr(judging, "connected", lambda *_: nullcontext())
    monkeypatch.setattr(judging, "open_pools", open_pools)
    monkeypatch.setattr(judging, "open_verifier", open_verifier)


async def judge_all(
    made: JudgePlan, stages: list[tuple[str, int]], told: list[dict[str, str | None]] | None = None
) -> dict[str, str]:
    answers = [] if told is None else told
    with open_writers(made, resume=True, overwrite=False) as writers:
        return await judging.judge(
            made,
            writers,
            on_stage=lambda *stage: stages.append(stage),
            on_problem=lambda _: None,
            on_answer=lambda **seen: answers.append(seen),
        )


async def test_what_was_judged_before_a_fault_is_not_judged_again(tmp_path, monkeypatch):
    policy = ScriptedPolicy({"now?": ["Answer: 1", "Answer: 2"]})
    asked = []

    class Failing(TextVerifier):
        """Fails at the second problem, once."""

        async def score(self, readings):
            asked.append(readings[0].solution.problem.id)
            if len(asked) == 2:
                raise ReplicaError("it is gone")
            return await super().score(readings)

    without_engines(monkeypatch, policy, Failing(lambda text: 0.5, scores_steps=True))
    made = plan(tmp_path, 3, "problems_in_flight=1")
    stages = []

    with pytest.raises(ReplicaError, match="it is gone"):
        await judge_all(made, stages)
    num_samples = len(policy.requests)
    assert await judge_all(made, stages) == {}
    assert len(policy.requests) == num_samples == 3 * 2
    first, second, third = (example.problem.id for example in made.dataset.examples)
    assert asked == [first, second, *(second, third), *(first, second, third)]  # the prm twice, then the oracle
    assert [stage for stage in stages if stage[1]] == [
        ("sampling", 3),
        ("judging with prm", 3),
        ("judging with prm", 2),
        ("judging with oracle", 3),
    ]
    stages.clear()
    assert await judge_all(made, stages) == {} and not stages, "nothing is started where nothing is left"
    assert "Verifiers on 3 problems, 2 solutions each" in table(made).title


async def test_solutions_that_can_not_be_graded_count_in_no_share(tmp_path, monkeypatch):
    made = plan(tmp_path, 3)
    first = made.dataset.examples[0].problem.id

    class Grader:
        async def grade(self, problem, answers):
            undecided = problem.id == first
            return [Comparison(equal=None if undecided else True, reason="too hard" * undecided) for _ in answers]

    policy = ScriptedPolicy({"now?": ["Answer: 1", "Answer: 2"]})
    without_engines(monkeypatch, policy, TextVerifier(lambda text: 0.5, scores_steps=True))
    monkeypatch.setattr(judging, "grader_of", lambda *_: Grader())
    told: list[dict[str, str | None]] = []
    assert await judge_all(made, [], told) == {}
    assert [seen["undecided"] for seen in told] == ["too hard"] * 2 + [""] * 4
    assert {(seen["answer"], seen["status"], seen["text"]) for seen in told} == {
        (answer, "finished", f"Answer: {answer}") for answer in "12"
    }
    judged, _ = read_judgements(made.folder / "prm")
    assert judged[judged.problem_id == first].correct.isna().all()
    assert "a random choice is right in 100.0%" in table(made).title
