"""Keys and tokens: who a credential belongs to, and that nothing else is let in."""

import base64
import hashlib
import hmac
import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from voicerelay.transceiver.signalling.keys import (
    MAX_CAP,
    MAX_KEY_CHARS,
    MAX_KEYS,
    MAX_SUBJECT_CHARS,
    MAX_TOKEN_CHARS,
    MAX_TTL_S,
    MIN_KEY_CHARS,
    Caller,
    Denied,
    KeyFileError,
    Keys,
    TokenError,
)

NOW = 1_800_000_000.0
FIRST, SECOND = "first-key-0123456789", "second-key-0123456789"
KEYS = Keys.parse(f"# ours\n\nweb:{FIRST}\n  phones:{SECOND}  \n")


def test_a_key_is_known_by_its_name() -> None:
    assert KEYS.caller(FIRST, NOW) == Caller("web")
    assert KEYS.caller(SECOND, NOW) == Caller("phones")


def test_a_key_without_a_name_gets_one_that_does_not_tell_it() -> None:
    (name,) = Keys.parse(FIRST).names

    assert re.fullmatch(r"key-[0-9a-f]{8}", name)
    assert Keys.parse(FIRST).caller(FIRST, NOW).key == name


@pytest.mark.parametrize(
    "text",
    [
        "",
        "# nothing\n\n",
        "x" * (MIN_KEY_CHARS - 1),
        "x" * (MAX_KEY_CHARS + 1),
        "with blank in the key",
        ":" + FIRST,
        "na.me:" + FIRST,
        "n" * 65 + ":" + FIRST,
        f"a:{FIRST}\na:{SECOND}",
        f"a:{FIRST}\nb:{FIRST}",
        "vr1.looks-like-a-token",
        "ключ-ключ-ключ-ключ",
        "\n".join(f"key-number-{n:08}" for n in range(MAX_KEYS + 1)),
    ],
)
def test_a_bad_file_is_refused_and_no_key_is_shown(text: str) -> None:
    with pytest.raises(KeyFileError) as caught:
        Keys.parse(text)

    shown = [
        word for word in re.split(r"[\s:]+", text) if len(word) > 8 and word in str(caught.value)
    ]
    assert shown == []


@pytest.mark.parametrize("length", [MIN_KEY_CHARS, MAX_KEY_CHARS])
def test_the_longest_and_shortest_keys_are_good(length: int) -> None:
    assert Keys.parse("k" * length).caller("k" * length, NOW).key


def test_a_token_says_who_it_was_made_for_until_it_expires() -> None:
    token = KEYS.issue(NOW, 600, "phones", subject="alice", max_sessions=2)

    caller = KEYS.caller(token, NOW + 599)

    assert (caller.key, caller.subject, caller.max_sessions) == ("phones", "alice", 2)
    assert not caller.expired
    assert KEYS.caller(token, NOW + 600).expired


def test_a_token_is_an_hmac_over_compact_json() -> None:
    token = KEYS.issue(NOW, 600)

    signed, _, mac = token.rpartition(".")
    payload = base64.urlsafe_b64decode(signed.split(".")[2] + "==")
    expected = hmac.new(FIRST.encode(), signed.encode(), hashlib.sha256).digest()
    assert base64.urlsafe_b64decode(mac + "==") == expected
    assert b" " not in payload
    assert json.loads(payload)["exp"] == NOW + 600


def test_tokens_are_told_apart() -> None:
    tokens = [KEYS.caller(KEYS.issue(NOW, 60), NOW).token for _ in range(100)]

    assert len(set(tokens)) == 100


def test_the_longest_token_is_taken() -> None:
    keys = Keys.parse("n" * 64 + ":" + "k" * MAX_KEY_CHARS)

    token = keys.issue(NOW, MAX_TTL_S, subject="s" * MAX_SUBJECT_CHARS, max_sessions=MAX_CAP)

    assert len(token) <= MAX_TOKEN_CHARS
    assert keys.caller(token, NOW).subject == "s" * MAX_SUBJECT_CHARS


@pytest.mark.parametrize(
    ("key", "ttl", "subject", "most"),
    [
        ("nobody", 60, "", 0),
        ("", 0, "", 0),
        ("", MAX_TTL_S + 1, "", 0),
        ("", 60, "two words", 0),
        ("", 60, "s" * (MAX_SUBJECT_CHARS + 1), 0),
        ("", 60, "é", 0),
        ("", 60, "", -1),
        ("", 60, "", MAX_CAP + 1),
    ],
)
def test_a_token_that_cannot_be_is_not_made(key: str, ttl: int, subject: str, most: int) -> None:
    with pytest.raises(TokenError):
        KEYS.issue(NOW, ttl, key, subject, most)


def test_another_servers_token_is_denied() -> None:
    theirs = Keys.parse(f"web:{SECOND}").issue(NOW, 600)

    with pytest.raises(Denied):
        KEYS.caller(theirs, NOW)


@given(st.integers(0, 200), st.characters(codec="utf-8"))
def test_a_changed_token_is_denied(position: int, character: str) -> None:
    token = KEYS.issue(NOW, 600, subject="alice")
    at = position % len(token)
    changed = token[:at] + character + token[at + 1 :]

    if changed != token and not _same_bits(changed, token):
        with pytest.raises(Denied):
            KEYS.caller(changed, NOW)


@given(st.text(max_size=80))
def test_anything_else_is_denied(text: str) -> None:
    for credential in (text, "vr1." + text, f"vr1.web.{text}", f"vr1.web.{text}.{text}"):
        with pytest.raises(Denied):
            KEYS.caller(credential, NOW)


def _same_bits(changed: str, token: str) -> bool:
    """The last character of base64 has bits that nothing reads."""
    return changed[:-1] == token[:-1]
