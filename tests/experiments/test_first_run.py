"""A first run on somebody's GSM8K file, with a policy that writes in every format: the report says the truth."""

import asyncio
import io
import itertools
import json
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path

import pytest
from rich.console import Console

from experiments.analysis.answer_shares import Watch
from experiments.analysis.report import report
from experiments.running import models
from experiments.running import run as running
from experiments.running.run import execute, open_results, plan_run
from orchestrator.results import CandidateRow, read_results
from tests.fakes import ScriptedPolicy

GSM8K = Path(__file__).parents[3] / "shared" / "data" / "gsm8k_train.jsonl"
FORMATS = (
    "She has 3 and gets 4.\n#### @",
    "**Answer: @**",
    "**Answer:** @",
    "ANSWER: @",
    "Answer = @",
    "# Answer\n\n@",
    "Answer:\n@",
    "3 + 4, so\n\n**Answer: \\$@ per day.**",
    "Answer: @ dollars",
    "The final answer is: $@$",
    "The answer is @.",
    "So \\[ \\boxed{@} \\]",
    "So \\boxed{@}\n\nAnswer: see above",
    "\\boxed{\\boldsymbol{@}}",
    "<think>It could be \\boxed{3}.</think>The result is \\boxed{@}.",
    "答案：@",
    "<b>Answer:</b>\u00a0@<br>\r\n",
)


class Solver(ScriptedPolicy):
    """Answers each problem as it is told to."""

    async def stats(self) -> list[dict[str, int]]:
        return [{"generated_tokens": 0, "preemptions": 0}]


def problems(count: int) -> list[tuple[str, str]]:
    """Questions with their answers: published ones where they are at hand."""
    if not GSM8K.exists():
        return [(f"{n} eggs and {n} more?", f"{n} + {n} = {2 * n}.\n#### {2 * n}") for n in range(1, count + 1)]
    with GSM8K.open(encoding="utf-8") as file:
        records = [json.loads(line) for line in itertools.islice(file, count)]
    return [(record["question"], record["answer"]) for record in records]


def run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, texts: Sequence[str], *overrides: str
) -> tuple[str, list[str]]:
    """The report of greedy decoding by a policy that writes these texts, and the warnings on the way."""
    made = problems(len(texts))
    (tmp_path / "gsm8k.jsonl").write_text("".join(json.dumps({"question": q, "answer": a}) + "\n" for q, a in made))
    config = tmp_path / "run.yaml"
    config.write_text(
        f"name: x\nresults_dir: {tmp_path}\ndata: {{name: gsm8k, path: {tmp_path / 'gsm8k.jsonl'}}}\n"
        "policy: {model: experiments/tinymath/models/policy}\nstrategies: [{name: greedy}]\n"
    )
    policy = Solver({question: [text] for (question, _), text in zip(made, texts, strict=True)})

    monkeypatch.setattr(running, "connected", lambda *_: nullcontext())
    monkeypatch.setattr(models, "open_policy", lambda *_: nullcontext(policy))
    plan, watch, warnings = plan_run(config, list(overrides)), Watch(), []

    def on_row(row: object, candidates: Sequence[CandidateRow]) -> None:
        for candidate in candidates:
            seen = {name: getattr(candidate, name) for name in ("answer", "status", "undecided", "text")}
            warnings.extend(watch.warnings(**seen))

    with open_results(plan, resume=False, overwrite=True) as results:
        asyncio.run(
            execute(
                plan,
                results,
                on_stage=lambda stage: None,
                on_row=on_row,
                on_note=lambda note: None,
            )
        )
    console = Console(width=200, file=io.StringIO())
    report(tmp_path / "x", console)
    return (tmp_path / "x" / "report.md").read_text(), warnings


def references(count: int) -> list[str]:
    return [answer.rsplit("#### ", 1)[1] for _, answer in problems(count)]


def test_the_accuracy_is_the_share_of_right_answers_in_whatever_format(tmp_path, monkeypatch):
    count = 4 * len(FORMATS)
    right = [index // len(FORMATS) != 1 for index in range(count)]  # each format is wrong once in four
    answers = [r if good else r + "1" for r, good in zip(references(count), right, strict=True)]
    texts = [FORMATS[index % len(FORMATS)].replace("@", answer) for index, answer in enumerate(answers)]
    text, warnings = run(tmp_path, monkeypatch, texts)
    problems, _ = read_results(tmp_path / "x")
    wrong = problems[problems.correct != [right[int(id) - 1] for id in problems.problem_id]]
    assert wrong.empty, [
        (texts[int(id) - 1], answer) for id, answer in zip(wrong.problem_id, wrong.answer, strict=True)
    ]
    assert "| greedy | 75.0 [" in text
    assert "no answer" not in text and not warnings


def test_a_model_whose_answers_are_not_found_is_no_silent_zero(tmp_path, monkeypatch):
    texts = ["I would rather not say how many."] * 44 + ["#### 5"] * 6
    text, warnings = run(tmp_path, monkeypatch, texts)
    assert "no answer %" in text and "| 88.0 |" in text
    assert "warning: greedy: 88% of 50 candidates ended without an answer" in text and "set data.answer" in text
    assert len(warnings) == 1 and "«...I would rather not say how many.»" in warnings[0]


def test_the_harness_rules_for_gsm8k_can_be_asked_for(tmp_path, monkeypatch):
    [first, second] = references(2)
    text, _ = run(tmp_path, monkeypatch, [f"#### {first}", f"The answer is {second}."], "data.answer=gsm8k_strict")
    assert "| greedy | 50.0 [" in text


def test_a_delimiter_that_no_text_can_show_is_told_before_anything_starts(tmp_path):
    config = tmp_path / "run.yaml"
    config.write_text(
        "name: x\ndata: {name: tinymath, num_problems: 1}\npolicy: {model: experiments/tinymath/models/policy}\n"
        "strategies: [{name: greedy}]\nsteps: {delimiters: ['<eos>']}\n"
    )
    [warning] = plan_run(config, []).warnings
    assert warning == "steps.delimiters: '<eos>' holds a special token, which no decoded text shows: no step ends there"
    assert plan_run(config, ["steps.every_tokens=8"]).warnings == []


def test_no_value_of_a_row_shows_the_reference_answer(tmp_path, monkeypatch):
    reference = "98716253"
    monkeypatch.setattr(f"{__name__}.problems", lambda count: [("How many?", f"Many.\n#### {reference}")] * count)
    run(tmp_path, monkeypatch, ["Answer: 5"])
    for rows in read_results(tmp_path / "x"):
        assert len(rows) == 1 and reference not in rows.to_json()
