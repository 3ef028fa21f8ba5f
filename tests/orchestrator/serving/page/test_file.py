"""The page as one file: what a tree looks like, how it is walked, and that it stays small and smooth."""

import re
from pathlib import Path
from typing import Any

import pytest

from orchestrator.serving.page import page_files, standalone
from tests.orchestrator.serving.page.browser import Tab, tab
from tests.orchestrator.serving.page.searches import beam, best_of_n, trace


@pytest.fixture
def written(tmp_path: Path) -> Any:
    """Writes a trace as a page: its address."""

    def write(told: dict[str, Any], title: str = "a run: p1") -> str:
        path = tmp_path / "page.html"
        path.write_text(standalone(told, title=title), encoding="utf-8")
        return path.as_uri()

    return write


def test_no_file_of_the_page_names_another_origin() -> None:
    for name, file in page_files().items():
        found = re.findall(r"(?:https?:)?//[\w.-]+\.\w+", file.content.decode())
        assert set(found) <= {"http://www.w3.org"}, name  # the name of SVG's elements, which nobody asks for


async def test_one_file_shows_its_trace_and_asks_nobody_for_anything(browser: Any, written: Any) -> None:
    address = written(trace(beam(8, 2, 4)))
    async with tab(browser, address) as page:
        await page.page.wait_for_selector(".node.the-answer")
        assert "48" in await page.text(".answer") and "completed" in await page.text(".answer")
        assert (page.requests, page.complaints) == ([address], [])
        assert await page.page.title() == "a run: p1"
        assert not await page.page.is_visible("#ask")


async def test_what_a_model_writes_is_shown_as_text_and_never_run(browser: Any, written: Any) -> None:
    evil = "</script><img src=x onerror='window.harmed = 1'><script>window.harmed = 1</script>"
    events = best_of_n(1, 1)
    events[1]["text"] = evil
    async with tab(browser, written(trace(events, question=evil), title=evil)) as page:
        await page.page.wait_for_selector(".node.the-answer")
        assert evil in await page.text("#details pre.own")
        assert await page.page.evaluate("window.harmed") is None
        assert (await page.count("img"), page.complaints) == (0, [])


async def test_pruned_branches_and_the_way_to_the_answer_are_told_apart(browser: Any, written: Any) -> None:
    async with tab(browser, written(trace(beam(4, 2, 3)))) as page:
        await page.page.wait_for_selector(".node.the-answer")
        states = await page.page.eval_on_selector_all(".node", "all => all.map(one => one.className.split(' ')[1])")
        assert states.count("pruned") >= 6 and states.count("the-answer") == 1
        assert await page.page.get_attribute(".wire.chosen", "d")


async def test_a_score_and_its_uncertainty_are_drawn_and_said(browser: Any, written: Any) -> None:
    events = best_of_n(1, 1)
    events[2] |= {"score": 0.5, "uncertainty": 0.25}
    async with tab(browser, written(trace(events))) as page:
        node = page.page.locator(".node.the-answer")
        assert await node.locator(".value").inner_text() == "0.50 ± 0.25"
        bar, doubt, whole = [await node.locator(part).bounding_box() for part in (".bar", ".doubt", "xpath=.")]
        assert bar["width"] == pytest.approx(whole["width"] / 2, abs=3)
        assert doubt["width"] == pytest.approx(whole["width"] / 2, abs=4)
        assert "score 0.50 plus or minus 0.25" in await node.get_attribute("aria-label")


async def focused(page: Tab) -> str:
    return str(await page.page.evaluate("document.activeElement.id"))


async def test_arrow_keys_walk_the_tree_enter_reads_a_step_and_escape_comes_back(browser: Any, written: Any) -> None:
    async with tab(browser, written(trace(best_of_n(3, 4)))) as page:
        keyboard = page.page.keyboard
        await page.page.focus("#node-root")
        walked = []
        for key in (
            "ArrowRight",
            "ArrowDown",
            "ArrowRight",
            "ArrowUp",
            "ArrowLeft",
            "ArrowLeft",
            "ArrowLeft",
            "End",
            "Home",
        ):
            await keyboard.press(key)
            walked.append(await focused(page))
        ends = [
            "node-0:0",
            "node-1:0",
            "node-1:1",
            "node-0:1",
            "node-0:0",
            "node-root",
            "node-root",
            "node-2:3",
            "node-root",
        ]
        assert walked == ends
        await keyboard.press("ArrowRight")
        await keyboard.press("Enter")
        assert await focused(page) == "details" and "Step 0 of 0" in await page.text("#details")
        await keyboard.press("Escape")
        assert await focused(page) == "node-0:0"


