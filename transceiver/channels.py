"""A call's data channels: what the client sends waits for the agent, what the agent sends is bounded."""

from typing import Protocol

from voicerelay.transceiver.agent import ChannelHandler, Message
from voicerelay.transceiver.voice.unread import Unread

MAX_UNREAD_MESSAGES = 256
MAX_UNREAD_BYTES = 1 << 20
MAX_MESSAGE_BYTES = 256 * 1024  # to send
MAX_UNSENT_BYTES = 1 << 20  # waiting for a client that does not read, on one channel
MAX_CHANNELS = 16  # open at a time
MAX_TAPS = 4


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
        self._taps: list[DataChannel] = []
        self._handlers: dict[str, ChannelHandler] = {}
        self.closed = False
        self.dialect: Dialect | None = None
        self.unread: Unread[Message] = Unread(MAX_UNREAD_MESSAGES, keep_oldest=True)

    def opened(self, channel: DataChannel) -> bool:
        """The client has opened one; False when it has too many."""
        self._channels = self._open()
        if len(self._channels) >= MAX_CHANNELS:
            return False
        self._channels.append(channel)
        self._tell_opened(channel.label)
        return True

    def received(self, label: str, data: str | bytes) -> bool:
        """A message; False when too much waits already: then it is dropped and counted."""
        handler = self._handlers.get(label)
        if handler is not None:
            handler.received(data)
            return True
        if self.dialect is not None and self.dialect.received(label, data):
            return True
        before = self.unread.dropped
        waiting = sum(_size(message.data) for message in self.unread.waiting())
        if waiting + _size(data) > MAX_UNREAD_BYTES:
            self.unread.dropped += 1
        else:
            self.unread.put(Message(label, data))
        return self.unread.dropped == before

    def send(self, data: str | bytes, label: str | None) -> None:
        """To the channel, and to the taps of its label.

        Raises ValueError: no such channel, too long, congested, or neither str nor bytes.
        """
        size = _size(data)
        if size > MAX_MESSAGE_BYTES:
            raise ValueError(f"a message has at most {MAX_MESSAGE_BYTES} bytes, not {size}")
        if self._send_to_taps(data, size, label) and not self._are_open(label):
            return
        channel = self._named(label)
        if channel.bufferedAmount + size > MAX_UNSENT_BYTES:
            raise ValueError(f"the client does not read data channel {channel.label!r}")
        channel.send(data)

    def handle(self, label: str, handler: ChannelHandler) -> None:
        """From now on messages of that label go to the handler and not to `unread`."""
        self._handlers[label] = handler
        if self._are_open(label) or any(tap.label == label for tap in self._taps):
            handler.opened()

    def handler(self, label: str) -> ChannelHandler | None:
        return self._handlers.get(label)

    def tap(self, channel: DataChannel) -> bool:
        """Somebody beside the client reads what goes to a label; False: too many do."""
        if self.closed or len(self._taps) >= MAX_TAPS:
            return False
        self._taps.append(channel)
        self._tell_opened(channel.label)
        return True

    def untap(self, channel: DataChannel) -> None:
        if channel in self._taps:
            self._taps.remove(channel)

    def close(self) -> None:
        """The call has ended; whoever took part is let go of, for each of them knows the call."""
        if self.closed:
            return
        if self.dialect is not None:
            self.dialect.leaving()
        self.closed = True
        self.unread.close()
        handlers, self._handlers = self._handlers, {}
        for handler in handlers.values():
            handler.closed()
        self.dialect = None
        self._channels.clear()
        self._taps.clear()

    def _tell_opened(self, label: str) -> None:
        if label in self._handlers:
            self._handlers[label].opened()

    def _send_to_taps(self, data: str | bytes, size: int, label: str | None) -> bool:
        """Whether there are any; one that does not read misses what it has no room for."""
        taps = [tap for tap in self._taps if tap.label == label and tap.readyState == "open"]
        for tap in taps:
            if tap.bufferedAmount + size <= MAX_UNSENT_BYTES:
                tap.send(data)
        return bool(taps)

    def _are_open(self, label: str | None) -> bool:
        return any(label in (None, channel.label) for channel in self._open())

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
