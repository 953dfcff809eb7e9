"""`python -m support.balenacloud --devices 12`: a small fleet to try commands on, until stopped."""

from __future__ import annotations

import argparse
import sys
import time

from support.balenacloud.fleet import Supervisor, make_fleet
from support.balenacloud.server import BalenaCloud


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=8780)
    parser.add_argument("--devices", type=int, default=12)
    options = parser.parse_args()
    cloud = BalenaCloud(options.port).start()
    fleet = make_fleet(cloud, devices=options.devices)
    sys.stdout.write(
        f"export FIELDLOOP_BALENA_API_URL={cloud.url} FIELDLOOP_BALENA_TOKEN={fleet.token}\n"
        f"export FIELDLOOP_BALENA_FLEET={fleet.slug}   # releases: {' '.join(fleet.commits)}\n"
    )
    sys.stdout.flush()
    supervisor = Supervisor(cloud, fleet)
    while True:
        supervisor.step()
        time.sleep(1)


if __name__ == "__main__":
    main()
