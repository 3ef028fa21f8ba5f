"""Facts about the verifier that has no model."""

from experiments.bench.control_plane.verifier import NullHost, Reading
from verifiers.contract import Missing, Read, Run

TOKENS = tuple(range(3, 40))
HOST = NullHost("null", Reading(call_s=0.0, token_s=0.0))


def scores_of(answer):
    assert isinstance(answer, Read)
    return [score.mean for score in answer.scores]


def test_scores_are_the_same_at_once_in_runs_and_from_a_state_that_moved():
    [whole] = HOST.read([Run(key="whole", token_ids=TOKENS, boundaries=(10, 37))])
    [first, second] = HOST.read(
        [
            Run(key="a", token_ids=TOKENS[:10], boundaries=(10,)),
            Run(key="b", token_ids=TOKENS[10:], boundaries=(27,), parent="a", parent_tokens=10),
        ]
    )
    assert scores_of(first) + scores_of(second) == scores_of(whole)
    other = NullHost("null", Reading(call_s=0.0, token_s=0.0))
    other.import_(["moved"], HOST.export(["a"]))
    [third] = other.read([Run(key="c", token_ids=TOKENS[10:], boundaries=(27,), parent="moved", parent_tokens=10)])
    assert scores_of(third) == scores_of(whole)[1:]
    assert 0 < scores_of(whole)[0] < 1 and len(set(scores_of(whole))) == 2


def test_a_state_that_is_not_held_is_missing():
    HOST.read([Run(key="kept", token_ids=TOKENS)])
    [answer] = HOST.read([Run(key="x", token_ids=TOKENS, parent="kept", keep_parent=False)])
    assert isinstance(answer, Read)
    [gone, unknown] = HOST.read([Run(key="y", token_ids=TOKENS, parent=parent) for parent in ("kept", "never")])
    assert isinstance(gone, Missing) and isinstance(unknown, Missing)
    HOST.release(["x", "never"])
    assert HOST.export(["x", "never"]) == [None, None]
