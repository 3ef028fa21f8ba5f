"""Writes docs/reference/cli.md from the commands themselves: `make cli-page` runs `python -m experiments.cli_page`."""

import html
import inspect
from collections.abc import Mapping
from typing import Any

import typer
from typer.cli import get_docs_for_click

from experiments.cli import app
from experiments.config import PROJECT_ROOT

PAGE = PROJECT_ROOT / "docs" / "reference" / "cli.md"
HEAD = """# Command line

Every command and its options. `headrace COMMAND --help` says the same in the terminal, and
`make cli-page` writes this page.

"""


def page() -> str:
    """The page as typer words it, with whole first lines in the lists of commands."""
    command = typer.main.get_command(app)
    _say_first_lines(command)
    text = get_docs_for_click(obj=command, ctx=typer.Context(command), name="headrace", indent=1)
    return HEAD + html.unescape(text).strip() + "\n"


def _say_first_lines(command: Any) -> None:
    """Describes each command of a group by the first line of its help, which typer cuts after 45 characters."""
    commands: Mapping[str, Any] = getattr(command, "commands", {})
    for each in commands.values():
        each.short_help = inspect.cleandoc(each.help or "").partition("\n")[0]
        _say_first_lines(each)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
