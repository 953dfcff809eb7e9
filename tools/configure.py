"""Checks, renders and pushes what stands in firmware-config: `python tools/configure.py ...`.

    python tools/configure.py check
    python tools/configure.py render raspberrypi4-64 motor-monitor OUT
    python tools/configure.py push raspberrypi4-64 motor-monitor --profiles DIR [--device pump-7]
    python tools/configure.py push raspberrypi4-64 motor-monitor --balena [--prune]

A *board* says what a device can bear (memory, threads, bytes), a *job* what it measures (profile)
and which model it runs (policy). `render` writes one folder for devices of that board and job:

    profile.yaml      for cloud/config/profiles, or FIELDLOOP_PROFILE
    policy.yaml       for delivery
    variables.json    balena: configuration variables of the host, and variables of each service
    config.json       what goes into balenaOS's config.json: udev rules, by name

`push --profiles` puts the profile where delivery looks (its FIELDLOOP_PROFILES_DIR): it goes into
the next signed orders, over the air, and enrolment gives it to new devices. `push --balena` sets
the board's variables through the SDK, with delivery's settings (FIELDLOOP_BALENA_FLEET and so on).

Every fault is named with file, line and remedy; the settings of a board are checked against the
services' own.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from fieldloop_agent.settings import AgentSettings
from fieldloop_contract.errors import FieldloopError, FixConfiguration
from fieldloop_contract.ids import check_id
from fieldloop_contract.profile import Profile
from fieldloop_delivery.policy import Policy, load_policy
from fieldloop_delivery.profiles import checked
from fieldloop_inference.settings import InferenceSettings
from fieldloop_ingestion import located_yaml
from fieldloop_ingestion.profile import load_profile
from fieldloop_ingestion.settings import IngestionSettings
from fieldloop_ingestion.source import fit
from fieldloop_runtime.settings import load, variables

TREE = Path(__file__).resolve().parents[1]
FIRMWARE = TREE / "firmware-config"
MODELS: dict[str, type[BaseModel]] = {
    "agent": AgentSettings,
    "ingestion": IngestionSettings,
    "inference": InferenceSettings,
}
_NEEDED = {
    "FIELDLOOP_FLEET": "fleet",
    "FIELDLOOP_DEVICE": "device",
    "FIELDLOOP_PROFILE": "profile.yaml",
    "FIELDLOOP_LOG_PATH": "log.sqlite",
    "FIELDLOOP_INPUT_PATH": "input.sqlite",
    "FIELDLOOP_ROOT_FILE": "root.json",
}
Service = Literal["agent", "ingestion", "inference"]
Variable = Annotated[str, StringConstraints(pattern=r"^FIELDLOOP_[A-Z0-9_]+$")]


class Board(BaseModel):
    """One board.

    Attributes:
        host_config: balenaOS's config.txt, without the prefix BALENA_HOST_CONFIG_.
        settings: environment variables by service, beyond what docker-compose.yml sets.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    name: str = Field(min_length=1, max_length=100)
    architecture: Literal["aarch64", "amd64", "armv7hf"]
    memory_mib: Annotated[int, Field(ge=256, le=1 << 20)]
    host_config: dict[Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_]+$")], str] = {}
    settings: dict[Service, dict[Variable, str]] = {}


