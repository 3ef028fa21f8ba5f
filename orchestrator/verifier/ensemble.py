"""Several verifiers as one: members judge at the same time, their scores are mixed, what they cost adds up."""

import asyncio
import uuid
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import replace
from itertools import count

from orchestrator.core.config import most_replicas
from orchestrator.core.errors import first_error
from orchestrator.core.nouns import StateHandle
from orchestrator.core.protocols import ScoreRequest, Verdict
from orchestrator.verifier.opened import OpenVerifier
from orchestrator.verifier.verdicts import wrong_scores
from verifiers.ensemble import Ensemble

Handles = tuple[StateHandle | None, ...]  # of the members, in order


class EnsembleVerifier:
    """Implements `OpenVerifier` over members that its caller owns. Owner of the handles that stand for the members'.

    Behind a handle that it does not know any more, members read from the start: that costs time and changes no score.
    """

    def __init__(self, options: Ensemble, members: Sequence[OpenVerifier]) -> None:
        self._options = options
        self._members = tuple(members)
        self._held: OrderedDict[str, Handles] = OrderedDict()  # by a handle's key
        # no more states exist
        self._max_held = max(most_replicas(m) * (m.slots + m.host_slots) for m in options.members)
        self._key_prefix = uuid.uuid4().hex[:8]
        self._keys = count()

    @property
    def scores_steps(self) -> bool:
        return all(member.scores_steps for member in self._members)

    @property
    def reads_text(self) -> bool:
        return any(member.reads_text for member in self._members)

    @property
    def reads_tokens(self) -> bool:
        return any(member.reads_tokens for member in self._members)

    @property
    def flops_per_token(self) -> float:
        return sum(member.flops_per_token for member in self._members)

    @property
    def state_bytes(self) -> int:
        return sum(member.state_bytes for member in self._members)

    @property
    def num_ready(self) -> int:
        return min(member.num_ready for member in self._members)

    async def stats(self) -> list[dict[str, int]]:
        return [stats for member in self._members for stats in await member.stats()]

    async def score(self, readings: Sequence[ScoreRequest]) -> list[Verdict]:
        """Raises what a member raises."""
        known = [self._held.get(reading.handle.key) if reading.handle is not None else None for reading in readings]
        for reading, handles in zip(readings, known, strict=True):
            if reading.handle is not None and handles is not None:
                self._held.move_to_end(reading.handle.key)
        judging: list[asyncio.Task[list[Verdict]]] = []
        try:
            async with asyncio.TaskGroup() as tasks:
                for index, member in enumerate(self._members):
                    own = [
                        replace(
                            reading,
                            handle=None if handles is None else handles[index],
                            solution=reading.solution if member.reads_text else None,
                        )
                        for reading, handles in zip(readings, known, strict=True)
                    ]
                    judging.append(tasks.create_task(_judged(member, own)))
        except BaseException as error:
            for member, task in zip(self._members, judging, strict=False):
                if not task.cancelled() and task.exception() is None:
                    member.release([verdict.handle for verdict in task.result() if verdict.handle is not None])
            raise (first_error(error) if isinstance(error, BaseExceptionGroup) else error) from None
        verdicts = zip(*(task.result() for task in judging), strict=True)
        return [self._verdict(*of_reading) for of_reading in zip(readings, known, verdicts, strict=True)]

    def release(self, handles: Sequence[StateHandle]) -> None:
        """Frees the members' states."""
        self._free([held for handle in handles if (held := self._held.pop(handle.key, None)) is not None])

    def _free(self, held: Sequence[Handles]) -> None:
        for index, member in enumerate(self._members):
            member.release([own for handles in held if (own := handles[index]) is not None])

    def _verdict(self, reading: ScoreRequest, known: Handles | None, verdicts: Sequence[Verdict]) -> Verdict:
        """One out of the members'."""
        reingested = sum(verdict.reingested_tokens for verdict in verdicts)
        if reading.handle is not None and known is None:  # so members that carry a state were not given theirs
            covered = reading.handle.num_tokens
            reingested += sum(min(v.verifier_tokens, covered) for v in verdicts if v.handle is not None)
        if reading.handle is not None and not reading.keep_parent:
            self._held.pop(reading.handle.key, None)  # the members freed theirs
        unjudged = next((verdict.unjudged for verdict in verdicts if verdict.unjudged is not None), None)
        of_steps = zip(*(verdict.scores for verdict in verdicts), strict=True) if unjudged is None else ()
        scores = tuple(map(self._options.mixed, of_steps))
        unjudged = unjudged or wrong_scores(scores, len(reading.boundaries))
        handles = tuple(verdict.handle for verdict in verdicts)
        if unjudged is not None:
            self._free([handles])
            handles = ()
        return Verdict(
            scores=scores if unjudged is None else (),
            handle=self._handle(reading, handles),
            verifier_tokens=sum(verdict.verifier_tokens for verdict in verdicts),
            reingested_tokens=reingested,
            flops=sum(verdict.flops for verdict in verdicts),
            unjudged=unjudged,
        )

    def _handle(self, reading: ScoreRequest, own: Handles) -> StateHandle | None:
        """One that stands for the members'; None where they carry nothing."""
        if not any(own):
            return None
        handle = StateHandle(
            replica=0, epoch=0, key=f"{self._key_prefix}-{next(self._keys)}", num_tokens=len(reading.token_ids)
        )
        self._held[handle.key] = own
        if len(self._held) > self._max_held:
            _, oldest = self._held.popitem(last=False)
            self._free([oldest])
        return handle


async def _judged(member: OpenVerifier, readings: Sequence[ScoreRequest]) -> list[Verdict]:
    """A member's verdicts. One that reads no tokens is not given a prompt alone."""
    given = [reading for reading in readings if member.reads_tokens or reading.boundaries]
    verdicts = iter(await member.score(given)) if given else iter(())
    nothing = Verdict(scores=(), handle=None, verifier_tokens=0)
    return [next(verdicts) if member.reads_tokens or reading.boundaries else nothing for reading in readings]
