"""Machines, alarms, commissioning and training in a real Chromium: what people decide there."""

from __future__ import annotations

from typing import Any

import pytest
from playwright.sync_api import Page, expect

from fieldloop_store.alarms import list_alarms
from fieldloop_store.commissionings import in_force, list_commissionings
from fieldloop_store.questions import find_question
from fieldloop_store.registry import find_model
from fieldloop_store.runs import find_run, list_runs
from support.console import FLEET, WEAR, XSS

BASE = f"/f/{FLEET}"


def test_a_machine_that_is_worse_than_last_month_is_seen_in_the_list_and_in_its_plot(world: Any):
    page: Page = world.open(f"{BASE}/machines")
    row = page.get_by_role("row").filter(has_text="press")
    expect(row).to_contain_text("worse")
    expect(row).to_contain_text("ready to arm")
    row.get_by_role("link", name="press").click()
    expect(page.get_by_role("heading", name="Condition over time")).to_be_visible()
    expect(page.get_by_text("this week's median score")).to_be_visible()
    expect(page.locator("canvas")).to_have_count(1)
    expect(page.get_by_role("heading", name=f"slot {WEAR}")).to_contain_text("worse")
    expect(page.get_by_text("in force", exact=True).first).to_be_visible()


def test_an_alarm_leads_to_its_signal_and_takes_a_verdict(world: Any):
    page: Page = world.open(f"{BASE}/machines/press")
    verdict = page.get_by_role("group", name="Verdict on the alarm of pump-1")
    verdict.get_by_role("button", name="Seen").click()
    expect(page.get_by_text("seen by admin")).to_be_visible()
    verdict.get_by_role("button", name="Fault").click()
    expect(page.get_by_text("says admin")).to_be_visible()
    found = list_alarms(world.store, FLEET, machine="press")[0]
    assert (found.life.verdict, found.life.verdict_by) == ("fault", "admin")
    page.get_by_role("link", name="the signal behind it").first.click()
    expect(page.get_by_role("heading", name="imu", level=1)).to_be_visible()


def test_a_machine_is_said_to_be_healthy_and_a_new_commissioning_is_begun(world: Any):
    page: Page = world.open(f"{BASE}/machines/press")
    page.get_by_role("button", name="This machine is healthy: arm it").click()
    page.get_by_role("button", name="It is healthy: arm it", exact=True).click()
    expect(page.get_by_role("button", name="This machine is healthy: arm it")).to_have_count(0)
    armed = in_force(world.store, FLEET, device="pump-1")
    assert [row.armed_by for row in armed] == ["admin"]
    page.get_by_label("Running hours").fill("12x")
    page.get_by_role("button", name="Commission", exact=True).click()
    expect(page.get_by_text("'12x' is no number")).to_be_visible()
    page.get_by_label("Slot").fill(WEAR)
    page.get_by_label("Running hours").fill("12")
    page.get_by_role("button", name="Commission", exact=True).click()
    expect(page.get_by_text("The machines service has not looked yet.")).to_be_visible()
    begun = list_commissionings(world.store, FLEET, machine="press", under_way=True)
    assert [(row.slot, row.plan["running_hours"]) for row in begun] == [(WEAR, 12.0)]


def test_a_training_is_started_from_the_recipes_form_and_bad_values_are_named(world: Any):
    page: Page = world.open(f"{BASE}/training")
    page.get_by_role("link", name="Start a training").click()
    page.wait_for_selector("#s-epochs")
    assert page.get_by_label("Epochs", exact=True).input_value() == "30"
    page.get_by_label("Epochs", exact=True).fill("501")
    page.get_by_label("Dropout").fill("a lot")
    before = len(list_runs(world.store, FLEET))
    page.get_by_role("button", name="Start", exact=True).click()
    alert = page.get_by_role("alert")
    expect(alert).to_contain_text("501 is greater than the maximum of 500")
    expect(alert).to_contain_text("Dropout: 'a lot' is no number")
    assert page.get_by_label("Epochs", exact=True).input_value() == "501", "nothing typed is lost"
    assert len(list_runs(world.store, FLEET)) == before
    page.get_by_label("Epochs", exact=True).fill("4")
    page.get_by_label("Dropout").fill("0.2")
    page.get_by_label("Why").fill(XSS)
    page.get_by_role("button", name="Start", exact=True).click()
    page.wait_for_url(lambda url: "/training/" in url and "/new" not in url)
    run = find_run(world.store, page.url.rsplit("/", 1)[-1])
    assert run is not None
    assert (run.state, run.settings) == ("queued", {"epochs": 4, "dropout": 0.2})
    assert run.trigger["reason"] == XSS
    assert page.evaluate("window.stolen") is None
    page.get_by_role("button", name="Cancel", exact=True).click()
    page.get_by_role("button", name="Cancel it").click()
    expect(page.get_by_text("cancelled", exact=True).first).to_be_visible()


