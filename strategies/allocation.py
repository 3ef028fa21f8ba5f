"""What one more sample is worth: the marginal gain that adaptive strategies allocate by. Pure.

No parameter is fitted. In `k` samples so far, the next one is as likely as each of them to be the best of all `k + 1`
(they are exchangeable), so it is a new best with chance 1 / (k + 1); it brings another answer than the best one's with
the chance that a Chinese restaurant process of concentration 1 gives, samples counting as much as the verifier believes
in them; and, with scores above the best uniform up to 1, it then raises the belief in the choice by half of what is
left.
"""

import math
from collections.abc import Sequence

from orchestrator.core.nouns import Candidate
from strategies.selection import best_scored


def marginal_gain(candidates: Sequence[Candidate], groups: Sequence[int | None]) -> float:
    """Expected rise of the chosen answer's score by one more sample, in [0, 1/2]. `groups` has equal numbers for
    candidates with equal answers.

    It falls with the number of samples, with the best score and with the agreement on its answer: a best score near 1,
    or believed samples that all say the same, mean that more of them will hardly change the answer. A candidate
    without an answer or a score counts as a sample that nobody believes in.
    """
    best = best_scored(candidates)
    room = 1 - (0.0 if best is None else _belief(candidates[best]))
    return _chance_of_new_best(len(candidates)) * _chance_of_another_answer(candidates, groups, best) * room / 2


def _chance_of_new_best(num_samples: int) -> float:
    return 1 / (num_samples + 1)


def _chance_of_another_answer(candidates: Sequence[Candidate], groups: Sequence[int | None], best: int | None) -> float:
    if best is None:
        return 1.0
    agreeing = math.fsum(_belief(c) for c, group in zip(candidates, groups, strict=True) if group == groups[best])
    return 1 - agreeing / (math.fsum(_belief(c) for c in candidates) + 1)


def _belief(candidate: Candidate) -> float:
    if candidate.trajectory.answer is None or candidate.aggregate_score is None:
        return 0.0
    return candidate.aggregate_score
