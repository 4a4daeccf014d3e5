"""Errors a user can mend: one line, what is wrong and how to mend it, exit code 2."""

import click


class UserError(click.ClickException):
    """Shown as one line; never a traceback."""

    exit_code = 2

    def show(self, file: object = None) -> None:
        click.echo(f"voicerelay: error: {self.format_message()}", err=True)


class NotRunning(UserError):
    """There is no instance to look at."""

    exit_code = 3
