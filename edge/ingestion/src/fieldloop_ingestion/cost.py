"""What a profile costs: bytes a day on the card and a month on the link. Pure arithmetic."""

from __future__ import annotations

from collections.abc import Iterator

from fieldloop_contract.frames import FLOAT_BYTES
from fieldloop_contract.profile import Profile
from fieldloop_runtime.link import RAW_SHARE

DAY_S, MONTH_DAYS = 86_400, 30
WIRE_SHARE = 0.9
"""Bytes on the wire per byte of samples: compression saves little on noisy float32."""
FLASH_SHARE = 2.2
"""Bytes written per byte of samples: to the write-ahead log and to the file, pages not all full."""


def cost_lines(profile: Profile, bytes_max: int, link_bytes_per_month: int = 0) -> Iterator[str]:
    """The cost of each stream by its capture schedule, and of all, at real time.

    Args:
        bytes_max: the log's bound.
        link_bytes_per_month: the link's budget; 0 for none.
    """
    card = link = 0.0
    for stream in profile.streams:
        day = stream.rate_hz * len(stream.channels) * FLOAT_BYTES * DAY_S * stream.capture.share
        card += day
        link += day * WIRE_SHARE * MONTH_DAYS if stream.uplink == "all" else 0.0
        by = "" if stream.capture.mode == "continuous" else f", captured {stream.capture.mode}"
        if not stream.capture.share:
            yield f"  {stream.id}: only what is asked for{by}, uplink {stream.uplink}"
            continue
        yield f"  {stream.id}: {day / 1e6:.1f} MB a day on the card{by}, uplink {stream.uplink}"
    yield f"  in all {card / 1e6:.1f} MB a day on the card, of flash {card * FLASH_SHARE / 1e6:.1f}"
    if card:
        days = bytes_max / card
        yield f"  a log of {bytes_max / 1e6:.0f} MB is full after {days:.1f} days offline"
    yield f"  about {link / 1e6:.0f} MB a month on the link"
    if link_bytes_per_month:
        budget = f"the budget of {link_bytes_per_month / 1e6:.0f} MB a month"
        usable = link_bytes_per_month * RAW_SHARE
        if link <= usable:
            yield f"  within {budget}"
        else:
            days = MONTH_DAYS * usable / link
            yield f"  MORE than {budget}: raw data waits from day {days:.0f} of each month on"
