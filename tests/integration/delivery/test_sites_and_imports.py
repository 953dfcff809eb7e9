"""Models from elsewhere: imported `.tflite` files, and archives for sites without a network."""

from __future__ import annotations

import subprocess
import sys
import time
import zipfile
from datetime import UTC, datetime
from pathlib import Path

import pytest
import yaml

from fieldloop_contract.airgap import About, Archive, write_archive
from fieldloop_contract.errors import FixConfiguration, MalformedMessage, Untrusted
from fieldloop_contract.manifest import MODEL_FILE, check_bundle, sha256
from fieldloop_delivery.__main__ import main
from fieldloop_delivery.drafting import Wish, draft
from fieldloop_delivery.keys import KeyRing
from fieldloop_delivery.repository import Repository
from fieldloop_delivery.sites import take
from fieldloop_store.engine import Store
from fieldloop_store.registry import approved_models, load_bundle, register_model
from support.models import CHANNELS, LABELS, RATE_HZ, WINDOW, model
from support.signed import FLEET, bundle

CHANNEL_TEXT = ",".join(f"a{k}:g" for k in range(CHANNELS))


class Cloud:
    """A folder with a repository, a policy and a store, and the environment that names them."""

    def __init__(self, folder: Path, fleet: str = FLEET) -> None:
        self.folder = folder
        self.fleet = fleet
        folder.mkdir(parents=True)
        policy = {"slots": [{"model": "activity", "streams": {"imu": "imu"}}]}
        (folder / "policy.yaml").write_text(yaml.safe_dump(policy))
        keys = KeyRing(folder / "fleet" / "keys")
        Repository.create(folder / "fleet", keys, fleet=fleet, now=datetime.now(UTC))
        self.root = Repository.root_of(folder / "fleet")
        (folder / "root.json").write_bytes(self.root)
        self.url = f"sqlite:///{folder / 'store.sqlite'}"
        self.environ = {
            "FIELDLOOP_FLEET": fleet,
            "FIELDLOOP_DIR": str(folder / "fleet"),
            "FIELDLOOP_POLICY": str(folder / "policy.yaml"),
            "FIELDLOOP_STORE_URL": self.url,
        }

    def run(self, *arguments: str) -> int:
        return main(list(arguments), self.environ)

    def store(self) -> Store:
        return Store.open(self.url)


@pytest.fixture
def cloud(tmp_path: Path) -> Cloud:
    return Cloud(tmp_path / "cloud")


def register(cloud: Cloud, version: int = 1) -> str:
    manifest, files = bundle(version, size=90_000)
    store = cloud.store()
    register_model(
        store, fleet=cloud.fleet, manifest=manifest, files=files, run=None, metrics={}, now_ns=1
    )
    store.close()
    return manifest.digest()


def wish(**given: object) -> Wish:
    fields = {
        "name": "activity",
        "version": 1,
        "stream": "imu",
        "window_samples": 0,
        "hop_samples": 16,
        "rate_hz": RATE_HZ,
        "channels": [(f"a{k}", "g") for k in range(CHANNELS)],
        "labels": LABELS,
        **given,
    }
    return Wish(**fields)  # type: ignore[arg-type]


def test_any_tflite_becomes_an_approved_version_that_proves_itself(tmp_path, cloud):
    path = tmp_path / "bought.tflite"
    path.write_bytes(model("good"))
    said = cloud.run(
        "import", str(path), "--name", "activity", "--stream", "imu", "--hop", "16",
        "--rate", str(RATE_HZ), "--channels", CHANNEL_TEXT, "--labels", ",".join(LABELS),
    )  # fmt: skip
    assert said == 0
    store = cloud.store()
    (row,) = approved_models(store, cloud.fleet)
    manifest, files = load_bundle(store, row.digest)
    store.close()
    check_bundle(manifest, files)
    assert files[MODEL_FILE] == model("good")
    assert manifest.inputs[0].window_samples == WINDOW
    assert manifest.outputs[0].labels == LABELS
    assert manifest.golden.count == 8
    assert manifest.lineage.recipe == "imported"


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({"labels": ["one"]}, "3 classes, 1 labels"),
        ({"channels": [("a", "g")]}, "is not 32 samples of 1 channels"),
        ({"window_samples": 7}, "is not 7 samples"),
    ],
)
def test_description_that_does_not_fit_the_file_is_refused_in_words(given, text):
    with pytest.raises(FixConfiguration, match=text):
        draft(model("good"), wish(**given))


def test_file_that_is_no_model_ends_in_words_and_not_in_a_crash():
    with pytest.raises(FixConfiguration):
        draft(b"\x00" * 4000, wish())


