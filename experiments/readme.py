"""Puts a run's tables into docs/benchmarks.md, and its figure into experiments/figures: `make readme`, which runs
`python -m experiments.readme results/tinymath`."""

import re
import shutil
import sys
from pathlib import Path

from experiments.config import PROJECT_ROOT
from orchestrator.core.errors import UserError

BEGIN, END = "<!-- from the run: begin -->", "<!-- from the run: end -->"


def main(folder: Path, readme: Path, figure: Path) -> None:
    """Replaces what stands between the two marks by the run's report, and the figure file. Raises UserError."""
    report = folder / "report.md"
    if not report.exists():
        raise UserError(f"readme: {folder} has no report.md; wanted the folder of a finished run")
    text = readme.read_text(encoding="utf-8")
    if text.count(BEGIN) != 1 or text.count(END) != 1:
        raise UserError(f"readme: wanted one {BEGIN} and one {END} in {readme.name}")
    before, rest = text.split(BEGIN)
    readme.write_text(f"{before}{BEGIN}\n\n{tables(report.read_text(encoding='utf-8'))}\n\n{END}{rest.split(END)[1]}")
    shutil.copyfile(folder / "compute_accuracy.png", figure)


def tables(report: str) -> str:
    """The report without its title and figure, its headings as plain lines."""
    body = re.sub(r"^(# .*|!\[.*)\n+", "", report, flags=re.MULTILINE)
    return re.sub(r"^## (.*)$", r"**\1**", body, flags=re.MULTILINE).strip()


if __name__ == "__main__":
    main(Path(sys.argv[1]), PROJECT_ROOT / "docs/benchmarks.md", PROJECT_ROOT / "experiments/figures/tinymath.png")
