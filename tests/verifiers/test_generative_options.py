"""Facts about the options of verifiers that write, and about the average of their chains."""

import pytest

from verifiers.generative import GenerativePRM
from verifiers.generative_options import averaged
from verifiers.generative_orm import GenerativeORM
from verifiers.llm_judge import LLMJudge


def test_a_score_is_the_share_of_chains_with_the_spread_of_a_beta_posterior() -> None:
    assert averaged([1.0, 1.0, 0.0, 1.0]).mean == 0.75
    assert averaged([1.0, 1.0, 0.0, 1.0]).std == pytest.approx((4 * 2 / (6**2 * 7)) ** 0.5)  # Beta(4, 2)
    assert averaged([0.3]).mean == 0.3
    assert averaged([0.3]).std == pytest.approx((1.3 * 1.7 / (3**2 * 4)) ** 0.5)


def test_more_chains_that_agree_are_more_certain_and_never_quite() -> None:
    spreads = [averaged([1.0] * chains).std for chains in (1, 4, 16)]
    assert spreads == sorted(spreads, reverse=True) and spreads[-1] > 0


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"chains": 0}, "chains must be >= 1, got 0"),
        ({"max_tokens": 0}, "max_tokens must be >= 1, got 0"),
        ({"temperature": -1.0}, "temperature must be >= 0, got -1"),
        ({"chains": 2, "temperature": 0.0}, "2 chains at temperature 0 would be the same one"),
        ({"timeout_s": 0.0}, "timeout_s must be > 0, got 0"),
        ({"template": "{problem}"}, r"template must hold \{solution\}"),
        ({"url": "localhost:8000"}, "url must begin with http"),
        ({"url": "http://h/v1", "engine": {"dtype": "float32"}}, "engine is not for a server, got dtype"),
        ({"url": "http://h/v1", "flops_per_token": 0.0}, "flops_per_token must be > 0"),
        (
            {"api_key_env": "KEY", "flops_per_token": 1.0},
            "api_key_env and flops_per_token only mean something with a url",
        ),
    ],
)
def test_options_that_make_no_sense_are_refused(options: dict[str, object], reason: str) -> None:
    for judge in (GenerativePRM, GenerativeORM, LLMJudge):
        with pytest.raises(ValueError, match=reason):
            judge(**options)