def load(cloud: Cloud, archive: Path, folder: Path, device: str) -> subprocess.CompletedProcess:
    environ = {
        "FIELDLOOP_FLEET": cloud.fleet,
        "FIELDLOOP_DEVICE": device,
        "FIELDLOOP_ROOT_FILE": str(cloud.folder / "root.json"),
        "FIELDLOOP_UPDATE_DIR": str(folder),
        "FIELDLOOP_TRUST_CLOCK": "true",
        "FIELDLOOP_LOG_PATH": "/of/the/service",
    }
    command = [sys.executable, "-m", "fieldloop_update", "load", str(archive)]
    return subprocess.run(command, env=environ, capture_output=True, text=True, check=False)


def test_archive_brings_a_model_to_a_device_without_any_network(tmp_path, cloud):
    digest = register(cloud)
    archive = tmp_path / "one.fieldloop"
    wanted = ["--name", "activity", "--version", "1", "--device", "pump-7"]
    assert cloud.run("export", str(archive), *wanted) == 0
    done = load(cloud, archive, tmp_path / "device", "pump-7")
    assert done.returncode == 0, done.stderr
    assert "activity 1 is on disk" in done.stdout
    got = tmp_path / "device" / "bundles" / digest / MODEL_FILE
    assert got.read_bytes() == bundle(1, size=90_000)[1][MODEL_FILE]
    other = load(cloud, archive, tmp_path / "other", "pump-8")
    assert other.returncode == 1
    assert "no order for pump-8" in other.stderr
    register(cloud, 2)
    assert cloud.run("export", str(tmp_path / "two"), *wanted[:3], "2", *wanted[4:]) == 0
    assert load(cloud, tmp_path / "two", tmp_path / "device", "pump-7").returncode == 0
    replayed = load(cloud, archive, tmp_path / "device", "pump-7")
    assert replayed.returncode == 1
    assert "rollback" in replayed.stderr


def test_exported_order_is_the_same_when_it_is_exported_again(tmp_path, cloud):
    register(cloud)
    wanted = ["--name", "activity", "--version", "1", "--device", "pump-7"]
    orders = []
    for name in ("a", "b"):
        assert cloud.run("export", str(tmp_path / name), *wanted) == 0
        with Archive(tmp_path / name) as archive:
            orders.append(archive.desired("pump-7"))
    assert orders[0] == orders[1]


def test_archive_is_taken_at_another_site_by_the_senders_root_only(tmp_path, cloud):
    register(cloud)
    path = tmp_path / "one.fieldloop"
    assert cloud.run("export", str(path), "--name", "activity", "--version", "1") == 0
    site = Cloud(tmp_path / "site", fleet="island")
    assert site.run("import-bundle", str(path)) == 78, "taken by a root that did not sign it"
    assert site.run("import-bundle", str(path), "--root", str(cloud.folder / "root.json")) == 0
    store = site.store()
    assert [(m.name, m.version) for m in approved_models(store, "island")] == [("activity", 1)]
    store.close()


def test_changed_archives_are_refused(tmp_path, cloud):
    digest = register(cloud)
    path = tmp_path / "one.fieldloop"
    assert cloud.run("export", str(path), "--name", "activity", "--version", "1") == 0
    store = Cloud(tmp_path / "site", fleet="island").store()
    with Archive(path) as archive:
        metadata = archive.metadata()
        payload = archive.file(digest)
        about = archive.about
    fake, files = bundle(1, seed=5)
    by_digest = {sha256(d): d for d in [fake.encode(), *files.values()]}
    swapped = tmp_path / "swapped"
    write_archive(
        swapped,
        About(fleet=FLEET, model=fake.ref()),
        metadata=metadata,
        desired={},
        files=by_digest,
    )
    lying = tmp_path / "lying"
    write_archive(lying, about, metadata=metadata, desired={}, files={digest: payload + b" "})
    for file, kind in ((swapped, Untrusted), (lying, MalformedMessage)):
        with Archive(file) as archive, pytest.raises(kind):
            take(store, archive, fleet="island", root=cloud.root, now=datetime.now(UTC))
    assert approved_models(store, "island") == []
    store.close()


@pytest.mark.parametrize("name", ["../evil", "files/../../evil", "/evil", "meta/..", "files/ab"])
def test_names_that_lead_elsewhere_are_refused(tmp_path, name):
    path = tmp_path / "evil.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("about.json", b"{}")
        archive.writestr(name, b"x")
    with pytest.raises(MalformedMessage, match="an entry"):
        Archive(path)


def test_zip_bomb_and_garbage_are_refused(tmp_path):
    path = tmp_path / "bomb.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("about.json", bytes(50 << 20))
    begun = time.monotonic()
    with pytest.raises(MalformedMessage):
        Archive(path)
    assert time.monotonic() - begun < 1
    (tmp_path / "garbage").write_bytes(b"no zip at all")
    with pytest.raises(FixConfiguration):
        Archive(tmp_path / "garbage")
