"""Signed metadata and chunks: mirror, verify, fetch.

Owns what a device trusts of its fleet's model repository and the bundles it has fetched. Promises
that nothing is handed out that was not signed for this fleet and ordered for this device by a
document newer than the last, and that an interrupted download goes on where it was. `tuf` is
imported only in the short-lived child `python -m fieldloop_update.verify`. One thread, the owner's.
"""

from fieldloop_update.bundles import Bundle
from fieldloop_update.outcomes import Missing, Ordered, Outcome, Ready, Refused
from fieldloop_update.settings import UpdateSettings
from fieldloop_update.source import ModelSource

__all__ = [
    "Bundle",
    "Missing",
    "ModelSource",
    "Ordered",
    "Outcome",
    "Ready",
    "Refused",
    "UpdateSettings",
]
