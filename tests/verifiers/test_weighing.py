"""Facts about what a written verdict counts."""

from math import log

import pytest

from orchestrator.core.alternatives import Alternatives, may_hold
from orchestrator.core.nouns import Problem
from orchestrator.core.protocols import Solution
from verifiers.generative import GenerativePRM
from verifiers.generative_options import GenerativeOptions
from verifiers.generative_orm import GenerativeORM
from verifiers.llm_judge import LLMJudge
from verifiers.weighing import Abstention, ByProbability, ScoreBy, as_written


def weigh(words: str, *tokens: tuple[str, dict[str, float]]) -> ByProbability:
    """Of a chain that consists of these tokens."""
    alternatives, at = [], 0
    for text, shares in tokens:
        logprobs = tuple((other, log(share)) for other, share in shares.items())
        alternatives.append(Alternatives(at=at, text=text, logprobs=logprobs))
        at += len(text)
    return ByProbability(alternatives=alternatives, words=words.split())


def test_as_written_a_verdict_has_all_the_weight() -> None:
    assert as_written("No", 3) == {"No": 1.0}


def test_weights_are_shares_of_what_the_likeliest_tokens_leave_to_verdicts() -> None:
    told = weigh("Yes No", ("? ", {}), ("Yes", {"Yes": 0.6, "No": 0.2, "Maybe": 0.2}))
    assert told("Yes", 2) == pytest.approx({"Yes": 0.75, "No": 0.25})


def test_a_token_may_begin_before_the_verdict_and_end_within_or_after_it() -> None:
    told = weigh("correct incorrect", ("{in", {"{in": 0.5, "{cor": 0.25, "{correct}": 0.25, "in": 0.5, "{": 0.9}))
    assert told("incorrect", 1) == pytest.approx({"incorrect": 0.5, "correct": 0.5})


def test_a_longer_word_is_no_verdict() -> None:
    assert weigh("Yes No", (" No", {" No": 0.5, " Not": 0.4, " Nothing": 0.1}))("No", 1) == {"No": 1.0}
    assert weigh("1 2", ("1", {"1": 0.3, "10": 0.6, "2": 0.1}))("1", 0) == pytest.approx({"1": 0.75, "2": 0.25})


def test_without_the_probabilities_of_a_verdict_a_chain_abstains() -> None:
    with pytest.raises(Abstention, match="told no log-probabilities of the verdict 'Yes'"):
        weigh("Yes No", ("Yes", {"Yes": 1.0}))("Yes", 3)
    with pytest.raises(Abstention, match="no verdict begins with one of the likeliest"):
        weigh("Yes No", ("Yes", {"Perhaps": 1.0}))("Yes", 0)


@pytest.mark.parametrize(
    ("text", "wanted"), [("{in", True), (" Y", True), ("correct}", True), ("**", False), ("step", False), ("", False)]
)
def test_tokens_in_which_a_word_may_begin_are_told_from_others(text: str, wanted: bool) -> None:
    assert may_hold(text, ("correct", "incorrect", "Yes")) == wanted


SOLUTION = Solution(problem=Problem.from_prompt("p", "1 + 1?"), steps=("One.\n\n", "Two.\n\n", "3."), asked=(0, 1, 2))


def values(judge: GenerativeOptions, chain: str, shares: dict[str, float], asked: tuple[int, ...]) -> tuple[float, ...]:
    """Of a chain at each of whose characters these tokens were likeliest."""
    logprobs = tuple((text, log(share)) for text, share in shares.items())
    told = [Alternatives(at=at, text=text, logprobs=logprobs) for at, text in enumerate(chain)]
    solution = Solution(problem=SOLUTION.problem, steps=SOLUTION.steps, asked=asked, ended=True)
    question = judge.questions(solution)[-1]
    return judge.values(question, chain, ByProbability(alternatives=told, words=judge.words))


def test_p_yes_is_the_value_of_a_verdict_on_a_solution_whatever_was_written() -> None:
    judge = GenerativeORM(score=ScoreBy.PROBABILITY)
    for word in ("Yes", "No"):
        chain = f"Verification: Is the answer correct (Yes/No)? {word}"
        assert values(judge, chain, {"Y": 0.9, "N": 0.1}, (2,)) == pytest.approx((0.9,))


def test_the_value_of_a_rating_is_the_expected_one() -> None:
    judge = LLMJudge(score=ScoreBy.PROBABILITY)
    got = values(judge, "Fine.\nRating: \\boxed{9}", {"9": 0.5, "6": 0.3, "0": 0.1, "x": 0.1}, (2,))
    assert got == pytest.approx(((0.5 * 9 + 0.3 * 6) / 0.9 / 9,))


def test_ratings_that_are_weighed_are_asked_for_up_to_nine_and_others_up_to_ten() -> None:
    weighed, plain = LLMJudge(score=ScoreBy.PROBABILITY), LLMJudge()
    assert "to 9 (all steps" in weighed.questions(SOLUTION)[0].prompt
    assert "to 10 (all steps" in plain.questions(SOLUTION)[0].prompt
    with pytest.raises(Abstention, match="got a rating of 10, wanted 0 to 9"):
        values(weighed, "Rating: \\boxed{10}", {"1": 1.0}, (2,))


def test_steps_are_right_by_the_product_of_their_weights_and_after_a_written_fault_by_its_value() -> None:
    judge, shares = GenerativePRM(score=ScoreBy.PROBABILITY), {"c": 0.8, "i": 0.2}
    right = [f"Step {number}: It holds, \\boxed{{correct}}\n" for number in (1, 2, 3)]
    assert values(judge, "".join(right), shares, (0, 1, 2)) == pytest.approx((0.8, 0.64, 0.512))
    fault = right[0] + right[1].replace("correct", "incorrect")
    assert values(judge, fault, shares, (0, 1, 2)) == pytest.approx((0.8, 0.64, 0.64))


def test_a_verdict_in_thinking_and_one_after_it_are_found_where_they_stand() -> None:
    judge = GenerativePRM(score=ScoreBy.PROBABILITY)
    for chain in ("<think>hm</think>Step 1: \\boxed{correct}", "<think>\nStep 1: \\boxed{correct}</think>Done."):
        at = chain.index("correct")
        logprobs = (("correct", log(0.3)), ("incorrect", log(0.1)))
        told = ByProbability(alternatives=[Alternatives(at=at, text="correct", logprobs=logprobs)], words=judge.words)
        solution = Solution(problem=SOLUTION.problem, steps=("One.",), asked=(0,))
        assert judge.values(judge.questions(solution)[0], chain, told) == pytest.approx((0.75,))


class Essay(LLMJudge):
    words = ()


def test_a_judge_whose_verdicts_are_no_words_has_no_probabilities() -> None:
    with pytest.raises(ValueError, match="score: wanted verdict"):
        Essay(score=ScoreBy.PROBABILITY)
