"""Facts about who is served next by an engine that many clients share."""

import random
from collections import Counter, deque

import pytest

from orchestrator.policy.admission import Admission


def admission(capacity: int = 100, seqs: int = 1000) -> Admission:
    return Admission(capacity_tokens=capacity, max_num_seqs=seqs)


def taken(queue: Admission) -> list[tuple[str, int]]:
    found = []
    while (one := queue.take()) is not None:
        found.append(one)
    return found


def test_requests_of_a_client_are_served_in_their_order_while_they_fit() -> None:
    queue = admission(capacity=100)
    for request in range(5):
        queue.add("a", request, 30)
    assert taken(queue) == [("a", 0), ("a", 1), ("a", 2)]
    assert (queue.num_reserved, queue.num_waiting) == (90, 2)
    assert queue.end("a", 1)
    assert taken(queue) == [("a", 3)]


def test_a_request_larger_than_the_cache_runs_alone() -> None:
    queue = admission(capacity=100)
    queue.add("a", 0, 40)
    queue.add("a", 1, 500)
    assert taken(queue) == [("a", 0)]
    queue.end("a", 0)
    assert taken(queue) == [("a", 1)]
    queue.add("b", 0, 1)
    assert taken(queue) == []


def test_a_request_takes_whole_blocks_of_the_cache() -> None:
    queue = Admission(capacity_tokens=128, max_num_seqs=1000, block_tokens=32)
    for request in range(5):
        queue.add("a", request, 33)
    assert taken(queue) == [("a", 0), ("a", 1)]
    assert queue.num_reserved == 128
    queue.end("a", 0)
    queue.end("a", 1)
    assert queue.num_reserved == 0


def test_no_more_sequences_run_than_a_quarter_above_those_that_decode_together() -> None:
    queue = admission(capacity=10_000, seqs=4)
    for request in range(9):
        queue.add("a", request, 1)
    assert len(taken(queue)) == 5


def test_a_lone_request_does_not_wait_behind_those_of_a_greedy_client() -> None:
    queue = admission(capacity=100)
    for request in range(1000):
        queue.add("greedy", request, 10)
    assert len(taken(queue)) == 10
    queue.add("lone", 0, 10)
    assert taken(queue) == []
    queue.end("greedy", 0)
    assert taken(queue) == [("lone", 0)]


def test_what_waits_can_be_given_up_and_leaves_nothing() -> None:
    queue = admission(capacity=10)
    queue.add("a", 0, 10)
    queue.add("b", 0, 10)
    assert taken(queue) == [("a", 0)]
    assert not queue.end("b", 0)
    assert not queue.end("c", 7)
    queue.end("a", 0)
    assert taken(queue) == []
    assert (queue.num_reserved, queue.num_waiting) == (0, 0)


@pytest.mark.parametrize(("clients", "sizes"), [(2, [10, 10]), (4, [5, 10, 15, 20])])
def test_clients_that_always_ask_for_more_get_equal_shares(clients: int, sizes: list[int]) -> None:
    """Tokens served to each within 10%, whatever the lengths of their requests."""
    queue, rng, running, served = admission(capacity=200), random.Random(0), deque[tuple[str, int, int]](), Counter()
    asked = dict.fromkeys((f"client {number}" for number in range(clients)), 0)
    size = dict(zip(asked, sizes * clients, strict=False))
    for _ in range(20_000):
        for client in asked:
            while asked[client] - served[f"{client} requests"] < 64:
                queue.add(client, asked[client], size[client])
                asked[client] += 1
        for client, request in taken(queue):
            running.append((client, request, size[client]))
            served[f"{client} requests"] += 1
        running.rotate(rng.randrange(len(running)))
        client, request, tokens = running.popleft()
        served[client] += tokens
        queue.end(client, request, tokens)
    shares = [served[client] for client in asked]
    assert max(shares) <= 1.1 * min(shares)


def test_shares_are_those_of_the_tokens_that_were_computed_not_of_those_that_were_kept_free() -> None:
    queue, running, served, asked = admission(capacity=400), deque[tuple[str, int]](), Counter[str](), Counter[str]()
    computed = {"short": 5, "long": 15}  # of 20 each
    for _ in range(8000):
        for client in computed:
            while asked[client] - served[client] < 64:
                queue.add(client, asked[client], 20)
                asked[client] += 1
        running.extend(taken(queue))
        client, request = running.popleft()
        served[client] += 1
        queue.end(client, request, computed[client])
    shares = [served[client] * tokens for client, tokens in computed.items()]
    assert max(shares) <= 1.1 * min(shares)


def test_a_client_that_comes_when_nobody_waits_does_not_hold_up_one_that_has_been_served_for_long() -> None:
    queue = admission(capacity=10)
    for request in range(1000):
        queue.add("early", request, 10)
        assert taken(queue) == [("early", request)]
        queue.end("early", request, 10)
    for request in range(20):
        queue.add("late", request, 10)
        queue.add("early", 1000 + request, 10)
    served = []
    for _ in range(20):
        [one] = taken(queue)
        served.append(one[0])
        queue.end(*one, 10)
    assert abs(served.count("early") - served.count("late")) <= 2
