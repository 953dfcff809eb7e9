"""Looks at a fleet, and rollouts' tables, on SQLite and on a real PostgreSQL."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from sqlalchemy import insert

from fieldloop_contract.calibration import Calibration
from fieldloop_contract.desired import SlotOrder
from fieldloop_contract.manifest import MODEL_FILE, FileRef, Limits, Lineage, sha256
from fieldloop_contract.messages import ModelRef, Reported, SlotState
from fieldloop_contract.topics import Topic
from fieldloop_delivery.bundles import ChunkSource
from fieldloop_delivery.ceremonies import Ceremony
from fieldloop_delivery.fleet import Fleet, content_of
from fieldloop_delivery.keys import KeyRing
from fieldloop_delivery.packing import Packings
from fieldloop_delivery.policy import Policy
from fieldloop_delivery.profiles import Profiles
from fieldloop_delivery.repository import Repository
from fieldloop_runtime.journal import Journal
from fieldloop_store import commissionings
from fieldloop_store.engine import Store, insert_into
from fieldloop_store.registry import register_model, set_model_state
from fieldloop_store.rollouts import (
    DocumentRow,
    each_document,
    find_document,
    list_assignments,
    list_documents,
    list_rollouts,
    save_look,
)
from fieldloop_store.schema import results, services
from fieldloop_store.steering import ask
from support.postgres import shared_postgres
from support.signed import FLEET, bundle

POLICY = Policy.model_validate(
    {
        "slots": [
            {"model": "activity", "waves": [{"percent": 100}], "gates": {"windows_min": 1}},
        ]
    }
)


@pytest.fixture(params=["sqlite", "postgresql"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    sqlite = f"sqlite:///{tmp_path / 'store.sqlite'}"
    url = sqlite if request.param == "sqlite" else shared_postgres().new_database()
    opened = Store.open(url)
    yield opened
    opened.close()


class Watch:
    """A fleet's controller, and what devices would say."""

    def __init__(self, folder: Path, store: Store) -> None:
        self.store = store
        keys = KeyRing(folder / "fleet" / "keys")
        now = datetime.now(UTC)
        self.repository = Repository.create(folder / "fleet", keys, fleet=FLEET, now=now)
        self.chunks = ChunkSource(store, packings=Packings(folder / "packed", 32768))
        self.fleet = self.make()
        self.seq = 0

    def make(self, policy: Policy = POLICY, profiles: Path | None = None) -> Fleet:
        journal = Journal("test")
        self.fleet = Fleet(
            self.store,
            self.repository,
            policy,
            service="inference",
            journal=journal,
            chunks=self.chunks,
            profiles=Profiles(str(profiles), journal) if profiles else None,
        )
        return self.fleet

    def online(
        self, device: str, active: ModelRef | None = None, memory_bytes: int = 1 << 30
    ) -> None:
        slot = SlotState(slot="main", state="ACTIVE" if active else "EMPTY", active=active)
        reported = Reported(session="s", slots=[slot]).model_dump(mode="json", exclude_none=True)
        values = {
            "state": "online",
            "session": "s",
            "status": {"capability": {"runtime": "litert", "memory_bytes": memory_bytes}},
            "status_ns": time.time_ns(),
            "reported": reported,
            "reported_ns": time.time_ns(),
        }
        with self.store.begin() as connection:
            statement = insert_into(connection, services).values(
                fleet=FLEET, device=device, service="inference", **values
            )
            connection.execute(
                statement.on_conflict_do_update(
                    index_elements=["fleet", "device", "service"], set_=values
                )
            )

    def window(self, device: str, ref: ModelRef) -> None:
        self.seq += 1
        row = self._result(device, ref, "active", "rest")
        with self.store.begin() as connection:
            connection.execute(insert(results), [row])

    def beside(
        self, device: str, active: ModelRef, shadow: ModelRef, count: int, *, differs: float
    ) -> None:
        """Windows that both scored; they name another label on that share of them."""
        rows = []
        for index in range(count):
            self.seq += 1
            other = index < differs * count
            for at, (ref, role) in enumerate(((active, "active"), (shadow, "shadow"))):
                row = self._result(device, ref, role, "walk" if other and at else "rest")
                rows.append({**row, "epoch": f"{at}b" * 16})
        with self.store.begin() as connection:
            connection.execute(insert(results), rows)

    def _result(self, device: str, ref: ModelRef, role: str, label: str) -> dict[str, object]:
        return {
            "fleet": FLEET, "device": device, "service": "inference", "epoch": "ab" * 16,
            "seq": self.seq, "stream": "imu", "slot": "main", "role": role, "t0_ns": self.seq,
            "t1_ns": self.seq + 1, "model": ref.name, "version": ref.version,
            "model_digest": ref.digest, "label": label, "score": None, "latency_us": 10.0,
            "valid": True, "document": {}, "digest": b"12345678", "received_ns": time.time_ns(),
        }  # fmt: skip

    def register(self, version: int, **changes: object) -> ModelRef:
        manifest, files = bundle(1, size=60_000)
        data = bytearray(files[MODEL_FILE])
        data[0] = version
        files = {**files, MODEL_FILE: bytes(data)}
        refs = {n: FileRef.of(d) for n, d in files.items()}
        manifest = manifest.model_copy(update={"version": version, "files": refs, **changes})
        register_model(
            self.store, fleet=FLEET, manifest=manifest, files=files, run=None, metrics={}, now_ns=1
        )
        return manifest.ref()


