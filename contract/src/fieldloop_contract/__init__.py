"""What crosses the wire: topics, messages, frames, model manifest.

Owns every byte format that two fieldloop processes on different machines share. Promises that
readers keep unknown fields and that formats only ever grow. Does no I/O, starts no thread, reads
no clock, and imports neither numpy nor MQTT, so that it costs little on a small device.
"""

from typing import Final

CONTRACT_VERSION: Final = 1
"""The version in each message (`v`) and in each topic (`v1`). Changes within it only add."""
