"""What a replica is sent when it does not hold the states that readings start from. Pure: no replica is started."""

import asyncio
from dataclasses import replace

from orchestrator.core.nouns import Carry, Problem
from orchestrator.core.protocols import Reading, Solution
from orchestrator.verifier.batch import Batch, Job

CARRY = Carry(replica=0, epoch=0, key="parent", num_tokens=3)
TOKENS = Reading(token_ids=(1, 2, 3, 4, 5), boundaries=(5,), carry=CARRY)
SOLUTION = Solution(problem=Problem.from_prompt("p", "?"), steps=("a", "b"), asked=(1,))


async def batch(readings: list[Reading]) -> Batch:
    def job(number: int, reading: Reading) -> Job:
        verdict = asyncio.get_running_loop().create_future()
        return Job(reading=reading, key=f"child {number}", verdict=verdict, carry=reading.carry)

    return Batch(jobs=[job(number, reading) for number, reading in enumerate(readings)])


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
