"""The template of a recipe's part of the model card. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from fieldloop_contract.manifest import Channel


def write(*, does: str, made_of: str, ends: str) -> str:
    """The three sections that every recipe fills, as Markdown.

    Args:
        does: what goes in, what comes out, and what that means.
        made_of: architecture, conversion, and what the training did.
        ends: what the model cannot do, and what it has never seen.
    """
    return (
        f"## What it does\n\n{does}\n\n## What it is made of\n\n{made_of}\n\n"
        f"## Where it ends\n\n{ends}\n"
    )


def names_of(channels: Sequence[Channel]) -> str:
    """Channels with their units, for a sentence."""
    return ", ".join(f"{c.name} ({c.unit})" for c in channels)
