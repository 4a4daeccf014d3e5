"""The page about agents keeps up with the code: snippets compile, what it names is there, limits are right."""

import ast
import inspect
import re
from pathlib import Path

from voicerelay import App, Session, Stats
from voicerelay.transceiver import channels
from voicerelay.transceiver.voice import hearing, outbound

PAGE = (Path(__file__).parents[2] / "docs" / "agents.md").read_text()


def snippets() -> list[str]:
    return re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)


def test_every_snippet_compiles() -> None:
    assert len(snippets()) > 4
    for snippet in snippets():
        compile(snippet, "docs/agents.md", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)


def test_the_first_snippet_is_a_whole_app() -> None:
    names: dict[str, object] = {}

    exec(snippets()[0], names)

    assert isinstance(names["app"], App)
    assert names["app"].agent is names["agent"]


def test_what_a_session_can_do_is_there_and_nothing_else() -> None:
    can = {name for name, _ in inspect.getmembers(Session) if not name.startswith("_")}
    can |= {name for name in Session.__annotations__ if not name.startswith("_")}

    assert set(re.findall(r"\bsession\.([a-z_]+)", PAGE)) == can - {"id"}
    fields = set(re.findall(r"stats\(\)\.([a-z_]+)", PAGE))
    assert fields <= set(Stats.__annotations__)


def test_limits_are_as_they_are_told() -> None:
    assert hearing.MAX_UNREAD_S == outbound.OUTPUT_BUFFER_S == 1.0
    assert hearing.MAX_UNREAD_SPEECH == 64
    assert (channels.MAX_UNREAD_MESSAGES, channels.MAX_UNREAD_BYTES) == (256, 1 << 20)
    assert (channels.MAX_MESSAGE_BYTES, channels.MAX_UNSENT_BYTES) == (256 << 10, 1 << 20)
    assert channels.MAX_CHANNELS == 16


# ---- docs/security.md ----------------------------------------------------------------------------

ROOT = Path(__file__).parents[2]
SECURITY = (ROOT / "docs" / "security.md").read_text()
NAMED = sorted(set(re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", SECURITY)))


def test_every_attack_has_a_test_that_exists() -> None:
    rows = [line for line in SECURITY.splitlines() if line.startswith("| ")][1:]
    assert len(rows) == 14
    for row in rows:
        assert "::test_" in row, row
    for file, name in NAMED:
        functions = ast.parse((ROOT / file).read_text()).body
        assert name in {one.name for one in functions if isinstance(one, ast.FunctionDef)}, name


def test_every_defence_is_where_the_page_says() -> None:
    for place in re.findall(r"`((?:relay|transceiver|control|shm)/[\w/.]*)`", SECURITY):
        assert (ROOT / place).exists(), place
