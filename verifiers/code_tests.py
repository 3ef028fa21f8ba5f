"""The unit tests of a problem, read from its metadata in the formats of published data sets.

Program text that raises where the solution is wrong (HumanEval's `check`, which is called with the `entry_point`; the
lists of MBPP), inputs with their outputs (LiveCodeBench's records and APPS's lists, as JSON text or parsed), or calls
with what they return (the functional tests of both). What can't be read, or is empty, is refused: NoVerdict.
"""

import ast
import base64
import binascii
import json
import warnings
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from verifiers.rules import NoVerdict

# LiveCodeBench and APPS run programs where these are imported, as LeetCode does. Stars first: modules stay modules.
_STARS = ("bisect", "collections", "copy", "datetime", "functools", "heapq", "itertools", "math", "operator", "random")
_IMPORTS = "".join(f"from {name} import *\n" for name in (*_STARS, "re", "string", "typing", "builtins"))
_IMPORTS += f"import {', '.join(_STARS)}, json, re, string, sys\nsys.setrecursionlimit(50_000)\n"
_CALL = """\
import json as _json
def _plain(value):
    return [_plain(item) for item in value] if isinstance(value, (list, tuple)) else value
def _keys(value):
    return {{int(key): value[key] for key in value}} if all(key.isdecimal() for key in value) else value
_arguments, _accepted = _json.loads({cases!r}, object_hook=_keys)
_solution = globals().get("Solution")
_function = getattr(_solution(), {name!r}) if hasattr(_solution, {name!r}) else globals()[{name!r}]
_returned = _plain(_function(*_arguments))
assert _returned in _accepted, f"{{_returned!r}} is not in {{_accepted!r}}"
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Assertions:
    """Program text that raises where the solution is wrong. `setup` runs before the solution."""

    source: str
    setup: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Exchange:
    """What a program reads and must print. `setup` runs before it."""

    input: str
    output: str
    setup: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """A function, or a method of `Solution`, and what it may return. Lists and tuples are alike."""

    name: str
    arguments: Sequence[Any]
    accepted: Sequence[Any]

    @property
    def setup(self) -> str:
        return f"{_IMPORTS}globals().pop({self.name!r}, None)\n"  # the solution's own is meant

    @property
    def source(self) -> str:
        return _CALL.format(cases=json.dumps([self.arguments, self.accepted]), name=self.name)


Test = Assertions | Exchange | Call


def parse_tests(value: Any, name: str, metadata: Mapping[str, Any]) -> tuple[Test, ...]:
    """The tests in the metadata field of that name. `metadata` is all the metadata, where `entry_point`, `prompt`,
    `test_setup_code`, `test_imports`, `fn_name` and `metadata` of the published records are. Raises NoVerdict."""
    value = _decoded(value, name)
    match value:
        case list() | tuple():
            if not value:
                raise NoVerdict(f"the metadata field {name!r} must hold at least one test, got none")
            return tuple(test for one in value for test in parse_tests(one, name, metadata))
        case str():
            return (_assertions(value, name, metadata),)
        case {"inputs": list() as inputs, "outputs": list() as outputs}:
            return _apps(inputs, outputs, value.get("fn_name") or metadata.get("fn_name"), name)
        case {"input": str(read), "output": str(printed), **more}:
            kind = more.get("testtype")
            if kind == "functional":
                return (_functional(read, printed, name, metadata),)
            if kind in (None, "stdin") and not more.get("fn_name"):
                return (_exchange(read, printed, name, setup=_IMPORTS if kind else ""),)
            raise NoVerdict(
                f"a test in the metadata field {name!r} must be of testtype stdin or functional, got {kind}"
            )
    got = f"the keys {', '.join(map(str, value))}" if isinstance(value, Mapping) else type(value).__name__
    raise NoVerdict(
        f"a test in the metadata field {name!r} must be program text, {{input, output}} texts or"
        f" {{inputs, outputs}} lists, got {got}"
    )


def _decoded(value: Any, name: str) -> Any:
    """What JSON text holds; other values as they are."""
    if not isinstance(value, str):
        return value
    if not value.strip():
        raise NoVerdict(f"a test in the metadata field {name!r} is empty text, wanted program text or JSON")
    if _is_compressed(value):
        raise NoVerdict(
            f"the metadata field {name!r} is a compressed pickle, as LiveCodeBench's private tests are, and a pickle"
            " can run any program while it is read; wanted JSON text: convert the file first"
        )
    try:
        found = json.loads(value)
    except (ValueError, RecursionError):
        return value
    return found if isinstance(found, list | dict | str) else value


def _is_compressed(text: str) -> bool:
    try:
        zlib.decompressobj().decompress(base64.b64decode(text[:64], validate=True), 1)
    except (binascii.Error, zlib.error, ValueError):
        return False
    return True


def _assertions(source: str, name: str, metadata: Mapping[str, Any]) -> Assertions:
    tree = _parsed(source, f"a test in the metadata field {name!r}")
    imports, setup_code = metadata.get("test_imports") or [], metadata.get("test_setup_code") or ""
    if not isinstance(imports, list) or not all(isinstance(part, str) for part in (*imports, setup_code)):
        raise NoVerdict("the metadata fields test_imports and test_setup_code must be a list of texts and a text")
    setup = [*imports, setup_code]
    if _calls_for_a_candidate(tree):
        source += f"\ncheck({_entry_point(name, metadata)})\n"
        prompt = metadata.get("prompt")
        if isinstance(prompt, str) and _is_python(prompt):
            setup.append(prompt)  # HumanEval's: imports, helpers and the function without its body
    text = "\n".join(part for part in setup if part)
    _parsed(text, "the metadata field test_imports or test_setup_code")
    return Assertions(source=source, setup=text)


def _calls_for_a_candidate(tree: ast.Module) -> bool:
    """Whether the text defines `check(candidate)` and does not call it."""
    [*checks] = (node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == "check")
    if not checks or not checks[-1].args.args:
        return False
    others = (node for top in tree.body if top not in checks for node in ast.walk(top))
    return not any(isinstance(node, ast.Call) and getattr(node.func, "id", None) == "check" for node in others)


def _entry_point(name: str, metadata: Mapping[str, Any]) -> str:
    entry = metadata.get("entry_point")
    if not isinstance(entry, str) or not _is_python(f"({entry})"):
        got = f"got {entry!r}" if "entry_point" in metadata else "which this problem's metadata lacks"
        raise NoVerdict(
            f"the metadata field {name!r} defines check(candidate) and calls it nowhere; wanted the function's name in"
            f" the field entry_point, {got}: data.metadata_fields: [{name}, entry_point]"
        )
    return entry


def _exchange(read: str, printed: str, name: str, *, setup: str) -> Exchange:
    if not printed.strip():
        raise NoVerdict(f"a test in the metadata field {name!r} wants no output, so that an empty program passes it")
    return Exchange(input=read, output=printed, setup=setup)


def _functional(read: str, printed: str, name: str, metadata: Mapping[str, Any]) -> Call:
    """LiveCodeBench's: an argument on each line of the input, in JSON."""
    record = _decoded(metadata.get("metadata"), "metadata")
    function = record.get("func_name") if isinstance(record, Mapping) else metadata.get("fn_name")
    try:
        arguments, wanted = [json.loads(line) for line in read.split("\n")], json.loads(printed)
    except (ValueError, RecursionError) as error:
        raise NoVerdict(f"a functional test in the metadata field {name!r} is not JSON: {error}") from None
    return Call(name=_function(function, name), arguments=arguments, accepted=[wanted])


