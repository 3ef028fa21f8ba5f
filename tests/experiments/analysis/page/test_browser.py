"""`report.html` in a real headless Chromium: it runs nobody else's script, sorts, draws and can be walked by keys."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.experiments.analysis.page.test_page import page, write_hostile
from tests.experiments.synthetic import write_run
from tests.orchestrator.serving.page.browser import Tab, chromium, tab

pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
async def browser() -> AsyncIterator[Any]:
    async with chromium() as found:
        yield found


def written(folder: Path, *runs: Path) -> str:
    path = folder / "page.html"
    path.write_text(page(*runs), encoding="utf-8")
    return path.as_uri()


def clean(shown: Tab) -> bool:
    return shown.complaints == [] and all(url.startswith(("file:", "data:")) for url in shown.requests)


async def column(shown: Tab, number: int) -> list[str]:
    cells = shown.page.locator(f"table >> nth=0 >> tbody tr > :nth-child({number})")
    return [str(text) for text in await cells.all_inner_texts()]


async def test_a_script_in_a_candidates_text_does_nothing(browser: Any, tmp_path: Path) -> None:
    write_hostile(tmp_path / "run")
    async with tab(browser, written(tmp_path, tmp_path / "run")) as shown:
        assert await shown.page.title() == "run: report"
        assert await shown.count("img") == 0 and clean(shown)


async def test_a_header_sorts_by_numbers_and_again_the_other_way(browser: Any, tmp_path: Path) -> None:
    write_run(tmp_path / "run")
    async with tab(browser, written(tmp_path, tmp_path / "run")) as shown:
        header = shown.page.get_by_role("button", name="tokens", exact=True).first
        await header.click()
        assert await column(shown, 1) == ["best_of_n n=8", "beam_search n=4", "greedy"]
        await header.press("Enter")
        assert await column(shown, 3) == ["50", "200", "400"]
        assert await shown.page.locator("th[aria-sort=ascending]").count() == 1 and clean(shown)


async def test_curves_are_drawn_hidden_and_put_against_another_cost(browser: Any, tmp_path: Path) -> None:
    write_run(tmp_path / "run")
    async with tab(browser, written(tmp_path, tmp_path / "run")) as shown:
        assert await shown.count(".plot .dot") == 4 * 4 + 2  # four metrics at k = 1, 2, 4, 8, and two strategies
        await shown.page.get_by_label("maj@k").uncheck()
        assert await shown.count(".plot .dot") == 3 * 4 + 2
        await shown.page.locator(".controls select").select_option("flops")
        assert "FLOPs per problem" in await shown.page.locator(".plot svg").text_content()
        await shown.page.locator(".controls select").select_option("k")
        assert await shown.count(".plot .dot") == 3 * 4 + 1 and clean(shown)  # greedy has no n


async def test_points_are_read_by_pointer_and_by_arrow_keys(browser: Any, tmp_path: Path) -> None:
    write_run(tmp_path / "run")
    async with tab(browser, written(tmp_path, tmp_path / "run")) as shown:
        await shown.page.locator(".plot .dot").first.focus()
        assert (await shown.text(".reading")).startswith("pass@1: 62.5% [")
        await shown.page.keyboard.press("ArrowRight")
        assert (await shown.text(".reading")).startswith("pass@2: 75.0% [")
        await shown.page.keyboard.press("End")
        assert (await shown.text(".reading")).startswith("beam_search n=4: 75.0% [")
        assert await shown.count(".plot [tabindex='0']") == 1 and clean(shown)


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_a_phone_scrolls_tables_and_not_the_page(browser: Any, tmp_path: Path, scheme: str) -> None:
    write_run(tmp_path / "a")
    write_run(tmp_path / "b")
    address = written(tmp_path, tmp_path / "a", tmp_path / "b")
    async with tab(browser, address, viewport={"width": 390, "height": 800}, color_scheme=scheme) as shown:
        await shown.page.evaluate("for (const one of document.querySelectorAll('details')) one.open = true")
        assert await shown.page.evaluate("document.documentElement.scrollWidth") == 390
        back = await shown.page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert (back == "rgb(16, 20, 27)") == (scheme == "dark")
        await shown.page.click("#theme")
        assert await shown.page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(246, 247, 249)"


async def test_without_a_script_all_findings_tables_and_texts_are_there(browser: Any, tmp_path: Path) -> None:
    write_run(tmp_path / "run")
    async with tab(browser, written(tmp_path, tmp_path / "run"), java_script_enabled=False) as shown:
        assert "The curves need a script." in await shown.text(".plot")
        assert await shown.count("tbody tr") > 10 and await shown.count(".findings li") > 5
