"""Real Chromium, watched: a test fails on any error of the page, violation of its policy, or request elsewhere."""

import shutil
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
from playwright.async_api import Browser, BrowserContext, async_playwright, expect

from tests.support.launch import missing

# The machine may be busy with other tests.
expect.set_options(timeout=30_000)

NewContext = Callable[..., Awaitable[BrowserContext]]


@pytest.fixture(scope="session")
async def browser() -> AsyncIterator[Browser]:
    program = shutil.which("chromium") or shutil.which("google-chrome")
    if program is None:
        missing("Chromium", "apt-get install chromium")
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=program, args=["--no-sandbox", "--no-proxy-server"])
        yield browser
        await browser.close()


@pytest.fixture
async def new_context(browser: Browser) -> AsyncIterator[NewContext]:
    """Makes contexts, each with cookies of its own; `expected` are parts of errors that a test causes on purpose."""
    contexts: list[BrowserContext] = []
    problems: list[str] = []
    all_expected: list[str] = []

    async def new(address: str, *, expected: tuple[str, ...] = (), **options: object) -> BrowserContext:
        context = await browser.new_context(
            **{"base_url": address, "timezone_id": "Europe/Paris", "locale": "en-GB", **options}  # type: ignore[arg-type]
        )
        context.set_default_timeout(30_000)
        context.on(
            "console",
            lambda message: (
                problems.append(f"{message.type}: {message.text}") if message.type in {"error", "warning"} else None
            ),
        )
        context.on("weberror", lambda error: problems.append(f"uncaught: {error.error}"))
        context.on(
            "request",
            lambda request: (
                None if request.url.startswith(address) else problems.append(f"request elsewhere: {request.url}")
            ),
        )
        contexts.append(context)
        all_expected.extend(expected)
        return context

    yield new
    for context in contexts:
        await context.close()
    assert [problem for problem in problems if not any(part in problem for part in all_expected)] == []
