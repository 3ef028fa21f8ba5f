import pytest

from orchestrator.core.config import VerifierConfig
from orchestrator.core.errors import UserError
from orchestrator.core.nouns import Comparison, Problem, Score
from orchestrator.core.protocols import Solution
from orchestrator.verifier.check import check_verifier
from orchestrator.verifier.resolve import resolve
from verifiers import VERIFIERS, rules
from verifiers.contract import Answer, HostSettings, Read, Run, Unreadable
from verifiers.equivalence import Equivalence
from verifiers.rules import (
    ExactMatchHost,
    MathEquivalenceHost,
    Part,
    ReferenceOptions,
    RegexHost,
    RegexOptions,
    RuleHost,
)

RULES = ("exact_match", "math_equivalence", "regex", "unit_tests")


def settings(options: object) -> HostSettings:
    return HostSettings(name="rule", model="", options=options)


def runs(*texts: str, **metadata: object) -> list[Run]:
    """Whole solutions of one problem, in two steps each."""
    problem = Problem.from_prompt("p", "?", metadata=metadata)
    solutions = [Solution(problem=problem, steps=("So.\n\n", text), asked=(1,), ended=True) for text in texts]
    return [Run(key=f"{i}", token_ids=(1, 2), boundaries=(2,), solution=s) for i, s in enumerate(solutions)]


def means(answers: list[Answer]) -> list[float]:
    assert all(isinstance(answer, Read) for answer in answers), answers
    return [answer.scores[0].mean for answer in answers if isinstance(answer, Read)]


def reason(answer: Answer) -> str:
    assert isinstance(answer, Unreadable), answer
    return answer.reason


def test_exact_match_compares_normalised_strings_and_no_answer_is_wrong():
    host = ExactMatchHost.load(settings(ReferenceOptions()))
    texts = ("Answer: 1,200.", r"\boxed{1200.0}", "Answer: 12", "Some 1200", "")
    assert means(host.read(runs(*texts, answer="#### 1200"))) == [1.0, 1.0, 0.0, 0.0, 0.0]
    assert means(host.read(runs("Answer: 12", answer=12))) == [1.0]


def test_math_equivalence_compares_the_answer_and_the_reference_as_the_grader_does(monkeypatch):
    asked = []
    monkeypatch.setattr(
        Equivalence, "compare", lambda self, *pair: asked.append(pair) or [Comparison(equal=pair[1] == ["0.5"])]
    )
    host = MathEquivalenceHost.load(settings(ReferenceOptions(field="truth")))
    texts = (r"\boxed{\frac{2}{4}}", "Answer: 0.5", "one half")
    assert means(host.read(runs(*texts, truth=r"So \boxed{\frac{1}{2}}."))) == [0.0, 1.0, 0.0]
    assert asked == [(r"\frac{1}{2}", [answer]) for answer in (r"\frac{2}{4}", "0.5", None)]


def test_a_comparison_without_a_verdict_says_nothing_about_the_solution(monkeypatch):
    undecided = Comparison(equal=None, reason="it took too long")
    monkeypatch.setattr(Equivalence, "compare", lambda self, reference, answers: [undecided])
    [answer] = MathEquivalenceHost.load(settings(ReferenceOptions())).read(runs("Answer: 2", answer="1"))
    assert "it took too long" in reason(answer)


@pytest.mark.parametrize(
    ("options", "text", "mean"),
    [
        (RegexOptions(pattern=r"\d+ apples"), "He has 12 apples.", 1.0),
        (RegexOptions(pattern=r"\d+ apples"), "He has apples.", 0.0),
        (RegexOptions(pattern=r"\d+ apples", whole=True), "He has 12 apples.", 0.0),
        (RegexOptions(pattern=r"(?s)So.*apples\.", whole=True), "He has 12 apples.", 1.0),
        (RegexOptions(pattern=r"\d+", part=Part.answer, whole=True), "12 or so. Answer: 13", 1.0),
        (RegexOptions(pattern=r"\d+", part=Part.answer, whole=True), "Answer: 13 or so", 0.0),
        (RegexOptions(pattern=r".*", part=Part.answer), "no answer", 0.0),
    ],
)
def test_regex_looks_at_the_text_or_at_the_answer(options: RegexOptions, text: str, mean: float):
    assert means(RegexHost.load(settings(options)).read(runs(text))) == [mean]


def test_a_match_that_takes_forever_says_nothing_about_the_solution(monkeypatch):
    monkeypatch.setattr(rules, "_MATCH_TIMEOUT_S", 0.1)
    host = RegexHost.load(settings(RegexOptions(pattern=r"(a|aa)+$")))
    answers = host.read(runs("a" * 60 + "!", "aa"))
    assert "did not end within 0.1 s" in reason(answers[0])
    assert means(answers[1:]) == [1.0]


@pytest.mark.parametrize("host", [ExactMatchHost, MathEquivalenceHost])
def test_a_problem_without_the_field_is_unreadable_and_never_wrong(host: type[RuleHost]):
    [answer] = host.load(settings(ReferenceOptions())).read(runs("Answer: 1", level=3))
    assert reason(answer) == (
        "rule: the problem 'p' has no metadata field 'answer', it has level;"
        " data.metadata_fields: [answer] takes it from the data set"
    )
    [answer] = host.load(settings(ReferenceOptions())).read(runs("Answer: 1", answer=[1]))
    assert "must be text or a number, got list" in reason(answer)


def test_a_rule_costs_no_tokens_and_keeps_no_state():
    host = ExactMatchHost.load(settings(ReferenceOptions()))
    [run] = runs("Answer: 1", answer="1")
    [first] = host.read([run])
    assert first == Read(scores=(Score(mean=1.0),), tokens_read=0, flops=0.0)
    again = Run(key="b", token_ids=(), boundaries=(2,), parent="gone", parent_tokens=9, solution=run.solution)
    assert host.read([again, Run(key="c", token_ids=(1,))]) == [first, Read(scores=(), tokens_read=0, flops=0.0)]
    assert host.export(["0", "x"]) == [None, None]


@pytest.mark.parametrize("name", RULES)
def test_rules_judge_whole_solutions_as_text_and_need_no_checkpoint(name: str):
    entry = VERIFIERS[name]
    assert (entry.scores_steps, entry.reads_text, entry.architectures) == (False, True, ())
    check_verifier(resolve(VerifierConfig(name=name, options={"pattern": "x"} if name == "regex" else {})))


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("regex", {"pattern": "(a"}, r"pattern must be a regular expression, got '\(a': missing \)"),
        ("regex", {}, "pattern"),
        ("regex", {"pattern": "a", "part": "steps"}, "part"),
        ("exact_match", {"fields": "x"}, "options of exact_match: answer, field"),
        ("unit_tests", {"limits": {"cpu_s": 0}}, "sandbox: cpu_s must be >= 1, got 0"),
        ("unit_tests", {"limits": {"cpus": 1}}, "limits.cpus"),
    ],
)
def test_bad_options_are_the_users_error_before_anything_is_loaded(name: str, options: dict, message: str):
    with pytest.raises(UserError, match=message):
        resolve(VerifierConfig(name=name, options=options))


def test_options_come_from_yaml():
    config = VerifierConfig(name="unit_tests", options={"partial": True, "limits": {"wall_s": 3}})
    options = resolve(config).options
    assert (options.partial, options.limits.wall_s, options.limits.cpu_s, options.field) == (True, 3.0, 5, "tests")
    assert resolve(VerifierConfig(name="regex", options={"pattern": "a", "part": "answer"})).options.part is Part.answer
