"""`python -m fieldloop_contract`: write the contract's generated documents to stdout."""

from __future__ import annotations

import argparse
import json
import sys

from fieldloop_contract.asyncapi import document
from fieldloop_contract.errors import FieldloopError
from fieldloop_contract.topics import mosquitto_acl


def main(argv: list[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    parser = argparse.ArgumentParser(prog="python -m fieldloop_contract", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("asyncapi", help="the contract as AsyncAPI 3.0 (JSON)")
    acl = commands.add_parser("acl", help="access list for mosquitto, from the topic table")
    acl.add_argument("--fleet", required=True, help="id of the fleet")
    acl.add_argument(
        "--home-assistant", action="store_true", help="let telemetry tell Home Assistant"
    )
    arguments = parser.parse_args(argv)
    try:
        if arguments.command == "asyncapi":
            text = json.dumps(document(), indent=2, sort_keys=True) + "\n"
        else:
            text = mosquitto_acl(arguments.fleet, home_assistant=arguments.home_assistant)
    except FieldloopError as error:
        sys.stderr.write(f"fieldloop_contract: {error}\n")
        return 1
    sys.stdout.write(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
