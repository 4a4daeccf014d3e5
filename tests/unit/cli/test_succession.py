"""An upgrade in place: what is left is read strictly, skew is refused, what cannot start changes nothing."""

import asyncio
import json
import os
import signal
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from voicerelay import __version__
from voicerelay.cli import succession
from voicerelay.cli.config import Config, fixed_settings
from voicerelay.cli.errors import UserError
from voicerelay.cli.succession import (
    CAN_SUCCEED,
    FORMAT,
    SIGNALS,
    VARIABLE,
    Estate,
    answer,
    become,
    check,
    inherited,
    read_estate,
)
from voicerelay.shm.protocol import PROTOCOL
from voicerelay.shm.region import ABI

ESTATE = Estate(
    format=FORMAT,
    version="0.0.9",
    abi=ABI,
    protocol=PROTOCOL,
    fixed={},
    instance="00" * 16,
    hosts=["127.0.0.1"],
    candidates=[["127.0.0.1", 3478]],
    sockets=[],
    transceiver_sockets=[],
    steering=[],
    portable_because="--steering is off",
    unpinned_because="",
    lock=-1,
    asker=-1,
    deadline_s=60,
    stragglers=0,
    children=[],
    posts=[[0, False], [1, True]],
)


def written(data: bytes) -> int:
    fd = os.memfd_create("vrtest")
    os.write(fd, data)
    return fd


@pytest.fixture
def fd() -> Iterator[int]:
    """The descriptor of an estate."""
    fd = succession._write(ESTATE)
    yield fd
    os.close(fd)


def python(directory: Path, script: str) -> str:
    """An interpreter that does this instead."""
    path = directory / "python"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return str(path)


def test_an_estate_is_read_as_it_was_left(fd: int) -> None:
    assert read_estate(fd) == ESTATE


@given(
    st.binary()
    | st.dictionaries(st.sampled_from(["format", "version", "abi"]), st.integers()).map(
        lambda value: json.dumps(value).encode()
    )
)
def test_any_bytes_are_an_estate_or_a_user_error(data: bytes) -> None:
    fd = written(data)
    try:
        read_estate(fd)
    except UserError:
        return
    finally:
        os.close(fd)
    raise AssertionError("that was no estate")


def test_another_format_is_refused_by_the_versions() -> None:
    fd = written(json.dumps({"format": FORMAT + 1, "version": "9.9"}).encode())

    with pytest.raises(
        UserError, match=rf"version {__version__} cannot take over from version 9\.9"
    ):
        read_estate(fd)

    os.close(fd)


@pytest.mark.parametrize(
    ("skewed", "what"),
    [
        (replace(ESTATE, abi=ABI + 1), f"has ABI {ABI}, the running 0.0.9 has {ABI + 1}"),
        (replace(ESTATE, protocol=PROTOCOL + 1), f"has protocol {PROTOCOL}, the running"),
    ],
    ids=["ABI", "protocol"],
)
def test_skew_is_refused_with_both_versions(config: Config, skewed: Estate, what: str) -> None:
    with pytest.raises(UserError) as refused:
        answer(replace(skewed, fixed=fixed_settings(config)), config)

    assert what in refused.value.message
    assert "voicerelay stop --drain" in refused.value.message


def test_settings_that_the_sockets_were_made_for_must_be_the_same(config: Config) -> None:
    estate = replace(ESTATE, fixed=fixed_settings(config))

    with pytest.raises(UserError, match="port: changes with a start only"):
        answer(estate, replace(config, port=config.port ^ 1))


def test_who_can_take_over_says_so(config: Config, capsys: pytest.CaptureFixture[str]) -> None:
    answer(replace(ESTATE, fixed=fixed_settings(config)), config)

    assert capsys.readouterr().out == f"{CAN_SUCCEED}: version {__version__}\n"


@pytest.mark.parametrize(("prefix", "asked"), [("", False), ("check:", True)], ids=["go", "check"])
def test_a_process_knows_what_it_inherits_and_its_children_do_not(
    monkeypatch: pytest.MonkeyPatch, prefix: str, asked: bool
) -> None:
    lock = os.memfd_create("vrtest", 0)
    os.set_inheritable(lock, True)
    estate = replace(ESTATE, lock=lock)
    monkeypatch.setenv(VARIABLE, f"{prefix}{succession._write(estate)}")

    assert inherited() == (estate, asked)
    assert VARIABLE not in os.environ
    assert os.get_inheritable(lock) == asked  # nobody else is to have what was taken over
    os.close(lock)


def test_without_an_estate_there_is_nothing_to_take_over(config: Config) -> None:
    assert inherited() == (None, False)
    with pytest.raises(UserError, match="nothing to take over"):
        answer(None, config)


def test_a_variable_that_names_no_estate_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "mine")

    with pytest.raises(UserError, match="own use"):
        inherited()


def test_a_new_version_that_can_is_asked_with_our_options_and_the_estate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["voicerelay", "start", "mine:app"])
    script = f'echo "$@" "${VARIABLE}" >{tmp_path}/given; echo {CAN_SUCCEED}'

    said = asyncio.run(check(python(tmp_path, script), ESTATE))

    assert said == CAN_SUCCEED
    given_ = (tmp_path / "given").read_text()
    assert given_.startswith("-P -m voicerelay start mine:app check:")


@pytest.mark.parametrize(
    ("script", "why"),
    [
        ("echo 'voicerelay: error: has ABI 2'; exit 2", "cannot take over: has ABI 2"),
        ("echo 'No module named msgpack'; exit 1", "No module named msgpack"),
        ("echo all is well", "cannot take over: all is well"),
        ("exit 0", "it says nothing"),
        ("exec sleep 60", "does not start within"),
    ],
    ids=["skew", "broken", "other", "silent", "hung"],
)
def test_a_new_version_that_cannot_is_refused_with_its_last_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, why: str
) -> None:
    if "sleep" in script:
        monkeypatch.setattr(succession, "CHECK_TIMEOUT_S", 0.0)

    with pytest.raises(UserError) as refused:
        asyncio.run(check(python(tmp_path, script), ESTATE))

    assert why in refused.value.message


def test_an_interpreter_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="No such file"):
        asyncio.run(check(str(tmp_path / "nothing"), ESTATE))


def test_an_exec_that_fails_leaves_everything_as_it_was(tmp_path: Path) -> None:
    def state() -> tuple[set[str], Any]:
        return set(os.listdir("/proc/self/fd")), signal.pthread_sigmask(signal.SIG_BLOCK, ())

    lock = os.open(tmp_path, os.O_RDONLY)
    before = state()

    with pytest.raises(UserError, match="No such file"):
        become(str(tmp_path / "nothing"), replace(ESTATE, lock=lock))

    assert state() == before
    assert not os.get_inheritable(lock)
    os.close(lock)


def test_every_signal_that_is_obeyed_waits_during_the_exec(monkeypatch: pytest.MonkeyPatch) -> None:
    blocked = []

    def execve(*_: object) -> None:
        blocked.append(signal.pthread_sigmask(signal.SIG_BLOCK, ()))
        raise OSError(2, "No such file")

    monkeypatch.setattr(os, "execve", execve)
    lock = os.memfd_create("vrtest")

    with pytest.raises(UserError):
        become("python", replace(ESTATE, lock=lock))

    assert blocked[0] >= set(SIGNALS)
    os.close(lock)
