"""Each page does its main job, in a real Chromium, by mouse or by keys."""

from __future__ import annotations

import time
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from fieldloop_store.devices import list_devices
from fieldloop_store.queries import annotations
from fieldloop_store.registry import find_model
from support.console import FLEET, OTHER_RUN, ROLLOUT, RUN, XSS

BASE = f"/f/{FLEET}"
PAGES = [
    BASE, f"{BASE}/machines", f"{BASE}/devices", f"{BASE}/devices/pump-1", f"{BASE}/data",
    f"{BASE}/data?device=pump-1&stream=imu", f"{BASE}/training", f"{BASE}/training/{RUN}",
    f"{BASE}/training?run={RUN}&run={OTHER_RUN}", f"{BASE}/models", f"{BASE}/models/activity/1",
    f"{BASE}/rollouts", f"{BASE}/rollouts/{ROLLOUT}", f"{BASE}/fleet", "/account",
]  # fmt: skip


def test_what_devices_and_people_wrote_is_text_and_never_markup(world: Any):
    seen = ""
    for path in PAGES:
        page: Page = world.open(path)
        page.wait_for_timeout(300)
        assert page.evaluate("window.stolen") is None, path
        assert page.locator('img[src="x"]').count() == 0, path
        seen += page.locator("#main").inner_text()
    assert seen.count(XSS) >= 8, "what was written is shown as it was written"


def test_the_overview_tells_what_is_online_and_what_needs_one(world: Any):
    page: Page = world.open(BASE)
    expect(page.get_by_text("Devices online").locator("..")).to_contain_text("2")
    expect(page.get_by_role("heading", name="What needs you now")).to_be_visible()
    expect(page.get_by_text("an alarm was raised").first).to_be_visible()
    expect(page.get_by_role("link", name="activity v1").first).to_be_visible()
    page.get_by_role("link", name="pump-1: an alarm was raised").click()
    expect(page.get_by_role("heading", name="pump-1", level=1)).to_be_visible()


def test_a_page_shows_what_is_new_without_reloading(world: Any):
    page: Page = world.open(f"{BASE}/devices/pump-2")
    page.evaluate("window.mark = 1")
    world.fleet.event("pump-2", "drift.detected", {"slot": "main"})
    expect(page.get_by_role("cell", name="drift.detected")).to_be_visible()
    assert page.evaluate("window.mark") == 1


def test_devices_are_found_by_a_part_of_their_name(world: Any):
    page: Page = world.open(f"{BASE}/devices")
    page.get_by_label("Find by id or name").fill("UMP-2")
    page.keyboard.press("Enter")
    expect(page.get_by_role("link", name="pump-2")).to_be_visible()
    expect(page.get_by_role("link", name="pump-1")).to_have_count(0)
    page.get_by_label("Find by id or name").fill("nowhere%")
    page.get_by_role("button", name="Find").click()
    expect(page.get_by_text("No device fits")).to_be_visible()


def test_a_device_is_renamed_from_its_page(world: Any):
    page: Page = world.open(f"{BASE}/devices/pump-2")
    page.get_by_role("button", name="Rename").click()
    page.get_by_role("textbox", name="Name").fill(f"North {XSS}")
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", level=1)).to_have_text(f"North {XSS}")
    names = [d.name for d in list_devices(world.store, FLEET)]
    assert f"North {XSS}" in names
    assert page.evaluate("window.stolen") is None


def test_a_span_is_selected_by_dragging_and_labelled_by_a_key(world: Any):
    page: Page = world.open(f"{BASE}/data?device=pump-2&stream=imu")
    page.wait_for_selector("canvas")
    page.wait_for_timeout(1_000)
    box = page.locator("canvas").first.bounding_box()
    assert box is not None
    before = labels_of(world, "pump-2")
    y = box["y"] + box["height"] / 2
    page.mouse.move(box["x"] + box["width"] * 0.3, y)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * 0.5, y, steps=8)
    page.mouse.up()
    expect(page.locator("#selected")).to_be_visible()
    page.keyboard.press("1")
    expect(page.get_by_role("cell", name=XSS)).to_be_visible()
    added = [r for r in labels_of(world, "pump-2") if r not in before]
    assert len(added) == 1
    assert added[0].annotator == "admin"
    seconds = (added[0].t1_ns - added[0].t0_ns) / 1e9
    assert 8 < seconds < 16, "a fifth of a minute"


def test_a_signal_is_moved_zoomed_and_labelled_with_keys_alone(world: Any):
    page: Page = world.open(f"{BASE}/data?device=pump-1&stream=imu")
    page.wait_for_selector("canvas")
    shown = page.get_by_role("toolbar", name="Move and zoom").get_by_text("UTC")
    expect(shown).to_contain_text("60 s")
    page.keyboard.press("+")
    expect(shown).to_contain_text("30 s")
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("-")
    expect(shown).to_contain_text("60 s")
    page.get_by_label("From, seconds").focus()
    page.keyboard.type("10")
    page.keyboard.press("Tab")
    page.keyboard.type("20")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    expect(page.locator("#selected")).to_have_text("10.00 s selected")
    page.get_by_role("button", name="Another label").focus()
    page.keyboard.press("Enter")
    page.get_by_label("Label", exact=True).fill("humming")
    page.keyboard.press("Enter")
    expect(page.get_by_role("cell", name="humming")).to_be_visible()
    assert "humming" in [r.label for r in labels_of(world, "pump-1")]


