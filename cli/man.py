"""`voicerelay man` and `voicerelay completion`: a manual page and completions, made of the commands."""

import textwrap
from collections.abc import Iterator

import click
from click.shell_completion import get_completion_class

from voicerelay import __version__
from voicerelay.cli.configfile import FILE_NAME, SYSTEM_FILE

PROGRAM = "voicerelay"
SHELLS = ("bash", "fish", "zsh")
CODES = (
    (0, "All is well."),
    (2, "Something is wrong that can be mended; one line on stderr says what and how."),
    (3, "No instance runs."),
)


@click.command()
@click.argument("shell", type=click.Choice(SHELLS))
@click.pass_context
def completion(ctx: click.Context, shell: str) -> None:
    """Print a script that completes commands and options.

    For bash: eval "$(voicerelay completion bash)" in ~/.bashrc.
    """
    made = get_completion_class(shell)
    assert made is not None  # click knows all of SHELLS
    command = ctx.find_root().command
    click.echo(made(command, {}, PROGRAM, f"_{PROGRAM.upper()}_COMPLETE").source())


@click.command()
@click.pass_context
def man(ctx: click.Context) -> None:
    """Print the manual page.

    To read it: voicerelay man | man -l -
    """
    group = ctx.find_root().command
    assert isinstance(group, click.Group)
    click.echo(render(group))


def render(group: click.Group) -> str:
    """The whole page in the roff of man(7)."""
    ctx = click.Context(group, info_name=PROGRAM)
    lines = [
        f'.TH {PROGRAM.upper()} 1 "" "{PROGRAM} {__version__}" "User Commands"',
        *(".SH NAME", f"{PROGRAM} \\- {_text(group.get_short_help_str(200).rstrip('.'))}"),
        *(".SH SYNOPSIS", f".B {PROGRAM}", "COMMAND [OPTIONS] [ARGUMENTS]"),
        ".SH COMMANDS",
    ]
    for name in group.list_commands(ctx):
        command = group.get_command(ctx, name)
        if command is not None and not command.hidden:
            lines += _command(command, click.Context(command, ctx, name), f"{PROGRAM} {name}")
    lines += [".SH OPTIONS OF EVERY COMMAND", *_options(group, ctx)]
    lines += [".SH FILES", ".TP", f".I {_text(FILE_NAME)}", "Settings, in the working directory."]
    lines += [".TP", f".I {_text(str(SYSTEM_FILE))}", "Settings, where there is none."]
    lines += [".SH EXIT STATUS"]
    for code, meaning in CODES:
        lines += [".TP", f".B {code}", _text(meaning)]
    return "\n".join(lines)


def _command(command: click.Command, ctx: click.Context, path: str) -> Iterator[str]:
    pieces = " ".join(command.collect_usage_pieces(ctx))
    yield f".SS {_text(path)} {_text(pieces)}"
    for paragraph in textwrap.dedent(command.help or "").strip().split("\n\n"):
        yield from (".PP", _text(" ".join(paragraph.split())))
    yield from _options(command, ctx)
    if isinstance(command, click.Group):
        for name in command.list_commands(ctx):
            inner = command.get_command(ctx, name)
            if inner is not None and not inner.hidden:
                yield from _command(inner, click.Context(inner, ctx, name), f"{path} {name}")


def _options(command: click.Command, ctx: click.Context) -> Iterator[str]:
    """Each with its help; `--help` once, at the end of the page."""
    for parameter in command.get_params(ctx):
        record = parameter.get_help_record(ctx)
        if record is None or (ctx.parent is not None and parameter.name == "help"):
            continue
        names, about = record
        yield from (".TP", f".B {_text(names)}")
        variable = parameter.envvar
        yield (
            _text(about + (f" Variable: {variable}." if isinstance(variable, str) else "")) or "\\&"
        )


def _text(text: str) -> str:
    """Free text in roff: nothing in it is a request or an escape."""
    escaped = " ".join(text.split()).replace("\\", "\\e").replace("-", "\\-")
    return f"\\&{escaped}" if escaped.startswith((".", "'")) else escaped
