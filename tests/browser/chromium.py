"""Chromium, driven by Playwright: one for all tests of a module."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

from playwright.async_api import (
    Browser,
    ConsoleMessage,
    Page,
    ViewportSize,
    async_playwright,
)

from tests.process import system_tool

FLAGS: Final = (
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
)  # fmt: skip
AXE: Final = Path(__file__).parent / "vendor" / "axe-core" / "axe.min.js"
SERIOUS: Final = ("serious", "critical")
NETWORK: Final = "Failed to load resource"
"""What a browser says of each answer that is a problem, and of a gateway that is not there."""
PHONE: Final[ViewportSize] = {"width": 360, "height": 740}
DESKTOP: Final[ViewportSize] = {"width": 1280, "height": 860}


@asynccontextmanager
async def chromium() -> AsyncIterator[Browser]:
    """The browser. Without one the test is skipped, unless it runs in CI."""
    program = system_tool("chromium")
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=program, args=[*FLAGS])
        try:
            yield browser
        finally:
            await browser.close()


def watch(page: Page, problems: list[str]) -> None:
    """Note what goes wrong in a page: exceptions, what its policy refuses, what it logs."""

    def on_console(message: ConsoleMessage) -> None:
        if message.type in ("error", "warning") and NETWORK not in message.text:
            problems.append(f"{page.url}: {message.text}")

    page.on("console", on_console)
    page.on("pageerror", lambda error: problems.append(f"{page.url}: {error}"))


async def inaccessible(page: Page) -> list[str]:
    """What axe-core finds in a page that is serious."""
    if not await page.evaluate("'axe' in window"):
        await page.evaluate(f"(() => {{ {AXE.read_text(encoding='utf-8')} }})()")
    found: dict[str, Any] = await page.evaluate("axe.run({ resultTypes: ['violations'] })")
    return [
        f"{rule['id']}: {node['html'][:120]} {node.get('failureSummary', '')[:200]}"
        for rule in found["violations"]
        if rule["impact"] in SERIOUS
        for node in rule["nodes"]
    ]


async def too_wide(page: Page) -> int:
    """By how many pixels a page is wider than its window."""
    wider = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
    return int(await page.evaluate(wider))
