"""Compute the verification of an export anew; exit code 5 if it is not what was exported."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from pathlib import Path

from nas.commands.printing import print_json, verified
from nas.exit_codes import OK


def add_arguments(command: ArgumentParser) -> None:
    command.add_argument("folder", help="folder of an export")


def carry_out(args: Namespace) -> int:
    from nas.export.verify import verify

    verification = verify(Path(args.folder))
    print_json(verification) if args.json else print(verified(verification))
    return OK
