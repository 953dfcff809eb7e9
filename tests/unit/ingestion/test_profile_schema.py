"""The profile's JSON Schema says the same as the service, for every kind of source."""

from __future__ import annotations

import json
import re
from importlib.metadata import entry_points
from pathlib import Path

import jsonschema
import pytest
import yaml

from fieldloop_ingestion.profile import check
from fieldloop_ingestion.source import GROUP, fit

ROOT = Path(__file__).parents[3]
SCHEMA = json.loads((ROOT / "firmware-config/profile.schema.json").read_text("utf-8"))
EXAMPLES = [
    document
    for block in re.findall(
        r"^((?:    .*\n|\n)+)", (ROOT / "edge/ingestion/README.md").read_text("utf-8"), re.M
    )
    if "streams:" in block
    for document in [yaml.safe_load(block)]
]


def test_the_schema_is_a_schema_and_names_every_kind_of_source():
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    kinds = {k["title"] for k in SCHEMA["properties"]["sources"]["items"]["oneOf"]}
    assert kinds == {p.name for p in entry_points(group=GROUP)}
    assert {"replay", "mqtt", "machine", "modbus", "iio"} <= kinds


def test_there_are_examples():
    assert EXAMPLES


@pytest.mark.parametrize("document", EXAMPLES)
def test_an_example_of_the_readme_is_right_for_both(document):
    jsonschema.validate(document, SCHEMA)
    assert check(document, fit)[1] == []


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("streams", 0, "rate_hz"), -1),
        (("streams", 0, "id"), "No Good"),
        (("streams", 0, "colour"), "red"),
        (("streams", 0, "capture"), {"mode": "sometimes"}),
        (("sources", 0, "kind"), "telepathy"),
        (("sources", 0, "sped"), 2),
        (("sources", 0, "speed"), -2),
    ],
)
def test_what_one_refuses_the_other_refuses(path, value):
    document = json.loads(json.dumps(EXAMPLES[0]))
    node = document
    for part in path[:-1]:
        node = node[part]
    node[path[-1]] = value
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(document, SCHEMA)
    assert check(document, fit)[1]
