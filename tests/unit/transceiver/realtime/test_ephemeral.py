"""Client secrets: sealed, expiring, bounded, and good for one cluster only."""

import secrets

import pytest
from hypothesis import given
from hypothesis import strategies as st

from voicerelay.transceiver.realtime.ephemeral import (
    MAX_SECRET_CHARS,
    PREFIX,
    SecretTooLong,
    issue,
    read,
)

KEY, OTHER = b"k" * 32, b"o" * 32
SESSION = {"type": "realtime", "instructions": "keep this to yourself"}


def test_any_process_with_the_key_reads_the_session_until_it_expires() -> None:
    secret = issue(KEY, SESSION, 1000, "a customer", "this key")

    assert secret.startswith(PREFIX)
    assert read(KEY, secret, 999.9) == (SESSION, "a customer", "this key")
    assert read(KEY, secret, 1000.0) is None


def test_nobody_else_reads_or_makes_one() -> None:
    secret = issue(KEY, SESSION, 1000)

    assert read(OTHER, secret, 0) is None
    for index in range(len(PREFIX), len(secret) - 1):
        other = "A" if secret[index] != "A" else "B"
        assert read(KEY, secret[:index] + other + secret[index + 1 :], 0) is None


def test_two_secrets_differ() -> None:
    assert issue(KEY, SESSION, 1000) != issue(KEY, SESSION, 1000)


def test_a_session_that_does_not_fit_is_refused() -> None:
    long = {"x": secrets.token_hex(10_000)}  # random, so it cannot be compressed
    with pytest.raises(SecretTooLong):
        issue(KEY, long, 1000)


@given(st.text(max_size=200))
def test_anything_is_read_as_nothing(text: str) -> None:
    assert read(KEY, text, 0) is None
    assert read(KEY, PREFIX + text, 0) is None


def test_a_long_value_is_not_even_looked_at() -> None:
    assert read(KEY, PREFIX + "A" * MAX_SECRET_CHARS, 0) is None
