"""Brings what pages link to outside docs/ into the site, so that the same links work on GitHub and without a network.

A Markdown file becomes a page, a picture stays one, any other text becomes a page that shows it as code.
"""

import os
import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[2]
LINK = re.compile(r"(\]\()([^)\s#]+)((?:#[^)\s]*)?\))")
PICTURES = (".png", ".svg")
HIGHLIGHTED = {".yaml": "yaml", ".py": "python", ".sh": "bash", ".json": "json", ".toml": "toml"}


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Adds pages of docs/ that `nav` does not name to its section "Reference"."""
    named = set(re.findall(r"[\w/]+\.md", str(config.nav)))
    [reference] = [section["Reference"] for section in config.nav or () if "Reference" in section]
    reference += [page.name for page in sorted((ROOT / "docs").glob("*.md")) if page.name not in named]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds CONTRIBUTING.md and all that is linked to, from page to page."""
    waiting = [file.src_uri for file in files.documentation_pages()]
    texts = {uri: (ROOT / "docs" / uri).read_text(encoding="utf-8") for uri in waiting}
    while waiting:
        uri = waiting.pop()
        for _, link, _ in LINK.findall(texts[uri]):
            path = target(uri, link)
            if path is None or (added := uri_of(path)) in texts or files.get_file_from_path(added):
                continue
            if path.endswith(PICTURES):
                files.append(File.generated(config, added, abs_src_path=str(ROOT / path)))
                continue
            texts[added] = shown(path)
            files.append(File.generated(config, added, content=texts[added]))
            waiting.append(added)
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turns links to files of the repository into links to their pages, and our marks of fenced blocks into none."""

    def renamed(match: re.Match[str]) -> str:
        opening, link, closing = match.groups()
        path = target(page.file.src_uri, link)
        if path is None:
            return match.group()
        return opening + posixpath.relpath(uri_of(path), posixpath.dirname(page.file.src_uri)) + closing

    return re.sub(r"^```python \w+$", "```python", LINK.sub(renamed, markdown), flags=re.MULTILINE)


def target(uri: str, link: str) -> str | None:
    """The path in the repository of what a page links to; None: another site, or nothing that is there."""
    if "://" in link:
        return None
    path = posixpath.normpath(posixpath.join(posixpath.dirname(source(uri)), link))
    return path if (ROOT / path).is_file() else None


def source(uri: str) -> str:
    """The path in the repository of a file of the site."""
    if uri == "contributing.md":
        return "CONTRIBUTING.md"
    if not uri.startswith("source/"):
        return f"docs/{uri}"
    path = uri.removeprefix("source/")
    return path if (ROOT / path).is_file() else path.removesuffix(".md")


def uri_of(path: str) -> str:
    """Where a file of the repository stands in the site."""
    if path == "CONTRIBUTING.md":
        return "contributing.md"
    if path.startswith("docs/"):
        return path.removeprefix("docs/")
    return f"source/{path}" if path.endswith((".md", *PICTURES)) else f"source/{path}.md"


def shown(path: str) -> str:
    """A file as a page."""
    text = (ROOT / path).read_text(encoding="utf-8")
    if path.endswith(".md"):
        return text
    language = HIGHLIGHTED.get(os.path.splitext(path)[1], "text")
    return f"# {path}\n\n``````{language}\n{text.rstrip()}\n``````\n"
