"""`try MODEL.tflite`: what a person sees of a model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from fieldloop_contract.manifest import parse_manifest
from fieldloop_inference.__main__ import main
from support.bundles import make_bundle
from support.models import model, windows


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


def test_what_cannot_be_read_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "no.tflite").write_bytes(b"hello")
    assert main(["try", str(tmp_path / "no.tflite")]) == 1
    assert main(["try", str(tmp_path / "absent.tflite")]) == 1
    said = capsys.readouterr().err
    assert "not a TFLite file" in said
    assert "cannot be read" in said
