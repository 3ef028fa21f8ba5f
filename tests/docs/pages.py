"""The pages that users read, and the blocks of code in them."""

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "verifiers/README.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
]
PROGRAMS = ("headrace", "make", "python", "source", "cp", "curl", "vllm", "serve", "lm_eval", "hf")

_FENCE = re.compile(r"^( *)(`{3,})(\w*) ?(.*)$")
_TITLE = re.compile(r'title="([^"]+)"')


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """A block of code. `language` of an indented one is what it looks like."""

    page: Path
    line: int
    language: str
    info: str  # what stands behind the language
    text: str

    @property
    def title(self) -> str | None:
        """The file that the reader is to write."""
        found = _TITLE.search(self.info)
        return None if found is None else found.group(1)

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def blocks(page: Path, *languages: str) -> list[Block]:
    """All blocks of a page in their order, or those of the languages."""
    found: list[Block] = []
    lines = page.read_text(encoding="utf-8").splitlines()
    at, in_list = 0, False
    while at < len(lines):
        start, line = at, lines[at]
        at += 1
        if fence := _FENCE.match(line):
            indent, ticks, language, info = fence.groups()
            end = next(i for i in range(at, len(lines)) if lines[i].strip() == ticks)
            text = "\n".join(line.removeprefix(indent) for line in lines[at:end])
            found.append(Block(page=page, line=start + 1, language=language, info=info, text=text))
            at = end + 1
        elif line.startswith("    ") and not in_list and not (start and lines[start - 1].strip()):
            while at < len(lines) and (lines[at].startswith("    ") or not lines[at].strip()):
                at += 1
            text = "\n".join(line[4:] for line in lines[start:at]).rstrip()
            found.append(Block(page=page, line=start + 1, language=looks_like(text), info="", text=text))
        elif line.strip() and not line.startswith(" "):
            in_list = re.match(r"\d+\. |- ", line) is not None
    return [block for block in found if not languages or block.language in languages]


def looks_like(text: str) -> str:
    """`bash`, `yaml`, or nothing."""
    first = next(line for line in text.splitlines() if not line.startswith("#"))
    program = re.sub(r"^([A-Z_]+=\S+ )+", "", first).split()[0].rsplit("/")[-1]
    if program in PROGRAMS:
        return "bash"
    return "yaml" if re.match(r"\w+:( |$)", first) else ""


def all_blocks(*languages: str) -> list[Block]:
    return [block for page in PAGES for block in blocks(page, *languages)]
