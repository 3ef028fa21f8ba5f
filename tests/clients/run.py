"""Real clients against `headrace serve` with the tiny pair, each in an environment of its own.

python tests/clients/run.py [NAME ...]        (make test-clients)

A client is a folder here: what it needs (`requirements.txt`, or `package.json`), and `check.py` or `check.mjs`, which
fails where the client does not get what it expects. It finds HEADRACE_BASE_URL (with /v1), HEADRACE_API_KEY and
HEADRACE_TOKENIZER, a folder, in its environment.
"""

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from experiments.config import PROJECT_ROOT
from orchestrator.serving.keys import VARIABLE, new_key

HERE = Path(__file__).parent
ENVIRONMENTS = PROJECT_ROOT / ".clients"
TOKENIZER = PROJECT_ROOT / "experiments" / "tinymath" / "models" / "policy"
SMALL = ("sampling.max_tokens=60", "limits.max_tokens=120", "budget.policy_tokens=600", "strategies.best_of_n.n=4")
HEADRACE = "from experiments.cli import main; main()"
START_S, END_S, CLIENT_S = 600.0, 120.0, 900.0


def clients() -> list[str]:
    return sorted(folder.name for folder in HERE.iterdir() if any(folder.glob("check.*")))


def main(names: Sequence[str]) -> int:
    for name in names:
        if name not in clients():
            sys.exit(f"clients: got {name!r}, wanted of {', '.join(clients())}")
    made = {name: installed(name) for name in names or clients()}
    key, record = new_key("clients")
    failed = []
    with serving({VARIABLE: record.line}) as origin:
        given = {"HEADRACE_BASE_URL": f"{origin}/v1", "HEADRACE_API_KEY": key, "HEADRACE_TOKENIZER": str(TOKENIZER)}
        for name, command in made.items():
            began = time.monotonic()
            # so that no client finds this checkout's packages, or keys of its user
            own = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "OPENAI_API_KEY")}
            done = subprocess.run(command, cwd=ENVIRONMENTS / name, env={**own, **given}, timeout=CLIENT_S, check=False)
            print(
                f"{name}: {'ok' if done.returncode == 0 else 'FAILED'} ({time.monotonic() - began:.0f} s)", flush=True
            )
            if done.returncode:
                failed.append(name)
    if failed:
        print(f"failed: {', '.join(failed)}")
    return len(failed)


def installed(name: str) -> list[str]:
    """The command of a client's check, once its environment is there."""
    folder, environment = HERE / name, ENVIRONMENTS / name
    environment.mkdir(parents=True, exist_ok=True)
    if (folder / "package.json").exists():
        for path in (folder / "package.json", folder / "check.mjs"):  # Node looks for packages beside the script
            (environment / path.name).write_text(path.read_text())
        subprocess.run(["npm", "install", "--no-audit", "--no-fund", "--silent"], cwd=environment, check=True)
        return ["node", "check.mjs"]
    python, uv = environment / "bin" / "python", Path(sys.executable).with_name("uv")
    if not python.exists():
        subprocess.run([uv, "venv", "--quiet", "--allow-existing", "--python", sys.executable, environment], check=True)
    subprocess.run([uv, "pip", "install", "--quiet", "--python", python, "-r", folder / "requirements.txt"], check=True)
    return [str(python), str(folder / "check.py")]


@contextmanager
def serving(environment: Mapping[str, str]) -> Iterator[str]:
    """`headrace serve`, ready: yields its address."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    config = PROJECT_ROOT / "configs" / "serve.yaml"
    process = subprocess.Popen(
        [sys.executable, "-c", HEADRACE, "serve", str(config), f"port={port}", *SMALL],
        env={**os.environ, **environment},
        cwd=PROJECT_ROOT,
    )
    try:
        origin = f"http://127.0.0.1:{port}"
        deadline = time.monotonic() + START_S
        while not ready(f"{origin}/health"):
            if process.poll() is not None or time.monotonic() > deadline:
                sys.exit("clients: headrace serve did not start")
            time.sleep(1)
        yield origin
        if not ready(f"{origin}/health"):
            sys.exit("clients: the endpoint is not healthy afterwards")
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=END_S)


def ready(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=10) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