@pytest.fixture
def watch(tmp_path: Path, store: Store) -> Watch:
    return Watch(tmp_path, store)


def orders(watch: Watch) -> dict[str, int]:
    return {d.device: d.version for d in list_documents(watch.store, FLEET)}


def test_rollout_from_the_first_order_to_its_end_reads_orders_once(watch):
    one = watch.register(1)
    watch.online("pump-1")
    items = watch.fleet.look(time.time_ns())
    topic = str(Topic(FLEET, "pump-1", "inference", "desired"))
    payload = watch.fleet.read(items[topic].digest)
    assert sha256(payload) == items[topic].digest
    assert watch.fleet.look(time.time_ns()) is None, "nothing has changed"
    watch.online("pump-1", one)
    watch.window("pump-1", one)
    watch.fleet.look(time.time_ns())
    assert list_rollouts(watch.store, FLEET)[0].state == "completed"
    again = watch.make().look(time.time_ns())
    assert again[topic] == items[topic]
    assert orders(watch) == {"pump-1": 1}


def test_device_too_small_is_passed_over_with_the_reason_in_the_document(watch):
    watch.register(1, limits=Limits(memory_bytes_max=1 << 29))
    watch.online("pump-1")
    watch.online("tiny", memory_bytes=1 << 20)
    watch.fleet.look(time.time_ns())
    (row,) = list_rollouts(watch.store, FLEET)
    assert row.document["skipped"].keys() == {"tiny"}
    assert "capability.memory" in row.document["skipped"]["tiny"]
    assert row.document["figures"]["touched"] == 1
    assert [a.device for a in list_assignments(watch.store, FLEET)] == ["pump-1"]
    assert orders(watch) == {"pump-1": 1}


def test_second_version_is_published_with_a_delta_from_the_first(watch):
    one = watch.register(1)
    watch.online("pump-1", one)
    watch.fleet.look(time.time_ns())
    watch.window("pump-1", one)
    watch.fleet.look(time.time_ns())
    two = watch.register(2)
    items = watch.fleet.look(time.time_ns())
    (form,) = watch.chunks.carriage(two.digest).packed[MODEL_FILE]
    assert form.source is not None
    assert form.blob.length < 1000
    topics = {t.rsplit("/", 1)[1] for t in items if "/_blob/" in t}
    assert set(form.blob.chunks) <= topics
    assert sha256(watch.fleet.read(form.blob.chunks[0])) == form.blob.chunks[0]


def test_rotated_director_signs_every_order_again(tmp_path, watch):
    watch.register(1)
    watch.online("pump-1")
    watch.fleet.look(time.time_ns())
    Ceremony(tmp_path / "fleet", fleet=FLEET).rotate("director", datetime.now(UTC))
    watch.fleet.look(time.time_ns())
    assert orders(watch) == {"pump-1": 2}
    assert watch.fleet.look(time.time_ns()) is None


def test_orders_are_read_in_pages_and_versions_never_go_back(store):
    rows = [DocumentRow(f"d{i:04}", 2, b"x%d" % i) for i in range(1203)]
    state = save_look(store, FLEET, changed=[], assigned=[], signed=rows, now_ns=1)
    assert state == (1203, 2406)
    assert list(each_document(store, FLEET)) == rows
    save_look(
        store, FLEET, changed=[], assigned=[], signed=[DocumentRow("d0001", 1, b"old")], now_ns=2
    )
    assert find_document(store, FLEET, "d0001") == rows[1]
    assert find_document(store, FLEET, "nobody") is None


def test_order_carries_the_record_that_a_person_armed_and_why_it_is_stale(watch):
    one = watch.register(1)
    watch.online("pump-1", one)
    watch.fleet.look(time.time_ns())
    record = Calibration(
        fleet=FLEET, device="pump-1", slot="main", stream="imu", machine="m-1", model=one,
        epoch="c" * 32, seq_first=1, epoch_last="c" * 32, seq_last=9, t0_ns=1, t1_ns=2,
        windows=500, centre=1.0, scale=0.3, threshold=3.0,
    )  # fmt: skip
    begun = commissionings.begin(
        watch.store, FLEET, machine="m-1", device="pump-1", slot="main", plan={}, actor="ann",
        now_ns=1,
    )  # fmt: skip
    commissionings.judged(
        watch.store, begun.id, state="ready", assessment={}, record=record, now_ns=2
    )
    assert watch.fleet.look(time.time_ns()) is None, "ready is not armed"
    commissionings.arm(watch.store, FLEET, begun.id, actor="ann", now_ns=3)
    assert watch.fleet.look(time.time_ns()) is not None
    assert orders(watch) == {"pump-1": 2}

    def slot() -> SlotOrder:
        desired = content_of(find_document(watch.store, FLEET, "pump-1").payload)
        return desired.slots["main"]

    assert slot().calibration == record.encode().decode()
    assert slot().calibration_stale is None
    assert watch.fleet.look(time.time_ns()) is None
    commissionings.go_stale(
        watch.store, FLEET, "pump-1", "main", because="new bearing", actor="ann", now_ns=4
    )
    watch.fleet.look(time.time_ns())
    assert slot().calibration == record.encode().decode(), "it still judges"
    assert slot().calibration_stale == "new bearing"
    assert orders(watch) == {"pump-1": 3}


