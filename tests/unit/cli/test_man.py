"""The manual page and the completions hold every command and option there is."""

from collections.abc import Iterator

import click
import pytest
from click.shell_completion import ShellComplete
from click.testing import CliRunner

from voicerelay.cli.main import main
from voicerelay.cli.man import SHELLS, render

REQUESTS = {".TH", ".SH", ".SS", ".PP", ".TP", ".B", ".I"}


def commands(group: click.Group, path: str = "voicerelay") -> Iterator[tuple[str, click.Command]]:
    for name, command in group.commands.items():
        if command.hidden:
            continue
        yield f"{path} {name}", command
        if isinstance(command, click.Group):
            yield from commands(command, f"{path} {name}")


def test_every_command_and_option_is_in_the_page() -> None:
    page = render(main).replace("\\-", "-")

    assert len(list(commands(main))) > 6
    for path, command in commands(main):
        section = next(  # a group's own stands before its commands'
            part for part in page.split("\n.S") if part.startswith((f"S {path} ", f"S {path}\n"))
        )
        for parameter in command.params:
            if isinstance(parameter, click.Option) and not parameter.hidden:
                assert parameter.opts[-1] in section, (path, parameter.opts)
                assert not isinstance(parameter.envvar, str) or parameter.envvar in section


def test_nothing_in_the_page_is_a_request_by_chance() -> None:
    lines = render(main).splitlines()

    begins = {line.split(" ")[0] for line in lines if line.startswith((".", "'"))}

    assert begins <= REQUESTS
    assert lines[0].startswith(".TH VOICERELAY 1 ")
    assert all(lines)


def test_text_with_roff_in_it_is_text() -> None:
    @click.group(help="A.")
    def group() -> None:
        pass

    @group.command()
    @click.option("--path", help=r".so /etc/passwd \n-x")
    def run(path: str) -> None:
        "'begins with a quote."

    page = render(group).splitlines()

    assert r"\&.so /etc/passwd \en\-x" in page
    assert r"\&'begins with a quote." in page


@pytest.mark.parametrize("shell", SHELLS)
def test_each_shell_has_its_script(shell: str) -> None:
    result = CliRunner().invoke(main, ["completion", shell])

    assert result.exit_code == 0
    assert f"_VOICERELAY_COMPLETE={shell}_complete" in result.stdout


def test_options_and_commands_complete() -> None:
    complete = ShellComplete(main, {}, "voicerelay", "_VOICERELAY_COMPLETE")

    assert [one.value for one in complete.get_completions([], "print-")] == ["print-config"]
    assert "--port" in [one.value for one in complete.get_completions(["start"], "--po")]
    assert [one.value for one in complete.get_completions(["start", "--steering"], "o")] == [
        *("on", "off"),
    ]


def test_the_page_is_printed() -> None:
    assert CliRunner().invoke(main, ["man"]).stdout.startswith(".TH VOICERELAY 1")
