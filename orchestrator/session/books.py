"""What a search has cost, and what it may still spend."""

from orchestrator.core.account import Account
from orchestrator.core.ledger import Budget, Tally
from orchestrator.core.nouns import EndReason


class Books:
    """Owner of a search's tally and account. What a budget pays goes through a hold of the account."""

    def __init__(self, budget: Budget, run_account: Account | None) -> None:
        self.tally = Tally()
        self.account = Account(budget, run_account)
        self.end_reason = EndReason.COMPLETED

    def cut(self, by: EndReason) -> None:
        """A cap ended something. The first one counts."""
        if self.end_reason is EndReason.COMPLETED:
            self.end_reason = by
