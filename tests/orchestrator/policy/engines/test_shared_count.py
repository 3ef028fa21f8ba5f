import subprocess
import sys
from pathlib import Path

from orchestrator.policy.engines.shared_count import SharedCount


def test_what_another_process_counts_is_seen(tmp_path: Path) -> None:
    path = tmp_path / "count"
    with path.open("wb") as file:
        SharedCount.prepare(file)
    count = SharedCount(str(path))
    assert count.value == 0
    script = (
        "import sys; from orchestrator.policy.engines.shared_count import SharedCount; c = SharedCount(sys.argv[1])"
    )
    subprocess.run([sys.executable, "-c", f"{script}; c.add_one(); c.add_one()", str(path)], check=True)
    assert count.value == 2
