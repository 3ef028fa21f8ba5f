"""What the policy thinks of tokens that are written already: it reads them back, under the search's budget."""

from collections.abc import Sequence

from orchestrator.core.account import Amounts, total
from orchestrator.core.alternatives import ReadToken
from orchestrator.core.flops import ModelShape
from orchestrator.core.nouns import EndReason
from orchestrator.core.protocols import Generation, Policy
from orchestrator.session.books import Books
from orchestrator.session.sequences import LiveSequence, SequencesInFlight


async def read_back(
    readings: Sequence[Generation], policy: Policy, in_flight: SequencesInFlight, books: Books
) -> list[tuple[ReadToken, ...] | None]:
    """What each of the readings tells; None for one that the budget does not pay for."""
    costs = [_most(reading, policy.shape) for reading in readings]
    await books.account.secure(total(costs))
    sequences: list[LiveSequence | None] = []
    for reading, cost in zip(readings, costs, strict=True):
        if not books.account.fits(cost):
            books.cut(EndReason.BUDGET)
            sequences.append(None)
            continue
        hold = books.account.hold(cost)
        sequences.append(LiveSequence(request=reading, hold=hold, hard_cap=0))
    begun = [sequence for sequence in sequences if sequence is not None]
    in_flight.begin(begun)
    try:
        return [None if sequence is None else await _told(sequence, books) for sequence in sequences]
    finally:
        in_flight.give_up(begun)
        for sequence in begun:
            if not sequence.aborting:
                sequence.hold.close()


def _most(reading: Generation, shape: ModelShape) -> Amounts:
    """What it costs where nothing is cached."""
    prefix, sampled = len(reading.prefix_ids), reading.max_tokens
    flops = shape.sampling_flops(prefix=prefix, cached=0, sampled=sampled) + shape.reading_flops(prefix=prefix)
    return {"policy_tokens": sampled, "flops": flops}


async def _told(sequence: LiveSequence, books: Books) -> tuple[ReadToken, ...]:
    """With its last segment. The token that an engine samples beside is thrown away."""
    while not sequence.finished:
        await sequence.arrived.wait()
        sequence.arrived.clear()
        if sequence.error is not None:
            raise sequence.error
    books.tally.add({"discarded_tokens": sum(len(segment.token_ids) for segment, _ in sequence.segments)})
    read = sequence.segments[-1][0].read
    sequence.segments.clear()
    return read
