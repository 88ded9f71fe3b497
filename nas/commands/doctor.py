"""Check this machine: packages, GPU, latency devices, store, folders."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from pathlib import Path

from nas.commands.printing import print_json
from nas.exit_codes import MISTAKE, OK


def add_arguments(command: ArgumentParser) -> None:
    command.add_argument("--runs", default="runs", help="folder of the runs (default: %(default)s)")


def carry_out(args: Namespace) -> int:
    from dataclasses import asdict

    from nas.doctor import examine

    findings = examine(args.store, Path(args.runs))
    if args.json:
        print_json([asdict(one) for one in findings])
    else:
        for one in findings:
            print(
                f"{'ok     ' if one.ok else 'MISSING' if one.needed else 'no     '} {one.what:24} {one.said}"
            )
    return OK if all(one.ok or not one.needed for one in findings) else MISTAKE
