"""The default runtime: `ai-edge-litert`. Imported only where a model is opened with it."""

from __future__ import annotations

from importlib.metadata import version

from fieldloop_scoring.runners.delegates import open_delegate
from fieldloop_scoring.runners.interpreter import InterpreterRunner


def open_model(model: bytes, threads: int, delegate: str = "") -> InterpreterRunner:
    """Load a model; see `fieldloop_scoring.runners.open_runner`."""
    from ai_edge_litert.interpreter import Interpreter, load_delegate  # noqa: PLC0415 - large

    return InterpreterRunner(
        Interpreter,
        model,
        threads,
        name="litert",
        version=version("ai-edge-litert"),
        delegate=(delegate, open_delegate(delegate, load_delegate)) if delegate else None,
    )
