"""Only this machine is loaded, unless its user says so."""

import pytest

from voicerelay.cli.errors import UserError
from voicerelay.cli.loadtest.targets import check_url, is_here, sources


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:8080", "http://localhost/whip", "https://[::1]:8443/a?b=c"]
)
def test_this_machine_may_be_called(url: str) -> None:
    check_url(url, allow_remote=False)


@pytest.mark.parametrize("url", ["http://198.51.100.77:8080", "http://[2001:db8::1]/whip"])
def test_others_only_when_it_is_said(url: str) -> None:
    with pytest.raises(UserError, match="--allow-remote"):
        check_url(url, allow_remote=False)
    check_url(url, allow_remote=True)


@pytest.mark.parametrize(
    "url",
    ["", "127.0.0.1:8080", "ftp://127.0.0.1", "http://", "http://127.0.0.1:x", "http://127.0.0.1:0",
     "http://[::1", "file:///etc/passwd"],
)  # fmt: skip
def test_what_is_no_url_is_refused(url: str) -> None:
    with pytest.raises(UserError, match="is no URL"):
        check_url(url, allow_remote=True)


def test_a_url_holds_no_secret() -> None:
    with pytest.raises(UserError, match="--key-file"):
        check_url("http://user:secret@127.0.0.1/", allow_remote=True)


def test_loopback_is_here_and_documentation_is_not() -> None:
    assert is_here("127.5.5.5")
    assert is_here("::1")
    assert not is_here("198.51.100.77")
    assert not is_here("example.local")
    assert not is_here("")


def test_calls_to_loopback_come_from_several_addresses() -> None:
    assert sources("http://127.0.0.1:8080/whip", 3) == ["127.0.0.2", "127.0.0.3", "127.0.0.4"]


def test_calls_over_ipv6_come_from_the_one_address() -> None:
    assert sources("http://[::1]:8080/whip", 3) == ["::1"]
