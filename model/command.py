"""What the commands of this package share: options from a dataclass, refusals as one line.

Nothing heavy is imported before the options are parsed, so that ``--help`` answers at once.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import NoReturn, TypeVar

T = TypeVar("T")


def run_command(name: str, options: type[T], work: Callable[[T], None]) -> NoReturn:
    """Parse the command line into ``options``, do the work, end the process."""
    import tyro

    parsed = tyro.cli(options, prog=f"python -m {name}", config=(tyro.conf.FlagCreatePairsOff,))
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
