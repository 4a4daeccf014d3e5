"""Errors a user can mend: one line on stderr, an exit code, never a traceback."""

import click
import pytest
from click.testing import CliRunner

from voicerelay.cli.errors import NotRunning, UserError


@pytest.mark.parametrize(("error", "code"), [(UserError, 2), (NotRunning, 3)])
def test_an_error_is_one_line_and_an_exit_code(error: type[UserError], code: int) -> None:
    @click.command()
    def command() -> None:
        raise error("what is wrong; how to mend it")

    result = CliRunner().invoke(command)

    assert result.stderr == "voicerelay: error: what is wrong; how to mend it\n"
    assert (result.stdout, result.exit_code) == ("", code)
