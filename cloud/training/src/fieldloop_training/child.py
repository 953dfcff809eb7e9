"""The process of one run: `python -m fieldloop_training.child`.

Loads TensorFlow first, then waits for its order, one JSON line on stdin, carries it out and ends;
so it can be started before it is needed. Its memory is given back when it ends. It dies with its
parent: the end of stdin, which even a killed parent brings about, ends it at once.

Order: `{"run": id, "owner": name, "settings": {...}}`: the parent has claimed the run under that
name. Exit status 0 where the run has ended or was released in the store; anything else leaves it
to the parent to give the run back to the queue, or to the lease to run out.
"""

from __future__ import annotations

import json
import os
import queue
import signal
import sys
import threading
import traceback
from typing import Any

from fieldloop_contract.errors import RetryLater
from fieldloop_runtime.journal import Journal, configure
from fieldloop_runtime.life import ExitCode

ORDER_BYTES_MAX = 1 << 20


def _listen(orders: queue.Queue[bytes]) -> None:
    """Hand over the first line of stdin; at its end, end the process."""
    # Unbuffered: a buffered reader's lock would abort the interpreter where it ends meanwhile.
    with open(0, "rb", buffering=0, closefd=False) as stdin:
        line = b""
        while not line.endswith(b"\n") and len(line) < ORDER_BYTES_MAX:
            part = stdin.read(65_536)
            if not part:
                break
            line += part
        orders.put(line)
        while stdin.read(4096):
            pass
    os._exit(ExitCode.TEMPORARY)


def _warm() -> None:
    """Import what takes seconds."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")
    import tensorflow as tf  # noqa: PLC0415 - the point of this function

    tf.get_logger().setLevel("ERROR")
    _ = tf.keras.layers, tf.lite.TFLiteConverter
    from fieldloop_training import carrying  # noqa: F401, PLC0415 - as above


def main() -> int:
    """Wait for an order and carry it out."""
    # Ctrl-C reaches the whole group; the parent decides what becomes of a run.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    orders: queue.Queue[bytes] = queue.Queue(maxsize=1)
    threading.Thread(target=_listen, args=(orders,), name="stdin", daemon=True).start()
    _warm()
    line = orders.get()
    if not line.endswith(b"\n"):
        return ExitCode.USAGE
    order: dict[str, Any] = json.loads(line)
    from fieldloop_store import runs  # noqa: PLC0415 - after the warm-up
    from fieldloop_store.engine import Store  # noqa: PLC0415
    from fieldloop_training.carrying import carry_out  # noqa: PLC0415
    from fieldloop_training.settings import TrainingSettings  # noqa: PLC0415

    settings = TrainingSettings.model_validate(order["settings"])
    configure(settings.log_level)
    store = Store.open(settings.store_url, create=False)
    try:
        row = runs.find_run(store, str(order["run"]))
        if row is not None and row.owner == order["owner"]:
            carry_out(store, settings, row, str(order["owner"]), Journal("training.run"))
    except RetryLater as error:
        sys.stderr.write(f"{type(error).__name__}: {error}\n")
        return ExitCode.TEMPORARY
    finally:
        store.close()
    return ExitCode.OK


if __name__ == "__main__":
    # TensorFlow's threads may hold up an orderly end; everything is committed by now.
    code: int = ExitCode.INTERNAL
    try:
        code = main()
    except Exception:  # noqa: BLE001 - the last line of defence of a process
        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
