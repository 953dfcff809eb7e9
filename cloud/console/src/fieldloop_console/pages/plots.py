"""Options of the plots, as ECharts reads them. Pure.

A canvas knows nothing of the page's colours, so these are of middling lightness and can be read on
both light and dark ground.
"""

from __future__ import annotations

import math
from typing import Any

from fieldloop_console.conditions import DAY_NS, Condition, Day
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
        "grid": {"left": 8, "right": 24, "top": 16, "bottom": 4, "containLabel": True},
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


def condition_options(condition: Condition, raised_ns: list[int]) -> Options:
    """Score by day with its band, the thresholds as they were in force, and alarms as pins.

    Args:
        raised_ns: when alarms were raised.
    """
    days = condition.days
    middle = [[d.t0_ns / 1e6 + DAY_NS / 2e6, round(d.median, 6)] for d in days]
    first_ns = days[0].t0_ns if days else 0
    last_ns = days[-1].t0_ns + DAY_NS if days else 0
    steps: list[list[float | None]] = []
    for row in condition.thresholds:
        to_ns = last_ns if row.to_ns is None else min(row.to_ns, last_ns)
        from_ns = max(row.from_ns, first_ns)
        if from_ns < to_ns:
            steps += [[from_ns / 1e6, row.threshold], [to_ns / 1e6, row.threshold],
                      [to_ns / 1e6, None]]  # fmt: skip
    band = {"type": "line", "stack": "band", "showSymbol": False, "silent": True,
            "lineStyle": {"opacity": 0}, "tooltip": {"show": False}}  # fmt: skip
    at = [d.t0_ns / 1e6 + DAY_NS / 2e6 for d in days]
    pins = [
        {"xAxis": t / 1e6, "yAxis": _near(days, t), "itemStyle": {"color": SERIES[7]}}
        for t in raised_ns
        if first_ns <= t < last_ns
    ]
    return _frame(
        grid={"left": 8, "right": 24, "top": 34, "bottom": 4, "containLabel": True},
        legend={"textStyle": _TEXT, "top": 0, "data": ["median", "threshold"]},
        xAxis=_axis("time", splitLine={"show": False}),
        yAxis=_axis("value", scale=True, name="score", splitNumber=4),
        series=[
            {**band, "name": "10 %", "data": [[t, d.low] for t, d in zip(at, days, strict=True)]},
            {**band, "name": "90 %", "areaStyle": {"color": ACCENT, "opacity": 0.14},
             "data": [[t, round(d.high - d.low, 6)] for t, d in zip(at, days, strict=True)]},
            {"type": "line", "name": "median", "data": middle, "color": ACCENT, "symbolSize": 4,
             "lineStyle": {"width": 2}, "z": 3,
             "markPoint": {"symbol": "pin", "symbolSize": 22, "data": pins}},
            {"type": "line", "name": "threshold", "data": steps, "showSymbol": False,
             "color": SERIES[1], "connectNulls": False,
             "lineStyle": {"width": 1.5, "type": "dashed"}},
        ],
    )  # fmt: skip


def _near(days: tuple[Day, ...], t_ns: int) -> float:
    return min(days, key=lambda d: abs(d.t0_ns + DAY_NS // 2 - t_ns)).median


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
        # What a device says of a stream may be newer than the frames that are drawn.
        name = names[channel] if channel < len(names) else f"channel {channel + 1}"
        unit = f" ({units[channel]})" if channel < len(units) and units[channel] else ""
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
            "type": "line", "name": f"{name}{unit}", "data": points,
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