def load_board(path: Path) -> Board:
    """Read and check a board.

    Raises:
        FixConfiguration: every fault, each as `file:line: where: what`.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        known = ", ".join(sorted(p.stem for p in (FIRMWARE / "boards").glob("*.yaml")))
        raise FixConfiguration(f"{path}: {error.strerror}", hint=f"boards: {known}") from error
    document, lines = located_yaml.load(text, str(path))
    faults: list[tuple[located_yaml.Path, str]] = []
    board = None
    try:
        board = Board.model_validate(document)
    except ValidationError as error:
        faults = [(f["loc"], f["msg"]) for f in error.errors(include_url=False)]
    for service, values in (board.settings if board else {}).items():
        faults += _setting_faults(service, values)
    if faults or board is None:
        raise FixConfiguration(
            "\n".join(
                f"{path}:{located_yaml.line_of(lines, at)}: {'.'.join(map(str, at))}: {message}"
                for at, message in faults
            )
        )
    return board


def _setting_faults(service: str, values: dict[str, str]) -> list[tuple[located_yaml.Path, str]]:
    model = MODELS[service]
    known = {v.name for v in variables(model)}
    given = {k: v for k, v in _NEEDED.items() if k in known}
    found: list[tuple[located_yaml.Path, str]] = []
    for name, value in values.items():
        try:
            load(model, given | {name: value})
        except FixConfiguration as error:
            text = str(error).split("\n")[1].strip().split(": ", 1)[-1].split(" (--help")[0]
            found.append((("settings", service, name), text))
    return found


def load_job(folder: Path) -> tuple[Profile, Policy]:
    """Read and check a job; FixConfiguration where its profile, its policy or the pair is wrong."""
    profile = load_profile(str(folder / "profile.yaml"), fit)
    policy = load_policy(folder / "policy.yaml")
    for slot in policy.slots:
        for name in slot.streams.values():
            if profile.stream(name) is None:
                have = ", ".join(s.id for s in profile.streams)
                raise FixConfiguration(
                    f"{folder / 'policy.yaml'}: slot {slot.slot} reads the stream {name}, which"
                    f" the profile does not have",
                    hint=f"it has {have}",
                )
    return profile, policy


def balena_variables(board: Board) -> dict[str, Any]:
    """The board as balena's variables: of the host's configuration, and of each service."""
    return {
        "config": {f"BALENA_HOST_CONFIG_{k}": v for k, v in sorted(board.host_config.items())},
        "service": {name: dict(sorted(v.items())) for name, v in sorted(board.settings.items())},
    }


def udev_rules() -> dict[str, str]:
    """Rules by name, one line each, as config.json wants them."""
    found = {}
    for path in sorted((FIRMWARE / "balenaos" / "udev").glob("*.rules")):
        lines = path.read_text(encoding="utf-8").splitlines()
        rules = [line for line in lines if line and not line.startswith("#")]
        found[path.stem] = "\n".join(rules) + "\n"
    return found


def render(board_name: str, job: str, out: Path) -> None:
    """Write the folder of one board and job."""
    board = load_board(FIRMWARE / "boards" / f"{board_name}.yaml")
    folder = FIRMWARE / "jobs" / job
    load_job(folder)
    out.mkdir(parents=True, exist_ok=True)
    for name in ("profile.yaml", "policy.yaml"):
        (out / name).write_text(_without_schema(folder / name), encoding="utf-8")
    for name, document in (
        ("variables.json", balena_variables(board)),
        ("config.json", {"os": {"udevRules": udev_rules()}}),
    ):
        (out / name).write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")


def push_profile(job: str, folder: Path, device: str) -> Path:
    """Put a job's profile into a folder of profiles, whole, under the device's name.

    Raises:
        FixConfiguration: the job is wrong, or there is no such folder.
    """
    load_job(FIRMWARE / "jobs" / job)
    text = _without_schema(FIRMWARE / "jobs" / job / "profile.yaml")
    target = folder / f"{check_id(device, 'device') if device else 'default'}.yaml"
    new = folder / f".{target.name}.new"
    try:
        new.write_text(checked(text, target.name), encoding="utf-8")
        new.replace(target)
    except OSError as error:
        raise FixConfiguration(f"{folder}: {error.strerror}") from error
    return target


def push_balena(board: str, job: str, device: str, *, prune: bool) -> int:
    """Set a board's variables on balena; returns the status of `fleet push`."""
    from fieldloop_delivery.__main__ import main as delivery

    with tempfile.TemporaryDirectory() as folder:
        render(board, job, Path(folder))
        options = ["--device", device] if device else []
        return delivery(["fleet", "push", folder, *options, *(["--prune"] if prune else [])])


def _without_schema(path: Path) -> str:
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    return "".join(line for line in lines if "yaml-language-server" not in line)


def check() -> list[str]:
    """Every fault of every board and job, in words."""
    found: list[str] = []
    for path in sorted((FIRMWARE / "boards").glob("*.yaml")):
        try:
            load_board(path)
        except FieldloopError as error:
            found.append(str(error))
    for folder in sorted(p for p in (FIRMWARE / "jobs").iterdir() if p.is_dir()):
        try:
            load_job(folder)
        except (FieldloopError, yaml.YAMLError) as error:
            found.append(str(error))
    return found


def main(argv: list[str] | None = None) -> int:
    """Check everything, or render one board and job."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("check", help="every board and job; status 1 where one is wrong")
    one = commands.add_parser("render", help="write the files of one board and job")
    one.add_argument("board")
    one.add_argument("job")
    one.add_argument("out", type=Path)
    push = commands.add_parser("push", help="to delivery's profiles, or to balena's variables")
    push.add_argument("board")
    push.add_argument("job")
    push.add_argument("--device", default="", help="for this device instead of all")
    where = push.add_mutually_exclusive_group(required=True)
    where.add_argument("--profiles", type=Path, metavar="DIR", help="delivery's profiles")
    where.add_argument("--balena", action="store_true", help="variables of the fleet or device")
    push.add_argument("--prune", action="store_true", help="remove ours that the board lacks")
    arguments = parser.parse_args(argv)
    try:
        faults = check() if arguments.command == "check" else []
        if arguments.command == "render":
            render(arguments.board, arguments.job, arguments.out)
        if arguments.command == "push":
            load_board(FIRMWARE / "boards" / f"{arguments.board}.yaml")
            if arguments.balena:
                how = {"prune": arguments.prune}
                return push_balena(arguments.board, arguments.job, arguments.device, **how)
            print(push_profile(arguments.job, arguments.profiles, arguments.device))
    except FieldloopError as error:
        faults = [str(error)]
    for fault in faults:
        print(fault, file=sys.stderr)
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
