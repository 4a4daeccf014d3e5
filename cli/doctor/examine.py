"""Puts doctor together: what is wanted, the facts, the findings; and shows them to a person."""

from typing import Any

import click

from voicerelay.cli import network, status
from voicerelay.cli.config import Config
from voicerelay.cli.doctor.checks_host import check_host, check_kernel
from voicerelay.cli.doctor.checks_network import check_network
from voicerelay.cli.doctor.facts import Wanted
from voicerelay.cli.doctor.finding import Finding, State, count
from voicerelay.cli.doctor.gather_host import gather_host, gather_kernel
from voicerelay.cli.doctor.gather_network import gather_network
from voicerelay.cli.errors import NotRunning, UserError

COLOURS = {State.OK: "green", State.WARN: "yellow", State.FAIL: "red"}


def examine(config: Config, stun: tuple[str, int] | None) -> list[Finding]:
    """Everything there is to find. `stun`: a server that may be asked; nobody else is contacted."""
    wanted = wanted_of(config)
    instance = _instance(config)
    pid = instance["pid"] if instance else None
    findings = check_network(wanted, gather_network(wanted, instance, stun))
    findings += check_kernel(wanted, gather_kernel())
    return findings + check_host(wanted, gather_host(pid), running=pid is not None)


def wanted_of(config: Config) -> Wanted:
    """What `start` would do with this configuration."""
    hosts: list[str] = []
    public: list[str] = []
    error = ""
    try:
        hosts = network.expand(list(config.listen))
        if config.public_ip:
            public = network.candidate_hosts(hosts, list(config.public_ip))
    except UserError as exc:
        error = exc.format_message()
    return Wanted(
        port=config.port,
        hosts=tuple(hosts),
        public=tuple(public),
        http_host=config.http_host,
        http_port=config.http_port,
        relays=config.relays,
        transceivers=config.transceivers,
        max_sessions=config.max_sessions,
        capacity=config.capacity,
        steering=config.steering,
        open=config.open,
        key_file=str(config.api_key_file or ""),
        hosts_error=error,
    )


def _instance(config: Config) -> dict[str, Any] | None:
    """Status of the one with this configuration's run directory, if it runs."""
    if not status.is_running(config.run_dir):
        return None
    try:
        return status.read_status(config.run_dir)
    except NotRunning:
        return None


def render(findings: list[Finding]) -> str:
    """A line for each finding, and below it what mends it."""
    width = max(len(finding.name) for finding in findings)
    lines = []
    for finding in findings:
        state = click.style(f"{finding.state:<4}", fg=COLOURS[finding.state])
        lines.append(f"{state}  {finding.name:<{width}}  {finding.seen}")
        if finding.mend:
            lines.append(f"{'':<{width + 6}}  -> {finding.mend}")
    counts = count(findings)
    told = [f"{counts['ok']} fine", f"{counts['warn']} to know of", f"{counts['fail']} to mend"]
    return "\n".join([*lines, "", ", ".join(told)])
