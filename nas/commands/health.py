"""Compare a supernet's accuracies with trainings alone, or a table of them: can its ranking be trusted?"""

from __future__ import annotations

import shlex
import sys
from argparse import ArgumentParser, ArgumentTypeError, Namespace
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

from nas.commands.arguments import add_images, add_workers, check_epochs, with_store
from nas.commands.cluster import cluster_of
from nas.commands.experiments import experiment_of
from nas.commands.printing import print_json
from nas.commands.stopping import interrupted, stopping
from nas.exit_codes import OK

SUBNETS = 24  # unless somebody says how many


def add_arguments(command: ArgumentParser) -> None:
    command.add_argument("run", help="name of the run, its supernet trained")
    command.add_argument(
        "--subnets",
        type=_number_or_all,
        metavar="N",
        help="architectures of all costs; more of them keep the earlier ones; of a table also: all "
        f"(default: {SUBNETS})",
    )
    command.add_argument("--seeds", type=int, metavar="S", help="trainings of each alone (default: 1)")
    command.add_argument(
        "--epochs", type=float, metavar="E", help="of a training alone (default: the run's, or as before)"
    )
    command.add_argument(
        "--known", action="store_true", help="report what was measured before; measure and train nothing"
    )
    command.add_argument(
        "--write-table",
        metavar="FILE",
        help="write the trainings alone as a CSV that --table reads: those that are known, unless --subnets or the "
        "like says what to train first",
    )
    _add_table(command)
    add_images(command)
    again = command.add_mutually_exclusive_group()
    again.add_argument("--retry", action="store_true", help="carry out again what failed before")
    again.add_argument("--fresh", action="store_true", help="start over; what was measured is forgotten")
    add_workers(command)


def _add_table(command: ArgumentParser) -> None:
    table = command.add_argument_group("a table of accuracies in place of trainings alone")
    table.add_argument(
        "--table",
        metavar="FILE",
        help="CSV, JSON or JSON lines: architectures and what each reached; trains nothing",
    )
    table.add_argument(
        "--architecture",
        metavar="COLUMN",
        help="has the architecture (default: architecture, arch or arch_str; or a column per decision)",
    )
    table.add_argument(
        "--accuracy",
        metavar="COLUMN",
        action="append",
        default=[],
        help="has what it reached; may be repeated, once per training (default: accuracy)",
    )
    table.add_argument("--lower-is-better", action="store_true", help="the columns have errors or losses")


def _number_or_all(text: str) -> int | str:
    """A whole number, or "all"."""
    if text == "all":
        return text
    try:
        return int(text)
    except ValueError:
        raise ArgumentTypeError(f"{text!r} is neither a whole number nor all") from None


def carry_out(args: Namespace) -> int:
    from nas import health_reports
    from nas.health_table import read_table, write_table
    from nas.health_view import health_as_json, print_health
    from nas.ranking import health_of
    from nas.storage.store import Store
    from search_spaces import space_from_json

    _check(args)
    with Store(args.store, create=False) as store:
        found, trials = store.run(args.run), store.trials(args.run)
    table, ended = None, True
    if args.table:
        columns = (args.architecture, args.accuracy, args.lower_is_better)
        table = read_table(Path(args.table), space_from_json(found.space), *columns)
    if not _only_known(args):
        experiment, splits = experiment_of(found, args.data_dir)
        with stopping() as stop, Store(args.store) as store:
            ended = _examined(args, found, store, experiment, splits, stop, table)
            trials = store.trials(args.run)
    if args.write_table and ended:
        rows = write_table(Path(args.write_table), trials)
        said = f"wrote {rows} trainings alone; for another supernet of the space: nas health RUN --table"
        print(f"{said} {shlex.quote(args.write_table)}", file=sys.stderr)
    examined = health_of(trials, table)  # stopped or not: what is known so far is worth a look
    print_json(health_as_json(examined)) if args.json else print_health(examined)
    if table is not None:
        kept = health_reports.keep(found, examined)
        line = with_store("nas dashboard", args.store)
        print(f"kept in {kept}; look at it:  {line}", file=sys.stderr)
    return OK if ended else interrupted()


def _only_known(args: Namespace) -> bool:
    """Whether nothing is to be measured: by itself, a table is written of what is there."""
    return args.known or bool(args.write_table and not _asked(args))


def _asked(args: Namespace) -> list[str]:
    """The arguments given that are about what to measure."""
    names = ("subnets", "seeds", "epochs", "retry", "fresh", "workers")
    return [f"--{name}" for name in names if getattr(args, name) not in (None, False)]


def _check(args: Namespace) -> None:
    """Refuse what makes no sense; of a table, what is about trainings alone, and the reverse."""
    from nas.health_table import check_writable

    for flag, number in (("--subnets", args.subnets), ("--seeds", args.seeds)):
        if isinstance(number, int) and number < 1:
            raise ValueError(f"{flag} is {number}; it must be at least 1")
    check_epochs(args)
    if args.known and (asked := _asked(args)):
        raise ValueError(
            f"--known measures nothing, and {' and '.join(asked)} is about what to measure: leave out one"
        )
    if args.write_table:
        check_writable(Path(args.write_table))
    if args.table:
        alone = {"seeds": args.seeds, "epochs": args.epochs, "fresh": args.fresh}
        alone["write-table"] = args.write_table
        if given := [f"--{name}" for name, value in alone.items() if value]:
            raise ValueError(
                f"{' and '.join(given)} is about trainings alone; with --table there are none: leave out one"
            )
    elif args.architecture or args.accuracy or args.lower_is_better or args.subnets == "all":
        raise ValueError(
            "--architecture, --accuracy, --lower-is-better and --subnets all are about a table; give --table FILE too"
        )


def _examined(args: Namespace, found, store, experiment, splits, stop: Callable[[], bool], table) -> bool:
    """Carry out the trials that a health report still wants; whether all are there."""
    from nas.health import chosen, drawn, epochs_of, forget, measure, open_health, wanted

    with open_health(found, store, experiment, splits) as opened:
        trials = [] if args.fresh else store.trials(found.name)
        epochs = epochs_of(trials, experiment) if args.epochs is None else args.epochs
        kept = [one for one in trials if not (args.retry and one.error)]
        space, seed = opened.bench.space, experiment.search.seed
        number = None if args.subnets == "all" else args.subnets or SUBNETS
        if table is None:
            requests = wanted(chosen(space, number, seed), args.seeds or 1, epochs, kept)
        else:
            requests = wanted(drawn(table, space, number, seed), 0, epochs, kept)
        with cluster_of(args) if requests else nullcontext() as cluster:
            if args.fresh or args.retry:  # only now, when nothing that was asked is refused any more
                forget(opened, failed=args.retry)
            make_pool = None
            if cluster is not None:
                from workers.pool import trials_on_workers  # now: what imports Ray fixes its settings

                make_pool = trials_on_workers(cluster)
            return measure(opened, requests, stop, make_pool, args.workers)
