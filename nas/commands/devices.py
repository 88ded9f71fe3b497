"""List what this machine can measure latency on, and of the rest why not and how to get it."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

from nas.commands.printing import print_json
from nas.exit_codes import OK


def add_arguments(command: ArgumentParser) -> None:
    """None of its own."""


def carry_out(args: Namespace) -> int:
    from nas.hardware.offers import offers
    from nas.measure_view import devices_as_json, print_devices

    found = offers()
    print_json(devices_as_json(found)) if args.json else print_devices(found)
    return OK
