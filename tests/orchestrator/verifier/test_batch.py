"""What a replica is sent, in which calls, and what when it lacks the states that readings start from. No Ray."""

from dataclasses import replace

from orchestrator.core.nouns import Problem, StateHandle
from orchestrator.core.protocols import ScoreRequest, Solution
from orchestrator.verifier.batch import Asked, Batch, CallQueue, Job

CARRY = StateHandle(replica=0, epoch=0, key="parent", num_tokens=3)
TOKENS = ScoreRequest(token_ids=(1, 2, 3, 4, 5), boundaries=(5,), handle=CARRY)
SOLUTION = Solution(problem=Problem.from_prompt("p", "?"), steps=("a", "b"), asked=(1,))


async def batch(readings: list[ScoreRequest]) -> Batch:
    def job_of(number: int, reading: ScoreRequest) -> Job:
        return Job(reading=reading, key=f"child {number}", asked=Asked(1), handle=reading.handle)

    return Batch(jobs=[job_of(number, reading) for number, reading in enumerate(readings)])


async def test_a_parent_in_tokens_is_read_once_for_all_who_start_there() -> None:
    runs = [run for _, run in (await batch([TOKENS, TOKENS])).rebuilding()]
    assert [(run.key, run.token_ids, run.parent) for run in runs] == [
        ("parent", (1, 2, 3), None),
        ("child 0", (4, 5), "parent"),
        ("child 1", (4, 5), "parent"),
    ]


async def test_a_text_is_sent_whole_since_nobody_knows_where_in_it_the_parent_ends() -> None:
    text = replace(TOKENS, solution=SOLUTION)
    runs = [run for _, run in (await batch([text, text])).rebuilding()]
    assert [(run.key, run.parent, run.solution, run.boundaries) for run in runs] == [
        ("child 0", None, SOLUTION, (5,)),
        ("child 1", None, SOLUTION, (5,)),
    ]


def queue(batch_tokens: int = 100, stall_timeout_s: float = 4.0, one_run_per_call: bool = False) -> CallQueue:
    """One whose replica has read 10 tokens in 0.1 s, so that 100 fit in a quarter of the deadline."""
    waiting = CallQueue(batch_tokens=batch_tokens, stall_timeout_s=stall_timeout_s, one_run_per_call=one_run_per_call)
    first = job(10)
    waiting.add(first)
    waiting.began([first], 0.0)
    waiting.take()
    waiting.ended(10, 0.1, answered=True)
    return waiting


def job(num_tokens: int, *, suspect: bool = False) -> Job:
    reading = ScoreRequest(token_ids=(1,) * num_tokens, boundaries=(num_tokens,))
    return Job(reading=reading, key="", asked=Asked(1), handle=None, routed_tokens=num_tokens, suspect=suspect)


def sent(waiting: CallQueue) -> list[int]:
    """The tokens of the readings in the next call, which is sent."""
    taken = waiting.take()
    if taken:
        waiting.began(taken, 0.0)
    return [job.routed_tokens for job in taken]


async def test_a_call_takes_what_fits_and_two_are_in_flight() -> None:
    waiting = queue(batch_tokens=50)
    for num_tokens in (30, 20, 1, 200, 5):
        waiting.add(job(num_tokens))
    assert [sent(waiting) for _ in range(3)] == [[30, 20], [1], []]
    assert waiting.pending_tokens == 256
    waiting.ended(50, 1.0, answered=True)
    assert [sent(waiting) for _ in range(2)] == [[200], []]
    waiting.ended(1, 2.0, answered=True)
    assert sent(waiting) == [5]


async def test_a_call_to_a_slow_replica_is_cut_to_a_part_of_its_deadline() -> None:
    waiting = CallQueue(batch_tokens=1000, stall_timeout_s=40.0, one_run_per_call=False)
    for _ in range(9):
        waiting.add(job(20))
    assert sent(waiting) == [20]  # how fast it is, it has to show
    waiting.ended(20, 4.0, answered=True)
    assert sent(waiting) == [20, 20]  # 5 tokens a second, in 10 s


async def test_readings_of_a_verifier_that_takes_seconds_are_calls_of_their_own() -> None:
    waiting = queue(one_run_per_call=True)
    for _ in range(3):
        waiting.add(job(1))
    assert [sent(waiting) for _ in range(3)] == [[1], [1], []]


async def test_a_suspect_is_read_while_nothing_else_is() -> None:
    waiting = queue()
    for suspect in (False, True, True, False):
        waiting.add(job(2 if suspect else 1, suspect=suspect))
    assert [sent(waiting) for _ in range(2)] == [[1], []]
    waiting.ended(1, 1.0, answered=True)
    assert [sent(waiting) for _ in range(2)] == [[2], []]
    waiting.ended(2, 2.0, answered=False)
    assert [sent(waiting) for _ in range(2)] == [[2], []]
    waiting.ended(2, 3.0, answered=True)
    assert sent(waiting) == [1]


async def test_a_state_from_which_others_start_is_kept_for_them() -> None:
    last = replace(TOKENS, keep_parent=False)
    [(_, run)] = (await batch([last])).as_told()
    assert not run.keep_parent
    shared = await batch([last])
    shared.shared = frozenset({"parent"})
    [(_, run)] = shared.as_told()
    assert run.keep_parent
