"""The run that faults disturb: as `headrace run` and, where that ends early, `headrace run --resume` would run it."""

import asyncio
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from experiments.running.run import Plan, execute, open_results, plan_run
from orchestrator.core.errors import HeadraceError
from orchestrator.results import CandidateRow, ProblemRow

_PAUSE_S = 1.0  # before a run is resumed that has ended early


class DisturbedRun:
    """Owner of the task that runs. `num_rows` and `ends` grow."""

    def __init__(self, plan: Plan, on_note: Any = lambda note: None) -> None:
        self.plan = plan
        self.num_rows = 0  # that came; again, those that were not saved when the run ended early
        self.ends: list[tuple[float, HeadraceError]] = []  # when it ended early (seconds since 1970), and why
        self._on_note = on_note
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = asyncio.create_task(self._until_whole())

    @property
    def over(self) -> bool:
        return self._task is not None and self._task.done()

    async def wait(self) -> None:
        """Until it is whole. Raises what the code did not expect."""
        assert self._task is not None
        await self._task

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _until_whole(self) -> None:
        resume = False
        while True:
            try:
                with open_results(self.plan, resume=resume, overwrite=not resume) as results:
                    await execute(
                        self.plan, results, on_stage=lambda _: None, on_row=self._on_row, on_note=self._on_note
                    )
                return
            except HeadraceError as error:
                if not self.num_rows:  # it can't begin
                    raise
                self.ends.append((time.time(), error))
                resume = True
            await asyncio.sleep(_PAUSE_S)

    def _on_row(self, row: ProblemRow, candidates: Sequence[CandidateRow]) -> None:
        self.num_rows += 1


def plan_of(folder: Path, settings: dict[str, Any]) -> Plan:
    """As from a YAML file with these keys."""
    path = folder / f"{settings['name']}.yaml"
    path.write_text(OmegaConf.to_yaml(OmegaConf.create(settings)), encoding="utf-8")
    return plan_run(path, [])
