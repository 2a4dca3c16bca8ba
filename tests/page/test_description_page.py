"""`/docs` in Chromium: offline, within its policy, and "Try it out" with Basic (docs/contract.md section 12)."""

from playwright.async_api import expect

from tests.page.conftest import NewContext
from tests.support.service import Service


async def test_page_shows_the_api_and_sends_a_request(shared_service: Service, new_context: NewContext) -> None:
    context = await new_context(
        shared_service.url, http_credentials={"username": "admin", "password": "admin-password"}
    )
    page = await context.new_page()
    await page.goto("/docs")
    await expect(page.get_by_role("heading", name="Recall")).to_be_visible()
    await page.locator("#operations-Contact_center-get-recording .opblock-summary-control").first.click()
    block = page.locator("#operations-Contact_center-get-recording")
    await block.get_by_placeholder("id").fill("first/1")
    await block.get_by_role("button", name="Execute").click()
    answer = block.locator(".live-responses-table .response").first
    await expect(answer).to_contain_text("200")
    await expect(answer).to_contain_text("first/1")
