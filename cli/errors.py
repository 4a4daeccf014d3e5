"""Errors a user can mend: one line, what is wrong and how to mend it, exit code 2."""

import contextlib
from collections.abc import Iterator
from typing import Any

import click


class UserError(click.ClickException):
    """Shown as one line; never a traceback."""

    exit_code = 2

    def show(self, file: object = None) -> None:
        click.echo(f"voicerelay: error: {self.format_message()}", err=True)


class OneLineGroup(click.Group):
    """Has click's own complaints about the command line shown in the same form."""

    def make_context(
        self,
        info_name: str | None,
        args: list[str],
        parent: click.Context | None = None,
        **extra: Any,
    ) -> click.Context:
        with _one_line():
            return super().make_context(info_name, args, parent, **extra)

    def invoke(self, ctx: click.Context) -> Any:
        with _one_line():
            return super().invoke(ctx)


@contextlib.contextmanager
def _one_line() -> Iterator[None]:
    try:
        yield
    except click.exceptions.NoArgsIsHelpError:
        raise
    except click.UsageError as exc:
        raise UserError(f"{exc.format_message()} (see --help)") from None


class NotRunning(UserError):
    """There is no instance to look at."""

    exit_code = 3
