"""Model size against samples at equal FLOPs (Snell et al., arXiv 2408.03314, section 7). Pure.

A model of M times the parameters costs M times the FLOPs of pretraining (6 N D_pretrain) and of inference
(2 N D_inference). A small model that is given the same total may spend M + 3 (M - 1) / R times its own inference, where
R = D_inference / D_pretrain is how many tokens it will ever write for each that it was trained on: little is written in
training runs of its successors (R << 1), much behind an endpoint (R >> 1).
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from experiments.analysis.paired import PairedComparison, compare_paired

_ROUNDING = 1e-9


@dataclass(frozen=True, slots=True, kw_only=True)
class Exchange:
    """The small model with k samples against the large one, at equal FLOPs per problem, pretraining included.

    `comparison`: small (ours) - large (theirs), over problems and seeds. `spent` <= `budget`, both FLOPs of the small
    model's inference per problem; `saturated`: more samples were within the budget than were measured, so the small
    model may be better than shown.
    """

    budget: float
    spent: float
    k: int
    saturated: bool
    comparison: PairedComparison


def inference_multiple(size_ratio: float, inference_to_pretraining: float) -> float:
    """How many times its own inference a small model may spend for the total of one that is `size_ratio` (M) times
    larger: M + 3 (M - 1) / R. `inference_to_pretraining` (R) may be infinite: both models are there already, and only
    inference counts. Raises ValueError for M < 1 or R <= 0."""
    if not size_ratio >= 1 or not inference_to_pretraining > 0:
        raise ValueError(
            "exchange: wanted a size ratio >= 1 and inference_to_pretraining > 0, "
            f"got {size_ratio} and {inference_to_pretraining}"
        )
    return size_ratio + 3 * (size_ratio - 1) / inference_to_pretraining


def exchange(
    small: Mapping[int, Mapping[str, float]],
    small_flops: Mapping[int, float],
    large: Mapping[str, float],
    large_flops: float,
    *,
    size_ratio: float,
    inference_to_pretraining: float = math.inf,
) -> Exchange:
    """The most samples of the small model that cost no more than the large one, and the paired difference there.

    `small`: k -> problem -> accuracy in 0..1; `small_flops`: k -> FLOPs of inference per problem, policy and verifier
    together; likewise `large`, as it ran. The pretraining that the small model saves, per problem, is 3 (M - 1) / R of
    its FLOPs at the smallest k. No k between the measured ones is made up. Raises ValueError where not even the
    smallest is within the budget, or the two have no problem in common.
    """
    if not small or small.keys() != small_flops.keys():
        raise ValueError(
            f"exchange: wanted FLOPs for each measured k, got k {list(small)} and FLOPs of {list(small_flops)}"
        )
    saved = inference_multiple(size_ratio, inference_to_pretraining) - size_ratio
    budget = large_flops + saved * small_flops[min(small)]
    within = [k for k in small if small_flops[k] <= budget * (1 + _ROUNDING)]
    if not within:
        raise ValueError(
            f"exchange: wanted a k of the small model within {budget:.3g} FLOPs per problem, "
            f"got {small_flops[min(small)]:.3g} at k = {min(small)}"
        )
    k = max(within)
    return Exchange(
        budget=budget,
        spent=small_flops[k],
        k=k,
        saturated=k == max(small) and small_flops[k] * (k + 1) / k <= budget,
        comparison=compare_paired(small[k], large),
    )
