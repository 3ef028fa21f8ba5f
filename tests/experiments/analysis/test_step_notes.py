import pandas as pd

from experiments.analysis.step_notes import single_step_notes


def rows(strategy, *counts):
    return pd.DataFrame({"strategy": strategy, "label": f"{strategy} n=4", "step_token_counts": counts})


def test_a_search_by_steps_whose_candidates_are_single_steps_is_said():
    (note,) = single_step_notes(rows("beam_search", *[[40]] * 8))
    assert note.startswith("warning: beam_search n=4: 8 of 8 candidates are a single step") and "delimiters" in note


def test_nothing_is_said_where_there_are_steps_or_where_none_are_wanted_or_of_few_candidates():
    assert not single_step_notes(rows("beam_search", *[[40]] * 7, [20, 20]))
    assert not single_step_notes(rows("best_of_n", *[[40]] * 8))
    assert not single_step_notes(rows("beam_search", *[[40]] * 3))