def test_each_recipe_has_its_form(world: Any):
    page: Page = world.open(f"{BASE}/training/new")
    page.wait_for_selector("#s-epochs")
    page.get_by_label("Recipe").select_option("autoencoder")
    page.wait_for_url(lambda url: "recipe=autoencoder" in url)
    expect(page.get_by_label("False-alarm budget")).to_have_value("0.001")


def test_what_training_asks_is_shown_with_its_evidence_and_answered(world: Any):
    page: Page = world.open(f"{BASE}/training")
    expect(page.get_by_text(f"pump-1 has drifted {XSS}")).to_be_visible()
    expect(page.get_by_role("region", name="Evidence")).to_contain_text("0.400")
    page.get_by_label("What it was").select_option("wear")
    page.get_by_label("Note").fill("bearing is due")
    page.get_by_role("button", name="Dismiss").click()
    expect(page.get_by_text("What training asks you")).to_have_count(0)
    found = find_question(world.store, world.fleet.question)
    assert found is not None
    assert found.state == "dismissed"
    assert found.answer == {"by": "admin", "what": "wear", "note": "bearing is due"}


def test_a_models_page_shows_the_plots_of_its_card(world: Any):
    page: Page = world.open(f"{BASE}/models/activity/1")
    picture = page.get_by_role("img", name="True against false positives of activity v1")
    picture.scroll_into_view_if_needed()
    page.wait_for_function("document.querySelector('.pictures img').naturalWidth === 1")
    expect(page.get_by_role("link", name="Model card")).to_be_visible()


def test_from_a_version_that_alarms_back_to_the_one_before_in_two_clicks(world: Any):
    alarm = world.fleet.alarm("pump-2")
    page: Page = world.open(f"{BASE}/rollouts")
    expect(page.get_by_role("heading", name="Versions that alarm")).to_be_visible()
    page.get_by_role("button", name="Take it back").click()
    page.get_by_role("dialog").get_by_role("button", name="Take it back").click()
    expect(page.get_by_role("heading", name="Versions that alarm")).to_have_count(0)
    row = find_model(world.store, FLEET, "activity", 1)
    assert row is not None
    assert row.state == "recalled"
    assert alarm in [a.id for a in list_alarms(world.store, FLEET, open_only=True)]
    page.goto(f"{world.console.url}{BASE}/models/activity/1")
    page.get_by_role("button", name="Approve again").click()
    expect(page.get_by_text("approved", exact=True).first).to_be_visible()


def test_what_is_typed_into_a_form_outlives_the_first_row_of_the_list_above_it(world: Any):
    page: Page = world.open("/account")
    field = page.get_by_label("Name of a new token")
    field.fill("half a na")
    page.evaluate("window.field = document.getElementById('token-name')")
    world.fleet.token("admin")
    expect(page.get_by_role("region", name="Tokens")).to_be_visible()
    assert page.evaluate("window.field === document.getElementById('token-name')")
    assert field.input_value() == "half a na"


@pytest.mark.parametrize("path", [f"{BASE}/machines/press", f"{BASE}/training/new"])
def test_a_new_page_is_worked_by_keys_alone(world: Any, path: str):
    page: Page = world.open(path)
    page.wait_for_timeout(300)
    reached = set()
    for _ in range(60):
        page.keyboard.press("Tab")
        reached.add(page.evaluate("(document.activeElement.innerText || '').trim()"))
    assert reached & {"Commission", "Start", "Give up"}, reached
