"""Facts about one budget over many drivers, whatever the order in which they take, spend, give back and die."""

import asyncio
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.core.account import Account, Amounts, Hold
from orchestrator.core.ledger import Budget
from orchestrator.core.nouns import Problem
from orchestrator.drivers.leases import LeasedAccount, Leases
from orchestrator.drivers.mailbox import Given, Settle
from tests.fakes import ScriptedPolicy, TableVerifier, open_session

CAP = 100


class Command:
    """Leases, and one account in each driver; what they ask is answered when a test says so."""

    def __init__(self, budget: Budget, drivers: int = 2) -> None:
        self.account = Account(budget)
        self.leases = Leases(self.account)
        self.gate = asyncio.Event()
        self.gate.set()
        self.settled: list[Settle] = []
        self.drivers = [self._driver(name, budget) for name in range(drivers)]

    def _driver(self, name: int, budget: Budget) -> LeasedAccount:
        async def take(wanted: Amounts) -> Given:
            await self.gate.wait()
            return self.leases.take(name, wanted)

        def settle(settled: Settle) -> None:
            self.settled.append(settled)
            self.leases.settle(name, settled)

        made = LeasedAccount(budget, take, settle)
        made.update(self.account.remaining)
        return made


async def tidied() -> None:
    """Lets what is due at the end of a turn of the loop happen."""
    for _ in range(3):
        await asyncio.sleep(0)


async def test_a_driver_may_use_all_that_is_left_and_what_it_does_not_need_goes_back() -> None:
    command = Command(Budget(policy_tokens=CAP))
    first, second = command.drivers
    await first.secure({"policy_tokens": 70, "candidates": 3})
    hold = first.hold({"policy_tokens": 70, "candidates": 3})
    await second.secure({"policy_tokens": 70})
    assert (second.left("policy_tokens"), second.left("candidates")) == (30, None)
    held = second.hold({"policy_tokens": 30})
    hold.use(policy_tokens=20)
    hold.close()
    await tidied()
    assert command.account.left("policy_tokens") == 50
    await second.secure({"policy_tokens": 80})
    assert second.left("policy_tokens") == 50 and second.remaining.policy_tokens == 50
    held.use(policy_tokens=30)
    held.close()
    await tidied()
    assert command.account.left("policy_tokens") == CAP - 20 - 30


async def test_what_is_left_in_all_is_seen_before_it_is_secured() -> None:
    [driver] = Command(Budget(candidates=4, seconds=60.0), drivers=1).drivers
    assert driver.capped and driver.left("candidates") == 0
    assert driver.remaining.candidates == 4 and not driver.remaining.exhausted
    assert driver.seconds_left is not None and 59 < driver.seconds_left <= 60


async def test_a_search_that_waits_for_its_part_keeps_what_was_taken_for_another() -> None:
    command = Command(Budget(policy_tokens=CAP), drivers=1)
    [driver] = command.drivers

    async def begin() -> Hold:
        await driver.secure({"policy_tokens": 60})
        return driver.hold({"policy_tokens": min(60, driver.left("policy_tokens") or 0)})

    command.gate.clear()
    searches = [asyncio.create_task(begin()) for _ in range(2)]
    await tidied()
    command.gate.set()
    holds = await asyncio.gather(*searches)
    await tidied()
    assert command.settled == [] and driver.left("policy_tokens") == 0
    for hold in holds:
        hold.close()
    await tidied()
    assert command.settled == [Settle(spent={}, returned={"policy_tokens": CAP})]


async def test_what_is_given_to_a_search_that_has_ended_goes_back() -> None:
    command = Command(Budget(policy_tokens=CAP), drivers=1)
    [driver] = command.drivers
    command.gate.clear()
    asking = asyncio.create_task(driver.secure({"policy_tokens": 60}))
    await tidied()
    asking.cancel()
    await asyncio.gather(asking, return_exceptions=True)
    command.gate.set()
    await tidied()
    await tidied()
    assert command.account.left("policy_tokens") == CAP


