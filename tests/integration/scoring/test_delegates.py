"""Delegates by entry point: found, given the runtime's loader, refused clearly where absent."""

from __future__ import annotations

import ctypes
import gc
from importlib.metadata import entry_points
from typing import Any

import pytest

from fieldloop_contract.errors import FixConfiguration
from fieldloop_scoring.runners import check_delegate, edgetpu, open_runner
from fieldloop_scoring.runners.delegates import GROUP
from support.models import model


def _edge_tpu_is_here() -> bool:
    try:
        ctypes.CDLL(edgetpu.LIBRARY)
    except OSError:
        return False
    return True


def test_the_edge_tpu_is_an_entry_point_like_any_other() -> None:
    (point,) = entry_points(group=GROUP, name="edgetpu")
    assert point.load() is edgetpu.open_delegate
    asked: list[Any] = []
    point.load()(lambda *arguments: asked.append(arguments))
    assert asked == [("libedgetpu.so.1", {"device": ""})]


# The runtimes' own Delegate complains when what never was loaded is deleted.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.skipif(_edge_tpu_is_here(), reason="machine: its library is installed here")
def test_a_delegate_without_its_library_is_refused_and_does_not_fall_back_to_the_cpu() -> None:
    with pytest.raises(FixConfiguration, match="edgetpu cannot be had") as caught:
        open_runner(model("good"), delegate="edgetpu")
    assert caught.value.code == "delegate.absent"
    with pytest.raises(FixConfiguration, match="edgetpu cannot be had"):
        check_delegate("edgetpu")
    del caught
    gc.collect()


def test_an_unknown_delegate_is_refused_with_those_that_are_installed() -> None:
    with pytest.raises(FixConfiguration, match="edgetpu") as caught:
        open_runner(model("good"), delegate="npu")
    assert caught.value.code == "delegate.unknown"
