"""Facts about what start-up does so that no request waits for it."""

from collections.abc import Sequence

import pytest

from orchestrator.core.errors import ProblemError
from orchestrator.core.protocols import Generation
from orchestrator.serving.warming import warm
from tests.fakes import ANSWERS, ScriptedPolicy, ScriptedStream, TableVerifier


async def test_every_way_to_draw_is_tried_and_nothing_is_held_afterwards() -> None:
    policy, verifier = ScriptedPolicy({"ready?": ["yes"]}), TableVerifier(lambda text: 0.5)
    await warm(policy, verifier, ANSWERS)
    drawn = [request for request in policy.requests if request.reads is None]
    ways = {(request.temperature > 0, request.logprobs) for request in drawn}
    assert ways == {(True, None), (False, None), (True, 0)}
    assert all(request.top_p < 1 for request in drawn) and len(drawn) < len(policy.requests)
    assert verifier.started.is_set() and not verifier.states


async def test_without_a_verifier_nothing_is_judged() -> None:
    policy = ScriptedPolicy({"ready?": ["yes"]})
    await warm(policy, None, ANSWERS)
    assert policy.requests


async def test_a_policy_that_may_tell_no_log_probabilities_is_not_asked_for_them() -> None:
    policy = ScriptedPolicy({"ready?": ["yes"]})
    await warm(policy, None, ANSWERS, logprobs=False)
    assert {request.logprobs for request in policy.requests} == {None}


class WithoutLogprobs(ScriptedPolicy):
    def generate(self, requests: Sequence[Generation]) -> ScriptedStream:
        if any(request.logprobs is not None or request.reads is not None for request in requests):
            raise ProblemError("policy: it tells no logprobs")
        return super().generate(requests)


async def test_a_policy_that_turns_out_to_tell_none_is_served_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    await warm(WithoutLogprobs({"ready?": ["yes"]}), None, ANSWERS)
    assert "requests for logprobs will fail: policy: it tells no logprobs" in caplog.text
