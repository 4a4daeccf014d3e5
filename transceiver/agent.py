"""What a user of voicerelay writes against: App, Session, AudioPacket; and how an APP is found."""

import importlib
import sys
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import NamedTuple


class AudioPacket(NamedTuple):
    """One Opus packet, as RTP carries it (RFC 7587).

    payload: Opus, usually 20 ms. sequence: 16 bits, timestamp: 32 bits at 48 kHz; both wrap.
    marker: first packet after silence.
    """

    payload: bytes
    sequence: int
    timestamp: int
    marker: bool = False


class Session(ABC):
    """One call. Lives as long as the agent runs and the client stays."""

    @property
    @abstractmethod
    def id(self) -> str:
        """The session's public id, as in its resource URL."""

    @abstractmethod
    def packets(self) -> AsyncIterator[AudioPacket]:
        """What the caller says, packet by packet; ends with the call.

        At most `MAX_UNREAD_PACKETS` wait for a slow agent, then the oldest are dropped and counted.
        """

    @abstractmethod
    def send(self, packet: AudioPacket) -> None:
        """Say one packet at once. Sequence and timestamp distances are kept, values are ours."""

    @abstractmethod
    def close(self) -> None:
        """End the call; the client is told."""


Agent = Callable[[Session], Awaitable[None]]


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

    def session(self, agent: Agent) -> Agent:
        """Use this coroutine function for every call; one task a call."""
        self.agent = agent
        return agent


def load_app(target: str) -> App:
    """The App named `module:attribute`, looked for in the working directory too, as uvicorn does.

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
    if not isinstance(app, App):
        raise AppError(f'APP: "{attribute}" in "{name}" is not a voicerelay.App')
    if app.agent is None:
        raise AppError(f'APP: "{target}" has no agent; decorate one with @app.session')
    return app