BESIDE_DEVICES, BESIDE_WINDOWS = 4, 300


@pytest.mark.parametrize(
    ("stated", "of_parent", "judged", "halted"),
    [
        ({"disagreement": 0.3, "windows": 2000.0}, True, True, False),
        ({"disagreement": 0.02, "windows": 2000.0}, True, True, True),
        ({"disagreement": 0.02, "windows": 2000.0}, False, False, False),
        ({}, True, False, False),
    ],
    ids=["as on the recent set", "far more", "stated against another version", "never stated"],
)
def test_disagreement_in_shadow_is_judged_against_the_recent_set(
    watch, stated, of_parent, judged, halted
):
    """As training writes it into the manifest: `lineage.metrics["recent"]`, against the parent."""
    devices = [f"pump-{n}" for n in range(1, BESIDE_DEVICES + 1)]
    one = watch.register(1)
    for device in devices:
        watch.online(device, one)
    watch.fleet.look(time.time_ns())
    for device in devices:
        watch.window(device, one)
    watch.fleet.look(time.time_ns())
    parent = one if of_parent else ModelRef(name="activity", version=9, digest="9" * 64)
    lineage = Lineage(parent=parent, metrics={"recent": stated} if stated else {})
    two = watch.register(2, lineage=lineage)
    watch.fleet.look(time.time_ns())
    for device in devices:
        watch.beside(device, one, two, BESIDE_WINDOWS, differs=0.3)
    watch.fleet.look(time.time_ns())
    row = next(r for r in list_rollouts(watch.store, FLEET) if r.version == 2)
    findings = {f["gate"]: f for f in row.document["findings"]}
    finding = findings["disagreement"]
    assert finding["text"].startswith("disagreement in shadow 0.300 over 1200 windows")
    assert ("none was stated" in finding["text"]) == (not judged)
    assert finding["failed"] == halted
    assert (row.state == "halted") == halted


def test_challenger_runs_in_a_slot_of_its_own_beside_the_champion(watch):
    """And goes when its version is recalled; the champion's slot is left alone."""
    slot = {
        "model": "activity", "waves": [{"percent": 100}], "gates": {"windows_min": 1},
        "start": "manual", "challenger": {"version": 2, "percent": 100},
    }  # fmt: skip
    watch.make(Policy.model_validate({"slots": [slot]}))
    one, two = watch.register(1), watch.register(2)
    watch.online("pump-1", one)
    ask(watch.store, FLEET, "start", by="anna", now_ns=1, model="activity", version=1)
    watch.fleet.look(time.time_ns())
    assert ordered(watch, "pump-1") == {"main": one, "main-challenger": two}
    assert set_model_state(watch.store, FLEET, "activity", 2, "recalled")
    watch.fleet.look(time.time_ns())
    assert ordered(watch, "pump-1") == {"main": one}


def ordered(watch: Watch, device: str) -> dict[str, ModelRef | None]:
    row = find_document(watch.store, FLEET, device)
    assert row is not None
    desired = content_of(row.payload)
    assert desired is not None
    return {name: order.model for name, order in desired.slots.items()}


def ordered_profile(watch: Watch, device: str) -> tuple[int, str | None]:
    document = find_document(watch.store, FLEET, device)
    assert document is not None
    content = content_of(document.payload)
    assert content is not None
    return document.version, content.profile


def test_a_profile_of_the_folder_is_ordered_once_and_a_wrong_one_never(watch, tmp_path):
    text = "streams: [{id: imu, rate_hz: 12.5, channels: [{name: a}]}]\n"
    folder = tmp_path / "profiles"
    folder.mkdir()
    (folder / "pump-1.yaml").write_text(text)
    watch.register(1)
    watch.online("pump-1")
    watch.online("pump-2")
    now_ns = time.time_ns()
    watch.make(profiles=folder).look(now_ns)
    assert (ordered_profile(watch, "pump-1"), ordered_profile(watch, "pump-2")) == (
        (1, text),
        (1, None),
    )
    watch.make(profiles=folder).look(now_ns)
    assert ordered_profile(watch, "pump-1") == (1, text)
    (folder / "pump-1.yaml").write_text("streams: []")
    watch.make(profiles=folder).look(now_ns)  # a delivery that never saw the good one
    assert ordered_profile(watch, "pump-1") == (1, text)
    (folder / "default.yaml").write_text(text)
    watch.make(Policy(), profiles=folder).look(now_ns)  # no slot: a profile is order enough
    assert ordered_profile(watch, "pump-2") == (2, text)
