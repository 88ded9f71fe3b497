"""Get an architecture for a budget from the architecture generator, without a search."""

from __future__ import annotations

import sys
from argparse import ArgumentParser, Namespace

from nas.commands.arguments import add_images, add_output, output_of, with_store
from nas.commands.experiments import experiment_of
from nas.commands.printing import print_export, print_json
from nas.exit_codes import OK

PICKED_BY = {  # what can be asked for, with an example and in words
    "macs": ("2.5M", "MACs of one input"),
    "parameters": ("80k", "parameters"),
    "bytes": ("300k", "bytes of the weights as stored"),
    "latency_ms": ("1.5", "milliseconds, measured on the run's device,"),
}


def add_arguments(command: ArgumentParser) -> None:
    command.add_argument("run", help="name of the run, its supernet trained")
    budget = command.add_mutually_exclusive_group(required=True)
    for key, (example, what) in PICKED_BY.items():
        budget.add_argument(_flag(key), metavar=key[0].upper(), help=f"{what} at most, such as {example}")
    command.add_argument(
        "--device", metavar="NAME", help="of several devices with names, the one that --latency-ms is of"
    )
    command.add_argument("--export", action="store_true", help="write it as `nas export` does, and verify it")
    add_output(command)
    add_images(command)


def carry_out(args: Namespace) -> int:
    from nas.config import amount
    from nas.pick import latency_key, pick, write_pick
    from nas.pick_view import pick_as_json, print_pick
    from nas.storage.records import Constraint
    from nas.storage.store import Store

    if args.output and not args.export:
        raise ValueError("--output says where to write; give --export as well")
    [(key, given)] = [(key, getattr(args, key)) for key in PICKED_BY if getattr(args, key) is not None]
    if args.device and key != "latency_ms":
        raise ValueError("--device says whose latency is meant; give --latency-ms, or leave it out")
    flag = _flag(key)
    most = amount(given, flag)
    with Store(args.store, create=False) as store:
        found, candidates = store.run(args.run), store.candidates(args.run)
        experiment, splits = experiment_of(found, args.data_dir)
        key = latency_key(found, experiment, args.device) if key == "latency_ms" else key
        picked = pick(found, experiment, splits, candidates, Constraint(key, max=most))
        if args.export:
            folder = output_of(args, found, picked.candidate.key)
            card = write_pick(found, picked, store, folder, experiment, splits)
    if args.json:
        exported = {"folder": str(folder), "card": card} if args.export else None
        print_json(pick_as_json(found, picked) | {"export": exported})
        return OK
    print_pick(found, picked)
    if args.export:
        print_export(folder, card)
    else:
        limit = f"{flag} {given}" + (f" --device {args.device}" if args.device else "")
        line = with_store(f"nas pick {found.name} {limit} --export", args.store)
        print(f"export it:  {line}", file=sys.stderr)
    return OK


def _flag(key: str) -> str:
    return f"--{key.replace('_', '-')}"
