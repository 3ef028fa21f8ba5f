"""Schemathesis: requests that it makes up from /openapi.json, good ones and bad ones. None may be a fault of the
server, and each answer must be what the description says."""

import os
import subprocess
import sys
from pathlib import Path

origin = os.environ["HEADRACE_BASE_URL"].removesuffix("/v1")
command = [str(Path(sys.executable).with_name("schemathesis")), "run", f"{origin}/openapi.json"]
command += ["--header", f"Authorization: Bearer {os.environ['HEADRACE_API_KEY']}", "--max-examples", "25"]
# a schema can't say all that makes a request wrong, such as more candidates than a strategy makes
command += ["--exclude-checks", "positive_data_acceptance"]
command += ["--phases", "examples,coverage,fuzzing", "--request-timeout", "120", "--seed", "1"]
sys.exit(subprocess.run(command).returncode)
