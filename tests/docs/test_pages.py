"""The pages that users read: links that lead somewhere, a README that stays short, and reference pages without gaps."""

import importlib
import re
from pathlib import Path

import pytest
import yaml

from experiments.cli_page import PAGE
from experiments.cli_page import page as page_of_commands
from experiments.data.sets import DATASETS, settings_of
from orchestrator.results import CANDIDATES_SCHEMA, PROBLEMS_SCHEMA, TREES_SCHEMA
from orchestrator.serving.dialects import DIALECTS
from orchestrator.serving.dialects.fields import LABELS
from strategies import STRATEGIES
from tests.docs.pages import PAGES, ROOT

API = ROOT / "docs" / "reference" / "api.md"
NAMES = re.findall(r"^::: ([\w.]+)", API.read_text(encoding="utf-8"), re.MULTILINE)


def slug(heading: str) -> str:
    """GitHub's anchor of a heading."""
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


def headings(page: Path) -> set[str]:
    return {slug(heading) for heading in re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)}


def documented(name: str) -> object:
    """What a page of docstrings shows under this name."""
    parts = name.split(".")
    for cut in range(len(parts), 0, -1):
        try:
            found = importlib.import_module(".".join(parts[:cut]))
        except ModuleNotFoundError:
            continue
        for part in parts[cut:]:
            found = getattr(found, part)
        return found
    raise ModuleNotFoundError(name)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_relative_link_points_at_a_file_and_a_heading_that_exist(page):
    prose = re.sub(r"^ *```.*?^ *```", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    for link in re.findall(r"\]\(([^)\s]+)\)", prose):
        if "://" in link:
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), f"{page.name} links to {link}"
        if target == API and anchor:
            assert anchor.startswith(tuple(NAMES)) and documented(anchor) is not None, f"{page.name} links to {link}"
            continue
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


@pytest.mark.parametrize("name", NAMES)
def test_what_the_page_of_docstrings_names_is_there_and_has_one(name):
    assert getattr(documented(name), "__doc__", None)


def test_every_strategy_is_on_the_page_of_docstrings():
    assert {f"{cls.__module__}.{cls.__qualname__}" for cls in STRATEGIES.values()} <= set(NAMES)


def test_the_page_of_commands_is_what_the_commands_say():
    assert PAGE.read_text(encoding="utf-8") == page_of_commands(), "renew it: make cli-page"


def test_the_site_loads_nothing_from_elsewhere_and_names_pages_that_exist():
    class Loader(yaml.SafeLoader):
        """Reads names of functions as nothing."""

    Loader.add_multi_constructor("tag:yaml.org,2002:python/", lambda *_: None)
    site = yaml.load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"), Loader)
    assert site["strict"] and site["theme"]["font"] is False and not site["use_directory_urls"]
    assert all("://" not in script for script in site["extra"]["polyfills"])
    for page in re.findall(r"[\w/]+\.md", str(site["nav"])):
        assert page == "contributing.md" or (ROOT / "docs" / page).exists(), page
