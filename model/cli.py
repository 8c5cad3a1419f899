"""What the commands of this package share: options from a dataclass, refusals as one line.

Nothing heavy is imported before the options are parsed, so that ``--help`` answers at once.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from typing import Annotated, Any, NoReturn, TypeVar, Union

T = TypeVar("T")


def run_command(name: str, options: type[T], work: Callable[[T], object]) -> NoReturn:
    """Parse the command line into ``options``, do the work, end the process."""
    _run(name, lambda _: options, work)


def run_commands(name: str, commands: Mapping[str, tuple[type[Any], Callable[[Any], object]]]) -> NoReturn:
    """The same for a command with parts: its first word chooses the options and the work."""

    def parts(tyro: Any) -> Any:
        words = tuple(Annotated[kind, tyro.conf.subcommand(word)] for word, (kind, _) in commands.items())
        return Union[words]  # noqa: UP007 - made at run time, from as many as there are

    def work(parsed: Any) -> None:
        for kind, part in commands.values():
            if isinstance(parsed, kind):
                part(parsed)

    _run(name, parts, work)


def _run(name: str, options: Callable[[Any], Any], work: Callable[[Any], object]) -> NoReturn:
    """``options`` is asked for the options' type with tyro in hand, since tyro may not be installed."""
    from spine_etl.errors import SpineError

    try:
        import tyro

        flags = (tyro.conf.FlagCreatePairsOff, tyro.conf.OmitSubcommandPrefixes)
        work(tyro.cli(options(tyro), prog=f"python -m {name}", config=flags))
    except SpineError as error:
        _end(f"\nerror: {error}", 1)
    except ModuleNotFoundError as error:
        _end(f"error: {error.name} is not installed: pip install 'spine-etl[model]'.", 1)
    except KeyboardInterrupt:
        _end("\nInterrupted.", 130)
    sys.exit(0)


def _end(text: str, status: int) -> NoReturn:
    print(text, file=sys.stderr)
    sys.exit(status)
