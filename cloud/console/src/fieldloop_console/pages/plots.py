"""Options of the plots, as ECharts reads them. Pure.

A canvas knows nothing of the page's colours, so these are of middling lightness and can be read on
both light and dark ground.
"""

from __future__ import annotations

import math
from typing import Any

from fieldloop_console.waveform import Picture

RATE_HEIGHT = "180px"
INK, LINE = "#768492", "rgba(128,140,152,0.28)"
ACCENT = "#2f86d6"
SERIES = (ACCENT, "#d9822b", "#3a9d6e", "#b3589a", "#8a7fd4", "#b59a2e", "#4aa3b8", "#c25b53")
_TEXT = {"color": INK, "fontFamily": "system-ui, sans-serif", "fontSize": 12}
Options = dict[str, Any]


def _axis(kind: str, **more: Any) -> Options:
    return {
        "type": kind,
        "axisLabel": _TEXT,
        "nameTextStyle": _TEXT,
        "axisLine": {"lineStyle": {"color": LINE}},
        "axisTick": {"show": False},
        "splitLine": {"lineStyle": {"color": LINE}, "show": kind == "value"},
        **more,
    }


def _frame(**more: Any) -> Options:
    return {
        "animation": False,
        "textStyle": _TEXT,
        "grid": {"left": 8, "right": 12, "top": 16, "bottom": 4, "containLabel": True},
        "tooltip": {"trigger": "axis", "confine": True},
        "aria": {"enabled": True},
        **more,
    }


def rate_options(rates: list[tuple[float, float]]) -> Options:
    """Rows per second over the minutes before now."""
    points = [[round(seconds / 60, 2), round(rate, 1)] for seconds, rate in rates]
    return _frame(
        xAxis=_axis("value", min=-15, max=0, interval=5, splitLine={"show": False},
                    axisLabel={**_TEXT, "formatter": "{value} min"}),
        yAxis=_axis("value", min=0, splitNumber=3, minInterval=1),
        series=[{
            "type": "line", "data": points, "showSymbol": False, "color": ACCENT,
            "areaStyle": {"opacity": 0.12}, "lineStyle": {"width": 2},
        }],
    )  # fmt: skip


def curve_options(curves: dict[str, list[float]], *, name: str) -> Options:
    """One line for each name, over the epochs."""
    return _frame(
        legend={"textStyle": _TEXT, "type": "scroll", "top": 0, "show": len(curves) > 1},
        grid={"left": 8, "right": 12, "top": 34 if len(curves) > 1 else 16, "bottom": 18,
              "containLabel": True},
        xAxis=_axis("value", name="epoch", nameLocation="middle", nameGap=22, min=1,
                    minInterval=1, splitLine={"show": False}),
        yAxis=_axis("value", scale=True, name=name, splitNumber=4),
        series=[
            {"type": "line", "name": title, "showSymbol": False, "lineStyle": {"width": 2},
             "color": SERIES[at % len(SERIES)],
             "data": [[i + 1, value] for i, value in enumerate(values)]}
            for at, (title, values) in enumerate(curves.items())
        ],
    )  # fmt: skip


def signal_options(
    picture: Picture, names: tuple[str, ...], units: tuple[str, ...], spans: list[Options]
) -> Options:
    """A signal, from least to greatest in each bin, channel by channel.

    Args:
        spans: labelled spans: `t0_ms`, `t1_ms`, `label`.
    """
    times = (picture.t_ns / 1e6).round(3)
    half = (times[1] - times[0]) / 2 if len(times) > 1 else 0.0
    series = []
    for channel in range(picture.low.shape[1]):
        unit = f" ({units[channel]})" if units[channel] else ""
        points: list[list[float | None]] = []
        rows = zip(times, picture.low[:, channel], picture.high[:, channel], strict=True)
        for t_ms, low, high in rows:
            if math.isnan(low):
                points.append([t_ms, None])
            elif low == high:
                points.append([t_ms, float(low)])
            else:
                points += [[t_ms, float(low)], [t_ms + half, float(high)]]
        series.append({
            "type": "line", "name": f"{names[channel]}{unit}", "data": points,
            "showSymbol": False, "lineStyle": {"width": 1.2}, "connectNulls": False,
            "color": SERIES[channel % len(SERIES)],
        })  # fmt: skip
    if series and spans:
        series[0]["markArea"] = {
            "silent": True,
            "itemStyle": {"color": "rgba(47,134,214,0.12)"},
            "label": {"color": INK, "position": "insideTop", "fontSize": 11},
            "data": [
                [{"xAxis": s["t0_ms"], "name": s["label"]}, {"xAxis": s["t1_ms"]}] for s in spans
            ],
        }
    return _frame(
        legend={"textStyle": _TEXT, "type": "scroll", "top": 0},
        grid={"left": 8, "right": 12, "top": 36, "bottom": 8, "containLabel": True},
        xAxis=_axis("time", min=picture.t0_ns / 1e6, max=picture.t1_ns / 1e6,
                    splitLine={"show": False}),
        yAxis=_axis("value", scale=True, splitNumber=4),
        series=series,
        toolbox={"show": False, "feature": {"brush": {"type": ["lineX"]}}},
        brush={"xAxisIndex": 0, "brushType": "lineX", "transformable": False,
               "throttleType": "debounce", "throttleDelay": 150,
               "brushStyle": {"color": "rgba(47,134,214,0.18)", "borderColor": ACCENT}},
    )  # fmt: skip
