"""Doctor as a whole: a configuration goes in, findings come out, a person can read them."""

import tempfile
from pathlib import Path
from typing import Any

import click

from voicerelay.cli.config import Config
from voicerelay.cli.doctor.examine import examine, render, wanted_of
from voicerelay.cli.doctor.finding import fail, ok, warn


def config(**given: Any) -> Config:
    run_dir = Path(tempfile.gettempdir()) / "no-such-run-dir"
    values: dict[str, Any] = {
        "app": "voicerelay.echo:app",
        "port": 3478,
        "listen": ("127.0.0.1",),
        "public_ip": (),
        "http_host": "127.0.0.1",
        "http_port": 8080,
        "relays": 2,
        "transceivers": 2,
        "max_sessions": 200,
        "capacity": 16,
        "run_dir": run_dir,
        "log_level": "info",
    }
    return Config(**values | given)


def test_every_check_says_something() -> None:
    findings = examine(config(steering="off"), None)

    names = [finding.name for finding in findings]
    assert len(set(names)) == len(names) == 21
    assert all(finding.seen for finding in findings)


def test_addresses_are_those_that_start_would_use() -> None:
    wanted = wanted_of(config(public_ip=("203.0.114.5",)))

    assert (wanted.hosts, wanted.public) == (("127.0.0.1",), ("203.0.114.5",))


def test_an_address_that_cannot_be_used_is_a_finding() -> None:
    wanted = wanted_of(config(listen=("nowhere",)))

    assert wanted.hosts == ()
    assert "nowhere" in wanted.hosts_error


def test_a_person_reads_the_mend_below_its_finding() -> None:
    text = render([ok("a", "fine"), warn("clock", "slow", "wind it"), fail("b", "x", "y")])

    lines = click.unstyle(text).splitlines()
    assert lines[:3] == ["ok    a      fine", "warn  clock  slow", "             -> wind it"]
    assert lines[-1] == "1 fine, 1 to know of, 1 to mend"
