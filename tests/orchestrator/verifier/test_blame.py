"""Whose fault a failed call is. Pure: no replica is started."""

from orchestrator.core.nouns import StateHandle
from orchestrator.core.protocols import ScoreRequest
from orchestrator.verifier.batch import Asked, Job
from orchestrator.verifier.blame import Blame, Fault

CARRY = StateHandle(replica=0, epoch=0, key="parent", num_tokens=1)


def jobs(count: int) -> list[Job]:
    def job(key: str) -> Job:
        return Job(reading=ScoreRequest(token_ids=(1,), boundaries=(1,)), key=key, asked=Asked(1), handle=CARRY)

    return [job(str(number)) for number in range(count)]


async def test_a_reading_that_costs_a_second_replica_while_it_is_read_alone_is_condemned() -> None:
    blame, (a, b, c) = Blame(2), jobs(3)
    assert blame.lost(0, 0, [a, b, c]) is Fault.OPEN
    assert all(job.suspect for job in (a, b, c))
    blame.answered(1)  # a, read alone
    assert blame.lost(1, 0, [b]) is Fault.READING
    assert c.lost == [(0, 0)]


async def test_two_replicas_lost_with_many_readings_condemn_none() -> None:
    blame, both = Blame(1), jobs(2)
    assert blame.lost(0, 0, both) is Fault.OPEN
    both[0].suspect = False  # as if both had been sent before they were suspects
    assert blame.lost(0, 1, both) is Fault.OPEN


async def test_a_reading_on_which_the_verifier_raises_is_read_alone_twice_the_second_time_from_its_tokens() -> None:
    blame, (a, b) = Blame(1), jobs(2)
    assert blame.raised(0, 0, [a, b]) is Fault.OPEN
    assert (a.suspect, a.handle) == (True, CARRY)
    assert blame.raised(0, 0, [a]) is Fault.OPEN
    assert a.handle is None
    blame.answered(0)  # b, read alone
    assert blame.raised(0, 0, [a]) is Fault.READING
    assert a.lost == []


async def test_a_replica_that_raises_on_two_readings_in_a_row_is_lost_and_the_next_one_decides() -> None:
    blame, (a, b) = Blame(1), jobs(2)
    assert blame.raised(0, 0, [a, b]) is Fault.OPEN
    assert blame.raised(0, 0, [a]) is Fault.OPEN
    assert blame.raised(0, 0, [b]) is Fault.REPLICA
    blame.lost(0, 0, [])
    assert blame.raised(0, 1, [a]) is Fault.READING
    assert blame.raised(0, 1, [b]) is Fault.READING


async def test_restarts_are_given_back_at_once_where_others_were_answered_else_with_the_next_answer() -> None:
    blame = Blame(2)
    blame.answered(0)
    for epoch, given in enumerate(([(0, 0), (1, 0)], [])):
        [job] = jobs(1)
        blame.lost(0, epoch, [job])
        blame.lost(1, epoch, [job])
        assert blame.condemned() == given
    assert blame.answered(0) == [(0, 1), (1, 1)]
    assert blame.answered(0) == []
