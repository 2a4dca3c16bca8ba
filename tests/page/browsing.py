"""What tests do in a browser: sign in, wait, listen, and look for what nobody should find."""

from typing import Any
from weakref import WeakKeyDictionary

import httpx
from axe_playwright_python.async_playwright import Axe
from playwright.async_api import Page, ViewportSize

from tests.page.conftest import NewContext
from tests.page.support import signed_in
from tests.support.service import Service

NARROW = ViewportSize(width=320, height=640)
WIDE = ViewportSize(width=1280, height=720)
# 200 % of a screen 1,280 wide.
ZOOMED = ViewportSize(width=640, height=400)
# A window beside another one.
HALF = ViewportSize(width=1100, height=720)

RULES = {"runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa"]}
# What depends on colours alone.
CONTRAST = {"runOnly": {"type": "rule", "values": ["color-contrast"]}}

SECONDS = "Number(document.getElementById('position').getAttribute('aria-valuenow'))"

# Whatever goes to the loudspeakers is led through two analysers, as `heard(channel)`: the loudest frequency in Hz, 0 of
# silence. `listen()` leads the first element through Web Audio, where the page itself does so only for another balance.
# `hears(channel)` tells whether it is the tone of the second (tests.page.calls); a loaded machine lags a little.
LISTEN = """
const connect = AudioNode.prototype.connect;
const analysers = [];
AudioNode.prototype.connect = function (to, ...rest) {
  if (to instanceof AudioDestinationNode) {
    const splitter = new ChannelSplitterNode(to.context, { numberOfOutputs: 2 });
    connect.call(this, splitter);
    for (const channel of [0, 1]) {
      analysers[channel] = new AnalyserNode(to.context, { fftSize: 4096, smoothingTimeConstant: 0 });
      connect.call(splitter, analysers[channel], channel);
    }
  }
  return connect.call(this, to, ...rest);
};
window.listen = () => {
  const context = new AudioContext();
  context.createMediaElementSource(document.querySelector("audio")).connect(context.destination);
};
window.heard = (channel = 0) => {
  const analyser = analysers[channel];
  const bins = new Float32Array(analyser.frequencyBinCount);
  analyser.getFloatFrequencyData(bins);
  const best = bins.indexOf(Math.max(...bins));
  return bins[best] < -60 ? 0 : (best * analyser.context.sampleRate) / analyser.fftSize;
};
window.hears = (channel = 0) => {
  const now = document.querySelector("audio").currentTime;
  return [-0.3, 0].some((shift) => {
    const tone = (500 + 100 * (Math.floor(now + shift) % 10)) * (channel + 1);
    return Math.abs(window.heard(channel) - tone) < 30;
  });
};
"""

_signed_in: WeakKeyDictionary[Service, dict[str, httpx.AsyncClient]] = WeakKeyDictionary()


async def sign_in(page: Page, name: str = "admin") -> None:
    await page.get_by_label("User name").fill(name)
    await page.get_by_label("Password").fill(f"{name}-password")
    await page.get_by_role("button", name="Sign in").click()
    await page.wait_for_url("**/ui/recordings**")


async def opened(service: Service, new_context: NewContext, path: str, user: str = "admin", **options: Any) -> Page:
    """A page of somebody who is signed in; several share a session, so none may sign out.

    Without `options` they share a context too. `expected` and `viewport` are of the page.
    """
    expected, viewport = options.pop("expected", ()), options.pop("viewport", None)
    shared_by = None if options else user
    context = await new_context(service.url, expected=expected, shared_by=shared_by, **options)
    clients = _signed_in.setdefault(service, {})
    # The oldest of a user's sessions ends when there are too many.
    if user not in clients or not (await clients[user].get("/ui/session")).json()["session"]:
        clients[user] = await signed_in(service, user)
    cookies = [{"name": c.name, "value": c.value or "", "url": service.url} for c in clients[user].cookies.jar]
    await context.add_cookies(cookies)  # type: ignore[arg-type]
    page = await context.new_page()
    await page.add_init_script(LISTEN)
    if viewport:
        await page.set_viewport_size(viewport)
    await page.goto(path)
    return page


_UNTIL = """() => new Promise((resolve, reject) => {
  const begun = Date.now();
  const look = async () => {
    if (await (EXPRESSION)) resolve();
    else if (Date.now() - begun > 30_000) reject(new Error("It has not come about."));
    else setTimeout(look, 50);
  };
  void look();
})"""


async def until(page: Page, expression: str) -> None:
    """Looks within the page. Playwright's own way needs `eval`, which the page's policy forbids."""
    await page.evaluate(_UNTIL.replace("EXPRESSION", expression))


async def position(page: Page) -> float:
    """Where the player is, in seconds."""
    return float(await page.evaluate(SECONDS))


async def focus_by_tab(page: Page, selector: str, most: int = 200) -> None:
    for _ in range(most):
        if await page.evaluate("selector => Boolean(document.activeElement?.matches(selector))", selector):
            return
        await page.keyboard.press("Tab")
    raise AssertionError(f"{selector} cannot be reached by Tab")


_AXE = Axe()
_COUNT_VIOLATIONS = """async ([part, options]) => {
  const { violations } = await axe.run(part ?? document, { ...options, resultTypes: ["violations"], selectors: false });
  return violations.length;
}"""


async def assert_accessible(page: Page, rules: dict[str, Any] | None = None, part: str | None = None) -> None:
    """`part` is a selector of what axe looks at. Where something is wrong is only asked when there is something."""
    options = rules or RULES
    if not await page.evaluate("Boolean(window.axe)"):
        await page.evaluate(_AXE.axe_script)
    if await page.evaluate(_COUNT_VIOLATIONS, [part, options]):
        results = await _AXE.run(page, context=part, options=options)
        raise AssertionError(results.generate_report())


_CUT_OFF = """() => [...document.querySelectorAll("details[open] > :not(summary), dialog[open]")]
  .map((each) => each.getBoundingClientRect())
  .filter(({ left, right }) => left < 0 || right > document.documentElement.clientWidth).length"""


async def assert_fits(page: Page) -> None:
    overflow = await page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
    assert overflow <= 0
    # What is cut off at the left cannot be scrolled to.
    assert await page.evaluate(_CUT_OFF) == 0


async def assert_good_in_every_look(page: Page, part: str | None = None) -> None:
    """Of the page as it is, or a part of it: light and dark, wide, narrow and zoomed."""
    await page.set_viewport_size(WIDE)
    await page.emulate_media(color_scheme="light")
    await assert_accessible(page, RULES, part)
    await page.emulate_media(color_scheme="dark")
    await assert_accessible(page, CONTRAST, part)
    await assert_fits(page)
    for viewport in (HALF, ZOOMED):
        await page.set_viewport_size(viewport)
        await assert_fits(page)
    await page.set_viewport_size(NARROW)
    await assert_fits(page)
    await assert_accessible(page, RULES, part)
    await page.emulate_media(color_scheme="light")
    await assert_accessible(page, CONTRAST, part)
