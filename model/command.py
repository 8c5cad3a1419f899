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
    _run(name, options, work)


def run_commands(name: str, commands: Mapping[str, tuple[type[Any], Callable[[Any], object]]]) -> NoReturn:
    """The same for a command with parts: its first word chooses the options and the work."""
    import tyro

    parts = tuple(Annotated[kind, tyro.conf.subcommand(word)] for word, (kind, _) in commands.items())

    def work(parsed: Any) -> None:
        for kind, part in commands.values():
            if isinstance(parsed, kind):
                part(parsed)

    _run(name, Union[parts], work)  # noqa: UP007 - made at run time, from as many as there are


def _run(name: str, options: Any, work: Callable[[Any], object]) -> NoReturn:
    import tyro

    flags = (tyro.conf.FlagCreatePairsOff, tyro.conf.OmitSubcommandPrefixes)
    parsed = tyro.cli(options, prog=f"python -m {name}", config=flags)
    from spine_etl.errors import SpineError

    try:
        work(parsed)
    except SpineError as error:
        print(f"\nerror: {error}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        print("\nInterrupted.", file=sys.stderr)
        sys.exit(130)
    sys.exit(0)
