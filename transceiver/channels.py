"""A call's data channels: what the client sends waits for the agent, what the agent sends is bounded."""

from typing import Protocol

from voicerelay.transceiver.agent import Message
from voicerelay.transceiver.unread import Unread

MAX_UNREAD_MESSAGES = 256
MAX_MESSAGE_BYTES = 256 * 1024  # to send
MAX_UNSENT_BYTES = 1 << 20  # waiting for a client that does not read
MAX_CHANNELS = 16


class DataChannel(Protocol):
    """What is used of aiortc's RTCDataChannel."""

    @property
    def label(self) -> str: ...

    @property
    def readyState(self) -> str: ...

    @property
    def bufferedAmount(self) -> int: ...

    def send(self, data: str | bytes) -> None: ...


class Channels:
    """By label; a second channel of a label takes the place of the first."""

    def __init__(self) -> None:
        self._channels: dict[str, DataChannel] = {}
        self.closed = False
        self.unread: Unread[Message] = Unread(MAX_UNREAD_MESSAGES, keep_oldest=True)

    def opened(self, channel: DataChannel) -> bool:
        """The client has opened one; False when it has too many."""
        if len(self._channels) >= MAX_CHANNELS and channel.label not in self._channels:
            return False
        self._channels[channel.label] = channel
        return True

    def received(self, label: str, data: str | bytes) -> None:
        self.unread.put(Message(label, data))

    def send(self, data: str | bytes, label: str | None) -> None:
        """Raises ValueError: no such channel, too long, or congested."""
        first = next(iter(self._channels.values()), None)
        channel = first if label is None else self._channels.get(label)
        if channel is None or channel.readyState != "open":
            which = "data channel" if label is None else f"data channel {label!r}"
            raise ValueError(f"the client has no open {which}")
        size = len(data.encode()) if isinstance(data, str) else len(data)
        if size > MAX_MESSAGE_BYTES:
            raise ValueError(f"a message has at most {MAX_MESSAGE_BYTES} bytes, not {size}")
        if channel.bufferedAmount + size > MAX_UNSENT_BYTES:
            raise ValueError(f"the client does not read data channel {channel.label!r}")
        channel.send(data)

    def close(self) -> None:
        """The call has ended."""
        self.closed = True
        self._channels.clear()  # each holds its connection
        self.unread.close()
