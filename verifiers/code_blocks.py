"""The program in a solution's text: which of its code blocks it is, and what it needs of the others.

Published graders disagree: LiveCodeBench takes the last block, EvalPlus the longest run of lines that is Python. Both
lose solutions that end with an example, or that are spread over blocks. Here the program is the last block that defines
what the tests call, or that reads input; definitions that it uses and lacks come from the other blocks. A block that
was cut off, or a text without blocks, stands for its longest run of definitions.
"""

import ast
import builtins
import re
import symtable
import textwrap
import warnings
from collections.abc import Collection, Iterator, Sequence
from itertools import islice

from orchestrator.core.answers.clean import without_thinking

_PYTHON = ("python", "python3", "py", "py3")
_OPENING = re.compile(r"[ \t>]*(?:(?:[-*+]|\d+[.)])[ \t]+)?(?P<fence>`{3,}(?!.*`)|~{3,})[ \t{.]*(?P<label>\w*).*")
_CLOSING = re.compile(r"[ \t>]*(?P<fence>`{3,}|~{3,})[ \t]*")
_CHUNK = re.compile(r"\n(?=[^\s)\]}])(?!(?:else|elif|except|finally)\b)")  # before a line that may open a statement
_MARK = re.compile(r"^[ \t]*(?:\[/?(?:BEGIN|PYTHON|CODE|SOLUTION|ANSWER)\]|</?code>)[ \t]*$", re.MULTILINE | re.I)
_DONE = re.compile(r"^[ \t]*\[(?:DONE|END)\][ \t]*$", re.MULTILINE)  # as MBPP's examples end
_MAX_ENDS = 20  # fences that may stand in strings of one block
_MAX_CHUNKS = 30  # of one statement: lines of a string may stand at the margin
_DEFINITIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)


def extract_program(text: str, wanted: Collection[str] = (), *, reads_input: bool = False) -> tuple[str, ...]:
    """Sources to run one after the other, the program last.

    `wanted` are the names that the tests use; `reads_input` says that they feed standard input. Thinking is passed
    over. Without any code the program is what there is of text, which is no Python.
    """
    blocks = _candidates(without_thinking(text))
    main = max(range(len(blocks)), key=lambda index: (_fitness(blocks[index], wanted, reads_input), index))
    others = [block for index, (_, block) in enumerate(blocks) if index != main]
    program = blocks[main][1]
    return (*_needed(program, others, wanted), program)


def defines(sources: Sequence[str], name: str) -> bool:
    """Whether one of the sources defines the name at its top level."""
    return any(name in _names(source)[1] for source in sources if _tree(source) is not None)


def longest_run(text: str) -> str:
    """The longest run of whole statements that defines something or reads input; lines between them that only look like
    Python are left out. Empty where there is none."""
    best, run, defining = "", list[str](), False
    chunks = _CHUNK.split(textwrap.dedent(text))
    start = 0
    while start < len(chunks):
        spans = ("\n".join(chunks[start:end]) for end in range(start + 1, min(start + _MAX_CHUNKS, len(chunks)) + 1))
        statement, tree = next(((span, tree) for span in spans if (tree := _tree(span)) is not None), ("", None))
        if tree is None:
            run, defining = [], False
            start += 1
            continue
        start += len(_CHUNK.split(statement))
        if not all(_is_prose(node) for node in tree.body):
            run.append(statement)
        defining |= _has_definition(tree) or _reads_input(statement)
        if defining:
            best = max("\n".join(run), best, key=lambda code: code.count("\n"))
    return best


def global_names(code: str) -> set[str]:
    """What the code uses of its module and does not define."""
    used, defined = _names(code)
    return used - defined


def _tree(code: str) -> ast.Module | None:
    """Of a Python program; None for other text."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tree = ast.parse(code)
            compile(tree, "<code>", "exec", dont_inherit=True)  # a `return` outside of functions parses
            return tree
    except (SyntaxError, ValueError, RecursionError, MemoryError, OverflowError):  # too deep, or a null character
        return None


def _candidates(text: str) -> list[tuple[bool, str]]:
    """The blocks that may be the program, at least one: whether each says that it is Python, and its code."""
    blocks = [(label in _PYTHON, _repaired(code)) for label, code in _blocks(text) if label in (*_PYTHON, "")]
    plain = _MARK.sub("", _DONE.split(text, maxsplit=1)[0])
    return [block for block in blocks if block[0] or _tree(block[1]) is not None] or [(False, _repaired(plain))]


def _blocks(text: str) -> Iterator[tuple[str, str]]:
    """Label and code of each fenced block. One that does not end goes to the next that begins, or to the text's end."""
    lines = text.replace("\r\n", "\n").split("\n")
    at = 0
    while at < len(lines):
        opening = _OPENING.fullmatch(lines[at])
        at += 1
        if opening is None:
            continue
        closing = (end for end in range(at, len(lines)) if _ends(lines[end], opening["fence"]))
        ends = list(islice(closing, _MAX_ENDS)) or [len(lines)]
        # a fence in a string of the program ends nothing
        end = next((end for end in ends if _tree(_code(lines[at:end])) is not None), ends[0])
        label, code = opening["label"].lower(), _code(lines[at:end])
        if label in ("markdown", "md"):
            yield from _blocks(code)
        else:
            yield label, code
        at = end + 1 if end < len(lines) and _CLOSING.fullmatch(lines[end]) else end


