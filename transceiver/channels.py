"""A call's data channels: what the client sends waits for the agent, what the agent sends is bounded."""

from typing import Protocol

from voicerelay.transceiver.agent import Message
from voicerelay.transceiver.unread import Unread

MAX_UNREAD_MESSAGES = 256
MAX_UNREAD_BYTES = 1 << 20
MAX_MESSAGE_BYTES = 256 * 1024  # to send
MAX_UNSENT_BYTES = 1 << 20  # waiting for a client that does not read, on one channel
MAX_CHANNELS = 16  # open at a time


class DataChannel(Protocol):
    """What is used of aiortc's RTCDataChannel."""

    @property
    def label(self) -> str: ...

    @property
    def readyState(self) -> str: ...

    @property
    def bufferedAmount(self) -> int: ...

    def send(self, data: str | bytes) -> None: ...


class Dialect(Protocol):
    """What a contract itself says over data channels."""

    def received(self, label: str, data: str | bytes) -> bool:
        """Whether this was for the contract; then the agent does not see it."""

    def leaving(self) -> None:
        """We end the call: the last that can be said."""


class Channels:
    """By label; of several with the same label the latest counts."""

    def __init__(self) -> None:
        self._channels: list[DataChannel] = []  # in the order they were opened
        self.closed = False
        self.dialect: Dialect | None = None
        self.unread: Unread[Message] = Unread(MAX_UNREAD_MESSAGES, keep_oldest=True)

    def opened(self, channel: DataChannel) -> bool:
        """The client has opened one; False when it has too many."""
        self._channels = self._open()
        if len(self._channels) >= MAX_CHANNELS:
            return False
        self._channels.append(channel)
        return True

    def received(self, label: str, data: str | bytes) -> None:
        """A message; dropped and counted when too much waits already."""
        if self.dialect is not None and self.dialect.received(label, data):
            return
        waiting = sum(_size(message.data) for message in self.unread.waiting())
        if waiting + _size(data) > MAX_UNREAD_BYTES:
            self.unread.dropped += 1
        else:
            self.unread.put(Message(label, data))

    def send(self, data: str | bytes, label: str | None) -> None:
        """Raises ValueError: no such channel, too long, congested, or neither str nor bytes."""
        channel = self._named(label)
        size = _size(data)
        if size > MAX_MESSAGE_BYTES:
            raise ValueError(f"a message has at most {MAX_MESSAGE_BYTES} bytes, not {size}")
        if channel.bufferedAmount + size > MAX_UNSENT_BYTES:
            raise ValueError(f"the client does not read data channel {channel.label!r}")
        channel.send(data)

    def close(self) -> None:
        """The call has ended."""
        if self.dialect is not None and not self.closed:
            self.dialect.leaving()
        self.closed = True
        self._channels.clear()  # each holds its connection
        self.unread.close()

    def _open(self) -> list[DataChannel]:
        return [channel for channel in self._channels if channel.readyState == "open"]

    def _named(self, label: str | None) -> DataChannel:
        found = [channel for channel in self._open() if label in (None, channel.label)]
        if not found:
            which = "data channel" if label is None else f"data channel {label!r}"
            raise ValueError(f"the client has no open {which}")
        return found[0 if label is None else -1]


def _size(data: str | bytes) -> int:
    return len(data.encode()) if isinstance(data, str) else len(data)