async def test_space_folds_a_branch_and_says_how_much_is_hidden(browser: Any, written: Any) -> None:
    async with tab(browser, written(trace(best_of_n(2, 4)))) as page:
        await page.page.wait_for_selector(".node.the-answer")
        node = page.page.locator("[id='node-0:0']")
        await node.focus()
        assert await node.get_attribute("aria-expanded") == "true"
        await page.page.keyboard.press(" ")
        await page.page.wait_for_selector("[id='node-0:0'][aria-expanded='false']")
        assert await node.locator(".more").inner_text() == "+3"
        assert await page.count("[id='node-0:1']") == 0
        await page.page.keyboard.press("*")
        await page.page.wait_for_selector("[id='node-0:1']")


async def test_the_tree_has_the_roles_and_places_that_a_screen_reader_wants(browser: Any, written: Any) -> None:
    async with tab(browser, written(trace(beam(4, 2, 3)))) as page:
        await page.page.wait_for_selector("[role=tree] [role=treeitem]")
        told = await page.page.eval_on_selector(
            "[id='node-1:0']",
            "e => ['level', 'setsize', 'posinset', 'label'].map(name => e.getAttribute('aria-' + name))",
        )
        assert told[:3] == ["2", "4", "2"] and told[3].startswith("Step 1, branch 2: Zoe: 40 + 6 = 46. score ")
        assert await page.count("[role=treeitem][tabindex='0']") == 1
        assert await page.page.get_attribute("#status", "aria-live") == "polite"


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_the_theme_is_the_systems_until_somebody_chooses(browser: Any, written: Any, scheme: Any) -> None:
    back = "getComputedStyle(document.body).backgroundColor"
    async with tab(browser, written(trace(beam(4, 2, 3))), color_scheme=scheme) as page:
        light, dark = "rgb(246, 247, 249)", "rgb(16, 20, 27)"
        assert await page.page.evaluate(back) == (light if scheme == "light" else dark)
        await page.page.click("#theme")
        assert await page.page.evaluate(back) == light
        await page.page.click("#theme")
        assert await page.page.evaluate(back) == dark
        await page.page.reload()
        assert await page.page.evaluate(back) == dark, "the choice is kept"


async def test_nothing_is_wider_than_a_phone(browser: Any, written: Any) -> None:
    address = written(trace(beam(8, 4, 5)))
    async with tab(browser, address, viewport={"width": 360, "height": 740}) as page:
        await page.page.wait_for_selector("[role=treeitem]")
        assert await page.page.evaluate("document.documentElement.scrollWidth") <= 360
        assert page.complaints == []


SCROLL = """async () => {
  const tree = document.getElementById("tree");
  for (let frame = 0; frame < 120; frame += 1) {
    tree.scrollTop = (tree.scrollHeight - tree.clientHeight) * (frame / 119);
    tree.scrollLeft = (tree.scrollWidth - tree.clientWidth) * (frame / 119);
    await new Promise(requestAnimationFrame);
  }
  return document.querySelectorAll(".node").length;
}"""
WORK = ("TaskDuration",)  # of the main thread: script, style, layout and paint


@pytest.mark.parametrize("size", ["cards", "dots"])
async def test_a_trace_of_2000_steps_stays_smooth(browser: Any, written: Any, size: str) -> None:
    """A scroll from one corner to the other in 120 frames. Processor time counts, since the machine may be busy."""
    async with tab(browser, written(trace(best_of_n(64, 32)))) as page:
        await page.page.wait_for_selector("#tree[data-size=dots] .node")
        if size == "cards":
            for _ in range(2):
                await page.page.click("#larger")
            await page.page.wait_for_selector("#tree[data-size=cards]")
        inspector = await page.page.context.new_cdp_session(page.page)
        await inspector.send("Performance.enable", {"timeDomain": "threadTicks"})

        async def work_ms() -> dict[str, float]:
            told = (await inspector.send("Performance.getMetrics"))["metrics"]
            return {one["name"]: 1000 * one["value"] for one in told if one["name"] in WORK}

        before = await work_ms()
        items = await page.page.evaluate(SCROLL)
        per_frame = {name: (value - before[name]) / 120 for name, value in (await work_ms()).items()}
        print(f"{size}: {items} items, ms per frame {per_frame}")
        if size == "cards":
            assert items < 500, "only what is in sight is in the document"
        assert sum(per_frame.values()) < 33, per_frame
