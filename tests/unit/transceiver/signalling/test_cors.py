"""Which pages may call from elsewhere."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from voicerelay.transceiver.signalling.cors import (
    Origins,
    from_elsewhere,
    host_of,
    is_loopback,
    parse_origin,
)


@pytest.mark.parametrize(
    ("text", "origin"),
    [
        ("*", "*"),
        ("https://Example.org", "https://example.org"),
        ("https://example.org:443", "https://example.org"),
        ("http://example.org:80", "http://example.org"),
        ("http://example.org:443", "http://example.org:443"),
        ("http://[::1]:5173", "http://[::1]:5173"),
        ("capacitor://localhost", "capacitor://localhost"),
    ],
)
def test_an_origin_is_taken_as_browsers_write_it(text: str, origin: str) -> None:
    assert parse_origin(text) == origin


@pytest.mark.parametrize(
    "text",
    [
        "",
        "example.org",
        "https://",
        "https://a/",
        "https://a b",
        "https://*.a",
        "null",
        "http://a:65536",
    ],
)
def test_what_is_no_origin_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is no origin"):
        parse_origin(text)


@given(st.text(max_size=60))
def test_any_text_is_an_origin_or_a_value_error(text: str) -> None:
    try:
        origin = parse_origin(text)
    except ValueError:
        return
    assert parse_origin(origin) == origin


def test_without_a_list_the_pages_of_this_machine_may() -> None:
    ours = Origins([])

    assert ours.allow("http://localhost:5173")
    assert ours.allow("http://127.0.0.1:3000")
    assert ours.allow("http://[::1]:3000")
    assert not ours.allow("https://example.org")
    assert not ours.allow("http://localhost.example.org")
    assert not ours.allow("null")


def test_with_a_list_only_those_may() -> None:
    listed = Origins(["https://example.org"])

    assert listed.allow("https://example.org")
    assert not listed.allow("https://example.org:8443")
    assert not listed.allow("http://localhost:5173")
    assert Origins(["*"]).allow("null")


@pytest.mark.parametrize(
    ("headers", "elsewhere"),
    [
        ({}, ""),
        ({"Origin": "http://localhost:8080", "Host": "localhost:8080"}, ""),
        ({"Origin": "https://a.org", "Host": "a.org"}, ""),
        (
            {"Origin": "https://a.org", "Host": "127.0.0.1:8080", "Sec-Fetch-Site": "same-origin"},
            "",
        ),
        ({"Origin": "https://a.org", "Host": "b.org"}, "https://a.org"),
        ({"Origin": "null", "Host": "b.org"}, "null"),
        (
            {"Origin": "https://a.org", "Host": "b.org", "Sec-Fetch-Site": "same-site"},
            "https://a.org",
        ),
    ],
)
def test_our_own_page_is_not_from_elsewhere(headers: dict[str, str], elsewhere: str) -> None:
    assert from_elsewhere(headers) == elsewhere


def test_what_loopback_is() -> None:
    inside = ["localhost", "a.localhost", "127.0.0.1", "127.9.9.9", "::1", "[::1]"]
    outside = ["0.0.0.0", "::", "10.0.0.1", "localhost.org", "", "example.org"]

    assert all(is_loopback(host) for host in inside)
    assert not any(is_loopback(host) for host in outside)


@pytest.mark.parametrize(
    ("header", "host"),
    [
        ("localhost:8080", "localhost"),
        ("localhost", "localhost"),
        ("[::1]:8080", "[::1]"),
        ("[::1]", "[::1]"),
        ("127.0.0.1", "127.0.0.1"),
        ("", ""),
    ],
)
def test_the_host_of_a_header(header: str, host: str) -> None:
    assert host_of(header) == host
