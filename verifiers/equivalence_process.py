"""The process of `verifiers.equivalence`: a question a line, an answer a line, until its input ends."""

import json
import os
import resource
import sys
import time

from verifiers.algebra import algebra
from verifiers.equality import equal


def main(memory_mib: int) -> None:
    replies = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what libraries print is no reply
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    import math_verify  # noqa: F401 - its import is not part of a comparison

    resource.setrlimit(resource.RLIMIT_AS, (memory_mib << 20, resource.RLIM_INFINITY))
    for line in sys.stdin:
        question = json.loads(line)
        _allow(question["cpu_s"])
        reply: dict[str, object] = {"equal": None, "reason": "algebra gives no verdict"}
        try:
            reply["equal"] = equal(question["reference"], question["answer"], algebra)
        except Exception as error:  # whatever algebra raises, it has decided nothing
            reply["reason"] = f"{type(error).__name__}: {error}"[:200]
        replies.write(json.dumps(reply) + "\n")
        replies.flush()


def _allow(cpu_s: int) -> None:
    """So many seconds of CPU time from now; the kernel ends the process then."""
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    resource.setrlimit(resource.RLIMIT_CPU, (int(time.process_time()) + 1 + cpu_s, hard))


if __name__ == "__main__":
    main(int(sys.argv[1]))
