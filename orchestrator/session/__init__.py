"""One problem's search: its verbs, the sequences that it has in the policy, and what it has the verifier read."""

from orchestrator.session.session import SearchSession

__all__ = ["SearchSession"]
