"""Engines with room for everything, for tests of something else."""

from orchestrator.policy.admission import Admission


def roomy() -> Admission:
    return Admission(capacity_tokens=10**9, max_num_seqs=10**6)
