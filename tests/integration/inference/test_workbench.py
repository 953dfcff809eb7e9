"""`try MODEL.tflite`: what a person sees of a model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from fieldloop_contract.manifest import parse_manifest
from fieldloop_inference.__main__ import main
from support.bundles import make_bundle
from support.models import CHANNELS, PAIR_SLOW, WINDOW, model, windows


def test_any_model_is_described_run_and_given_a_draft_manifest(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, draft = tmp_path / "My model.tflite", tmp_path / "draft.json"
    path.write_bytes(model("good"))
    assert main(["try", str(path), "--runs", "20", "--write-manifest", str(draft)]) == 0
    said = capsys.readouterr().out
    for words in ("int8 [1, 32, 3], real = ", "CONV_2D x1", "p99", "delegates:", "bytes"):
        assert words in said
    manifest = parse_manifest(draft.read_bytes())
    assert manifest.name == "my-model"
    assert manifest.inputs[0].window_samples == 32
    assert main(["try", str(path), "--manifest", str(draft), "--runs", "1"]) == 0


def test_windows_and_manifest_give_labels(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    manifest, files = make_bundle()
    (tmp_path / "m.tflite").write_bytes(files["model.tflite"])
    (tmp_path / "m.json").write_bytes(manifest.encode())
    np.savez(tmp_path / "x.npz", inputs=windows(3))
    arguments = ["try", str(tmp_path / "m.tflite"), "--manifest", str(tmp_path / "m.json")]
    assert main([*arguments, "--input", str(tmp_path / "x.npz")]) == 0
    assert "valid True" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["pair", "dynamic", "stateful", "int16", "uint8", "autoencoder"])
def test_inputs_and_outputs_of_any_number_and_type_are_tried(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, draft = tmp_path / "m.tflite", tmp_path / "draft.json"
    path.write_bytes(model(name))
    assert main(["try", str(path), "--runs", "3", "--write-manifest", str(draft)]) == 0
    manifest = parse_manifest(draft.read_bytes())
    assert manifest.requires.ops
    assert main(["try", str(path), "--manifest", str(draft), "--runs", "1"]) == 0
    said = capsys.readouterr().out
    assert "valid True" in said
    assert said.count("  input ") == 2 * len(manifest.inputs)
    assert len(manifest.inputs) == (2 if name == "pair" else 1)


def test_several_inputs_come_from_one_file_one_after_the_other(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "m.tflite"
    path.write_bytes(model("pair"))
    size = WINDOW * CHANNELS + PAIR_SLOW
    np.savez(tmp_path / "x.npz", inputs=np.zeros((2, size), np.float32))
    assert main(["try", str(path), "--input", str(tmp_path / "x.npz"), "--runs", "2"]) == 0
    np.savez(tmp_path / "y.npz", inputs=np.zeros((2, size + 1), np.float32))
    assert main(["try", str(path), "--input", str(tmp_path / "y.npz")]) == 1
    assert "the model takes [[32, 3], [4, 1]]" in capsys.readouterr().err


def test_what_cannot_be_read_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "no.tflite").write_bytes(b"hello")
    assert main(["try", str(tmp_path / "no.tflite")]) == 1
    assert main(["try", str(tmp_path / "absent.tflite")]) == 1
    said = capsys.readouterr().err
    assert "not a TFLite file" in said
    assert "cannot be read" in said
