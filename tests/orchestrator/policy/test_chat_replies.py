"""Facts about what is read from the replies of chat APIs."""

from collections.abc import Sequence
from types import SimpleNamespace as Told
from typing import Any

import pytest

from orchestrator.core.protocols import Finish
from orchestrator.policy.chat_replies import apportioned, read_reply


def reply(
    *choices: tuple[str, str, str], sampled: int, thinking: int | None = None, told: Sequence[int] | None = None
) -> Any:
    """Each choice: its text, its thoughts, why it ended. `told`: of how many tokens each has log-probabilities."""
    details = None if thinking is None else Told(reasoning_tokens=thinking)
    return Told(
        usage=Told(prompt_tokens=7, completion_tokens=sampled, completion_tokens_details=details),
        choices=[
            Told(
                message=Told(content=text, model_extra={"reasoning": thoughts}),
                finish_reason=finish,
                logprobs=None if told is None else Told(content=[Told(logprob=-1.0)] * told[index]),
            )
            for index, (text, thoughts, finish) in enumerate(choices)
        ],
    )


@pytest.mark.parametrize(
    ("total", "weights", "shares"),
    [(10, [1, 1], [5, 5]), (10, [1, 1, 1], [4, 3, 3]), (7, [0, 3], [0, 7]), (5, [0, 0], [3, 2]), (1, [1, 5], [0, 1])],
)
def test_shares_are_whole_and_add_up(total: int, weights: list[int], shares: list[int]) -> None:
    assert apportioned(total, weights) == shares


def test_one_choice_has_all_the_tokens() -> None:
    read = read_reply(reply(("yes", "", "stop"), sampled=9), max_tokens=50)
    [choice] = read.choices
    assert (read.prompt_tokens, choice.tokens, choice.thinking_tokens, choice.finish) == (7, 9, 0, Finish.EOS)
    [cut] = read_reply(reply(("yes", "", "length"), sampled=9), max_tokens=50).choices
    assert (cut.tokens, cut.finish) == (9, Finish.LENGTH)


def test_what_was_cut_off_has_all_its_tokens_and_the_others_share_the_rest_by_length() -> None:
    made = reply(("a" * 9, "", "stop"), ("b" * 19, "", "stop"), ("c", "", "length"), sampled=80)
    assert [choice.tokens for choice in read_reply(made, max_tokens=50).choices] == [10, 20, 50]


@pytest.mark.parametrize(
    ("told", "sampled", "tokens"),
    [
        ([30, 10, 50], 90, [30, 10, 50]),
        ([29, 9, 50], 90, [30, 10, 50]),  # without the token that ends a reply
        ([5, 5, 5], 90, [10, 30, 50]),  # of something else: the lengths count
    ],
)
def test_log_probabilities_say_how_many_tokens_each_choice_has(
    told: list[int], sampled: int, tokens: list[int]
) -> None:
    made = reply(("a" * 9, "", "stop"), ("b" * 29, "", "stop"), ("c", "", "length"), sampled=sampled, told=told)
    assert [choice.tokens for choice in read_reply(made, max_tokens=50).choices] == tokens


def test_thinking_is_shared_by_what_is_shown_of_it_or_else_by_the_tokens() -> None:
    shown = read_reply(
        reply(("a" * 10, "b" * 30, "stop"), ("c" * 40, "", "stop"), sampled=80, thinking=20), max_tokens=90
    )
    assert [choice.thinking_tokens for choice in shown.choices] == [20, 0]
    hidden = read_reply(reply(("a" * 9, "", "stop"), ("b" * 29, "", "stop"), sampled=40, thinking=20), max_tokens=90)
    assert [(choice.tokens, choice.thinking_tokens) for choice in hidden.choices] == [(10, 5), (30, 15)]


@pytest.mark.parametrize("made", [Told(), reply(sampled=3), Told(usage=None, choices=[])])
def test_what_is_no_completion_can_not_be_read(made: Any) -> None:
    with pytest.raises((AttributeError, TypeError, ValueError)):
        read_reply(made, max_tokens=5)
