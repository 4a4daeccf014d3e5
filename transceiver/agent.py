"""What a user of voicerelay writes against: App, Session and what they carry; and how an APP is found."""

import importlib
import inspect
import sys
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeGuard, TypeVar

if TYPE_CHECKING:  # the command line and the supervisor do without numpy and libopus
    from voicerelay.shm.counters import TransceiverCounter
    from voicerelay.transceiver.voice.opus import Pcm
    from voicerelay.transceiver.voice.pcm import PcmLike

DEFAULT_LISTEN_RATE = 16_000  # Hz, what most recognizers take
DEFAULT_PLAY_RATE = 24_000  # Hz, what most synthesizers give


class AudioPacket(NamedTuple):
    """One Opus packet, as RTP carries it (RFC 7587).

    payload: Opus, usually 20 ms. sequence: 16 bits, timestamp: 32 bits at 48 kHz; both wrap.
    marker: first packet after silence.
    """

    payload: bytes
    sequence: int
    timestamp: int
    marker: bool = False


class Message(NamedTuple):
    """What came over a data channel. channel: its label. data: str for text, bytes for binary."""

    channel: str
    data: str | bytes


class ChannelHandler(Protocol):
    """Takes what comes over the data channels of one label, at once and in order; must not block."""

    def opened(self) -> None:
        """The client has opened a channel; again for each."""

    def received(self, data: str | bytes) -> None: ...

    def closed(self) -> None:
        """The call has ended."""


class Speech(NamedTuple):
    """The caller began to speak, or stopped.

    at_ms: when, on the time line of what `listen` and `speech` have heard of the call: frame
    number n of the first `listen` begins at 20 n ms.
    """

    started: bool
    at_ms: int


@dataclass(frozen=True)
class Request:
    """The HTTP request that began the call. body: what came as JSON beside the offer, else None.

    headers are found whatever their case; of several with one name the first.
    key: the name of the API key; subject: who its token was made for; both are empty without.
    """

    path: str = ""
    query: Mapping[str, str] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    body: Any = None
    key: str = ""
    subject: str = ""


@dataclass(frozen=True)
class Stats:
    """Figures of a call so far. Fractions and times are of the latest RTCP reports, None before."""

    duration_s: float
    packets_in: int
    packets_out: int
    packets_lost_in: int
    recovered_ms: int  # heard from the FEC of a later packet
    concealed_ms: int  # lost, and made up
    silent_ms: int  # lost or not sent, and heard as silence
    unread_ms: int  # dropped, because the agent did not read
    fraction_lost_out: float
    rtt_ms: float | None
    jitter_ms: float | None
    frames_played: int
    played_ms: int  # of what was given to `play`, really sent
    interrupted_ms: int  # dropped by `interrupt`
    messages_unread: int  # dropped, because the agent did not read


class SessionClosed(Exception):
    """The call has ended, so nothing more can be said in it."""


