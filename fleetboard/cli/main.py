"""``fleetboard``: the operator's command.

Invariant: exit status 0 means done; 1 means one sentence on stderr says why not; 2 is argparse's for bad usage.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import logging
import sys
from collections.abc import Sequence

from fleetboard.cli import cluster, crds, token
from fleetboard.cli.errors import CommandError
from fleetboard.kube import errors


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return the exit status."""
    options = make_parser().parse_args(arguments)
    # Nothing but the sentence below: the library's warnings are meant for a log.
    logging.basicConfig(level=logging.CRITICAL)
    try:
        options.run(options)
    except (CommandError, errors.KubeError) as err:
        sys.stderr.write(f"fleetboard: {err}\n")
        return 1
    return 0


def make_parser() -> argparse.ArgumentParser:
    """Make the parser of all subcommands."""
    parser = argparse.ArgumentParser(prog="fleetboard", description="Joins Kubernetes clusters through a hub.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    token.add_parser(commands)
    cluster.add_parser(commands)
    crds.add_parser(commands)
    version = commands.add_parser("version", help="print the version")
    version.set_defaults(run=show_version)
    return parser


def show_version(_options: argparse.Namespace) -> None:
    """Print the version."""
    sys.stdout.write(f"fleetboard {importlib.metadata.version('fleetboard')}\n")


if __name__ == "__main__":
    sys.exit(main())
