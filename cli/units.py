"""systemd units for a configuration: the templates of systemd/, filled. Text in, text out."""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from voicerelay.cli.config import Config
from voicerelay.cli.errors import UserError
from voicerelay.cli.network import (
    MAX_LISTEN_ADDRESSES,
    RECEIVE_BUFFER_BYTES,
    SEND_BUFFER_BYTES,
    host_port,
)
from voicerelay.relay.steering import STEERED_NAMES
from voicerelay.systemd import template
from voicerelay.transceiver.signalling.cors import is_loopback

RUN = Path("/run")
LOCK = "lock"  # in control's file-descriptor store
STORED_DESCRIPTORS = 1 + MAX_LISTEN_ADDRESSES * len(STEERED_NAMES)
MAX_EXPOSURE = 20  # of every service, as `systemd-analyze security --threshold=` counts: 2.0 of 10
ADMIN = "voicerelay-admin.service"  # where the configuration has an address for it
_UNITS = (
    "voicerelay.target",
    "voicerelay-control.service",
    "voicerelay-relay@.service",
    "voicerelay-transceiver@.service",
    ADMIN,
    "voicerelay-udp@.socket",
)
# Below /etc, and the template of each.
PLACES = {f"systemd/system/{unit}": unit for unit in _UNITS} | {
    "sysusers.d/voicerelay.conf": "sysusers.conf",
    "tmpfiles.d/voicerelay.conf": "tmpfiles.conf",
    "sysctl.d/60-voicerelay.conf": "sysctl.conf",
}
# Where ProtectHome= and PrivateTmp= leave nothing to see.
_HOMES = tuple(map(Path, ("/home", "/root", "/run/user")))
_HIDDEN = (*_HOMES, Path("/tmp"), Path("/var/tmp"))
_UNFIT = re.compile(r"[^ -~]|[\"'\\\\$;]|^$")
_STEERING_RIGHTS = """\
# To load the program that steers packets and to write its maps; nothing else.
CapabilityBoundingSet=CAP_BPF
AmbientCapabilities=CAP_BPF
SystemCallFilter=bpf"""
_THIS_MACHINE_ALONE = "IPAddressDeny=any\nIPAddressAllow=localhost"
_NO_RIGHTS = "CapabilityBoundingSet=\nPrivateUsers=yes"


@dataclass(frozen=True)
class Plan:
    """What the units are made for.

    `hosts`: the listen addresses, none a wildcard. `command`: what begins voicerelay's command line.
    `environment`: settings by their variables. `app_dir`: where APP is looked for. `reads`: files
    and directories that the processes must see.
    """

    config: Config
    hosts: list[str]
    steered: bool
    command: list[str]
    environment: dict[str, str] = field(default_factory=dict)
    app_dir: Path | None = None
    reads: tuple[Path, ...] = ()


def socket_name(role: str, index: int) -> str:
    """Of the sockets of one process, as their unit and the descriptors in it are called."""
    return f"{role}-{index}"


def render(plan: Plan) -> dict[str, str]:
    """Every file by its path below /etc. Raises UserError."""
    values = _values(plan)
    return {
        place: template(name).substitute(values)
        for place, name in PLACES.items()
        if name != ADMIN or plan.config.admin_address
    }


def _values(plan: Plan) -> dict[str, str]:
    """What stands for ${…} in the templates."""
    config = plan.config
    sockets = [f"voicerelay-udp@{name}.socket" for name in _socket_names(plan)]
    services = ["voicerelay-control.service"]
    services += [f"voicerelay-relay@{i}.service" for i in range(config.relays)]
    services += [f"voicerelay-transceiver@{i}.service" for i in range(config.transceivers)]
    if config.admin_address:
        services.append(ADMIN)
    environment = {"PYTHONUNBUFFERED": "1", **plan.environment}
    directory = quote(str(plan.app_dir or "/")).strip('"')  # this line takes no quotes
    values = {
        "port": str(config.port),
        "wants": "\n".join(f"Wants={unit}" for unit in sockets + services),
        "listen": "\n".join(f"ListenDatagram={host_port(h, config.port)}" for h in plan.hosts),
        "sockets": " ".join(sockets),
        "receive_buffer": str(RECEIVE_BUFFER_BYTES),
        "send_buffer": str(SEND_BUFFER_BYTES),
        "command": " ".join(map(quote, plan.command)),
        "environment": " ".join(quote(f"{k}={v}") for k, v in environment.items()),
        "stored_descriptors": str(STORED_DESCRIPTORS),
        "working_directory": f"WorkingDirectory={directory}",
        "rights": _STEERING_RIGHTS if plan.steered else _NO_RIGHTS,
        "restart": template("restart.conf").substitute().rstrip(),
        "runtime_directory": quote(str(config.run_dir.relative_to(RUN))),
        "reach": reach(plan.reads),
        "admin_peers": _admin_peers(config),
    }
    return values | {"sandbox": template("sandbox.conf").substitute(values).rstrip()}


def _admin_peers(config: Config) -> str:
    """Who the admin process may speak with: on loopback, this machine."""
    host, _ = config.admin_address or ("", 0)
    return (
        _THIS_MACHINE_ALONE
        if is_loopback(host)
        else "# An address for others: a firewall says for whom."
    )


def reach(reads: Iterable[Path]) -> str:
    """Homes and temporary files are hidden, but for what of them must be read. Raises UserError."""
    resolved = {path for one in reads for path in (one.absolute(), one.resolve())}
    hidden = sorted(path for path in resolved if _below(path, _HIDDEN))
    for path in hidden:
        if path in _HIDDEN or path.parent == Path("/home"):
            raise UserError(f"{path}: what the units are to read must be in a directory of its own")
    shown = [path for path in hidden if not _below(path.parent, hidden)]
    homes = any(_below(path, _HOMES) for path in shown)
    lines = [f"ProtectHome={'tmpfs' if homes else 'yes'}"]
    lines += [f"BindReadOnlyPaths={_path(path)}" for path in shown]
    return "\n".join(lines)


def quote(word: str) -> str:
    """One word of a unit's line, with nothing to be expanded in it (systemd.syntax(7)).

    Raises UserError for what no line can hold in the same way everywhere.
    """
    if _UNFIT.search(word):
        raise UserError(f"{word!r} cannot stand in a unit; choose a path of plain characters")
    escaped = word.replace("%", "%%")
    return f'"{escaped}"' if " " in word else escaped


def _path(path: Path) -> str:
    if ":" in str(path):
        raise UserError(f"{path}: a path with a colon cannot be shown to the units")
    return quote(str(path))


def _below(path: Path, parents: Iterable[Path]) -> bool:
    return any(path.is_relative_to(parent) for parent in parents)


def _socket_names(plan: Plan) -> list[str]:
    names = [socket_name("relay", i) for i in range(plan.config.relays)]
    if plan.steered:
        names += [socket_name("transceiver", i) for i in range(plan.config.transceivers)]
    return names
