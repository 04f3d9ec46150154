"""The `voltfront` command: each room adds its own commands, errors become one line and an exit code."""

import sys
import traceback
from importlib import import_module

import click

from hw.errors import VoltfrontError

_COMMANDS = {
    "rtl": "hw.cli", "compile": "hw.cli", "simulate": "hw.cli", "cells": "flow.cli",
    "technology": "flow.cli", "characterize": "flow.cli", "tables": "flow.cli", "placement": "flow.cli", "doctor": "flow.cli",
    "fit": "fit.cli", "explore": "explore.commands", "schedule": "explore.commands", "report": "explore.commands", "run": "explore.commands",
    "verify": "explore.verify_command", "design": "explore.export_commands", "export": "explore.export_commands", "import": "explore.export_commands",
}  # fmt: skip
"""Which module holds each command. Modules are imported only when their command is used, so that `--help` is quick."""


class _Rooms(click.Group):
    def list_commands(self, context: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        if name not in _COMMANDS:
            return None
        module = import_module(_COMMANDS[name])
        return getattr(module, name, None) or getattr(module, f"{name}_")  # `import` is a word of Python's

    def resolve_command(self, context: click.Context, args: list[str]) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in _COMMANDS:
            context.fail(f"command must be one of {', '.join(_COMMANDS)}, not {args[0]!r}")
        return super().resolve_command(context, args)


@click.command(cls=_Rooms, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="voltfront")
def cli() -> None:
    """Pareto-optimal deep-learning accelerators with voltage as a design variable.

    Example: voltfront run
    """


def main(arguments: list[str] | None = None) -> None:
    """Run the command line; exits 0, or 2, 3, 4 for a bad input, a failing tool, a failing model, 130 when interrupted."""
    try:
        cli.main(args=arguments, prog_name="voltfront", standalone_mode=False)
    except VoltfrontError as error:
        click.echo(f"voltfront: {' '.join(str(error).split())}", err=True)
        sys.exit(error.exit_code)
    except click.ClickException as error:
        click.echo(f"voltfront: {' '.join(error.format_message().split())}", err=True)
        sys.exit(2)
    except click.exceptions.Exit as error:
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        click.echo("voltfront: interrupted; what was finished is kept, run the same command again to go on", err=True)
        sys.exit(130)
    except OSError as error:
        what = f"file must be accessible, not {error.filename}" if error.filename else "files must be read and written without an error of the system"
        click.echo(f"voltfront: {what}: {error.strerror or error}; what was finished is kept", err=True)
        sys.exit(2)
    except Exception:
        traceback.print_exc()
        click.echo("voltfront: this is a defect in voltfront; please report it with the lines above", err=True)
        sys.exit(1)


if __name__ == "__main__":
    main()
