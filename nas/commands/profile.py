"""Print what an experiment is about before it is trained: size, costs, whether constraints can be met."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

from nas.commands.arguments import add_experiment
from nas.commands.experiments import read
from nas.commands.printing import print_json
from nas.exit_codes import OK


def add_arguments(command: ArgumentParser) -> None:
    add_experiment(command)


def carry_out(args: Namespace) -> int:
    from nas.profile import profile
    from nas.profile_view import print_profile

    found = profile(read(args))
    print_json(found.to_dict()) if args.json else print_profile(found)
    return OK
