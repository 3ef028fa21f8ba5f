"""Says when a strategy that searches by steps had none to choose between: then it was best-of-n under another name."""

import pandas as pd

from strategies import STRATEGIES

_WARNED = 0.9  # share of candidates that are one step
_ENOUGH = 8  # candidates, before the share says anything


def single_step_notes(candidates: pd.DataFrame) -> list[str]:
    """A warning for each strategy by steps, nearly all of whose candidates are a single step."""
    notes = []
    for (name, label), rows in candidates.groupby(["strategy", "label"], sort=False):
        by_steps = name in STRATEGIES and STRATEGIES[name].needs_step_scores
        single = int((rows["step_token_counts"].map(len) <= 1).sum())
        if by_steps and len(rows) >= _ENOUGH and single > _WARNED * len(rows):
            notes.append(
                f"warning: {label}: {single:,} of {len(rows):,} candidates are a single step, so it chose between whole"
                " solutions: set steps.delimiters to what the policy writes between steps (a special token never"
                " shows in a text), or steps.every_tokens"
            )
    return notes
