"""What is shown of a search's result: its best candidates, with the log-probabilities of their tokens where asked."""

from dataclasses import dataclass, replace

from orchestrator.core.alternatives import ReadToken
from orchestrator.core.nouns import Candidate, SearchResult, Status, Trajectory
from orchestrator.serving.orders import Choice, Order, ranked
from orchestrator.session import SearchSession


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    choices: tuple[Choice, ...] = ()
    prompt: tuple[ReadToken, ...] = ()


async def show(order: Order, result: SearchResult, session: SearchSession) -> Shown:
    """The policy reads back what is to be shown with log-probabilities, and a prompt of tokens that is to be echoed."""
    candidates = ranked(result)[: order.choices]
    trajectories = [candidate.trajectory for candidate in candidates]
    if not trajectories or not _is_read(order, trajectories[0]):
        return Shown(choices=tuple(Choice(candidate=candidate) for candidate in candidates))
    told = await session.read(trajectories, likeliest=order.logprobs or 0, prompt=order.echo)
    num_prompt = len(trajectories[0].prompt_ids) if order.echo else 0
    return Shown(
        choices=tuple(
            Choice(candidate=candidate, read=None if read is None else read[num_prompt:])
            for candidate, read in zip(candidates, told, strict=True)
        ),
        prompt=next((read[:num_prompt] for read in told if read is not None), ()),
    )


def _is_read(order: Order, trajectory: Trajectory) -> bool:
    return order.logprobs is not None or (order.echo and isinstance(trajectory.problem.raw, tuple))


def unwritten(root: Trajectory) -> SearchResult:
    """Of a request that asks for its prompt alone."""
    candidate = Candidate(trajectory=replace(root, status=Status.TRUNCATED))
    return SearchResult(candidates=(candidate,), chosen=0)
