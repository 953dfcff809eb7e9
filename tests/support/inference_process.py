"""`python -m fieldloop_inference run` on the files of a bench."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

from support.device import DEVICE, FLEET, Bench


class Process:
    """The service as a process; `root.json` is taken from the bench's folder, or made up."""

    def __init__(self, bench: Bench, port: int, **settings: str) -> None:
        root = bench.folder / "root.json"
        if not root.exists():
            root.write_text("{}", encoding="utf-8")
        environment = {k: v for k, v in os.environ.items() if not k.startswith("FIELDLOOP_")}
        environment |= {
            "FIELDLOOP_FLEET": FLEET,
            "FIELDLOOP_DEVICE": DEVICE,
            "FIELDLOOP_MQTT_PORT": str(port),
            "FIELDLOOP_LOG_PATH": str(bench.folder / "inference.sqlite"),
            "FIELDLOOP_INPUT_PATH": str(bench.folder / "ingestion.sqlite"),
            "FIELDLOOP_UPDATE_DIR": str(bench.folder / "models"),
            "FIELDLOOP_ROOT_FILE": str(root),
            "FIELDLOOP_TRUST_CLOCK": "true",
            "PYTHONOPTIMIZE": "2",  # as in the image: docstrings are 4 MiB
            **settings,
        }
        self.process = subprocess.Popen(
            [sys.executable, "-m", "fieldloop_inference", "run"],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def end(self, number: int = signal.SIGTERM) -> str:
        """Send a signal; all that it printed."""
        self.process.send_signal(number)
        output, _ = self.process.communicate(timeout=30)
        return output
