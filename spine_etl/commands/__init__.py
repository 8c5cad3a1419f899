"""The subcommands of ``python -m spine_etl``, one module each.

A command module defines ``HELP``, ``add_arguments(parser)`` and ``run(options)``; ``run`` returns the exit
status. At import it loads only the standard library, so that ``--help`` answers at once.
"""
