"""`voicerelay init`: an agent, its settings and a README to start from."""

from pathlib import Path

import click

from voicerelay.cli.configfile import FILE_NAME, render_toml
from voicerelay.cli.errors import UserError

AGENT = '''\
"""Answers each call with what it hears. Put your own agent here."""

from voicerelay import App, Session

app = App()


@app.session
async def agent(session: Session) -> None:
    """One task a call; it ends with the call, or ends it."""
    async for frame in session.listen(rate=24_000):  # 20 ms, int16
        await session.play(frame, rate=24_000)
'''
README = """\
# A voice agent

    voicerelay dev             # on this machine: http://localhost:8080/, starts again when a file changes
    voicerelay check-config    # what is wrong, before a start
    voicerelay start           # with the settings of voicerelay.toml

Run them in this directory. `agent.py` is the agent, `voicerelay.toml` holds the settings; what begins with
"#" there is a default. For callers from elsewhere open the UDP port (3478), put TLS in front of the HTTP
port (8080), and set `api-key-file`.
"""


@click.command()
@click.argument("directory", type=click.Path(path_type=Path, file_okay=False), default=".")
def init(directory: Path) -> None:
    """Write an agent, its voicerelay.toml and a README into DIRECTORY; overwrites nothing."""
    files = {
        "agent.py": AGENT,
        FILE_NAME: render_toml({"app": "agent:app"}),
        "README.md": README,
    }
    there = [name for name in files if (directory / name).exists()]
    if there:
        raise UserError(f"{directory} has {', '.join(there)} already; choose another directory")
    try:
        directory.mkdir(parents=True, exist_ok=True)
        for name, text in files.items():
            with (directory / name).open("x") as file:  # never over one that came meanwhile
                file.write(text)
    except OSError as exc:
        raise UserError(f"cannot write into {directory}: {exc.strerror}") from None
    click.echo(f"wrote {', '.join(str(directory / name) for name in files)}")
    click.echo(f"now: cd {directory} && voicerelay dev")
