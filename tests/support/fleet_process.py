"""`fieldloop-delivery fleet run` as a process, and its commands, on the local API server."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

from support.balenacloud.fleet import BalenaFleet
from support.balenacloud.server import BalenaCloud


class FleetProcess:
    """Start it, kill it, start it again; ask it things."""

    def __init__(self, folder: Path, cloud: BalenaCloud, fleet: BalenaFleet, **plan: Any) -> None:
        policy = folder / "policy.yaml"
        policy.write_text(yaml.safe_dump({"containers": plan}), encoding="utf-8")
        token = folder / "token"
        token.write_text(f"{fleet.token}\n", encoding="utf-8")
        self.url = f"sqlite:///{folder / 'store.sqlite'}"
        self.environment = {
            **{k: v for k, v in os.environ.items() if not k.startswith("FIELDLOOP_")},
            "FIELDLOOP_FLEET": "demo",
            "FIELDLOOP_STORE_URL": self.url,
            "FIELDLOOP_POLICY": str(policy),
            "FIELDLOOP_LOOK_S": "0.1",
            "FIELDLOOP_BALENA_FLEET": fleet.slug,
            "FIELDLOOP_BALENA_API_URL": cloud.url,
            "FIELDLOOP_BALENA_TOKEN_FILE": str(token),
            "FIELDLOOP_BALENA_FRESH_S": "0.1",
            "FIELDLOOP_BALENA_PER_MINUTE": "10000",
        }
        self._log = folder / "fleet.log"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> FleetProcess:
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "fieldloop_delivery", "fleet", "run"],
                env=self.environment,
                stdout=log,
                stderr=log,
            )
        return self

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()

    def command(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """One command, to its end."""
        return subprocess.run(
            [sys.executable, "-m", "fieldloop_delivery", "fleet", *arguments],
            env={**self.environment, **environment},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    def log(self) -> str:
        return self._log.read_text(encoding="utf-8") if self._log.exists() else ""
