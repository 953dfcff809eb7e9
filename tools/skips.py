"""Fails where a test was skipped that should have run: `python tools/skips.py REPORT.xml`.

A skip is expected only for data that is not part of the repository (`reason` begins with `data:`),
for a machine that cannot do it (`machine:`), or for a long form that has a make target of its own
(`long:`). Everything else CI has to be able to run.
"""

from __future__ import annotations

import sys
import xml.etree.ElementTree as ET
from pathlib import Path

_EXPECTED = ("data:", "machine:", "long:")


def unexpected(report: Path) -> tuple[int, list[str]]:
    """Number of tests, and the skips without an expected reason."""
    tests, bad = 0, []
    for case in ET.parse(report).getroot().iter("testcase"):
        tests += 1
        for skipped in case.findall("skipped"):
            reason = skipped.get("message", "")
            if not reason.startswith(_EXPECTED):
                bad.append(f"{case.get('classname')}::{case.get('name')}: {reason}")
    return tests, bad


def main() -> int:
    """Print the unexpected skips; returns 1 where there is one, or where no test ran."""
    tests, bad = unexpected(Path(sys.argv[1]))
    for line in bad:
        print(f"skipped: {line}", file=sys.stderr)
    print(f"{tests} tests, {len(bad)} unexpected skips")
    return 1 if bad or not tests else 0


if __name__ == "__main__":
    sys.exit(main())
