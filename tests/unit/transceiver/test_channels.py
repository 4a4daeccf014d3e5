"""Data channels: both ways, by label, and bounded whatever either side does."""

import asyncio

import pytest

from voicerelay.transceiver.agent import Message
from voicerelay.transceiver.channels import (
    MAX_CHANNELS,
    MAX_MESSAGE_BYTES,
    MAX_TAPS,
    MAX_UNREAD_BYTES,
    MAX_UNREAD_MESSAGES,
    MAX_UNSENT_BYTES,
    Channels,
)


class FakeChannel:
    """As aiortc has it."""

    def __init__(self, label: str) -> None:
        self.label = label
        self.readyState = "open"
        self.bufferedAmount = 0
        self.sent: list[str | bytes] = []

    def send(self, data: str | bytes) -> None:
        self.sent.append(data)


def opened(*labels: str) -> tuple[Channels, list[FakeChannel]]:
    channels, made = Channels(), [FakeChannel(label) for label in labels]
    assert all(channels.opened(channel) for channel in made)
    return channels, made


def read(channels: Channels) -> list[Message]:
    async def run() -> list[Message]:
        return [message async for message in channels.unread]

    channels.close()
    return asyncio.run(run())


def test_text_and_bytes_come_with_the_label_of_their_channel() -> None:
    channels, _ = opened("chat", "data")

    channels.received("chat", "grüß dich")
    channels.received("data", b"\x00\x01")

    assert read(channels) == [Message("chat", "grüß dich"), Message("data", b"\x00\x01")]


def test_text_and_bytes_go_to_the_channel_of_a_label_or_to_the_first() -> None:
    channels, (chat, data) = opened("chat", "data")

    channels.send("to the first", None)
    channels.send(b"by label", "data")

    assert (chat.sent, data.sent) == (["to the first"], [b"by label"])


@pytest.mark.parametrize("label", [None, "chat", "other"])
def test_without_an_open_channel_of_that_label_nothing_is_sent(label: str | None) -> None:
    channels, (chat,) = opened("chat")
    chat.readyState = "closing"

    with pytest.raises(ValueError, match="no open data channel"):
        channels.send("hello", label)


def test_when_the_first_is_closed_the_second_is_the_first() -> None:
    channels, (first, second) = opened("chat", "chat2")
    first.readyState = "closed"

    channels.send("hello", None)

    assert second.sent == ["hello"]


def test_of_two_with_one_label_the_latest_counts_while_it_is_open() -> None:
    channels, (first, second) = opened("chat", "chat")

    channels.send("new", "chat")
    second.readyState = "closed"
    channels.send("old", "chat")

    assert (second.sent, first.sent) == (["new"], ["old"])


def test_there_are_at_most_so_many_channels_whatever_their_labels() -> None:
    channels, _ = opened(*["chat"] * MAX_CHANNELS)

    assert not channels.opened(FakeChannel("chat"))
    assert not channels.opened(FakeChannel("one more"))


def test_a_closed_channel_makes_room_for_another() -> None:
    channels, made = opened(*map(str, range(MAX_CHANNELS)))
    made[3].readyState = "closed"

    assert channels.opened(FakeChannel("one more"))
    assert not channels.opened(FakeChannel("two more"))


@pytest.mark.parametrize(
    "data", [b"x" * (MAX_MESSAGE_BYTES + 1), "ü" * (MAX_MESSAGE_BYTES // 2 + 1)]
)
def test_a_message_that_is_too_long_is_refused(data: str | bytes) -> None:
    channels, (chat,) = opened("chat")

    channels.send(data[:-1], None)
    with pytest.raises(ValueError, match="at most"):
        channels.send(data, None)

    assert len(chat.sent) == 1


def test_what_a_client_does_not_read_is_bounded() -> None:
    channels, (chat,) = opened("chat")
    chat.bufferedAmount = MAX_UNSENT_BYTES - 10

    channels.send(b"x" * 10, None)
    with pytest.raises(ValueError, match="does not read"):
        channels.send(b"x" * 11, None)


def test_of_too_many_unread_messages_the_new_are_dropped_and_counted() -> None:
    channels, _ = opened("chat")

    for number in range(MAX_UNREAD_MESSAGES + 5):
        channels.received("chat", str(number))

    assert channels.unread.dropped == 5
    assert [message.data for message in read(channels)] == [
        str(number) for number in range(MAX_UNREAD_MESSAGES)
    ]


def test_unread_messages_are_bounded_in_bytes_too() -> None:
    channels, _ = opened("chat")
    quarter = b"x" * (MAX_UNREAD_BYTES // 4)

    for _ in range(6):
        channels.received("chat", quarter)

    assert (len(channels.unread), channels.unread.dropped) == (4, 2)
    channels.received("chat", "")
    assert len(channels.unread) == 5


class Deaf:
    """A contract's dialect that keeps pings from the agent."""

    def __init__(self) -> None:
        self.left = 0

    def received(self, label: str, data: str | bytes) -> bool:
        return (label, data) == ("chat", "ping")

    def leaving(self) -> None:
        self.left += 1


def test_a_contract_hears_first_and_speaks_last() -> None:
    channels, _ = opened("chat", "data")
    channels.dialect = deaf = Deaf()

    for label in ("chat", "data"):
        channels.received(label, "ping")

    assert read(channels) == [Message("data", "ping")]
    channels.close()
    assert deaf.left == 1


# ---- handlers and taps ---------------------------------------------------------------------------


class Handler:
    """Notes what it is told."""

    def __init__(self) -> None:
        self.told: list[str | bytes] = []

    def opened(self) -> None:
        self.told.append("opened")

    def received(self, data: str | bytes) -> None:
        self.told.append(data)

    def closed(self) -> None:
        self.told.append("closed")


def test_a_handler_takes_the_messages_of_its_label_and_no_others() -> None:
    channels, _ = opened("chat")
    handler = Handler()
    channels.handle("events", handler)
    assert channels.handler("events") is handler

    channels.opened(FakeChannel("events"))
    channels.received("events", "one")
    channels.received("chat", "two")

    assert read(channels) == [Message("chat", "two")]
    assert handler.told == ["opened", "one", "closed"]


def test_a_handler_that_comes_late_hears_that_the_channel_is_open() -> None:
    channels, _ = opened("events")
    handler = Handler()

    channels.handle("events", handler)

    assert handler.told == ["opened"]


def test_a_tap_gets_what_goes_to_its_label_and_stands_in_for_the_client() -> None:
    channels, tap = Channels(), FakeChannel("events")
    assert channels.tap(tap)

    channels.send("before the client", "events")
    client = FakeChannel("events")
    channels.opened(client)
    channels.send("to both", "events")
    with pytest.raises(ValueError, match="no open"):
        channels.send("to another", "chat")
    channels.untap(tap)
    channels.send("to the client", "events")

    assert tap.sent == ["before the client", "to both"]
    assert client.sent == ["to both", "to the client"]


def test_taps_are_bounded_and_one_that_does_not_read_harms_nobody() -> None:
    channels, (client,) = opened("events")
    taps = [FakeChannel("events") for _ in range(MAX_TAPS)]
    assert all(channels.tap(tap) for tap in taps)
    assert not channels.tap(FakeChannel("events"))
    taps[0].bufferedAmount = MAX_UNSENT_BYTES

    channels.send("x", "events")

    assert [len(tap.sent) for tap in (client, *taps)] == [1, 0] + [1] * (MAX_TAPS - 1)
    channels.close()
    assert not channels.tap(FakeChannel("events"))
