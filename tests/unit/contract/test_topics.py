"""Topics: built, parsed and filtered in one place; the access table binds both levels."""

from __future__ import annotations

import contextlib
import doctest

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fieldloop_contract import ids, manifest, topics
from fieldloop_contract.errors import MalformedMessage
from fieldloop_contract.topics import (
    CHANNELS,
    Role,
    Topic,
    access_table,
    blob_topic,
    channel_filter,
    meta_topic,
    mosquitto_acl,
    parse,
    parse_blob,
    parse_meta,
)

names = st.from_regex(r"[a-z0-9][a-z0-9-]{0,62}", fullmatch=True)


@pytest.mark.parametrize("module", [topics, ids, manifest])
def test_examples_in_the_documentation_are_true(module):
    outcome = doctest.testmod(module)
    assert outcome.attempted > 0
    assert outcome.failed == 0


@given(names, names, names, st.sampled_from(sorted(CHANNELS)))
def test_every_topic_survives_a_round_trip(fleet, device, service, channel):
    topic = Topic(fleet, device, service, channel)
    assert parse(str(topic)) == topic


@given(st.text(max_size=120))
def test_no_text_makes_the_parser_do_anything_but_refuse_or_parse(text):
    for read in (parse, parse_meta, parse_blob):
        with contextlib.suppress(MalformedMessage):
            assert read(text)


@pytest.mark.parametrize(
    "bad",
    ["", "A", "-a", "a/b", "a+", "#", "_tuf", "a b", "a" * 64, "ä", "a\n", "a.b", "../x", "a\x00"],
)
def test_what_is_no_identifier_can_be_no_level(bad):
    with pytest.raises(MalformedMessage):
        Topic("acme", bad, "ingestion", "frames")


@pytest.mark.parametrize(
    "bad",
    [
        "fieldloop/v1/acme/pump/ingestion",
        "fieldloop/v2/acme/pump/ingestion/frames",
        "fieldloop/v1/acme/pump/ingestion/frames/more",
        "fieldloop/v1/acme/pump/ingestion/gossip",
        "fieldloop/v1/acme/_tuf/meta/root.json",
        "x" * 70_000,
    ],
)
def test_what_is_no_device_topic_is_refused(bad):
    with pytest.raises(MalformedMessage):
        parse(bad)


@pytest.mark.parametrize("bad", ["../root.json", "root", "0.root.json", "a/b.json", "R.json", ""])
def test_what_is_no_metadata_file_is_refused(bad):
    with pytest.raises(MalformedMessage):
        meta_topic("acme", bad)


def test_metadata_and_blob_topics_survive_a_round_trip():
    assert parse_meta(meta_topic("acme", "12.root.json")) == "12.root.json"
    assert parse_blob(blob_topic("acme", "0f" * 32)) == "0f" * 32


def test_a_filter_names_each_level_at_most_once():
    assert channel_filter("ack", fleet="f", device="d", service="s") == "fieldloop/v1/f/d/s/ack"
    assert channel_filter("frames", share="t") == "$share/t/fieldloop/v1/+/+/+/frames"
    with pytest.raises(MalformedMessage):
        channel_filter("gossip")


def test_a_device_may_write_only_under_its_own_name():
    writes = [r.filter for r in access_table() if r.role is Role.DEVICE and r.access == "write"]
    assert writes
    assert all(f.startswith("fieldloop/v1/%u/") for f in writes)
    assert not any(f.endswith(("/desired", "/ack", "/want")) for f in writes)


def test_nobody_but_delivery_may_write_what_devices_trust():
    for rule in access_table("acme"):
        if "write" in rule.access and ("_tuf" in rule.filter or "/desired" in rule.filter):
            assert rule.role is Role.DELIVERY


def test_the_access_list_has_a_line_for_every_channel():
    text = mosquitto_acl("acme")
    assert all(f"/{name}\n" in text for name in CHANNELS)
    assert "%f" not in text


def test_home_assistant_gets_its_lines_only_when_asked_for():
    assert "homeassistant" not in mosquitto_acl("acme")
    text = mosquitto_acl("acme", home_assistant=True)
    telemetry, delivery = text.split("user delivery")
    assert "topic write homeassistant/device/+/config" in telemetry
    assert "homeassistant" not in delivery
