"""What a run was set to, and in words how two runs differ. Folders of older versions lack later settings."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.core.errors import UserError
from orchestrator.results.same_run import flat, parse_config

_OWN = ("name", "results_dir", "strategies", "seeds")  # differ in no measured way, or are told apart
_LONGEST = 60  # characters of a value


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSettings:
    """The leaves of `run.yaml` by dotted key."""

    values: Mapping[str, Any]

    def data(self) -> str | None:
        """The data set in words, such as `tinymath, split test`; None where it is not told, as in a replay."""
        parts = [(name, self.values.get(f"data.{name}")) for name in ("name", "path", "split")]
        told = [str(value) if name == "name" else f"{name} {value}" for name, value in parts if value is not None]
        return ", ".join(told) or None


def read_settings(folder: Path) -> RunSettings:
    """Of a results folder. Raises UserError."""
    path = folder / "run.yaml"
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"results: {path} can't be read: {error}") from error
    return RunSettings(values=dict(flat(parse_config(text, str(path)))))


def setting_notes(first: RunSettings, second: RunSettings) -> list[str]:
    """A line for each setting that both have and that differs; then one for what only one of them has. A section that
    the other lacks as a whole, as a replay lacks the policy, is named without its settings."""
    ours, theirs = ({key: value for key, value in run.values.items() if not _own(key)} for run in (first, second))
    notes = [
        f"{key}: {_shown(ours[key])} in the first, {_shown(theirs[key])} in the second"
        for key in ours
        if key in theirs and ours[key] != theirs[key]
    ]
    for name, own, other in (("first", ours, theirs), ("second", theirs, ours)):
        sections = {_section(key) for key in other}
        only = dict.fromkeys(
            f"{key}: {_shown(value)}" if _section(key) in sections or _section(key) == key else f"{_section(key)}.*"
            for key, value in own.items()
            if key not in other and value is not None
        )
        if only:
            notes.append(f"only the {name} sets {', '.join(only)}")
    return notes


def _own(key: str) -> bool:
    return any(key == own or key.startswith((f"{own}.", f"{own}[")) for own in _OWN)


def _section(key: str) -> str:
    return key.partition(".")[0].partition("[")[0]


def _shown(value: Any) -> str:
    text = "nothing" if value is None else json.dumps(value) if isinstance(value, str) else str(value)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."
