"""Benchmarks, one per promise: `headrace bench NAME` writes results/bench/NAME.json.

Each is a ratio to a named baseline that runs beside it. To add one: a module with `measure`, and a command in `cli.py`.
"""
