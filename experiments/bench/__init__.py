"""Benchmarks, one per promise: `headrace bench NAME` writes results/bench/NAME.json.

Each is a ratio to a named baseline that runs beside it. To add one: a module with a `measure` and a line in `BENCHES`.
"""

BENCHES = {  # name -> module; those over recorded samples take a results folder
    "orchestration": "experiments.bench.orchestration",
    "beam": "experiments.bench.beam",
    "attach": "experiments.bench.attach",
    "adaptive": "experiments.bench.adaptive",
    "early_stop": "experiments.bench.early_stop",
    "verifier": "experiments.bench.verifier",
    "stream": "experiments.bench.stream",
    "faults": "experiments.bench.faults.measure",
}
OF_FAULTS = ("faults",)  # take a number of faults and a seed
RECORDED = ("adaptive", "early_stop")
OF_ENGINES = ("orchestration", "beam")  # of the tiny pair, or of a policy and a verifier that the user names