def test_two_runs_are_seen_side_by_side(world: Any):
    page: Page = world.open(f"{BASE}/training")
    for box in page.get_by_role("checkbox").all()[:2]:
        box.check()
    page.get_by_role("button", name="Compare").click()
    expect(page.get_by_role("heading", name="2 runs side by side")).to_be_visible()
    expect(page.get_by_role("cell", name="int8 accuracy")).to_be_visible()
    expect(page.locator("canvas")).to_have_count(2)


def test_a_model_is_recalled_after_a_question_and_approved_again(world: Any):
    page: Page = world.open(f"{BASE}/models/activity/1")
    expect(page.get_by_role("heading", name="Metrics and gates")).to_be_visible()
    expect(page.get_by_role("group", name="Lineage of the model")).to_be_visible()
    page.get_by_role("button", name="Recall", exact=True).click()
    page.get_by_role("button", name="Leave it").click()
    expect(page.get_by_role("button", name="Recall it")).to_be_hidden()
    page.get_by_role("button", name="Recall", exact=True).click()
    page.get_by_role("button", name="Recall it").click()
    expect(page.get_by_text("recalled", exact=True).first).to_be_visible()
    row = find_model(world.store, FLEET, "activity", 1)
    assert row is not None
    assert row.state == "recalled"
    page.get_by_role("button", name="Approve again").click()
    expect(page.get_by_text("approved", exact=True).first).to_be_visible()


def test_a_rollout_shows_its_waves_and_their_evidence(world: Any):
    page: Page = world.open(f"{BASE}/rollouts")
    page.get_by_role("link", name="activity v1").click()
    expect(page.get_by_text("Wave 1")).to_be_visible()
    expect(page.get_by_text("1 of 1 devices have it, 20 windows seen")).to_be_visible()
    expect(page.get_by_role("heading", name="Evidence and gates")).to_be_visible()


def test_a_machine_is_added_and_a_stream_assigned_to_it(world: Any):
    page: Page = world.open(f"{BASE}/machines")
    page.get_by_role("button", name="Add a machine").click()
    page.get_by_label("Id, such as pump-7").fill("mill")
    page.keyboard.press("Enter")
    card = page.locator("#mill")
    expect(card).to_contain_text("not measured")
    card.get_by_role("button", name="Assign a stream").click()
    page.get_by_label("device/stream").fill("pump-2/imu")
    page.keyboard.press("Enter")
    expect(card.get_by_role("link", name="pump-2/imu")).to_be_visible()


def close_secret(page: Page) -> None:
    """Close a shown secret; until it is gone, it takes the focus of whatever is typed."""
    page.get_by_role("button", name="Done").click()
    expect(page.get_by_role("dialog")).to_have_count(0)


def test_a_token_and_a_user_are_made_and_shown_once(world: Any):
    page: Page = world.open("/account")
    page.get_by_label("Name of a new token").fill("ci")
    page.get_by_role("button", name="Make a token").click()
    secret = page.get_by_label("Secret").input_value()
    assert secret.startswith("fl_")
    close_secret(page)
    page.get_by_label("Name of a new user").fill("vera")
    page.get_by_role("button", name="Add", exact=True).click()
    link = page.get_by_label("Secret").input_value()
    assert "/welcome/" in link
    close_secret(page)
    expect(page.get_by_role("region", name="Users").get_by_text("vera")).to_be_visible()
    expect(page.get_by_role("cell", name="token-add").first).to_be_visible()
    assert secret not in page.content()


def test_whoever_is_disabled_is_out_at_once_though_a_page_is_open(world: Any):
    page: Page = world.open(f"{BASE}")
    cookies = page.context.cookies()
    world.log_out_everywhere("admin")
    page.wait_for_url(lambda url: "/login" in url)
    assert cookies


@pytest.mark.parametrize("width", [390, 1280])
def test_no_page_is_wider_than_the_screen(world: Any, width: int):
    world.page.set_viewport_size({"width": width, "height": 800})
    for path in PAGES:
        page: Page = world.open(path)
        page.wait_for_timeout(200)
        over = page.evaluate("document.documentElement.scrollWidth - window.innerWidth")
        assert over <= 0, f"{path} is {over} pixels too wide"


def test_the_navigation_is_reached_by_keys_from_the_top_of_a_page(world: Any):
    page: Page = world.open(BASE)
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the content"
    for _ in range(8):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.textContent").strip() == "Machines":
            break
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="Machines", level=1)).to_be_visible()


def labels_of(world: Any, device: str) -> list[Any]:
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        found = list(annotations(world.store, FLEET, device=device))
        if found:
            return found
        time.sleep(0.1)
    return []


def test_a_click_before_the_page_is_connected_is_not_lost(world: Any):
    page: Page = world.open("/account")
    page.evaluate("window.did_handshake = false")
    page.get_by_label("Name of a new token").fill("early")
    page.get_by_role("button", name="Make a token").click()
    page.wait_for_timeout(300)
    expect(page.get_by_label("Secret")).to_have_count(0)
    page.evaluate("window.did_handshake = true")
    assert page.get_by_label("Secret").input_value().startswith("fl_")
