"""Calls of tools in trajectories that have ended: they are the answer, and equal where their JSON is."""

import asyncio
from collections.abc import Sequence

from orchestrator.core.nouns import Status, Trajectory
from orchestrator.core.protocols import Policy, ReadsCalls
from orchestrator.core.tools import CallingReply, Reply, Tools, forced_calls
from orchestrator.session.tool_arguments import fit
from orchestrator.session.tracks import Track


async def know_calls(tracks: Sequence[Track], policy: Policy) -> None:
    """Has those that are done know which tools they call. Raises ProblemError for tools that the policy does not take,
    ReplicaError when no replica can tell."""
    ended = [track for track in tracks if track.status.done and track.status is not Status.PRUNED]
    tools = ended[0].prefix.problem.tools if ended else None
    if tools is None or not tools.shown:
        return
    replies = [_reply_of(track) for track in ended]
    found: Sequence[CallingReply | None]
    if tools.parsed:
        assert isinstance(policy, ReadsCalls) and policy.tool_parser is not None, "the endpoint refuses other requests"
        found = await policy.read_calls(tools, replies)
    else:
        found = [forced_calls(tools, reply.text) for reply in replies]
    for track, calling in zip(ended, found, strict=True):
        # in a thread, where it holds up no other search
        if calling is not None and (not tools.strict or await asyncio.to_thread(_fits, calling, tools)):
            track.calling, track.answer = calling, calling.answer


def _fits(calling: CallingReply, tools: Tools) -> bool:
    """Whether calls of strict functions do. A reply with one that does not is words."""
    return all(
        fit(tools.parameters(call.name) or {}, call.arguments) for call in calling.calls if call.name in tools.strict
    )


def _reply_of(track: Track) -> Reply:
    steps = [step for step in track.steps if not step.thinking]
    return Reply(
        text="".join(step.text for step in steps),
        token_ids=tuple(token_id for step in steps for token_id in step.token_ids),
        ended=track.status is Status.FINISHED,
    )


def numbered_with_calls(trajectories: Sequence[Trajectory], groups: Sequence[int | None]) -> list[int | None]:
    """The groups of answers in words, and further numbers for the trajectories that call tools."""
    first = 1 + max((group for group in groups if group is not None), default=-1)
    numbers: dict[str, int] = {}
    return [
        group if one.calling is None else numbers.setdefault(one.calling.answer, first + len(numbers))
        for one, group in zip(trajectories, groups, strict=True)
    ]
