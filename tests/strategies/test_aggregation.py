import pytest

from strategies.aggregation import Aggregation, aggregate


@pytest.mark.parametrize(("how", "wanted"), [("last", 0.8), ("min", 0.5), ("prod", 0.36), ("mean", 2.2 / 3)])
def test_each_aggregation_has_its_known_value(how: str, wanted: float) -> None:
    assert aggregate([0.9, 0.5, 0.8], Aggregation(how)) == pytest.approx(wanted)


@pytest.mark.parametrize("how", list(Aggregation))
def test_no_scores_give_none_and_never_zero(how: Aggregation) -> None:
    assert aggregate([], how) is None


def test_member_names_are_the_names_in_yaml() -> None:
    assert [how.name for how in Aggregation] == ["last", "min", "prod", "mean"]
    assert [how.value for how in Aggregation] == ["last", "min", "prod", "mean"]
