"""Print the Pareto front and the exports of a run, or the runs of the store."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

from nas.commands.printing import print_json
from nas.exit_codes import OK


def add_arguments(command: ArgumentParser) -> None:
    command.add_argument("run", nargs="?", help="name of the run; without it, all runs are listed")


def carry_out(args: Namespace) -> int:
    from nas import report as view
    from nas.storage.store import Store

    with Store(args.store, create=False) as store:
        if args.run is None:
            rows = [(one, store.count_candidates(one.name)) for one in store.runs()]
            print_json(view.runs_as_json(rows)) if args.json else view.print_runs(rows)
            return OK
        found, candidates, exports = store.run(args.run), store.candidates(args.run), store.exports(args.run)
        legs = store.legs(args.run)
    if args.json:
        more = {"legs": view.legs_as_json(legs), "exports": view.exports_as_json(exports)}
        print_json(view.front_as_json(found, candidates) | more)
    else:
        view.print_front(found, candidates)
        view.print_legs(legs, len(candidates))
        view.print_exports(exports)
    return OK
