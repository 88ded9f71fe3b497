"""Train a supernet, search it and show the Pareto front: the whole experiment, or what is left of it."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

from nas.commands.arguments import add_carrying, add_experiment
from nas.commands.experiments import opened_by, train_and_search


def add_arguments(command: ArgumentParser) -> None:
    add_experiment(command)
    add_carrying(command)


def carry_out(args: Namespace) -> int:
    with opened_by(args) as (opened, stop):
        return train_and_search(args, opened, stop)
