"""Golden files: the same bytes for the same arrays, and nothing a stranger sends can hurt."""

from __future__ import annotations

import io
import zipfile

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fieldloop_contract.errors import MalformedMessage
from fieldloop_scoring.golden import make_golden, read_golden

INPUTS = np.random.default_rng(1).normal(0, 1, (3, 8, 2)).astype(np.float32)
OUTPUTS = np.random.default_rng(2).normal(0, 1, (3, 4)).astype(np.float32)


def test_equal_arrays_are_equal_bytes_that_read_back() -> None:
    data = make_golden(INPUTS, OUTPUTS)
    assert data == make_golden(INPUTS.copy(), np.asfortranarray(OUTPUTS))
    inputs, outputs = read_golden(data)
    assert np.array_equal(inputs, INPUTS)
    assert np.array_equal(outputs, OUTPUTS)
    with np.load(io.BytesIO(data), allow_pickle=False) as archive:
        assert np.array_equal(archive["inputs"], INPUTS)


@given(st.data())
def test_damaged_files_are_refused_or_read_but_never_worse(data: st.DataObject) -> None:
    golden = bytearray(make_golden(INPUTS, OUTPUTS))
    for _ in range(data.draw(st.integers(1, 4))):
        golden[data.draw(st.integers(0, len(golden) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(golden)))
    for damaged in (bytes(golden), bytes(golden[:cut])):
        try:
            inputs, outputs = read_golden(damaged)
        except MalformedMessage:
            continue
        assert len(inputs) == len(outputs)


@pytest.mark.parametrize("compression", [zipfile.ZIP_DEFLATED])
def test_compressed_bomb_is_refused_before_it_is_unpacked(compression: int) -> None:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", compression) as archive:
        archive.writestr("inputs.npy", b"\0" * 50_000_000)
        archive.writestr("outputs.npy", b"")
    with pytest.raises(MalformedMessage, match="compressed"):
        read_golden(out.getvalue())


def test_object_arrays_are_refused() -> None:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        body = io.BytesIO()
        np.save(body, np.array([{}], dtype=object), allow_pickle=True)
        archive.writestr("inputs.npy", body.getvalue())
        archive.writestr("outputs.npy", body.getvalue())
    with pytest.raises(MalformedMessage, match="not float32"):
        read_golden(out.getvalue())
