"""LiveCodeBench (Jain et al., arXiv 2403.07974): problems of programming contests, of standard input or of a method to
complete. The prompt is its own for chat models; public and private tests grade."""

import base64
import binascii
import io
import json
import pickle
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from experiments.data import records
from experiments.data.hub import HubTable
from experiments.data.published import Item, RecordsConfig
from experiments.data.references import unit_tests

_RELEASES = tuple(f"release_v{number}" for number in range(1, 7))
_FILES = ("test.jsonl", *(f"test{number}.jsonl" for number in range(2, 7)))  # each release adds one
_DIFFICULTIES = {"easy": 1.0, "medium": 2.0, "hard": 3.0}
_TASK = (
    "You are an expert Python programmer. You will be given a question (problem specification) and will generate a "
    "correct Python program that matches the specification and passes all tests."
)
_COMPLETE = (
    "You will use the following starter code to write the solution to the problem and enclose your code within "
    "delimiters."
)
_READ = (
    "Read the inputs from stdin solve the problem and write the answer to stdout (do not directly test on the sample "
    "inputs). Enclose your code within delimiters as follows."
)


@dataclass(frozen=True, kw_only=True)
class LiveCodeBench(RecordsConfig):
    """Fields `question_id`, `question_content`, `starter_code`, `public_test_cases`, `private_test_cases`, `metadata`
    and `difficulty`."""

    release: str = "release_v6"  # of the download

    graders: ClassVar[tuple[str, ...]] = ("code",)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.release not in _RELEASES:
            raise ValueError(f"release: got {self.release!r}, wanted one of {', '.join(_RELEASES)}")

    @property
    def tables(self) -> tuple[HubTable, ...]:
        files = _FILES[: _RELEASES.index(self.release) + 1]
        return (HubTable(repository="livecodebench/code_generation_lite", files=files),)

    @property
    def hidden_fields(self) -> tuple[str, ...]:
        return ("private_test_cases",)

    def item(self, record: Mapping[str, Any]) -> Item:
        question, starter = records.text(record, "question_content"), record.get("starter_code") or ""
        form, code = (_COMPLETE, starter) if starter else (_READ, "# YOUR CODE HERE")
        problem = f"### Question:\n{question}\n\n### Format: {form}\n```python\n{code}\n```\n"
        tests = [*_tests(record, "public_test_cases"), *_tests(record, "private_test_cases")]
        difficulty = records.text(record, "difficulty")
        if difficulty not in _DIFFICULTIES:
            raise ValueError(f"has a bad 'difficulty': wanted {', '.join(_DIFFICULTIES)}, got {difficulty!r:.60}")
        return Item(
            problem=problem,
            prompt=f"{_TASK}\n\n{problem}\n### Answer: (use the provided format with backticks)\n",
            reference=unit_tests({**record, "tests": tests}, "tests"),
            id=records.text(record, "question_id"),
            difficulty=_DIFFICULTIES[difficulty],
        )


def _tests(record: Mapping[str, Any], name: str) -> list[Any]:
    """Of a list, of JSON text, or of JSON text that is pickled and compressed, as private tests are published."""
    if isinstance(record.get(name), list):
        return list(record[name])
    text = records.text(record, name)
    if not text.lstrip().startswith("["):
        text = _unpacked(text, name)
    try:
        return list(json.loads(text))
    except (ValueError, TypeError, RecursionError) as error:
        raise ValueError(f"has a bad {name!r}: wanted a JSON list of tests, got {text!r:.60}: {error}") from None


def _unpacked(text: str, name: str) -> str:
    try:
        found = _TextOnly(io.BytesIO(zlib.decompress(base64.b64decode(text, validate=True)))).load()
    except (binascii.Error, zlib.error, pickle.UnpicklingError, EOFError, ValueError) as error:
        raise ValueError(f"has a bad {name!r}: wanted JSON, plain or compressed, got {text!r:.60}: {error}") from None
    if not isinstance(found, str):
        raise ValueError(f"has a bad {name!r}: wanted JSON text in the pickle, got {type(found).__name__}")
    return found


class _TextOnly(pickle.Unpickler):
    """Reads plain values. Whatever would run code must first find a function by its name, and finds none."""

    def find_class(self, module_name: str, global_name: str) -> Any:
        raise pickle.UnpicklingError(f"it names {module_name}.{global_name}, wanted text only")
