"""What a search has cost, and what it may still spend."""

from orchestrator.core.account import Account
from orchestrator.core.ledger import Budget, Tally


class Books:
    """Owner of a search's tally and account. What a budget pays goes through a hold of the account."""

    def __init__(self, budget: Budget, run_account: Account | None) -> None:
        self.tally = Tally()
        self.account = Account(budget, run_account)
        self.cut_short = False  # a cap of the budget ended something
