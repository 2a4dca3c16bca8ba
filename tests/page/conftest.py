"""Real Chromium, watched: a test fails on any error of the page, violation of its policy, or request elsewhere."""

import shutil
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
from playwright.async_api import Browser, BrowserContext, Page, async_playwright, expect

from tests.page.results import service_with_results
from tests.support.launch import missing
from tests.support.service import Service

# The machine may be busy with other tests.
expect.set_options(timeout=30_000)

NewContext = Callable[..., Awaitable[BrowserContext]]

# Pages of one context then share a process, which the first one has started.
_ARGUMENTS = ("--no-sandbox", "--no-proxy-server", "--disable-gpu", "--process-per-site")


class Chromium:
    """A browser, and what went wrong in its pages. A context costs more than a page, so tests share some."""

    def __init__(self, browser: Browser) -> None:
        self._browser = browser
        self._shared: dict[tuple[str, str], tuple[BrowserContext, Page]] = {}
        self.problems: list[str] = []

    async def new_context(self, address: str, **options: object) -> BrowserContext:
        """A context with cookies of its own."""
        context = await self._browser.new_context(
            **{"base_url": address, "timezone_id": "Europe/Paris", "locale": "en-GB", **options}  # type: ignore[arg-type]
        )
        context.set_default_timeout(30_000)
        tell = self.problems.append
        context.on(
            "console",
            lambda message: tell(f"{message.type}: {message.text}") if message.type in {"error", "warning"} else None,
        )
        context.on("weberror", lambda error: tell(f"uncaught: {error.error}"))
        context.on(
            "request",
            lambda request: None if request.url.startswith(address) else tell(f"request elsewhere: {request.url}"),
        )
        return context

    async def shared_context(self, address: str, user: str) -> BrowserContext:
        """The context of everybody who is signed in with this name, as if nobody had used it."""
        if (address, user) not in self._shared:
            context = await self.new_context(address)
            page = await context.new_page()  # it keeps the process
            await page.goto("/ui/sign-in")
            self._shared[address, user] = context, page
        context, page = self._shared[address, user]
        session = await context.new_cdp_session(page)
        await session.send("Storage.clearDataForOrigin", {"origin": address, "storageTypes": "local_storage"})
        await session.detach()
        return context

    async def close_pages(self) -> None:
        """Closes what a test has opened in contexts that are shared."""
        for context, kept in self._shared.values():
            for page in context.pages:
                if page is not kept:
                    await page.close()


@pytest.fixture(scope="session")
async def chromium() -> AsyncIterator[Chromium]:
    program = shutil.which("chromium-headless-shell") or shutil.which("chromium") or shutil.which("google-chrome")
    if program is None:
        missing("Chromium", "apt-get install chromium")
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=program, args=_ARGUMENTS)
        yield Chromium(browser)
        await browser.close()


@pytest.fixture
async def new_context(chromium: Chromium) -> AsyncIterator[NewContext]:
    """Makes contexts; `expected` are parts of errors that a test causes on purpose, `shared_by` a user's name."""
    contexts: list[BrowserContext] = []
    all_expected: list[str] = []
    chromium.problems.clear()

    async def new(
        address: str, *, expected: tuple[str, ...] = (), shared_by: str | None = None, **options: object
    ) -> BrowserContext:
        all_expected.extend(expected)
        if shared_by is not None:
            return await chromium.shared_context(address, shared_by)
        contexts.append(await chromium.new_context(address, **options))
        return contexts[-1]

    yield new
    await chromium.close_pages()
    for context in contexts:
        await context.close()
    assert [each for each in chromium.problems if not any(part in each for part in all_expected)] == []


@pytest.fixture(scope="session")
async def shared_service(elasticsearch_url: str) -> AsyncIterator[Service]:
    """For all tests of a worker that only search."""
    async with service_with_results(elasticsearch_url) as service:
        yield service
