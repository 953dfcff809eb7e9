"""A device's inference log and uplink without a model: run under the code of any release.

    results_device.py LOG_PATH BROKER_PORT ROWS

Appends results, sends them, and ends with 0 when the cloud has acknowledged every one.
"""

from __future__ import annotations

import json
import sys
import time

from fieldloop_buffer import Entry, Kind, Log, LogSettings, Uplink, UplinkSettings
from fieldloop_runtime.settings import MqttSettings

_WHO = {"fleet": "demo", "device": "subject-1", "service": "inference"}


def main() -> int:
    path, port, rows = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    log = Log.open(LogSettings(path=path), **_WHO)
    for n in range(1, rows + 1):
        result = {
            "stream": "imu", "slot": "main", "role": "active", "t0_ns": n * 10**9,
            "t1_ns": (n + 1) * 10**9, "epoch": log.epoch, "seq_first": n, "seq_last": n,
            "model": {"name": "activity", "version": 1, "digest": "ef" * 32},
            "task": "classification", "label": "PEN", "probabilities": {"PEN": 1.0},
            "latency_us": 12.5,
        }  # fmt: skip
        log.append(Entry(Kind.RESULT, "imu", n * 10**9, json.dumps(result).encode()))
    log.commit(force=True)
    uplink = Uplink(
        UplinkSettings(resend_after_s=1.0),
        mqtt=MqttSettings(host="127.0.0.1", port=port),
        log_path=path,
        **_WHO,
    )
    uplink.start()
    end_s = time.monotonic() + 60
    while time.monotonic() < end_s:
        for order in uplink.take_orders():
            log.acknowledge(order.epoch, order.ranges)
        log.commit()
        if log.ledgers()[-1].stored == rows:
            break
        time.sleep(0.05)
    uplink.stop()
    stored = log.ledgers()[-1].stored
    log.close()
    return 0 if stored == rows else 1


if __name__ == "__main__":
    sys.exit(main())
