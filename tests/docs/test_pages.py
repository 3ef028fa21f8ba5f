"""The pages that users read: links that lead somewhere, and a README that stays short."""

import re
from pathlib import Path

import pytest

from experiments.data.sets import DATASETS, settings_of
from orchestrator.results import CANDIDATES_SCHEMA, PROBLEMS_SCHEMA, TREES_SCHEMA
from orchestrator.serving.dialects import DIALECTS
from orchestrator.serving.dialects.fields import LABELS

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


def slug(heading: str) -> str:
    """GitHub's anchor of a heading."""
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


def headings(page: Path) -> set[str]:
    return {slug(heading) for heading in re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_relative_link_points_at_a_file_and_a_heading_that_exist(page):
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        if "://" in link:
            continue
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        assert target.exists(), f"{page.name} links to {link}"
        assert not anchor or anchor in headings(target), f"{page.name} links to {link}"


def test_the_readme_has_fewer_than_150_lines():
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) < 150


@pytest.mark.parametrize("dialect", DIALECTS, ids=lambda dialect: dialect.path)
def test_every_field_of_a_request_is_documented(dialect):
    page = (ROOT / "docs" / "serving.md").read_text(encoding="utf-8")
    section = page[page.index("### Fields") : page.index("## A response")]
    for name in (*dialect.request.model_fields, *dialect.neutral, *LABELS):
        assert f"`{name}`" in section, name


@pytest.mark.parametrize(
    ("heading", "schema"),
    [("## Problems", PROBLEMS_SCHEMA), ("## Candidates", CANDIDATES_SCHEMA), ("## Search trees", TREES_SCHEMA)],
)
def test_every_column_of_the_results_is_documented_under_its_heading(heading, schema):
    page = (ROOT / "docs" / "results.md").read_text(encoding="utf-8")
    section = page[page.index(heading) :].split("\n## ")[0]
    costs = page[page.index("## Costs") :]
    for name in schema.names:
        assert f"| `{name}` |" in section or f"| `{name}` |" in costs, name


@pytest.mark.parametrize("name", DATASETS)
def test_every_data_set_and_every_setting_of_it_is_documented(name):
    page = (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8")
    section = page[page.index("## data") : page.index("## Where the answer stands")]
    for word in (name, *settings_of(name)):
        assert f"`{word}`" in section, word
