"""What needs no engine of vLLM's."""

import pytest

from orchestrator.core.errors import ReplicaError, UserError
from orchestrator.policy.engines.vllm import load_error


def failed(exit_codes: object) -> RuntimeError:
    """As vLLM tells it."""
    return RuntimeError(f"Engine core initialization failed. See root cause above. Failed core proc(s): {exit_codes}")


def test_an_engine_that_gives_up_while_it_loads_is_the_users_mistake() -> None:
    error = load_error("tiny", failed({"EngineCore_DP0": 1}))
    assert isinstance(error, UserError)
    assert "tiny can't be loaded" in str(error)


@pytest.mark.parametrize("exit_code", [-9, -15, 137])
def test_an_engine_that_is_killed_while_it_loads_is_a_lost_replica(exit_code: int) -> None:
    assert isinstance(load_error("tiny", failed({"EngineCore_DP0": exit_code})), ReplicaError)


def test_a_failure_without_an_exit_code_is_a_lost_replica() -> None:
    assert isinstance(load_error("tiny", RuntimeError("no handshake")), ReplicaError)
    assert isinstance(load_error("tiny", failed({})), ReplicaError)