class Session(ABC):
    """One call. Lives as long as the agent runs and the client stays.

    Frames are numpy arrays: int16, mono, 20 ms. Whoever first asks for the caller's voice begins
    with what has come so far, at most a second of it. Only for use in the event loop's own thread.
    """

    request: Request

    @property
    @abstractmethod
    def id(self) -> str:
        """The session's public id, as in its resource URL."""

    @abstractmethod
    def listen(self, rate: int = DEFAULT_LISTEN_RATE) -> "AsyncIterator[Pcm]":
        """What the caller says, 20 ms at a time; ends with the call.

        rate: 8000, 12000, 16000, 24000 or 48000 Hz. Loss is repaired (FEC) or concealed, so
        that each 20 ms come once and in order. At most a second waits for a slow agent, then the
        oldest frames are dropped and counted. A later call ends the iteration of an earlier one.
        Raises ValueError for another rate.
        """

    @abstractmethod
    async def play(self, pcm: "PcmLike", rate: int = DEFAULT_PLAY_RATE) -> None:
        """Say something; returns once all of it waits or is under way, at most 1 s before its end.

        pcm: mono int16 array, or its little-endian bytes, of any length. rate: 8000 to 96000 Hz.
        Returns early after `interrupt`. What several tasks play at once is mixed up in time.
        Raises SessionClosed, and ValueError for what is no PCM.
        """

    @abstractmethod
    def interrupt(self) -> int:
        """Stop speaking at once (barge-in); the milliseconds of the utterance really sent.

        An utterance begins with the first `play` after the start, after `interrupt`, after
        `drain`, or after a second of silence. After the call: what was said of the last one.
        """

    @abstractmethod
    async def drain(self) -> None:
        """Wait until all that was played has been sent, or the call has ended."""

    @abstractmethod
    def speech(self) -> AsyncIterator[Speech]:
        """When the caller begins and stops to speak; ends with the call.

        Needs the extra "vad". Raises RuntimeError without it.
        """

    @abstractmethod
    def messages(self) -> AsyncIterator[Message]:
        """What comes over the client's data channels; ends with the call.

        At most MAX_UNREAD_MESSAGES and MAX_UNREAD_BYTES wait for a slow agent, then new ones are
        dropped and counted. Several tasks may read: each message goes to one of them.
        """

    @abstractmethod
    def send_message(self, data: str | bytes, channel: str | None = None) -> None:
        """Send over the client's data channel of that label; None: the first it has opened.

        At most MAX_MESSAGE_BYTES, and what the client says it takes. Raises SessionClosed, and
        ValueError when there is no such open channel, it is congested, or `data` is too long.
        """

    @abstractmethod
    def handle_channel(self, label: str, handler: ChannelHandler) -> None:
        """From now on messages of that label go to the handler, and not to `messages`."""

    @abstractmethod
    def channel_handler(self, label: str) -> ChannelHandler | None:
        """Who handles the channels of that label."""

    @abstractmethod
    def stats(self) -> Stats:
        """Figures of the call so far."""

    @abstractmethod
    def packets(self) -> AsyncIterator[AudioPacket]:
        """What the caller says as Opus packets, not decoded, not put in order; ends with the call.

        At most MAX_UNREAD_PACKETS wait for a slow agent, then the oldest are dropped and counted.
        """

    @abstractmethod
    def send(self, packet: AudioPacket) -> None:
        """Say one Opus packet at once. Sequence and timestamp distances are kept, values are ours."""

    @abstractmethod
    def close(self) -> None:
        """End the call; the client is told."""

    @abstractmethod
    def _note(self, what: "TransceiverCounter", by: int = 1) -> None:
        """For what stands between a client and an agent: count it in this process's figures."""


Agent = Callable[[Session], Awaitable[None]]
AgentT = TypeVar("AgentT", bound=Agent)
# An ASGI application, such as FastAPI's: takes scope, receive and send.
AsgiApp = Callable[[Any, Any, Any], Awaitable[None]]


class AppError(Exception):
    """APP cannot be used; the message says what is wrong and how to mend it."""


class App:
    """An application: tells voicerelay which coroutine speaks with a caller.

    app = App()

    @app.session
    async def agent(session: Session) -> None: ...
    """

    def __init__(self) -> None:
        self.agent: Agent | None = None

    def session(self, agent: AgentT) -> AgentT:
        """Use this coroutine function for every call; one task a call."""
        self.agent = agent
        return agent


def load_app(target: str) -> "App | AsgiApp":
    """What `module:attribute` names, looked for in the working directory too, as uvicorn does.

    Raises AppError.
    """
    name, _, attribute = target.partition(":")
    if not name or not attribute:
        raise AppError(f'APP must be "module:attribute", not "{target}"')
    if "" not in sys.path:
        sys.path.insert(0, "")
    try:
        module = importlib.import_module(name)
    except ModuleNotFoundError as exc:
        if exc.name and (name == exc.name or name.startswith(exc.name + ".")):
            raise AppError(
                f'APP: there is no module "{name}"; start where it can be imported'
            ) from exc
        raise AppError(f'APP: importing "{name}" failed: {exc}') from exc
    except (
        Exception,
        SystemExit,
    ) as exc:  # the user's module may raise anything; it becomes one line
        raise AppError(f'APP: importing "{name}" failed: {type(exc).__name__}: {exc}') from exc
    app: object = module
    for part in attribute.split("."):
        app = getattr(app, part, None)
    if _takes_asgi(app):
        return app
    if not isinstance(app, App):
        raise AppError(
            f'APP: "{attribute}" in "{name}" is not a voicerelay.App nor an ASGI application'
        )
    if app.agent is None:
        raise AppError(f'APP: "{target}" has no agent; decorate one with @app.session')
    return app


def _takes_asgi(app: object) -> TypeGuard[AsgiApp]:
    """Whether it can be called with scope, receive and send, and is no class."""
    if not callable(app) or isinstance(app, type):
        return False
    try:
        inspect.signature(app).bind(None, None, None)
    except (TypeError, ValueError):
        return False
    return True
