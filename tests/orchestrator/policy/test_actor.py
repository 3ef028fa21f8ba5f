import pytest

from orchestrator.policy.actor import first_of_threads


@pytest.mark.parametrize(("text", "wanted"), [("4", 4), ("2,1", 2), (" 3 , 1", 3), ("", None), ("x", None)])
def test_the_first_number_of_omp_num_threads_counts(text, wanted):
    assert first_of_threads(text) == wanted
