from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.orchestrator.serving.page.browser import chromium


@pytest.fixture(scope="session")
async def browser() -> AsyncIterator[Any]:
    async with chromium() as found:
        yield found
