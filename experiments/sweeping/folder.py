"""A sweep's folder: its lock, its manifest, and what its cells hold. Each cell is a results folder of its own."""

import importlib.metadata
import json
import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from experiments.config import FREE_KEYS, make_strategies
from experiments.sweeping.cells import Cell, Sweep
from orchestrator.core.errors import UserError
from orchestrator.results import ResultsWriter, RowKey, read_problems
from orchestrator.results.files import unwritable, write_bytes
from orchestrator.results.folder import lock_folder, shards
from orchestrator.results.same_run import check_same_run, parse_config

_MANIFEST, _LOCK, _RUN_YAML = "sweep.json", ".lock", "run.yaml"
_GROWING = ("strategies", "seeds")  # rows are kept apart by them, so more of them change none that is there


def done_keys(cell: Cell) -> set[RowKey]:
    """What the cell's folder holds that needs no more work. Raises UserError where it holds another run."""
    if not shards(cell.folder, "problems"):
        return set()
    _check_same(cell)
    rows = read_problems(cell.folder)
    rows = rows[rows["status"] == "ok"]
    return set(zip(rows["problem_id"], rows["strategy"], rows["params"], map(int, rows["seed"]), strict=True))


def open_cell(cell: Cell, versions: dict[str, str]) -> ResultsWriter:
    """To be gone on with, its `run.yaml` saying what the cell is now. Raises UserError as `done_keys` does."""
    has_rows = bool(shards(cell.folder, "problems"))
    if has_rows:
        _check_same(cell)
    results = ResultsWriter.open(
        cell.folder,
        run_yaml=cell.resolved_yaml,
        versions=versions,
        resume=has_rows,
        overwrite=not has_rows,
        free_keys=(*FREE_KEYS, *_GROWING),
        max_tree_bytes=cell.config.trees.max_bytes,
    )
    try:
        write_bytes(cell.folder / _RUN_YAML, cell.resolved_yaml.encode())
    except OSError as error:
        results.close()
        raise unwritable(cell.folder, error) from error
    return results


def _check_same(cell: Cell) -> None:
    path = cell.folder / _RUN_YAML
    check_same_run(cell.folder, path, parse_config(cell.resolved_yaml, "the cell"), (*FREE_KEYS, *_GROWING))
    there = parse_config(path.read_text(encoding="utf-8"), str(path))
    strategies = {(named.name, named.strategy) for named in cell.parts.strategies}
    gone = [f"strategy {one.name}" for one in make_strategies(there["strategies"]) if _unknown(one, strategies)]
    gone += [f"seed {seed}" for seed in there.get("seeds", [0]) if seed not in cell.config.seeds]
    if gone:
        raise UserError(
            f"results: {cell.folder} holds rows of {', '.join(dict.fromkeys(gone))}, which the cell no longer has; "
            "wanted them among its strategies and seeds, another name, or --overwrite"
        )


def _unknown(named: Any, strategies: set[Any]) -> bool:
    return (named.name, named.strategy) not in strategies


class SweepFolder:
    """Owner of the folder while a command runs the sweep."""

    def __init__(self, path: Path, lock_fd: int) -> None:
        """Use `open`."""
        self.path = path
        self._lock_fd = lock_fd

    @classmethod
    def open(cls, sweep: Sweep, versions: dict[str, str], *, resume: bool, overwrite: bool) -> Self:
        """Locks it and makes it ready; `overwrite` empties the cells. Raises UserError: also for a cell whose rows were
        made with other settings, before anything is run."""
        if resume and overwrite:
            raise UserError("results: resume and overwrite exclude each other, got both")
        path = sweep.folder
        created = not path.exists()
        lock_fd = None
        try:
            path.mkdir(parents=True, exist_ok=True)
            _check_own(path)
            lock_fd = lock_folder(path)
            if not overwrite:
                _check_cells(sweep.cells, path, resume)
            write_bytes(path / _MANIFEST, b"{}")
            if overwrite:
                for cell in sweep.cells:
                    _empty(cell, versions)
            return cls(path, lock_fd)
        except BaseException as error:
            if lock_fd is not None:
                os.close(lock_fd)
            if created and lock_fd is not None:
                with suppress(OSError):
                    for name in (_MANIFEST, _LOCK):
                        (path / name).unlink(missing_ok=True)
                    path.rmdir()
            if isinstance(error, OSError):
                raise unwritable(path, error) from error
            raise

    def write_manifest(self, cells: Sequence[dict[str, Any]]) -> None:
        """Says what the cells are and how far each is. Raises UserError."""
        manifest = {"version": importlib.metadata.version("headrace"), "cells": list(cells)}
        try:
            write_bytes(self.path / _MANIFEST, (json.dumps(manifest, indent=2) + "\n").encode())
        except OSError as error:
            raise unwritable(self.path, error) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._lock_fd)


def _check_own(path: Path) -> None:
    """Raises UserError for a folder of something else."""
    if not path.is_dir():
        raise UserError(f"results: {path} is a file, wanted a folder")
    others = {entry.name for entry in path.iterdir()} - {_LOCK, f"{_MANIFEST}.tmp"}
    if others and _MANIFEST not in others:
        what = "a run, and no sweep" if _RUN_YAML in others else "other files and no sweep"
        raise UserError(f"results: {path} holds {what}; wanted another name, or a new or empty folder")


def _check_cells(cells: Sequence[Cell], path: Path, resume: bool) -> None:
    if not resume and any(shards(cell.folder, "problems") for cell in cells):
        raise UserError(
            f"results: {path} already holds results of this sweep; wanted --resume (to run what is missing), "
            "--overwrite (to replace all of it) or another name"
        )
    for cell in cells:
        if shards(cell.folder, "problems"):
            _check_same(cell)


def _empty(cell: Cell, versions: dict[str, str]) -> None:
    ResultsWriter.open(cell.folder, run_yaml=cell.resolved_yaml, versions=versions, overwrite=True).close()
