"""Benchmarks, one per promise: `headrace bench NAME` writes results/bench/NAME.json.

Each is a ratio to a named baseline that runs beside it. To add one: a module with a `measure` and a line in `BENCHES`.
"""

BENCHES = {  # name -> module; those over recorded samples take a results folder
    "orchestration": "experiments.bench.orchestration",
    "beam": "experiments.bench.beam",
    "attach": "experiments.bench.attach",
    "driver": "experiments.bench.driver",
    "fairness": "experiments.bench.fairness",
    "soak": "experiments.bench.soak",
    "adaptive": "experiments.bench.adaptive",
    "early_stop": "experiments.bench.early_stop",
    "verifier": "experiments.bench.verifier",
    "stream": "experiments.bench.stream",
    "control_plane": "experiments.bench.control_plane.run",
}
RECORDED = ("adaptive", "early_stop")
IN_CELLS = ("control_plane",)  # a small set of them, or all
ON_POOLS = ("beam",)  # run on a named pool, too
TIMED = ("soak",)  # takes minutes in place of repeats
OF_ENGINES = ("orchestration", "beam")  # of the tiny pair, or of a policy and a verifier that the user names
