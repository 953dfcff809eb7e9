"""The default runtime: `ai-edge-litert`. Imported only where a model is opened with it."""

from __future__ import annotations

from importlib.metadata import version

from fieldloop_scoring.runners.interpreter import InterpreterRunner


def open_model(model: bytes, threads: int) -> InterpreterRunner:
    """Load a model; see `fieldloop_scoring.runners.open_runner`."""
    from ai_edge_litert.interpreter import Interpreter  # noqa: PLC0415 - megabytes, when needed

    return InterpreterRunner(
        Interpreter, model, threads, name="litert", version=version("ai-edge-litert")
    )
