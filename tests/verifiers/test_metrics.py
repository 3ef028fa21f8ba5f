"""The metrics of step verifiers equal their definitions, on hand-counted cases."""

import numpy as np
import pytest

from verifiers.metrics import auroc, best_threshold, first_error_accuracy, processbench, processbench_f1, step_auroc

LABELS = [[1, 1, 1], [1, 0, 0], [0, 0], [1, 1], [1, 1, 0]]
SCORES = [
    [0.9, 0.8, 0.7],  # correct, nothing flagged
    [0.9, 0.2, 0.6],  # the first error is found
    [0.6, 0.3],  # found one step late
    [0.9, 0.4],  # a false alarm
    [0.9, 0.8, 0.7],  # missed
]


@pytest.mark.parametrize("seed", range(3))
def test_auroc_equals_its_definition(seed: int) -> None:
    rng = np.random.default_rng(seed)
    scores, truths = rng.integers(5, size=40).astype(float), rng.random(40) < 0.4
    pairs = [(a > b) + 0.5 * (a == b) for a in scores[truths] for b in scores[~truths]]
    assert auroc(scores, truths) == pytest.approx(float(sum(pairs)) / len(pairs))


def test_first_error_accuracy_counts_hits_and_silence_on_correct_solutions() -> None:
    assert first_error_accuracy(SCORES, LABELS) == pytest.approx(2 / 5)


def test_processbench_is_the_harmonic_mean_of_both_accuracies() -> None:
    found = processbench(SCORES, LABELS)
    assert (found.erroneous, found.correct) == (pytest.approx(1 / 3), pytest.approx(1 / 2))
    assert processbench_f1(SCORES, LABELS) == pytest.approx(2 / (3 + 2))
    assert processbench_f1([[0.9], [0.9]], [[1], [0]]) == 0


def test_the_best_threshold_is_never_worse_than_a_half() -> None:
    threshold = best_threshold(SCORES, LABELS)
    assert processbench_f1(SCORES, LABELS, threshold) > processbench_f1(SCORES, LABELS)


def test_steps_without_a_label_change_nothing() -> None:
    labels = [*LABELS, [None, 0], [1, None]]
    scores = [*SCORES, [0.1, 0.4], [0.75, 0.0]]
    assert first_error_accuracy(scores, labels) == first_error_accuracy(SCORES, LABELS)
    with_labelled_steps = ([*SCORES, [0.4], [0.75]], [*LABELS, [0], [1]])
    assert step_auroc(scores, labels) == step_auroc(*with_labelled_steps)


def test_soft_labels_count_as_correct_from_a_half_up() -> None:
    assert first_error_accuracy([[0.9, 0.2]], [[0.75, 0.25]]) == 1
    assert first_error_accuracy([[0.9, 0.2]], [[0.75, 0.5]]) == 0


def test_one_class_alone_is_an_error_and_no_number() -> None:
    with pytest.raises(ValueError, match="both classes"):
        step_auroc([[0.5]], [[1]])
    with pytest.raises(ValueError, match="got 0 and 1"):
        processbench_f1([[0.5]], [[1]])
    with pytest.raises(ValueError, match="a label for each score"):
        step_auroc([[0.5, 0.5]], [[1]])
