"""Facts about the table of faults."""

from experiments.bench.faults.table import Fault, table


def test_each_kind_has_a_line_and_all_have_one() -> None:
    faults = [
        Fault(stage="scripted", kind="driver killed", began=0.0, recovery_s=4.0, policy_tokens=1200),
        Fault(stage="scripted", kind="driver killed", began=9.0, recovery_s=None, lost=["a"], leaks=["b", "c"]),
        Fault(stage="vLLM", kind="engine killed", began=9.0, recovery_s=50.0, verifier_tokens=7, unjudged=1),
    ]
    cells = table(faults)
    assert cells.rows == [
        ["driver killed (scripted)", "2", "1", "0", "2", "0", "0", "4.0 [4.0, 4.0], 1 never", "1,200", "0"],
        ["engine killed (vLLM)", "1", "0", "0", "0", "1", "0", "50.0 [50.0, 50.0]", "0", "7"],
        ["all", "3", "1", "0", "2", "1", "0", "27.0 [4.0, 50.0], 1 never", "1,200", "7"],
    ]
    assert [fault.survived for fault in faults] == [True, False, True]