async def test_what_was_spent_is_told_also_where_nothing_of_the_part_is_left() -> None:
    command = Command(Budget(policy_tokens=CAP), drivers=1)
    [driver] = command.drivers
    await driver.secure({"policy_tokens": 40})
    hold = driver.hold({"policy_tokens": 40})
    hold.use(policy_tokens=40)
    hold.close()
    await tidied()
    assert command.settled == [Settle(spent={"policy_tokens": 40}, returned={})]
    assert (command.account._spent["policy_tokens"], command.account._held["policy_tokens"]) == (40, 0)


async def test_all_that_a_dead_driver_had_counts_as_spent() -> None:
    command = Command(Budget(policy_tokens=CAP))
    await command.drivers[0].secure({"policy_tokens": 40})
    command.drivers[0].hold({"policy_tokens": 40}).use(policy_tokens=5)
    command.leases.lost(0)
    assert command.account.left("policy_tokens") == CAP - 40


step = st.tuples(
    st.integers(0, 2),  # driver
    st.sampled_from(["take", "use", "close", "wait", "die"]),
    st.integers(1, 60),
)


@settings(max_examples=150)
@given(st.lists(step, max_size=40))
def test_no_order_of_events_exceeds_the_cap_or_loses_a_token(steps: Sequence[tuple[int, str, int]]) -> None:
    async def play() -> None:
        command = Command(Budget(policy_tokens=CAP), drivers=3)
        holds: list[list[list]] = [[], [], []]  # of each driver: (hold, what is left of it)
        spent = lost = 0
        dead: set[int] = set()
        for name, what, amount in steps:
            driver = command.drivers[name]
            if name in dead:
                continue
            if what == "take":
                await driver.secure({"policy_tokens": amount})
                got = min(amount, driver.left("policy_tokens"))
                if got > 0:
                    holds[name].append([driver.hold({"policy_tokens": got}), got])
            elif what == "wait":
                await tidied()
            elif what == "die":
                dead.add(name)
                command.leases.lost(name)
                lost += 1
            elif holds[name]:
                held = holds[name][amount % len(holds[name])]
                if what == "use":
                    used = min(amount, held[1])
                    held[0].use(policy_tokens=used)
                    held[1] -= used
                    spent += used
                else:
                    held[0].close()
                    holds[name].remove(held)
            left = command.account.left("policy_tokens")
            assert 0 <= left <= CAP and spent <= CAP
        for name, driver in enumerate(command.drivers):
            if name not in dead:
                for hold, _ in holds[name]:
                    hold.close()
                driver.spend(policy_tokens=0)
        await tidied()
        if not lost:
            for driver in command.drivers:  # a last look at what is in order: everything is with the command
                await driver.secure({"policy_tokens": 1})
                await tidied()
            assert command.account.left("policy_tokens") == CAP - spent
            assert command.account._held["policy_tokens"] == 0

    asyncio.run(play())


@pytest.mark.parametrize("scored", [True, False])
@pytest.mark.parametrize("cap", [{"policy_tokens": 40}, {"candidates": 3}, {"verifier_tokens": 30}, {"flops": 5000.0}])
async def test_a_search_on_a_lease_is_the_search_on_the_budget_itself(cap: dict, scored: bool) -> None:
    async def searched(account: Account) -> list[tuple[str, str]]:
        policy = ScriptedPolicy({"Q:": ["a. b. Answer: 1", "c. Answer: 2", "a much longer one. Answer: 3"]})
        session = open_session(policy, TableVerifier(lambda text: 0.5), max_tokens=25, run_account=account)
        async with session:
            root = await session.start(Problem.from_prompt("p", "Q:"))
            first = await session.rollout([root], 2, scored=scored)
            more = await session.rollout([root], 3, scored=scored)
            return [("".join(step.text for step in one.steps), one.status.value) for one in [*first, *more]]

    command = Command(Budget(**cap), drivers=1)
    alone = Account(Budget(**cap))
    assert await searched(command.drivers[0]) == await searched(alone)
    await tidied()
    assert command.account.secured == alone.secured
