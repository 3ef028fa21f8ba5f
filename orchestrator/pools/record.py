"""Where the named pools of this user are: a small file for each, so that commands find them by name alone."""

import json
import os
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from orchestrator.core.config import RayConfig
from orchestrator.core.errors import UserError
from orchestrator.pools import local_ray

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolRecord:
    """A pool that was started here."""

    name: str
    address: str  # of its Ray
    pid: int | None = None  # of the process that holds a local Ray; None: the Ray is somebody else's


def check_name(name: str) -> str:
    """Raises UserError for what can't name a pool."""
    if not _NAME.fullmatch(name):
        raise UserError(f"pool: wanted letters, digits, - and _, at most 64 of them, got {name!r}")
    return name


def write_record(record: PoolRecord) -> None:
    """Raises UserError where the name has a record: of two that are written at once, one is."""
    _folder().mkdir(parents=True, exist_ok=True)
    partly = _path(record.name).with_suffix(f".{os.getpid()}")
    partly.write_text(json.dumps(asdict(record)), encoding="utf-8")
    try:
        os.link(partly, _path(record.name))
    except FileExistsError:
        if any(found.name == record.name for found in records()):
            raise started_before(record.name) from None
        partly.replace(_path(record.name))  # what is there can't be read
    finally:
        partly.unlink(missing_ok=True)


def started_before(name: str) -> UserError:
    return UserError(f"pool: {name} was started before; headrace down {name} ends it")


def remove_record(name: str) -> None:
    _path(name).unlink(missing_ok=True)


def records() -> Sequence[PoolRecord]:
    """All of them, by name."""
    found = []
    for path in sorted(_folder().glob("*.json")):
        try:
            found.append(PoolRecord(**json.loads(path.read_text(encoding="utf-8"))))
        except (OSError, ValueError, TypeError):
            continue  # half written, or removed meanwhile
    return found


def find_record(name: str | None) -> PoolRecord:
    """The record of a name; without one, the only record. Raises UserError."""
    found = records()
    names = ", ".join(record.name for record in found) or "none; headrace up starts one"
    matching = [record for record in found if name is None or record.name == name]
    if len(matching) == 1:
        return matching[0]
    if name is None and found:
        raise UserError(f"pool: there are several, wanted the name of one: {names}")
    what = "none" if name is None else f"no pool {name!r}"
    raise UserError(f"pool: {what} was started here; known: {names}")


def running_record(name: str | None) -> PoolRecord:
    """As `find_record`. Raises UserError also where the local Ray of the pool has ended, as after a restart of the
    machine: to look for it would take Ray minutes."""
    record = find_record(name)
    if record.pid is not None and not local_ray.runs(record.pid):
        raise UserError(f"pool: {record.name} has ended with its Ray; headrace down {record.name} forgets it")
    return record


def ray_of(pool: str | None, config: RayConfig) -> RayConfig:
    """The Ray of a command: the pool's, unless an address is set. Raises UserError as `running_record` does."""
    if pool is None or config.address is not None:
        return config
    return replace(config, address=running_record(pool).address)


def log_path(name: str) -> Path:
    """Of the process that holds a pool's local Ray."""
    return _folder() / f"{name}.log"


def _folder() -> Path:
    base = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(base) / "headrace" / "pools"


def _path(name: str) -> Path:
    return _folder() / f"{name}.json"
