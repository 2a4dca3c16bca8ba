"""`/docs` in Chromium: offline, within its policy, and "Try it out" with Basic (docs/contract.md section 12)."""

from pathlib import Path

from playwright.async_api import expect

from tests.page.conftest import NewContext
from tests.support.recordings import OPS_PATH, a_recording
from tests.support.service import Service


async def test_page_shows_the_api_and_sends_a_request(
    service: Service, new_context: NewContext, tmp_path: Path
) -> None:
    posted = await service.client("ops").post(f"{OPS_PATH}?refresh=wait_for", json=a_recording("tried-out"))
    assert posted.status_code == 201
    context = await new_context(service.url, http_credentials={"username": "admin", "password": "admin-password"})
    page = await context.new_page()
    await page.goto("/docs")
    await expect(page.get_by_role("heading", name="Recall")).to_be_visible()
    await page.locator("#operations-Contact_center-get-recording .opblock-summary-control").first.click()
    block = page.locator("#operations-Contact_center-get-recording")
    await block.get_by_placeholder("id").fill("tried-out")
    await block.get_by_role("button", name="Execute").click()
    answer = block.locator(".live-responses-table .response").first
    await expect(answer).to_contain_text("200")
    await expect(answer).to_contain_text("tried-out")
    await page.evaluate("window.scrollTo(0, 0)")
    await page.screenshot(path=tmp_path / "docs.png")
