"""The page that shows a search: its files as the endpoint serves them, or one file that holds all of it and a trace.

It needs no build step and nothing from another origin, which its Content-Security-Policy forbids.
"""

import base64
import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

_TYPES = {"js": "text/javascript", "css": "text/css", "html": "text/html"}
_IMPORT = re.compile(r'^import .* from "\./(\w+\.js)";\n', re.MULTILINE)
_EXPORT = re.compile(r"^export ", re.MULTILINE)

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
"""Of the served page: nothing comes from elsewhere, and nothing goes there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PageFile:
    """One of the page's files."""

    content: bytes
    media_type: str


@cache
def page_files() -> Mapping[str, PageFile]:
    """By name; `index.html` is the page itself."""
    found = {}
    for file in files(__name__).iterdir():
        kind = file.name.rpartition(".")[2]
        if kind in _TYPES:
            found[file.name] = PageFile(content=file.read_bytes(), media_type=f"{_TYPES[kind]}; charset=utf-8")
    return found


def standalone(trace: Mapping[str, Any], *, title: str) -> str:
    """The page as one HTML file that shows this trace, also where there is no network."""
    script, style = _script(), _text("style.css")
    told = json.dumps(trace, ensure_ascii=False, allow_nan=False).replace(
        "<", "\\u003c"
    )  # nothing in it ends the element
    policy = file_policy(script, style)
    return (
        _text("index.html")
        .replace("<head>", f'<head>\n  <meta http-equiv="Content-Security-Policy" content="{policy}">', 1)
        .replace('<link rel="stylesheet" href="page/style.css">', f"<style>{style}</style>")
        .replace("<title>Headrace</title>", f"<title>{_escaped(title)}</title>")
        .replace("Watch a search while it happens", _escaped(title))
        .replace(
            '<script type="module" src="page/main.js"></script>',
            f'<script type="application/json" id="trace">{told}</script>\n  <script type="module">{script}</script>',
        )
    )


def file_policy(script: str, style: str) -> str:
    """The Content-Security-Policy of a page that is one file: its own script and style, and nothing else."""
    return f"default-src 'none'; script-src {_hash(script)}; style-src {_hash(style)}; img-src data:"


def _script() -> str:
    """The modules as one, each after those that it imports. Their top-level names differ, so they need no walls."""
    written: dict[str, str] = {}

    def write(name: str) -> None:
        source = _text(name)
        for imported in _IMPORT.findall(source):
            if imported not in written:
                write(imported)
        written[name] = _EXPORT.sub("", _IMPORT.sub("", source))

    write("main.js")
    return "\n".join(written.values())


def _text(name: str) -> str:
    return page_files()[name].content.decode()


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace('"', "&quot;")
