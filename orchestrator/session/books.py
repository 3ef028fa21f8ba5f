"""What a search has cost, and what it may still spend."""

from orchestrator.core.account import Account
from orchestrator.core.ledger import Budget, Ledger


class Books:
    """Owner of a search's ledger and account."""

    def __init__(self, budget: Budget, run_account: Account | None) -> None:
        self.ledger = Ledger()
        self.account = Account(budget, run_account)
        self.cut_short = False  # a cap of the budget ended something

    def spend(self, cost: Ledger) -> None:
        """Onto the ledger. What a budget pays goes through a hold of the account."""
        self.ledger += cost