def _ends(line: str, fence: str) -> bool:
    closing = _CLOSING.fullmatch(line)
    if closing is not None:
        return closing["fence"].startswith(fence)
    opening = _OPENING.fullmatch(line)
    return opening is not None and bool(opening["label"]) and opening["fence"] == fence


def _code(lines: Sequence[str]) -> str:
    """Without the indentation, or the mark of a quotation, that all of the lines share."""
    if lines and all(line.lstrip().startswith(">") or not line.strip() for line in lines):
        lines = [line.lstrip()[1:] for line in lines]
    return textwrap.dedent("".join(f"{line}\n" for line in lines))


def _repaired(code: str) -> str:
    tree = _tree(code)
    if tree is None:
        return longest_run(code) or code
    lines = code.split("\n")
    for node in tree.body:  # `python` above the program, where a fence is missing
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Name) and node.end_lineno == node.lineno:
            lines[node.lineno - 1] = ""
    plain = "\n".join(lines)
    return plain if _tree(plain) is not None else code


def _fitness(block: tuple[bool, str], wanted: Collection[str], reads_input: bool) -> tuple[int, ...]:
    """By what the program is told from examples: the larger, the likelier."""
    says_python, code = block
    tree = _tree(code)
    if tree is None:
        return (0, 0, 0, says_python)
    used, defined = _names(code)
    # what a block imports is not what the tests call
    own = {node.name for node in tree.body if isinstance(node, _DEFINITIONS)}
    targets = [target for node in tree.body if isinstance(node, ast.Assign) for target in node.targets]
    own |= {target.id for target in targets if isinstance(target, ast.Name)}
    whole = not used - defined - set(dir(builtins)) if reads_input else _has_definition(tree)
    return (len(own.intersection(wanted)), reads_input and _reads_input(code), whole, says_python)


def _needed(program: str, others: Sequence[str], wanted: Collection[str]) -> list[str]:
    """The definitions in other blocks that the program or the tests use and it lacks, and what those use in turn."""
    if _tree(program) is None:
        return []
    used, own = _names(program)
    trees = [tree for code in others if (tree := _tree(code)) is not None]
    statements = [ast.unparse(node) for tree in trees for node in tree.body if _is_definition(node)]
    names = {statement: _names(statement) for statement in statements}
    needed = (used | set(wanted)) - own
    taken = {statement for statement in statements if statement.endswith("import *")}  # it may bring anything
    while found := {one for one in names if one not in taken and names[one][1] & needed}:
        taken |= found
        needed |= {name for one in found for name in names[one][0]} - own
    return [statement for statement in statements if statement in taken]


def continued(prompt: str, text: str, name: str) -> str | None:
    """The prompt's function of that name with the body that the text gives, as HumanEval asks base models; None where
    the text gives none. Models lose the indentation of the body, or of its first line."""
    said = without_thinking(text)
    for body in [*(code for _, code in _blocks(said)), said]:
        indented = textwrap.indent(textwrap.dedent(body), "    ")
        for code in (prompt + body, prompt + indented, prompt + "    " + body.lstrip("\n ")):
            program = longest_run(code)
            if program and _has_body(program, name):
                return program
    return None


def _has_body(code: str, name: str) -> bool:
    """Whether the code defines a function of that name that does something."""
    tree = _tree(code)
    for node in tree.body if tree is not None else ():
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name == name:
            said = [one for one in node.body if not (isinstance(one, ast.Expr) and isinstance(one.value, ast.Constant))]
            return any(not isinstance(one, ast.Pass) for one in said)
    return False


def _reads_input(code: str) -> bool:
    """Whether code that parses reads standard input."""
    tree = _tree(code)
    if tree is None:
        return False
    attributes = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    return bool(_names(code)[0] & {"input", "open"} or "stdin" in attributes)


def _has_definition(tree: ast.Module) -> bool:
    return any(isinstance(node, _DEFINITIONS) for node in tree.body)


def _is_definition(node: ast.stmt) -> bool:
    """Imports, functions, classes and constants: what running twice, or without need, does no harm."""
    if isinstance(node, ast.ImportFrom) and node.module == "__future__":
        return False
    if isinstance(node, ast.Assign | ast.AnnAssign):
        return node.value is not None and not any(isinstance(part, ast.Call) for part in ast.walk(node.value))
    return isinstance(node, (*_DEFINITIONS, ast.Import, ast.ImportFrom))


def _is_prose(node: ast.stmt) -> bool:
    """Words that are Python by chance: a name alone, a list of them, or `Note: this`."""
    if isinstance(node, ast.AnnAssign):
        return node.value is None
    return isinstance(node, ast.Expr) and not isinstance(node.value, ast.Call | ast.Await | ast.Yield)


def _names(code: str) -> tuple[set[str], set[str]]:
    """The names of the module that code which parses uses, and those that it defines at its top level."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        module = symtable.symtable(code, "<code>", "exec")
    used, tables = set[str](), [module]
    while tables:
        table = tables.pop()
        used |= {symbol.get_name() for symbol in table.get_symbols() if symbol.is_global() and symbol.is_referenced()}
        tables += table.get_children()
    defined = (symbol for symbol in module.get_symbols() if symbol.is_assigned() or symbol.is_imported())
    return used, {symbol.get_name() for symbol in defined}
