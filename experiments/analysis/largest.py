"""The largest set of independent samples in a run: what curves are drawn of, and what a replay draws from."""

import pandas as pd

SAMPLED_STRATEGIES = ("best_of_n", "self_consistency")  # their candidates are independent samples


def largest_sample(problems: pd.DataFrame) -> tuple[str, str] | None:
    """(strategy, params) of the rows with the most samples per problem, judged ones first; None without such rows."""
    sampled = problems[
        (problems["status"] == "ok") & problems["strategy"].isin(SAMPLED_STRATEGIES) & (problems["num_candidates"] > 0)
    ]
    if sampled.empty:
        return None
    by_strategy = sampled.groupby(["strategy", "params"], sort=False)
    sizes = by_strategy.agg(n=("num_candidates", "max"), tokens=("verifier_tokens", "sum"))
    sizes["judged"] = sizes["tokens"] > 0
    strategy, params = sizes.sort_values(["n", "judged"], ascending=False, kind="stable").index[0]
    return str(strategy), str(params)
