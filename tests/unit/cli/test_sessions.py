"""`voicerelay sessions`: calls are found by the end of their ids, put in order, and ended."""

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from voicerelay.cli import sessions as module
from voicerelay.cli.sessions import NotFound, find, in_order, render, render_one, sessions


def call(name: str, **figures: Any) -> dict[str, Any]:
    return {
        "id": name,
        "short_id": name[-6:],
        "slot": 0,
        "state": "connected",
        "age_s": 61.0,
        "codec": "opus",
        "rtt_ms": 20.0,
        "jitter_ms": 1.0,
        "packets_in": 90,
        "lost_in": 10,
        "fraction_lost_out": 0.0,
        "contract": "whip",
    } | figures


class Transceivers:
    """Three calls, of which one ends as soon as it has been listed."""

    def __init__(self, _run_dir: Path) -> None:
        self.calls = [call("aaaa-1111"), call("bbbb-1111"), call("gone-2222")]

    async def sessions(self) -> list[dict[str, Any]]:
        return self.calls

    async def session(self, wanted: str) -> dict[str, Any] | None:
        return None if wanted.startswith("gone") else call(wanted)

    async def end(self, wanted: str, reason: str) -> dict[str, Any] | None:
        return None if wanted.startswith("gone") else {"id": wanted, "reason": reason or "ended"}


@pytest.fixture(autouse=True)
def instance(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_client", Transceivers)
    monkeypatch.setattr("voicerelay.cli.status.find_run_dir", lambda _run_dir, _port: Path("x"))


def run(*arguments: str) -> Result:
    return CliRunner().invoke(sessions, arguments)


def test_a_call_is_found_by_its_id_or_the_end_of_it() -> None:
    calls = [call("aaaa-1111"), call("bbbb-1111"), call("1111")]

    assert find(calls, "aaaa-1111")["id"] == "aaaa-1111"
    assert find(calls, "b-1111")["id"] == "bbbb-1111"
    assert find(calls, "1111")["id"] == "1111"


@pytest.mark.parametrize(
    ("wanted", "why"), [("-1111", "end of 2 ids"), ("cccc", "no call"), ("1", "too short")]
)
def test_an_id_of_none_or_of_several_is_refused(wanted: str, why: str) -> None:
    with pytest.raises(NotFound, match=why):
        find([call("aaaa-1111"), call("bbbb-1111")], wanted)


def test_the_largest_comes_first_and_what_is_not_known_last() -> None:
    calls = [call("a", rtt_ms=1.0), call("b", rtt_ms=None), call("c", rtt_ms=2.0, lost_in=0)]

    assert [one["id"] for one in in_order(calls, "rtt", reverse=False)] == ["c", "a", "b"]
    assert [one["id"] for one in in_order(calls, "rtt", reverse=True)] == ["a", "c", "b"]
    assert [one["id"] for one in in_order(calls, "loss", reverse=True)] == ["c", "a", "b"]
    assert [one["id"] for one in in_order(calls, "id", reverse=False)] == ["a", "b", "c"]


def test_a_table_for_a_person() -> None:
    lines = render([call("aaaa-1111", rtt_ms=None)]).splitlines()

    assert lines[1].split() == [
        *("a-1111", "1m01s", "connected", "0", "opus", "-", "10.0%", "0.0%", "1.0", "ms", "whip")
    ]
    assert render([]) == "no calls"


def test_parts_are_indented_below_their_name() -> None:
    lines = render_one({"id": "x", "rtt_ms": None, "setup_ms": {"ice": 1.5}}).splitlines()

    assert [line.split() for line in lines] == [
        ["id", "x"],
        ["rtt_ms", "-"],
        ["setup_ms:"],
        ["ice", "1.5"],
    ]


def test_ls_is_json_for_programs() -> None:
    assert len(json.loads(run("ls", "--json").stdout)) == 3
    assert "a-1111" in run("ls").stdout


def test_show_finds_one_and_says_when_it_has_gone() -> None:
    assert json.loads(run("show", "aaaa-1111", "--json").stdout)["id"] == "aaaa-1111"

    gone = run("show", "gone-2222")

    assert (gone.exit_code, "just ended" in gone.stderr) == (1, True)


def test_kill_ends_what_is_there_and_exits_1_for_the_rest() -> None:
    done = run("kill", "aaaa-1111", "b-1111", "--reason", "too long", "--json")
    partly = run("kill", "aaaa-1111", "gone-2222", "cccc")

    assert done.exit_code == 0
    assert json.loads(done.stdout)["ended"][1] == {"id": "bbbb-1111", "reason": "too long"}
    assert partly.exit_code == 1
    assert partly.stdout == "aaaa-1111 ended\n"
    assert len(partly.stderr.splitlines()) == 2


def test_an_id_may_begin_with_a_dash() -> None:
    assert json.loads(run("kill", "-1111", "--json").stdout)["not_found"]
    assert run("kill", "-hhhh", "--json").exit_code == 1
