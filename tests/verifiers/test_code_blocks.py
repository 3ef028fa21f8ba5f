import pytest

from verifiers.code_blocks import extract_program, longest_run


@pytest.mark.parametrize(
    ("text", "program"),
    [
        ("x = 1\n", "x = 1\n"),
        ("a\n```python\nx = 1\n```\nb\n```py\nx = 2\n```\nc", "x = 2\n"),
        ("```python\nx = 1\n```\nIt prints\n```\n1\n```", "x = 1\n"),
        ("```Python title=a\nx = 1\n```", "x = 1\n"),
        ("```{.python}\nx = 1\n```", "x = 1\n"),
        ("```\nx = 1\n```\n```text\n1\n```", "x = 1\n"),
        ("```python\nx = 1\n```\n```java\nint y;\n```", "x = 1\n"),
        ("```python\r\nx = 1\r\n```\r\n", "x = 1\n"),
        ("  ```python\n  x = 1\n  ```", "x = 1\n"),
        ("1. So:\n\n   ```python\n   if x:\n       y = 1\n   ```\n2. Done", "if x:\n    y = 1\n"),
        ("- ```python\n  x = 1\n  ```", "x = 1\n"),
        ("> ```python\n> if x:\n>     y = 1\n> ```", "if x:\n    y = 1\n"),
        ("~~~python\nx = 1\n~~~", "x = 1\n"),
        ("````python\ns = '''\n```\n'''\n````", "s = '''\n```\n'''\n"),
        ("```python\ns = '''\n```\n'''\nx = 1\n```\nand\n```\n1\n```", "s = '''\n```\n'''\nx = 1\n"),
        ("```python\nprint('```')\n```", "print('```')\n"),
        ("In `x` or ```x``` or\n```python\nx = 1\n```", "x = 1\n"),
        ("````markdown\n# Title\n```python\nx = 1\n```\n````", "x = 1\n"),
        ("```python\nx = 1\n\n```python\ny = 2\n```", "y = 2\n"),
        ("```python\nx = 1\nprint(", "x = 1\nprint(\n"),
        ("```python\n```", ""),
    ],
)
def test_the_program_is_the_last_python_block(text: str, program: str):
    assert extract_program(text) == (program,)


@pytest.mark.parametrize(
    "example",
    [
        "```python\nprint(f(1))\n```",
        "```python\ndef g():\n    return f(1)\n```",
        "```\nf(1)\n```",
        "```bash\npython f.py\n```",
        "```python\nprint(f(",
    ],
)
def test_an_example_after_the_program_is_not_the_program(example: str):
    assert extract_program(f"```python\ndef f(x):\n    return x\n```\nUsage:\n{example}", {"f"}) == (
        "def f(x):\n    return x\n",
    )


def test_of_two_programs_the_later_one_counts():
    assert extract_program("```python\ndef f(): return 1\n```\n```python\ndef f(): return 2\n```", {"f"}) == (
        "def f(): return 2\n",
    )


def test_what_the_program_lacks_comes_from_the_other_blocks_and_nothing_else_does():
    text = """```python
import math
import sys
LIMIT = 10
n = int(input())
def unused(): return missing
def helper(x): return math.floor(x) + LIMIT
print(helper(1))
```
```python
from __future__ import annotations
def f(x): return helper(x)
```
"""
    *definitions, program = extract_program(text, {"f"})
    assert definitions == ["import math", "LIMIT = 10", "def helper(x):\n    return math.floor(x) + LIMIT"]
    assert program == "from __future__ import annotations\ndef f(x): return helper(x)\n"


def test_a_block_that_was_cut_off_keeps_its_finished_definitions():
    assert extract_program("```python\nimport re\n\ndef f(x):\n    return x\n\ndef g(x):\n    return (x", {"f"}) == (
        "import re\n\ndef f(x):\n    return x\n",
    )


def test_a_program_is_found_among_prose():
    text = """Here is what I'd do, step by step.
Note: this
import functools
@functools.cache
def f(x):
    if x:
        return f(
x - 1)
    return '''
done
'''

try:
    f(3)
except ValueError:
    pass
else:
    f(4)

Done, and it's fast."""
    run = longest_run(text)
    assert run.startswith("import functools\n@functools.cache\ndef f(x):")
    assert run.rstrip().endswith("else:\n    f(4)")
    compile(run, "", "exec")


def test_prose_holds_no_program():
    assert longest_run("I can't say.\nDone\nNote: this") == ""


def test_thinking_is_passed_over_and_unfinished_thinking_holds_no_program():
    block = "```python\nx = {}\n```"
    assert extract_program(f"<think>{block.format(1)}</think>{block.format(2)}") == ("x = 2\n",)
    assert extract_program(f"<think>\n{block.format(1)}") == ("",)


@pytest.mark.parametrize("text", ["```python\n" + "(" * 10_000, "x" * 100_000, "a\0b", "```" * 5000, "\n" * 50_000])
def test_any_text_has_some_program(text: str):
    assert extract_program(text, {"f"}, reads_input=True)
