import subprocess
import sys
from dataclasses import fields

import pytest

from strategies import STRATEGIES

SCRIPT = """
import sys
for heavy in ("ray", "torch", "vllm", "transformers", "numpy", "pandas", "pyarrow", "omegaconf"):
    sys.modules[heavy] = None  # importing it raises ImportError
import strategies, orchestrator.core.protocols, orchestrator.session, tests.fakes
print(len(strategies.STRATEGIES))
"""


def test_strategies_and_the_session_import_with_nothing_heavy_installed():
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) >= 6


BOUNDED_OTHERWISE = {  # whole numbers that make no search cost a multiple
    "beam_width", "max_steps", "probe", "round", "resample_seed", "budget", "window", "shown",
    "order_seed", "group_tokens", "n_warmup",
    "min_thinking_tokens", "max_thinking_tokens", "max_waits",
}  # fmt: skip


@pytest.mark.parametrize("name", STRATEGIES)
def test_every_field_that_multiplies_the_cost_is_declared(name):
    strategy = STRATEGIES[name]
    counts = {f.name for f in fields(strategy) if f.type in (int, int | None)}
    assert counts - BOUNDED_OTHERWISE == set(strategy.costly)