def _apps(inputs: Sequence[Any], outputs: Sequence[Any], function: Any, name: str) -> tuple[Test, ...]:
    if not inputs or len(inputs) != len(outputs):
        raise NoVerdict(
            f"the metadata field {name!r} must hold as many inputs as outputs and at least one,"
            f" got {len(inputs)} and {len(outputs)}"
        )
    pairs = list(zip(inputs, outputs, strict=True))
    if not function:
        return tuple(_exchange(_text(i, name), _text(o, name), name, setup=_IMPORTS) for i, o in pairs)
    if not all(isinstance(arguments, list) for arguments in inputs):
        raise NoVerdict(f"the metadata field {name!r} has a fn_name, so that each of its inputs must be a list")
    # what a function returns stands alone, or in a list of its own
    return tuple(
        Call(name=_function(function, name), arguments=i, accepted=[o, *(o[:1] if isinstance(o, list) else ())])
        for i, o in pairs
    )


def _text(lines: Any, name: str) -> str:
    if isinstance(lines, list) and all(isinstance(line, str) for line in lines):
        return "\n".join(lines)
    if not isinstance(lines, str):
        raise NoVerdict(f"an input or output in {name!r} must be text or a list of lines, got {type(lines).__name__}")
    return lines


def _function(function: Any, name: str) -> str:
    if not isinstance(function, str) or not function.isidentifier():
        raise NoVerdict(
            f"the metadata field {name!r} holds functional tests; wanted the function's name as func_name in the field"
            f" metadata, or as fn_name, got {function!r}"
        )
    return function


def _parsed(source: str, what: str) -> ast.Module:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tree = ast.parse(source)
            compile(tree, "<test>", "exec", dont_inherit=True)  # a `return` outside of functions parses
            return tree
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:  # ValueError: a null character
        raise NoVerdict(f"{what} is not Python: {error}") from None


def _is_python(source: str) -> bool:
    try:
        _parsed(source, "")
    except NoVerdict:
        return False
    return True
