import pytest

from strategies.voting import leading_share, majority_vote


def test_the_most_frequent_answer_wins() -> None:
    assert majority_vote(["7", "3", "3", "5"]) == "3"


def test_the_answer_seen_first_wins_a_tie() -> None:
    assert majority_vote(["b", "a", "a", "b"]) == "b"
    assert majority_vote(["a", "b", "b", "a"]) == "a"


def test_a_missing_answer_never_wins_while_there_is_another() -> None:
    assert majority_vote([None, None, None, "9"]) == "9"
    assert majority_vote([None, None, "9"], weights=[5.0, 5.0, 0.0]) == "9"


def test_only_missing_answers_or_no_votes_give_none() -> None:
    assert majority_vote([None, None]) is None
    assert majority_vote([]) is None


def test_weights_can_outvote_a_majority() -> None:
    assert majority_vote(["1", "1", "2"], weights=[0.2, 0.2, 0.5]) == "2"


def test_equal_weight_sums_tie_in_whatever_order_they_were_added() -> None:
    # 0.1 + 0.2 + 0.3 differs from 0.3 + 0.2 + 0.1 in floating point
    weights = [0.1, 0.3, 0.2, 0.2, 0.3, 0.1]
    assert majority_vote(["x", "y", "x", "y", "x", "y"], weights=weights) == "x"
    assert majority_vote(["y", "x", "y", "x", "y", "x"], weights=weights) == "y"


def test_a_wrong_number_of_weights_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"one weight per answer \(2\), got 1"):
        majority_vote(["a", "b"], weights=[1.0])


def test_the_leading_share_is_that_of_the_votes_weight() -> None:
    assert leading_share(["1", "2", None, "1"], weights=[0.5, 1.0, 9.0, 1.0]) == 0.6
    assert leading_share([None, None], weights=[1.0, 1.0]) == 0.0
