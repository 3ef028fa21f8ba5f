"""Facts about the table of `headrace status`."""

from dataclasses import replace
from io import StringIO

import pytest
from rich.console import Console

from experiments.running.pool import _table
from orchestrator.pools.record import PoolRecord
from orchestrator.pools.status import ReplicaRow

RECORD = PoolRecord(name="shared", address="127.0.0.1:44009", pid=None)
POLICY = ReplicaRow(
    part="policy",
    index=0,
    losses=1,
    stage="no room",
    host="node-1",
    pid=1234567,
    running=256,
    waiting=1024,
    tokens=99_999,
    reserved=1.0,
)
VERIFIER = replace(POLICY, part="verifier", index=1, running=None, reserved=None, states=1024)


def shown(*rows: ReplicaRow) -> str:
    out = StringIO()
    before = {(row.part, row.index, row.pid): 0 for row in rows}
    Console(file=out, width=80).print(_table(RECORD, rows, 2, before, 1.0))
    return out.getvalue()


def test_on_one_machine_every_heading_and_figure_fits_into_80_columns() -> None:
    table = shown(POLICY, VERIFIER)
    assert "…" not in table and "node-1" not in table
    for text in ("running", "waiting", "tokens/s", "states", "losses", "no room", "99,999", "1,024"):
        assert text in table


@pytest.mark.parametrize("host", ["node-2", None])
def test_machines_are_named_where_there_are_several(host: str | None) -> None:
    assert ("node-1" in shown(POLICY, replace(VERIFIER, host=host))) == (host is not None)
