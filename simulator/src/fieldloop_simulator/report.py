"""The report of a run: report.json with all figures, report.html with tables and plots in it."""

from __future__ import annotations

import base64
import html
import io
import json
import platform
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")

from matplotlib import pyplot as plt

from fieldloop_simulator.audit import Audit
from fieldloop_simulator.settings import SimulatorSettings

_STYLE = "body{font:15px/1.5 sans-serif;max-width:60em;margin:2em auto;padding:0 1em}" \
    "table{border-collapse:collapse}td{border:1px solid #999;padding:.2em .6em}" \
    "img{max-width:100%}.bad{color:#b00020}"  # fmt: skip
_PLOTS: tuple[tuple[str, str, tuple[tuple[str, str], ...]], ...] = (
    ("Devices", "number", (("on", "with power"), ("connections", "connections"))),
    ("Rows", "rows", (("produced", "produced"), ("stored", "stored"), ("pending", "pending"))),
    ("Throughput", "rows/s", (("stored_per_s", "stored"),)),
    ("Time until acknowledged", "s", (("ack_p50_s", "p50"), ("ack_p95_s", "p95"))),
    ("The simulator's own cost", "cores", (("cores", "cores"),)),
)


def document(
    settings: SimulatorSettings, plan: str, history: list[dict[str, Any]], audit: Audit
) -> dict[str, Any]:
    """All figures, without secrets."""
    shown = settings.model_dump(mode="json", exclude={"store_url": True, "mqtt": {"password"}})
    return {
        "versions": {
            "fieldloop-simulator": version("fieldloop-simulator"),
            "python": platform.python_version(),
            "machine": platform.machine(),
        },
        "settings": shown,
        "plan": plan,
        "audit": {**asdict(audit), "clean": audit.clean},
        "summary": summary(history),
        "history": history,
    }


def summary(history: list[dict[str, Any]]) -> dict[str, Any]:
    """The run in a few numbers: of the middle half of it, so that neither end counts."""
    if not history:
        return {}
    last = history[-1]
    middle = history[len(history) // 4 : max(1, 3 * len(history) // 4)] or history
    return {
        "seconds": last["at_s"],
        "frames": last["frames"],
        "windows": last["windows"],
        "boots": last["boots"],
        "cores_mean": round(sum(f["cores"] for f in middle) / len(middle), 3),
        "cpu_s": last["cpu_s"],
        "rss_mib_max": round(max(f["rss"] for f in history) / 2**20, 1),
        "connections_max": max(f["connections"] for f in history),
        "stored_per_s_mean": round(sum(f["stored_per_s"] for f in middle) / len(middle), 1),
        "ack_p50_s": round(sorted(f["ack_p50_s"] for f in middle)[len(middle) // 2], 3),
        "ack_p95_s": round(sorted(f["ack_p95_s"] for f in middle)[len(middle) // 2], 3),
        "late_s_max": max(f["late_s"] for f in history),
        "phases": last["phases"],
        "active": last["active"],
    }


def _plots(history: list[dict[str, Any]]) -> str:
    figure, axes = plt.subplots(len(_PLOTS), 1, figsize=(9, 2.6 * len(_PLOTS)), sharex=True)
    at_s = [f["at_s"] for f in history]
    for axis, (title, unit, lines) in zip(axes, _PLOTS, strict=True):
        for key, label in lines:
            axis.plot(at_s, [f[key] for f in history], label=label)
        axis.set(title=title, ylabel=unit)
        axis.set_ylim(bottom=0)
        axis.grid(alpha=0.3)
        axis.legend(loc="upper left")
    axes[-1].set_xlabel("s")
    figure.tight_layout()
    out = io.BytesIO()
    figure.savefig(out, format="png", dpi=110)
    plt.close(figure)
    return base64.b64encode(out.getvalue()).decode()


def _table(pairs: dict[str, Any]) -> str:
    cells = "".join(
        f"<tr><td>{html.escape(str(k))}</td><td>{html.escape(json.dumps(v))}</td></tr>"
        for k, v in pairs.items()
    )
    return f"<table>{cells}</table>"


def write(folder: Path, made: dict[str, Any]) -> Path:
    """Write both files; returns the path of the page."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "report.json").write_text(json.dumps(made, indent=1) + "\n", encoding="utf-8")
    audit, settings = made["audit"], made["settings"]
    verdict = (
        "<p>The books of all logs balance.</p>"
        if audit["clean"]
        else "<p class=bad>Not clean: " + html.escape("; ".join(audit["faults"])) + "</p>"
    )
    page = (
        f"<!doctype html><html lang=en><meta charset=utf-8><title>Simulated fleet</title>"
        f"<style>{_STYLE}</style><h1>{settings['devices']} virtual devices, "
        f"seed {settings['seed']}</h1>{verdict}"
        f"<h2>Summary</h2>{_table(made['summary'])}<h2>Books</h2>{_table(audit['totals'])}"
        f'<h2>Over time</h2><img alt="figures over time" '
        f'src="data:image/png;base64,{_plots(made["history"])}">'
        f"<h2>Settings</h2>{_table(settings)}<p>Plan {made['plan']}; "
        f"{html.escape(json.dumps(made['versions']))}</p></html>\n"
    )
    path = folder / "report.html"
    path.write_text(page, encoding="utf-8")
    return path
