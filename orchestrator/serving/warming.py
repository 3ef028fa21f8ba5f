"""What start-up does once, so that no request waits for it."""

import logging

from orchestrator.core.errors import ProblemError
from orchestrator.core.nouns import Problem
from orchestrator.core.protocols import Answers, Policy, Sampling, Verifier
from orchestrator.search import SearchRuntime

log = logging.getLogger(__name__)

_SAMPLING = Sampling(temperature=1.0, top_p=0.9, max_tokens=4)


async def warm(policy: Policy, verifier: Verifier | None, answers: Answers, *, logprobs: bool = True) -> None:
    """Draws in each way that a search may ask for, has it judged, and compares answers: an engine compiles some ways
    at first use, and what compares starts a process.

    `logprobs`: False for a policy that may tell none. Raises ProblemError when the model takes no messages,
    ReplicaError. Without log-probabilities the policy serves all that asks for none.
    """
    runtime = SearchRuntime(policy=policy, verifier=verifier, sampling=_SAMPLING, answers=answers)
    async with runtime.session(0) as session:
        root = await session.start(Problem.from_prompt("start", "ready?"))
        await session.rollout([root], 2, scored=verifier is not None)
        await session.rollout([root], 2, scored=False, temperature=0.0)
        if logprobs:
            try:
                written = await session.rollout([root], 2, scored=False, logprobs=0)
                await session.read(written, likeliest=1, prompt=True)
            except ProblemError as error:
                log.warning("requests for logprobs will fail: %s", error)
    await answers.group([r"\frac{1}{2}", "0.5"])
