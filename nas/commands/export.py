"""Write a candidate as a folder with weights, .pt2, ONNX and a card, and verify it."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from pathlib import Path

from nas.commands.arguments import add_images, add_output, check_epochs, output_of
from nas.commands.experiments import experiment_of
from nas.commands.printing import print_export, print_json
from nas.commands.stopping import interrupted, stopping
from nas.exit_codes import OK


def add_arguments(command: ArgumentParser) -> None:
    command.add_argument("run", help="name of the run")
    which = command.add_mutually_exclusive_group()
    which.add_argument("--candidate", metavar="KEY", help="the candidate of this key, or the beginning of it")
    which.add_argument("--best", metavar="OBJECTIVE", help="the best in one objective, such as accuracy")
    command.add_argument(
        "--max",
        metavar="KEY=VALUE",
        action="append",
        default=[],
        help="only of candidates below a limit, such as latency_ms=2.0; may be repeated",
    )
    command.add_argument(
        "--device", metavar="NAME", help="of several devices with names, the one that it is for"
    )
    add_output(command)
    add_images(command)
    command.add_argument(
        "--alone",
        action="store_true",
        help="train it alone from the start, with the run's recipe, instead of with the supernet's weights; "
        "stopped, the same command goes on",
    )
    command.add_argument("--epochs", type=float, metavar="E", help="of --alone (default: as the supernet's)")
    command.add_argument("--seed", type=int, metavar="S", help="of --alone (default: 0)")


def carry_out(args: Namespace) -> int:
    from nas.export.checkpoint import export
    from nas.export.pick import pick
    from nas.storage.store import Store

    _check_alone(args)
    with Store(args.store, create=False) as store:
        found = store.run(args.run)
        candidate = pick(store, found, args.candidate, args.best, args.max, args.device)
        experiment, splits = experiment_of(found, args.data_dir)
        name = f"{candidate.key}-alone" if args.alone else candidate.key
        folder = output_of(args, found, name)
        if not args.alone:
            _, card = export(found, candidate, store, folder, experiment, splits)
        elif (card := _exported_alone(args, found, candidate, store, folder, experiment, splits)) is None:
            return interrupted()
    print_json({"folder": str(folder), "card": card}) if args.json else print_export(folder, card)
    return OK


def _check_alone(args: Namespace) -> None:
    """Refuse what is about a training alone where there is none, or makes no sense."""
    given = [flag for flag, value in (("--epochs", args.epochs), ("--seed", args.seed)) if value is not None]
    if given and not args.alone:
        raise ValueError(f"{' and '.join(given)} is about a training alone; give --alone too")
    check_epochs(args)
    if args.seed is not None and not 0 <= args.seed < 2**63:
        raise ValueError(f"--seed is {args.seed}; it must be 0 or more, and below 2^63")


def _exported_alone(
    args: Namespace, found, candidate, store, folder: Path, experiment, splits
) -> dict | None:
    """The card of a candidate that is trained alone first; None if it was interrupted."""
    from nas.export.alone import trained_alone
    from nas.export.checkpoint import check_free, export

    check_free(folder)
    with (
        stopping() as stop,
        trained_alone(found, candidate, experiment, splits, args.epochs, args.seed or 0, stop) as alone,
    ):
        return export(found, candidate, store, folder, experiment, splits, alone)[1] if alone else None
