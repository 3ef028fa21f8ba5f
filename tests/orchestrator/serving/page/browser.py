"""A real headless Chromium for the tests of the page. Where it or Playwright is missing they are skipped."""

import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@asynccontextmanager
async def chromium() -> AsyncIterator[Any]:
    """A browser, or a skipped test with the reason."""
    playwright = pytest.importorskip("playwright.async_api", reason="Playwright is not installed (make test-page)")
    if CHROMIUM is None:
        pytest.skip("no Chromium on this machine (Debian: apt-get install chromium)")
    async with playwright.async_playwright() as driver:
        found = await driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        try:
            yield found
        finally:
            await found.close()


class Tab:
    """A page of the browser, with what it asked for and what it complained of."""

    def __init__(self, page: Any) -> None:
        self.page = page
        self.requests: list[str] = []
        self.complaints: list[str] = []
        page.on("request", lambda request: self.requests.append(request.url))
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("console", lambda message: self.complaints.append(message.text) if message.type == "error" else None)

    async def text(self, selector: str) -> str:
        return str(await self.page.inner_text(selector))

    async def count(self, selector: str) -> int:
        return int(await self.page.locator(selector).count())


@asynccontextmanager
async def tab(browser: Any, url: str, **context: Any) -> AsyncIterator[Tab]:
    """A fresh one at that address: nothing is kept from others."""
    opened = await browser.new_context(**{"viewport": {"width": 1280, "height": 760}, **context})
    try:
        found = Tab(await opened.new_page())
        found.page.set_default_timeout(15_000)
        await found.page.goto(url)
        yield found
    finally:
        await opened.close()
