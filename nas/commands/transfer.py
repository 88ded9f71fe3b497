"""Rebuild a found cell with more repeats and filters, and train it on the data of another experiment."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from pathlib import Path

from nas.commands.arguments import add_carrying, add_overrides, overrides
from nas.commands.experiments import opened_by, train_and_search


def add_arguments(command: ArgumentParser) -> None:
    command.add_argument("run", help="name of the run whose cell it is")
    command.add_argument(
        "--candidate", metavar="KEY", help="the candidate of this key (default: the knee point)"
    )
    command.add_argument(
        "--to", metavar="FILE", required=True, help="experiment file: its data, training, objectives, device"
    )
    command.add_argument(
        "--repeats", type=int, metavar="N", help="normal cells in a row (default: the run's)"
    )
    command.add_argument("--filters", type=int, metavar="F", help="of the first cells (default: the run's)")
    add_overrides(command, "RUN-KEY")
    add_carrying(command)


def carry_out(args: Namespace) -> int:
    from nas.export.pick import pick
    from nas.storage.store import Store
    from nas.transfer import experiment_of, transferred

    with Store(args.store, create=False) as store:
        found = store.run(args.run)
        candidate = pick(store, found, args.candidate, None, ())
    skeleton = transferred(found, candidate, args.repeats, args.filters)
    name = args.name or f"{args.run}-{candidate.key}"
    made = experiment_of(skeleton, Path(args.to), overrides(args), name)
    with opened_by(args, made) as (opened, stop):
        return train_and_search(args, opened, stop)
