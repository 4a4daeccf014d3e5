"""Call records: complete, of one line each, and never waited for."""

import asyncio
import json
import os
import socket
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from tests.unit.transceiver.test_figures import connected, hear
from tests.unit.transceiver.test_session import host
from voicerelay.transceiver import records as module
from voicerelay.transceiver.records import (
    IDENTIFIER,
    JOURNAL,
    MAX_WAITING,
    CallRecords,
    RecordsError,
    record_of,
)


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_what_was_put_is_written_in_order_until_the_end(tmp_path: Path) -> None:
    path = tmp_path / "calls"
    records = CallRecords(str(path))

    for number in range(500):
        records.put({"number": number})
    records.close()

    assert [line["number"] for line in lines(path)] == list(range(500))
    assert (records.written, records.dropped) == (500, 0)


def test_several_processes_share_a_file(tmp_path: Path) -> None:
    path = tmp_path / "calls"
    both = CallRecords(str(path)), CallRecords(str(path))

    for number in range(200):
        both[number % 2].put({"number": number})
    for records in both:
        records.close()

    assert {line["number"] for line in lines(path)} == set(range(200))


def test_a_file_that_was_rotated_away_is_left_for_a_new_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LOOK_S", -1.0)
    path, old = tmp_path / "calls", tmp_path / "calls.1"
    out = module._File(path)
    out.write(b"first\n")

    # when it is moved, and then removed
    path.rename(old)
    out.write(b"second\n")
    assert path.read_text() == "second\n"
    path.unlink()
    out.write(b"third\n")
    out.close()

    assert (old.read_text(), path.read_text()) == ("first\n", "third\n")


class Stuck:
    """A disk that does not answer, then fails."""

    def __init__(self) -> None:
        self.go_on, self.put_back = os.pipe()

    def write(self, _line: bytes) -> None:
        os.read(self.go_on, 1)
        raise OSError(28, "No space left on device")

    def close(self) -> None:
        os.close(self.go_on)


def test_a_disk_that_hangs_or_fails_costs_records_and_no_time(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    # given a disk that does not answer
    stuck = Stuck()
    monkeypatch.setattr(module, "_opened", lambda *_: stuck)
    records = CallRecords("x")

    # when more is put than may wait
    for number in range(MAX_WAITING + 10):
        records.put({"number": number})

    # then the rest is dropped, and what the disk refuses as well; it is said once
    assert records.dropped in (9, 10)  # one may be in the writer's hands
    os.close(stuck.put_back)
    records.close()
    assert (records.written, records.dropped) == (0, MAX_WAITING + 10)
    assert caplog.text.count("No space left") == 1


def test_the_journal_gets_fields() -> None:
    with (
        TemporaryDirectory(prefix="vr-") as folder,
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as journald,
    ):
        path = Path(folder) / "socket"
        journald.bind(str(path))
        records = CallRecords(JOURNAL, path)

        records.put({"call": "abcdef"})
        records.close()

        told = journald.recv(4096).decode()
        assert told == f'PRIORITY=6\nSYSLOG_IDENTIFIER={IDENTIFIER}\nMESSAGE={{"call":"abcdef"}}\n'


def test_standard_output_takes_them(capfd: pytest.CaptureFixture[str]) -> None:
    records = CallRecords("-")
    records.put({"call": 1})
    records.close()

    assert capfd.readouterr().out == '{"call":1}\n'


@pytest.mark.parametrize(
    "target",
    [lambda p: str(p / "no" / "calls"), str, lambda p: JOURNAL],
    ids=["no directory", "a directory", "no journal"],
)
def test_where_nothing_can_be_written_is_said(
    tmp_path: Path, target: Callable[[Path], str]
) -> None:
    with pytest.raises(RecordsError, match=r"^--call-records: .+: .+"):
        CallRecords(target(tmp_path), tmp_path / "nobody")


def test_a_record_says_how_the_call_was_and_not_who() -> None:
    async def run() -> None:
        async with host() as here:
            session, _ = await connected(here)
            hear(session, 1, b"voice", 0.0)
            session.end("for a test")

            told = record_of(session, 3, "mine:app", session.milestones.age_s(0) * -1 + 9, 0.0)

            assert told["ended_at"] == "1970-01-01T00:00:00.000+00:00"
            assert (told["call"], told["transceiver"]) == (session.short_id, 3)
            assert (told["duration_s"], told["end_reason"]) == (9.0, "for a test")
            assert (told["codec"], told["bytes_in"], told["client"]) == ("opus", 5, "127.0.0.0/24")
            assert set(told["setup_ms"]) >= {"answer", "ice", "dtls", "total"}
            text = json.dumps(told)
            assert session.id not in text
            assert "127.0.0.1" not in text

    asyncio.run(run())
