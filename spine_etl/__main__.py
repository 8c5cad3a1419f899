"""The command line: python -m spine_etl {phantom,read,inspect,show,check}.

Exit status: 0 success; 1 an error, or check found faults; 2 wrong command line; 130 interrupted.
"""

from __future__ import annotations

import argparse
import os
import sys

from spine_etl.commands import check, inspect, phantom, read, show
from spine_etl.errors import SpineError

_COMMANDS = (phantom, read, inspect, show, check)


def main(argv: list[str] | None = None) -> int:
    """Run one command and return its exit status."""
    options = _parser().parse_args(argv)
    try:
        status: int = options.run(options)
        sys.stdout.flush()
    except SpineError as error:
        return _fail(str(error))
    except BrokenPipeError:
        # The reader of our output has closed the pipe. The interpreter flushes standard output once more at
        # exit: redirect it, so that this flush does not fail too.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except ModuleNotFoundError as error:
        return _fail(f"{error.name} is not installed: pip install 'spine-etl[read]'.")
    except OSError as error:
        return _fail(f"{error.filename or 'a file'}: {error.strerror}.")
    except KeyboardInterrupt:
        return 130
    return status


def _fail(reason: str) -> int:
    print(f"error: {reason}", file=sys.stderr)
    return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m spine_etl",
        description="Make, read, view and check cervical-spine CT studies and the datasets built from them.",
        epilog="Exit status: 0 success, 1 an error or faults found, 2 wrong command line, 130 interrupted.",
    )
    subparsers = parser.add_subparsers(required=True, metavar="COMMAND")
    for command in _COMMANDS:
        name = command.__name__.rpartition(".")[2]
        subparser = subparsers.add_parser(name, help=command.HELP, description=command.HELP)
        command.add_arguments(subparser)
        subparser.set_defaults(run=command.run, parser=subparser)
    return parser


if __name__ == "__main__":
    sys.exit(main())
