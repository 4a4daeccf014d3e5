"""voicerelay.toml: what is right is taken, what is wrong is told with its place and a mend."""

import re
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from voicerelay.cli import configfile
from voicerelay.cli.configfile import (
    FILE_NAME,
    MAX_FILE_BYTES,
    find_config_file,
    read_config_file,
    render_toml,
)
from voicerelay.cli.errors import UserError
from voicerelay.cli.settings import SETTINGS

GOOD = """\
port = 4000
listen = ["192.0.2.1", "::1"]
public-ip = "198.51.100.1"
  pin = false
"run-dir" = "/run/here"
api-key-file = "keys"
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / FILE_NAME


def test_a_file_is_read(path: Path) -> None:
    path.write_text(GOOD)

    file = read_config_file(path)

    assert file.faults == []
    assert file.values == {
        "port": 4000,
        "listen": ("192.0.2.1", "::1"),
        "public-ip": ("198.51.100.1",),
        "pin": False,
        "run-dir": Path("/run/here"),
        "api-key-file": path.parent / "keys",
    }
    assert [file.place(key) for key in ("port", "pin")] == [f"{path}:1", f"{path}:4"]
    assert file.place("run-dir") == f"{path}:5"


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("prot = 1", 'prot: there is no such key; the nearest is "port"'),
        ("max_sessions = 1", 'the nearest is "max-sessions"'),
        ("colour = 1", "print-config --toml shows all keys"),
        ("[relay]\nrelays = 1", "there are no sections"),
        ('port = "4000"', "port: must be a whole number, without quotes"),
        ("port = true", "must be a whole number"),
        ("port = 1.5", "must be a whole number"),
        ("pin = 1", "pin: must be true or false"),
        ("app = 1", "app: must be a text in quotes"),
        ('app = ["a:b"]', "must be one text"),
        ("listen = [1]", "must be a text"),
        ('app = "a\\u0000b"', "control characters"),
        ("run-dir = {}", "must be a text"),
    ],
    ids=range(13),
)
def test_what_is_wrong_with_a_key_is_told_with_its_place(path: Path, line: str, said: str) -> None:
    path.write_text(f"# first line\ncapacity = 99\n{line}\n")

    file = read_config_file(path)

    (fault,) = file.faults
    assert fault.startswith(f"{path}:3: ")
    assert said in fault
    assert file.values == {"capacity": 99}


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        (b"port = \nrelays = 2", "is not TOML.*line 1.*port = 3478"),
        (b"port = 1\nport = 2", "is not TOML"),
        (b"app = '\xff'", "byte 7 is not UTF-8"),
        (b"#" * (MAX_FILE_BYTES + 1), f"more than {MAX_FILE_BYTES} bytes"),
        (b"x = " + b"[" * 20_000, "is not TOML"),
    ],
    ids=range(5),
)
def test_a_file_that_is_broken_is_named(path: Path, raw: bytes, said: str) -> None:
    path.write_bytes(raw)

    with pytest.raises(UserError, match=f"{path}.*{said}"):
        read_config_file(path)


def test_a_file_of_the_most_bytes_is_read(path: Path) -> None:
    path.write_bytes(b"#" * MAX_FILE_BYTES)

    assert read_config_file(path).values == {}


@pytest.mark.parametrize("name", ["/no/such/file", "/proc", "a\0b"])
def test_a_file_that_cannot_be_read_is_named(name: str) -> None:
    with pytest.raises(UserError, match="--config"):
        read_config_file(Path(name))


@settings(
    deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(st.one_of(st.binary(max_size=80), st.text(max_size=80).map(lambda text: text.encode())))
def test_any_bytes_are_a_file_or_a_user_error(path: Path, raw: bytes) -> None:
    path.write_bytes(raw)

    try:
        file = read_config_file(path)
    except UserError:
        return

    assert not set(file.values) - {setting.name for setting in SETTINGS}


def test_the_named_file_counts_then_the_one_here_then_the_systems(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    system = tmp_path / "etc.toml"
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(configfile, "SYSTEM_FILE", system)

    assert find_config_file(None) is None
    system.touch()
    assert find_config_file(None) == system
    Path(FILE_NAME).touch()
    assert find_config_file(None) == Path(FILE_NAME)
    assert find_config_file(Path("other")) == Path("other")


def test_a_written_file_sets_what_was_given_and_shows_the_rest(path: Path) -> None:
    given = {"port": 4000, "listen": ("::1",), "pin": False, "run-dir": Path('/a "b"/ü')}

    path.write_text(render_toml(given))

    assert read_config_file(path).values == given
    assert read_config_file(path).faults == []


def test_what_a_written_file_shows_may_be_uncommented(path: Path) -> None:
    path.write_text(re.sub(r"^#([a-z-]+ = )", r"\1", render_toml({}), flags=re.MULTILINE))

    file = read_config_file(path)
    assert file.faults == []
    assert set(file.values) == {setting.name for setting in SETTINGS}
