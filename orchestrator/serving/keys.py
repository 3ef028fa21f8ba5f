"""API keys. A key is 32 random bytes, so nobody can guess one from its hash: plain SHA-256 is enough, and a slow hash,
which is for passwords that people make up, would only cost each request. No key is kept or logged, only hashes."""

import hashlib
import hmac
import logging
import re
import secrets
import time
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from orchestrator.core.errors import UserError
from orchestrator.serving.key_classes import DEFAULT, KeysConfig

log = logging.getLogger(__name__)

VARIABLE = "HEADRACE_API_KEYS"
"""The environment variable with lines as in the file of keys, separated by line ends or semicolons."""

_PREFIX = "hr-"  # so that scanners for leaked secrets can find one
_LOOK_AGAIN_S = 1.0  # after a change of the file
_NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_DIGEST = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyRecord:
    """What is kept of a key."""

    name: str
    digest: str
    key_class: str = DEFAULT

    @property
    def line(self) -> str:
        line = f"{self.name}:sha256:{self.digest}"
        return line if self.key_class == DEFAULT else f"{line}:{self.key_class}"


def new_key(name: str, key_class: str = DEFAULT) -> tuple[str, KeyRecord]:
    """A key, and what to keep of it. Raises UserError."""
    for what, word in (("name", name), ("class", key_class)):
        if not _NAME.fullmatch(word):
            raise UserError(f"{what}: wanted up to 64 letters, digits, '.', '_' and '-', got {word!r}")
    key = _PREFIX + secrets.token_urlsafe(32)
    return key, KeyRecord(name=name, digest=_digest(key), key_class=key_class)


def read_keys(text: str, source: str, classes: Collection[str]) -> tuple[KeyRecord, ...]:
    """The keys of a file, or of a variable. Raises UserError with the number of a line that is wrong, never its
    text."""
    records: dict[str, KeyRecord] = {}
    for number, line in enumerate(re.split(r"[\n;]", text), start=1):
        if not (line := line.strip()) or line.startswith("#"):
            continue
        name, _, rest = line.partition(":sha256:")
        digest, _, key_class = rest.partition(":")
        if not _NAME.fullmatch(name) or not _DIGEST.fullmatch(digest):
            raise UserError(f"{source}: line {number} is not NAME:sha256:HASH or NAME:sha256:HASH:CLASS")
        if name in records:
            raise UserError(f"{source}: line {number} has the name of another line, {name}")
        if (key_class := key_class or DEFAULT) not in {DEFAULT, *classes}:
            raise UserError(f"{source}: line {number}: keys.classes has no class {key_class!r}")
        records[name] = KeyRecord(name=name, digest=digest, key_class=key_class)
    return tuple(records.values())


class Keyring:
    """Owner of the keys that are known. A file that has changed is read again; one that can't be read, or has a line
    that is wrong, leaves the keys as they were."""

    def __init__(self, config: KeysConfig, variable: str | None) -> None:
        """`variable` is what the environment variable holds. Raises UserError."""
        self._classes = frozenset(config.classes)
        self._fixed = read_keys(variable or "", VARIABLE, self._classes)
        self._file = None if config.file is None else Path(config.file)
        self._seen: object = None
        self._looked_at = 0.0
        self._of_file: tuple[KeyRecord, ...] = ()
        if self._file is not None:
            self._seen = _stamp(self._file)
            self._of_file = self._read(self._file)

    @property
    def configured(self) -> bool:
        """Whether keys are asked for, also where the file has none left."""
        return self._file is not None or bool(self._fixed)

    def find(self, key: str) -> KeyRecord | None:
        """The record of a key. Every digest is compared, each in the same time."""
        self._look_again()
        digest, found = _digest(key), None
        for record in (*self._fixed, *self._of_file):
            if hmac.compare_digest(record.digest, digest):
                found = record
        return found

    def _look_again(self) -> None:
        if self._file is None or time.monotonic() - self._looked_at < _LOOK_AGAIN_S:
            return
        self._looked_at = time.monotonic()
        if (stamp := _stamp(self._file)) == self._seen:
            return
        self._seen = stamp
        try:
            self._of_file = self._read(self._file)
        except UserError as error:
            log.error("the API keys stay as they were: %s", error)
        else:
            log.info("read %d API keys of %s", len(self._of_file), self._file)

    def _read(self, file: Path) -> tuple[KeyRecord, ...]:
        try:
            text = file.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            why = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
            raise UserError(f"keys.file: can't read {file}: {why}") from None
        return read_keys(text, f"keys.file: {file}", self._classes)


def _digest(key: str) -> str:
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()


def _stamp(file: Path) -> object:
    """Changes when the file does."""
    try:
        found = file.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino
