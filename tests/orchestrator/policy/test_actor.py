import pytest
import ray

from orchestrator.core.config import PolicyConfig
from orchestrator.policy import actor
from orchestrator.policy.actor import first_of_threads, resources


@pytest.mark.parametrize(("text", "wanted"), [("4", 4), ("2,1", 2), (" 3 , 1", 3), ("", None), ("x", None)])
def test_the_first_number_of_omp_num_threads_counts(text, wanted):
    assert first_of_threads(text) == wanted


@pytest.mark.parametrize(
    ("settings", "num_gpus"), [({}, 1), ({"num_gpus": 0.5}, 0.5), ({"tensor_parallel_size": 2}, 2)]
)
def test_an_engine_takes_whole_gpus_unless_a_share_is_set(monkeypatch, settings, num_gpus):
    def not_the_cpu_build(name):
        raise actor.PackageNotFoundError(name)

    monkeypatch.setattr(actor, "distribution", not_the_cpu_build)
    monkeypatch.setattr(ray, "cluster_resources", lambda: {"GPU": 4.0})
    assert resources(PolicyConfig(model="m", **settings))["num_gpus"] == num_gpus


def test_a_share_of_several_gpus_is_refused():
    with pytest.raises(ValueError, match="num_gpus must be above 0 and at most 1, with tensor_parallel_size 1"):
        PolicyConfig(model="m", num_gpus=0.5, tensor_parallel_size=2)
