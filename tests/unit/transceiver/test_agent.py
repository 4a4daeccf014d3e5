"""How an APP is found, and what each mistake of its author is answered with."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import voicerelay
from voicerelay.transceiver.agent import App, AppError, AudioPacket, load_app

GOOD = """
from voicerelay import App, Session
app = App()
class holder:
    inner = app
@app.session
async def agent(session: Session) -> None: ...
empty = App()
number = 3
"""


@pytest.fixture(autouse=True)
def working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where the user starts voicerelay; what is imported from there is forgotten again."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    (tmp_path / "good_agent.py").write_text(GOOD)
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", "") or "").startswith(str(tmp_path)):
            del sys.modules[name]


@pytest.mark.parametrize("target", ["good_agent:app", "good_agent:holder.inner"])
def test_an_app_is_found_in_the_working_directory(target: str) -> None:
    app = load_app(target)

    assert isinstance(app, App)
    assert app.agent is not None


def test_the_default_app_is_there() -> None:
    app = load_app("voicerelay.echo:app")

    assert isinstance(app, App)
    assert app.agent is not None


@pytest.mark.parametrize("target", ["", "good_agent", ":app", "good_agent:", ":"])
def test_a_target_without_both_halves_is_refused(target: str) -> None:
    with pytest.raises(AppError, match='must be "module:attribute"'):
        load_app(target)


@pytest.mark.parametrize("name", ["no_such_agent", "no_such_package.agent"])
def test_a_missing_module_is_named(name: str) -> None:
    with pytest.raises(AppError, match=f'no module "{name}"'):
        load_app(f"{name}:app")


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("import no_such_library", "importing .* failed: No module named 'no_such_library'"),
        ("app = (", "importing .* failed: SyntaxError"),
        ("1 / 0", "importing .* failed: ZeroDivisionError: division by zero"),
        ("from voicerelay import Nothing", "importing .* failed: ImportError"),
    ],
)
def test_a_module_that_cannot_be_imported_says_why_in_one_line(
    working_directory: Path, source: str, said: str
) -> None:
    (working_directory / "bad_agent.py").write_text(source)

    with pytest.raises(AppError, match=said) as caught:
        load_app("bad_agent:app")

    assert "\n" not in str(caught.value)


def test_a_relative_module_name_is_refused() -> None:
    with pytest.raises(AppError):
        load_app(".good_agent:app")


@pytest.mark.parametrize("attribute", ["missing", "number", "holder", "holder.none", "app:app"])
def test_an_attribute_that_is_no_app_is_refused(attribute: str) -> None:
    with pytest.raises(AppError, match=r"is not a voicerelay\.App"):
        load_app(f"good_agent:{attribute}")


ASGI = """
async def app(scope, receive, send): ...
class Framework:
    async def __call__(self, scope, receive, send): ...
instance = Framework()
async def agent(session): ...
"""


@pytest.mark.parametrize("attribute", ["app", "instance"])
def test_an_asgi_application_is_an_app(working_directory: Path, attribute: str) -> None:
    (working_directory / "asgi_app.py").write_text(ASGI)

    app = load_app(f"asgi_app:{attribute}")

    assert callable(app)


@pytest.mark.parametrize("attribute", ["Framework", "agent"])
def test_what_is_called_otherwise_is_no_asgi_application(
    working_directory: Path, attribute: str
) -> None:
    (working_directory / "asgi_app.py").write_text(ASGI)

    with pytest.raises(AppError, match="nor an ASGI application"):
        load_app(f"asgi_app:{attribute}")


def test_an_app_without_an_agent_is_refused() -> None:
    with pytest.raises(AppError, match="has no agent; decorate one"):
        load_app("good_agent:empty")


def test_the_decorator_leaves_the_coroutine_function_as_it_is() -> None:
    app = App()

    async def agent(session: voicerelay.Session) -> None: ...

    assert app.session(agent) is agent
    assert app.agent is agent


def test_an_audio_packet_is_without_marker_unless_told() -> None:
    assert AudioPacket(b"opus", 1, 960) == (b"opus", 1, 960, False)


def test_the_public_names_are_these() -> None:
    assert set(voicerelay.__all__) == {
        "Agent",
        "App",
        "AppError",
        "AudioPacket",
        "ChannelHandler",
        "Message",
        "RealtimeSession",
        "Request",
        "Session",
        "SessionClosed",
        "Speech",
        "Stats",
        "__version__",
        "unpin",
    }
    assert all(getattr(voicerelay, name) for name in voicerelay.__all__)
    with pytest.raises(AttributeError, match="nothing_of_ours"):
        _ = voicerelay.nothing_of_ours
