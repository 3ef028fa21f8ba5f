import subprocess
import sys

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
