"""Command-line entry of this package's commands: parse the options, run the command, report errors.

Nothing heavy is imported before the options are parsed, so that ``--help`` answers at once.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from typing import Annotated, Any, NoReturn, TypeVar, Union

T = TypeVar("T")


def run_command(name: str, options: type[T], command: Callable[[T], object]) -> NoReturn:
    """Parse the command line into ``options``, call ``command`` with them, and exit."""
    _run(name, lambda _: options, command)


def run_subcommands(name: str, commands: Mapping[str, tuple[type[Any], Callable[[Any], object]]]) -> NoReturn:
    """`run_command` for a command with subcommands, each with its options and its function."""

    def union_of_options(tyro: Any) -> Any:
        kinds = tuple(Annotated[kind, tyro.conf.subcommand(word)] for word, (kind, _) in commands.items())
        return Union[kinds]  # noqa: UP007 - the number of subcommands is only known at run time

    def run_subcommand(parsed: Any) -> None:
        for kind, command in commands.values():
            if isinstance(parsed, kind):
                command(parsed)

    _run(name, union_of_options, run_subcommand)


def _run(name: str, options: Callable[[Any], Any], command: Callable[[Any], object]) -> NoReturn:
    """``options`` returns the options' type, given the module tyro: tyro may not be installed."""
    from spine_etl.errors import SpineError

    try:
        import tyro

        flags = (tyro.conf.FlagCreatePairsOff, tyro.conf.OmitSubcommandPrefixes)
        command(tyro.cli(options(tyro), prog=f"python -m {name}", config=flags))
    except SpineError as error:
        _exit(f"\nerror: {error}", 1)
    except ModuleNotFoundError as error:
        _exit(f"error: {error.name} is not installed: pip install 'spine-etl[model]'.", 1)
    except KeyboardInterrupt:
        _exit("\nInterrupted.", 130)
    sys.exit(0)


def _exit(text: str, status: int) -> NoReturn:
    print(text, file=sys.stderr)
    sys.exit(status)
