"""Sources of settings: the strongest counts, and a fault names what gave the value."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from voicerelay.cli.config import Config, ConfigError, default_transceivers, need_a_start
from voicerelay.cli.configfile import ConfigFile
from voicerelay.cli.settings import BY_NAME, DEFAULT_PORT, SETTINGS
from voicerelay.cli.sources import gather

TEXTS = st.text(st.characters(exclude_characters="\0"), max_size=20)  # no variable can hold NUL
FILE = ConfigFile(Path("etc/v.toml"), {"port": 3, "relays": 4, "pin": False}, {"port": 7, "pin": 9})


def test_option_then_variable_then_file_then_default() -> None:
    variables = {"VOICERELAY_PORT": "2", "VOICERELAY_RELAYS": "5", "VOICERELAY_CAPACITY": ""}

    sources = gather({"port": 1}, variables, FILE)

    assert (sources["port"], sources.found["port"].shown) == (1, "flag")
    assert (sources["relays"], sources.found["relays"].shown) == (5, "env VOICERELAY_RELAYS")
    assert (sources["pin"], sources.found["pin"].shown) == (False, "etc/v.toml:9")
    assert (sources["capacity"], sources.found["capacity"].shown) == (16384, "default")
    assert sources.faults == []


def test_every_fault_is_told_with_what_gave_the_value() -> None:
    variables = {
        "VOICERELAY_RELAYS": "two",
        "VOICERELAY_CAPACITY": "1",
        "VOICERELAY_PIN": "perhaps",
    }
    file = ConfigFile(Path("v.toml"), {"port": 0, "steering": "maybe"}, {"port": 3, "steering": 4})

    sources = gather({"max-sessions": 0, "http": "nonsense"}, variables, file)
    with pytest.raises(ConfigError) as refused:
        sources.config()

    said = sorted(refused.value.faults)
    begins = [
        "--capacity (VOICERELAY_CAPACITY)",
        "--http",
        "--max-sessions",
        "--pin (VOICERELAY_PIN)",
        "--relays (VOICERELAY_RELAYS)",
        "v.toml:3: port",
        "v.toml:4: steering",
    ]
    assert [fault[: len(begin)] for fault, begin in zip(said, begins, strict=True)] == begins
    assert "and 6 more: voicerelay check-config" in refused.value.message


def test_what_a_file_had_wrong_is_told_too() -> None:
    with pytest.raises(ConfigError, match=r"v.toml:1: prot") as refused:
        gather({}, {}, ConfigFile(Path("v.toml"), faults=["v.toml:1: prot: no such key"])).config()

    assert len(refused.value.faults) == 1


def test_the_strongest_source_of_some_settings_speaks_alone() -> None:
    file = ConfigFile(Path("v.toml"), {"run-dir": Path("/run/x"), "port": 3})

    assert gather({}, {}, file).strongest("port", "run-dir") == file.values
    assert gather({"port": 4}, {}, file).strongest("port", "run-dir") == {"port": 4}
    assert gather({}, {}).strongest("port", "run-dir") == {}


def test_what_has_no_default_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 0)

    sources = gather({}, {})

    assert sources.effective("transceivers") == default_transceivers()
    assert sources.effective("run-dir") == Path(f"/run/voicerelay/{DEFAULT_PORT}")
    assert sources.config().run_dir == sources.effective("run-dir")


@settings(deadline=None)
@given(st.dictionaries(st.sampled_from([s.variable for s in SETTINGS]), TEXTS))
def test_any_variables_are_a_configuration_or_a_user_error(variables: dict[str, str]) -> None:
    try:
        config = gather({}, variables).config()
    except ConfigError:
        return

    assert isinstance(config, Config)


def test_what_a_reload_cannot_change_is_named() -> None:
    old = gather({}, {}).config()

    new = gather({"port": 1, "http": "127.0.0.1:1", "max-sessions": 3}, {}).config()

    assert need_a_start(old, old) == []
    assert need_a_start(old, new) == ["port", "run-dir", "http"]
    assert BY_NAME["max-sessions"].reloadable


@pytest.mark.parametrize(
    ("given", "meant"),
    [("", ""), ("-", "-"), ("journal", "journal"), ("/x/calls", "/x/calls")],
)
def test_call_records_go_where_they_are_meant_to(given: str, meant: str) -> None:
    assert gather({"call-records": given}, {}).config().call_records == meant


def test_a_path_for_call_records_is_meant_from_here() -> None:
    assert gather({"call-records": "calls"}, {}).config().call_records == str(
        Path("calls").absolute()
    )
