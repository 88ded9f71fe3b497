"""The command line. The only module that may import every layer, and each command only its own."""

from __future__ import annotations

import argparse
import json
import logging
import os
import shlex
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, redirect_stdout
from pathlib import Path
from typing import NoReturn

EXIT_CODES = """exit codes:
  0    done
  2    a mistake in what was asked: file, setting, name, folder, port
  3    infeasible: no architecture, or no candidate, keeps the constraints
  4    the work failed: training diverged, every evaluation fails, workers died
  5    verification failed: an export is not the network that was searched
  130  interrupted; the same command goes on where it stopped
"""
OK, MISTAKE, INFEASIBLE, FAILED, UNVERIFIED, INTERRUPTED = 0, 2, 3, 4, 5, 130
PICKED_BY = {  # what `nas pick` can be asked for, with an example and in words
    "macs": ("2.5M", "MACs of one input"),
    "parameters": ("80k", "parameters"),
    "bytes": ("300k", "bytes of the weights as stored"),
    "latency_ms": ("1.5", "milliseconds, measured on the run's device,"),
}


def run(args: argparse.Namespace) -> int:
    """Train a supernet, search it and show the Pareto front: the whole experiment, or what is left of it."""
    with _opened(args) as (opened, stop):
        return _carry_out(args, opened, stop, train=True, search=True)


def train(args: argparse.Namespace) -> int:
    """Train the supernet of an experiment, from its last checkpoint if there is one."""
    with _opened(args) as (opened, stop):
        return _carry_out(args, opened, stop, train=True, search=False)


def search(args: argparse.Namespace) -> int:
    """Search the trained supernet of an experiment, going on from the store."""
    with _opened(args) as (opened, stop):
        return _carry_out(args, opened, stop, train=False, search=True)


def report(args: argparse.Namespace) -> int:
    """Print the Pareto front and the exports of a run, or the runs of the store."""
    from nas import report as view
    from nas.storage.store import Store

    with Store(args.store, create=False) as store:
        if args.run is None:
            rows = [(one, store.count_candidates(one.name)) for one in store.runs()]
            _print_json(view.runs_as_json(rows)) if args.json else view.print_runs(rows)
            return OK
        found, candidates, exports = store.run(args.run), store.candidates(args.run), store.exports(args.run)
        legs = store.legs(args.run)
    if args.json:
        more = {"legs": view.legs_as_json(legs), "exports": view.exports_as_json(exports)}
        _print_json(view.front_as_json(found, candidates) | more)
    else:
        view.print_front(found, candidates)
        view.print_legs(legs, len(candidates))
        view.print_exports(exports)
    return OK


def export(args: argparse.Namespace) -> int:
    """Write a candidate as a folder with weights, .pt2, ONNX and a card, and verify it."""
    from nas.export.checkpoint import export as write
    from nas.export.pick import pick
    from nas.storage.store import Store

    _check_alone(args)
    with Store(args.store, create=False) as store:
        found = store.run(args.run)
        candidate = pick(store, found, args.candidate, args.best, args.max, args.device)
        experiment, splits = _loaded(found, args.data_dir)
        name = f"{candidate.key}-alone" if args.alone else candidate.key
        folder = Path(args.output or Path(found.folder) / "exports" / name)
        if not args.alone:
            _, card = write(found, candidate, store, folder, experiment, splits)
        elif (card := _exported_alone(args, found, candidate, store, folder, experiment, splits)) is None:
            return _interrupted(args)
    if args.json:
        _print_json({"folder": str(folder), "card": card})
        return OK
    _print_export(folder, card)
    return OK


def _check_alone(args: argparse.Namespace) -> None:
    """Refuse what is about a training alone where there is none, or makes no sense."""
    given = [flag for flag, value in (("--epochs", args.epochs), ("--seed", args.seed)) if value is not None]
    if given and not args.alone:
        raise ValueError(f"{' and '.join(given)} is about a training alone; give --alone too")
    if args.epochs is not None and not 0 < args.epochs <= 1e6:
        raise ValueError(f"--epochs is {args.epochs:g}; it must be above 0 and at most a million")
    if args.seed is not None and not 0 <= args.seed < 2**63:
        raise ValueError(f"--seed is {args.seed}; it must be 0 or more, and below 2^63")


def _exported_alone(args: argparse.Namespace, *what) -> dict | None:
    """The card of a candidate that is trained alone first; None if it was interrupted."""
    from nas.export.alone import trained_alone
    from nas.export.checkpoint import check_free
    from nas.export.checkpoint import export as write

    found, candidate, _, folder, experiment, splits = what
    check_free(folder)
    with (
        _stopping() as stop,
        trained_alone(found, candidate, experiment, splits, args.epochs, args.seed or 0, stop) as alone,
    ):
        return write(*what, alone)[1] if alone else None


def pick(args: argparse.Namespace) -> int:
    """Get an architecture for a budget from the architecture generator, without a search."""
    from nas.config import amount
    from nas.pick import latency_key, write_pick
    from nas.pick import pick as picked_for
    from nas.pick_view import pick_as_json, print_pick
    from nas.storage.records import Constraint
    from nas.storage.store import Store

    if args.output and not args.export:
        raise ValueError("--output says where to write; give --export as well")
    [(key, given)] = [(key, getattr(args, key)) for key in PICKED_BY if getattr(args, key) is not None]
    if args.device and key != "latency_ms":
        raise ValueError("--device says whose latency is meant; give --latency-ms, or leave it out")
    flag = f"--{key.replace('_', '-')}"
    most = amount(given, flag)
    with Store(args.store, create=False) as store:
        found, candidates = store.run(args.run), store.candidates(args.run)
        experiment, splits = _loaded(found, args.data_dir)
        key = latency_key(found, experiment, args.device) if key == "latency_ms" else key
        picked = picked_for(found, experiment, splits, candidates, Constraint(key, max=most))
        if args.export:
            folder = Path(args.output or Path(found.folder) / "exports" / picked.candidate.key)
            card = write_pick(found, picked, store, folder, experiment, splits)
    if args.json:
        exported = {"folder": str(folder), "card": card} if args.export else None
        _print_json(pick_as_json(found, picked) | {"export": exported})
        return OK
    print_pick(found, picked)
    if args.export:
        _print_export(folder, card)
    else:
        where = "" if args.store == DEFAULT_STORE else f" --store {shlex.quote(args.store)}"
        limit = f"{flag} {given}" + (f" --device {args.device}" if args.device else "")
        print(f"export it:  nas pick {found.name} {limit} --export{where}", file=sys.stderr)
    return OK


def health(args: argparse.Namespace) -> int:
    """Compare a supernet's accuracies with trainings alone, or a table of them: can its ranking be trusted?"""
    from nas.health_table import read_table, write_table
    from nas.health_view import health_as_json, print_health
    from nas.ranking import health_of
    from nas.storage.store import Store
    from search_spaces import space_from_json

    _check_health(args)
    with Store(args.store, create=False) as store:
        found = store.run(args.run)
    experiment, splits = _loaded(found, args.data_dir)
    table = None
    if args.table:
        columns = (args.architecture, args.accuracy, args.lower_is_better)
        table = read_table(Path(args.table), space_from_json(found.space), *columns)
    with _stopping() as stop, Store(args.store) as store:
        ended = _examined(args, found, store, experiment, splits, stop, table)
        trials = store.trials(args.run)
    if args.write_table and ended:
        rows = write_table(Path(args.write_table), trials)
        said = f"wrote {rows} trainings alone; for another supernet of the space: nas health RUN --table"
        print(f"{said} {shlex.quote(args.write_table)}", file=sys.stderr)
    examined = health_of(trials, table)  # stopped or not: what is known so far is worth a look
    _print_json(health_as_json(examined)) if args.json else print_health(examined)
    return OK if ended else _interrupted(args)


def _check_health(args: argparse.Namespace) -> None:
    """Refuse what makes no sense; of a table, what is about trainings alone, and the reverse."""
    from nas.health_table import check_writable

    for flag, number in (("--subnets", args.subnets), ("--seeds", args.seeds)):
        if number is not None and number < 1:
            raise ValueError(f"{flag} is {number}; it must be at least 1")
    if args.epochs is not None and not 0 < args.epochs <= 1e6:
        raise ValueError(f"--epochs is {args.epochs:g}; it must be above 0 and at most a million")
    if args.write_table:
        check_writable(Path(args.write_table))
    if args.table:
        alone = {"seeds": args.seeds, "epochs": args.epochs, "fresh": args.fresh}
        alone["write-table"] = args.write_table
        if given := [f"--{name}" for name, value in alone.items() if value]:
            raise ValueError(
                f"{' and '.join(given)} is about trainings alone; with --table there are none: leave out one"
            )
    elif args.architecture or args.accuracy or args.lower_is_better or args.subnets is None:
        raise ValueError(
            "--architecture, --accuracy, --lower-is-better and --subnets all are about a table; give --table FILE too"
        )


def transfer(args: argparse.Namespace) -> int:
    """Rebuild a found cell with more repeats and filters, and train it on the data of another experiment."""
    from nas.export.pick import pick
    from nas.storage.store import Store
    from nas.transfer import experiment_of, transferred

    with Store(args.store, create=False) as store:
        found = store.run(args.run)
        candidate = pick(store, found, args.candidate, None, ())
    skeleton = transferred(found, candidate, args.repeats, args.filters)
    name = args.name or f"{args.run}-{candidate.key}"
    with _opened(args, experiment_of(skeleton, Path(args.to), _overrides(args), name)) as (opened, stop):
        return _carry_out(args, opened, stop, train=True, search=True)


def verify(args: argparse.Namespace) -> int:
    """Compute the verification of an export anew; exit code 5 if it is not what was exported."""
    from nas.export.verify import verify as check

    verification = check(Path(args.folder))
    _print_json(verification) if args.json else print(_verified(verification))
    return OK


def dashboard(args: argparse.Namespace) -> int:
    """Show the runs of a store in a browser, while they are going and afterwards."""
    from dashboard.app import serve

    serve(args.store, args.host, args.port)
    return OK


def doctor(args: argparse.Namespace) -> int:
    """Check this machine: packages, GPU, latency devices, store, folders."""
    from dataclasses import asdict

    from nas.doctor import examine

    findings = examine(args.store, Path(args.runs))
    if args.json:
        _print_json([asdict(one) for one in findings])
    else:
        for one in findings:
            print(
                f"{'ok     ' if one.ok else 'MISSING' if one.needed else 'no     '} {one.what:24} {one.said}"
            )
    return OK if all(one.ok or not one.needed for one in findings) else MISTAKE


def devices(args: argparse.Namespace) -> int:
    """List what this machine can measure latency on, and of the rest why not and how to get it."""
    from nas.hardware.offers import offers
    from nas.measure_view import devices_as_json, print_devices

    found = offers()
    _print_json(devices_as_json(found)) if args.json else print_devices(found)
    return OK


def measure(args: argparse.Namespace) -> int:
    """Measure the latency of exports, or of any ONNX files, on one device or several."""
    from nas import measure as measuring
    from nas.hardware import DEFAULT
    from nas.measure_view import measured_as_json, print_measured
    from nas.progress import track

    common = {name: getattr(args, name) for name in ("threads", "batch") if getattr(args, name) is not None}
    there = measuring.read_devices(args.device or [DEFAULT], common)
    shape = None if args.shape is None else measuring.read_shape(args.shape)
    networks = [measuring.read_network(Path(path), shape) for path in args.paths]
    found = []
    with track("measuring", len(networks) * len(there), brief=True) as shown:
        for one in measuring.measure(networks, there, args.kernels):
            found.append(one)
            shown.to(len(found), f"{one.network.path} on {one.latency.device}")
    _print_json(measured_as_json(found)) if args.json else print_measured(found, args.kernels)
    return OK


def explain(args: argparse.Namespace) -> int:
    """Say why networks take as long as they do: which steps waste time, and whose fault that is."""
    from nas import measure as measuring
    from nas.explain import explain as take_apart
    from nas.explain_view import explained_as_json, print_compared, print_explained
    from nas.hardware import DEFAULT
    from nas.progress import track

    if meant := _run_meant(args):
        return _explain_run(args, *meant)
    if args.candidate is not None:
        raise ValueError(
            f"--candidate is of a run; {args.paths[0]} is none: give the name of a run of {args.store}"
        )
    common = {name: getattr(args, name) for name in ("threads", "batch") if getattr(args, name) is not None}
    [there] = measuring.read_devices([args.device or DEFAULT], common)
    shape = None if args.shape is None else measuring.read_shape(args.shape)
    networks, found = [measuring.read_network(Path(path), shape) for path in args.paths], []
    with track("explaining", len(networks), brief=True) as shown:
        for one in networks:
            found.append(take_apart(one, there, args.fresh and not found))
            shown.to(len(found), str(one.path))
    advice = [_advised(args.store, one.path, there) for one in networks]
    told = [explained_as_json(*pair) for pair in zip(found, advice, strict=True)]
    if args.json:
        _print_json(told[0] if len(told) == 1 else told)
    elif len(found) == 1:
        print_explained(found[0], advice[0])
    else:
        print_compared(found, "network")
    return OK


def _run_meant(args: argparse.Namespace) -> tuple | None:
    """The run whose name was given in place of files, with its candidates; None where files were given."""
    from nas.storage.store import Store

    path = Path(args.paths[0])
    if len(args.paths) > 1 or path.is_file() or (path / "card.json").is_file():
        return None
    try:
        with Store(args.store, create=False) as store:
            return store.run(args.paths[0]), store.candidates(args.paths[0], with_latency=True)
    except (LookupError, FileNotFoundError):
        if args.candidate is not None or not (path.exists() or len(path.parts) > 1 or path.suffix):
            raise
        return None


def _explain_run(args: argparse.Namespace, found, candidates) -> int:
    """The candidates of the front, or the one asked for, on each device of the run; kept for the dashboard."""
    from nas import explanations
    from nas.advice import advise_on
    from nas.explain_run import chosen, devices_of, efficiency_on, explained_on
    from nas.explain_view import explained_as_json, gap_as_json, print_compared, print_explained, print_gaps
    from nas.progress import track

    common = {name: getattr(args, name) for name in ("threads", "batch") if getattr(args, name) is not None}
    told = []
    for name, there in devices_of(found, args.device, common).items():
        several = chosen(found, candidates, args.candidate, name)
        with track("explaining", len(several), brief=True) as shown:
            apart = explained_on(found, several, name, there, args.fresh, shown)
        gaps = efficiency_on(candidates, name, there)
        advice = [_or_why(advise_on, one.architecture, found, there) for one in several]
        if args.json:
            pairs = zip(apart, advice, strict=bool(apart))
            told.append(
                {
                    "run": found.name,
                    "device": name or there.name,
                    "explained": [explained_as_json(*pair) for pair in pairs],
                    "efficiency": [gap_as_json(one) for one in gaps],
                }
            )
        elif len(apart) == 1:
            print_explained(apart[0], advice[0])
        elif apart:
            print_compared(apart, "candidate")
        else:
            print(f"only whole networks can be told of on this {there.name}: {there.unprofiled()}")
        if not args.json:
            print_gaps(gaps, len(candidates), name or there.name)
    if args.json:
        _print_json(told)
    else:
        where = "" if args.store == DEFAULT_STORE else f" --store {shlex.quote(args.store)}"
        print(f"kept in {explanations.folder_of(found)}; look at it:  nas dashboard{where}", file=sys.stderr)
    return OK


def _advised(store_url: str, path: Path, device):
    """What the latency model of an export's run predicts would help, or why it says nothing."""
    from nas.advice import advise, run_of
    from nas.storage.store import Store

    def advised():
        with Store(store_url, create=False) as store:
            return advise(path, store.run(run_of(path)), device)

    if not path.is_dir():
        return "an ONNX file belongs to no run; give the folder of an export"
    return _or_why(advised)


def _or_why(advise: Callable, *arguments):
    """What is advised, or why nothing is, in a line."""
    try:
        return advise(*arguments)
    except (ValueError, LookupError, FileNotFoundError) as error:
        return " ".join(str(error).split())


def operators(args: argparse.Namespace) -> int:
    """List what a search space can be made of: operators and attentions, with what they cost here."""
    from nas import catalogue
    from nas.hardware import DEFAULT, device
    from nas.progress import track
    from search_spaces.strict import unknown

    if args.json and args.markdown:
        raise ValueError("--json and --markdown ask for two things; leave one of them out")
    if args.device is not None and not args.measure:
        raise ValueError("--device says where to measure; give --measure as well")
    found = catalogue.entries()
    known = [one.name for one in found]
    for name in args.names:
        if name not in known:
            raise unknown(f"the operator {name!r}", name, known)
    found = [one for one in found if not args.names or one.name in args.names]
    if args.measure:
        there, timed = device({"name": args.device or DEFAULT}), []
        with track("measuring", len(found), brief=True) as shown:
            for one in found:
                timed.append(catalogue.measured(one, there))
                shown.to(len(timed), one.name)
        found = timed
    if args.json:
        _print_json(catalogue.as_json(found))
    elif args.markdown:
        print(catalogue.as_markdown(found), end="")
    else:
        catalogue.print_entries(found)
    return OK


def profile(args: argparse.Namespace) -> int:
    """Print what an experiment is about before it is trained: size, costs, whether constraints can be met."""
    from nas.profile import profile as count
    from nas.profile_view import print_profile

    found = count(_experiment(args))
    _print_json(found.to_dict()) if args.json else print_profile(found)
    return OK


def _loaded(found, data_dir: str | None) -> tuple:
    """The experiment of a run, and its images: the very same."""
    from dataclasses import replace

    from nas import config
    from nas.data import load

    experiment = config.from_json(found.experiment)
    if data_dir:
        experiment = replace(experiment, data=replace(experiment.data, directory=data_dir))
    splits = load(experiment.data)
    if splits.fingerprint != found.facts.get("data"):
        raise ValueError(
            f"these are not the images that {found.name} was made with; give --data-dir their folder"
        )
    return experiment, splits


# -- carrying out ------------------------------------------------------------------------------


def _experiment(args: argparse.Namespace):
    from nas.config import read_experiment

    return read_experiment(Path(args.file), _overrides(args), args.name)


def _overrides(args: argparse.Namespace) -> list[str]:
    where = [f"data.directory={json.dumps(args.data_dir)}"] if args.data_dir else []
    return [*args.override, *where]


@contextmanager
def _opened(args: argparse.Namespace, made: tuple | None = None) -> Iterator[tuple]:
    """The run that the arguments name, or of an experiment with its text, and the question whether to stop."""
    from nas.experiment import open_run
    from nas.storage.store import Store

    experiment, text = made or (_experiment(args), Path(args.file).read_text(encoding="utf-8"))
    with (
        _stopping() as stop,
        Store(args.store) as store,
        open_run(experiment, store, Path(args.runs), args.fresh, text) as opened,
    ):
        yield opened, stop


def _carry_out(args: argparse.Namespace, opened, stop: Callable[[], bool], train: bool, search: bool) -> int:
    from nas.devices import anything_found
    from nas.experiment import search_run, train_run
    from nas.report import front_as_json, print_front

    with _workers(args, opened.experiment if search else None) as (trainer, make_pool, trials):
        if train and not train_run(opened, stop, trainer):
            return _interrupted(args)
        if search and not search_run(opened, stop, make_pool, trials=trials):
            return _interrupted(args)
    if not search:
        trained = {"run": opened.run.name, "supernet": str(opened.supernet_file)}
        said = f"the supernet of {opened.run.name} is trained: {opened.supernet_file}"
        _print_json(trained) if args.json else print(said)
        return OK
    found, candidates = opened.store.run(opened.run.name), opened.store.candidates(opened.run.name)
    _print_json(front_as_json(found, candidates)) if args.json else print_front(found, candidates)
    if not anything_found(found, candidates):
        return INFEASIBLE
    if not args.json:
        where = "" if args.store == DEFAULT_STORE else f" --store {shlex.quote(opened.store.url)}"
        print(f"export the knee point:  nas export {found.name}{where}", file=sys.stderr)
        print(f"look at it:             nas dashboard{where}", file=sys.stderr)
    return OK


def _examined(
    args: argparse.Namespace, found, store, experiment, splits, stop: Callable[[], bool], table
) -> bool:
    """Carry out the trials that a health report still wants; whether all are there."""
    from nas.health import chosen, drawn, epochs_of, forget, measure, open_health, wanted

    with open_health(found, store, experiment, splits) as opened:
        trials = [] if args.fresh else store.trials(found.name)
        epochs = epochs_of(trials, experiment) if args.epochs is None else args.epochs
        kept = [one for one in trials if not (args.retry and one.error)]
        space, seed = opened.bench.space, experiment.search.seed
        if table is None:
            requests = wanted(chosen(space, args.subnets, seed), args.seeds or 1, epochs, kept)
        else:
            requests = wanted(drawn(table, space, args.subnets, seed), 0, epochs, kept)
        with _cluster(args) if requests else nullcontext() as cluster:
            if args.fresh or args.retry:  # only now, when nothing that was asked is refused any more
                forget(opened, failed=args.retry)
            make_pool = None
            if cluster is not None:
                from workers.pool import trials_on_workers  # now: what imports Ray fixes its settings

                make_pool = trials_on_workers(cluster)
            return measure(opened, requests, stop, make_pool, args.workers)


@contextmanager
def _workers(args: argparse.Namespace, searched=None) -> Iterator[tuple]:
    """What trains and evaluates on Ray workers, if the arguments ask for them; else nothing: this process does.

    Args:
        searched: the experiment, if it is searched; whether its devices can be reached is known before it is trained.
    """
    with _cluster(args) as cluster:
        if cluster is None:
            if searched is not None:
                from nas.experiment import check_near

                check_near(searched)
            yield None, None, None
            return
        if searched is not None and searched.far:
            from workers.far import check_far

            check_far(searched)
        # now: what imports Ray fixes its settings
        from workers.pool import pool_on_workers, trials_on_workers
        from workers.training import trainer_on_workers

        trials = trials_on_workers(cluster), args.workers
        yield trainer_on_workers(cluster), pool_on_workers(cluster), trials


@contextmanager
def _cluster(args: argparse.Namespace) -> Iterator:
    """The Ray cluster that the arguments ask for, or None."""
    if args.workers is None:
        if args.ray or args.gpus_per_worker:
            raise ValueError("--ray and --gpus-per-worker say where workers are; give --workers N as well")
        yield None
        return
    from workers.cluster import RayTalk, connect

    # Ray prints what happens to it where our result goes
    with redirect_stdout(RayTalk()), connect(args.ray, args.workers, args.gpus_per_worker) as cluster:
        yield cluster


def _interrupted(args: argparse.Namespace) -> int:
    print("nas: stopped; everything is saved, and the same command goes on from here", file=sys.stderr)
    return INTERRUPTED


@contextmanager
def _stopping() -> Iterator[Callable[[], bool]]:
    """Ctrl-C and a termination ask to stop between two steps; a second one stops at once."""
    asked = []

    def handler(number: int, frame) -> None:
        if asked:
            raise KeyboardInterrupt
        asked.append(number)
        print("nas: stopping after this step; once more to stop at once", file=sys.stderr, flush=True)

    signals = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(number, handler) for number in signals]
    try:
        yield lambda: bool(asked)
    finally:
        for number, old in zip(signals, before, strict=True):
            signal.signal(number, old)


def _print_export(folder: Path, card: dict) -> None:
    print(f"{folder}")
    for split, metric in card["metrics"].items():
        print(f"  accuracy, {split}: {metric['accuracy']:.2f} %")
    print(_verified(card["verification"]))


def _verified(verification: dict) -> str:
    return (
        f"  verified: supernet slice, module, model.safetensors, model.pt2 and model.onnx differ by at most "
        f"{verification['max_relative_difference']:.1e} of the largest logit "
        f"and agree on {100 * verification['top1_agreement']:g} % of {verification['images']} images"
    )


def _print_json(content: object) -> None:
    print(json.dumps(content, indent=1))


# -- arguments ---------------------------------------------------------------------------------

DEFAULT_STORE = "sqlite:///nas.db"


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line, as everything else here does."""

    def error(self, message: str) -> NoReturn:
        self.exit(MISTAKE, f"nas: {message}; `{self.prog} --help` shows what is allowed\n")


def parser() -> argparse.ArgumentParser:
    top = _Parser(
        prog="nas",
        description="Hardware-aware architecture search: from images to a verified Pareto set of networks.",
        epilog=EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    top.add_argument("--version", action="store_true", help="print the version and exit")
    commands = top.add_subparsers(metavar="command", dest="command")

    for verb in (run, train, search):
        command = _add(commands, verb)
        _experiment_arguments(command)
        _carrying_arguments(command)
    _experiment_arguments(_add(commands, profile))

    command = _add(commands, report)
    command.add_argument("run", nargs="?", help="name of the run; without it, all runs are listed")

    command = _add(commands, export)
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
    command.add_argument("--output", metavar="DIR", help="folder to write (default: in the run's, by key)")
    command.add_argument("--data-dir", metavar="DIR", help="where the images are now")
    command.add_argument(
        "--alone",
        action="store_true",
        help="train it alone from the start, with the run's recipe, instead of with the supernet's weights; "
        "stopped, the same command goes on",
    )
    command.add_argument("--epochs", type=float, metavar="E", help="of --alone (default: as the supernet's)")
    command.add_argument("--seed", type=int, metavar="S", help="of --alone (default: 0)")

    command = _add(commands, pick)
    command.add_argument("run", help="name of the run, its supernet trained")
    budget = command.add_mutually_exclusive_group(required=True)
    for key, (example, what) in PICKED_BY.items():
        flag, letter = f"--{key.replace('_', '-')}", key[0].upper()
        budget.add_argument(flag, metavar=letter, help=f"{what} at most, such as {example}")
    command.add_argument(
        "--device", metavar="NAME", help="of several devices with names, the one that --latency-ms is of"
    )
    command.add_argument("--export", action="store_true", help="write it as `nas export` does, and verify it")
    command.add_argument("--output", metavar="DIR", help="folder to write (default: in the run's, by key)")
    command.add_argument("--data-dir", metavar="DIR", help="where the images are now")

    command = _add(commands, health)
    command.add_argument("run", help="name of the run, its supernet trained")
    command.add_argument(
        "--subnets",
        type=_number_or_all,
        default=24,
        metavar="N",
        help="architectures of all costs; more of them keep the earlier ones; of a table also: all "
        "(default: %(default)s)",
    )
    command.add_argument("--seeds", type=int, metavar="S", help="trainings of each alone (default: 1)")
    command.add_argument(
        "--epochs", type=float, metavar="E", help="of a training alone (default: the run's, or as before)"
    )
    command.add_argument(
        "--write-table", metavar="FILE", help="write the trainings alone as a CSV that --table reads"
    )
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
    command.add_argument("--data-dir", metavar="DIR", help="where the images are now")
    again = command.add_mutually_exclusive_group()
    again.add_argument("--retry", action="store_true", help="carry out again what failed before")
    again.add_argument("--fresh", action="store_true", help="start over; what was measured is forgotten")
    _worker_arguments(command)

    command = _add(commands, transfer)
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
    _override_arguments(command, "RUN-KEY")
    _carrying_arguments(command)

    command = _add(commands, verify)
    command.add_argument("folder", help="folder of an export")

    command = _add(commands, dashboard, as_json=False)
    command.add_argument("--port", type=int, default=8050, help="port to listen on (default: %(default)s)")
    command.add_argument("--host", default="127.0.0.1", help="address to bind (default: %(default)s)")

    _add(commands, devices)

    command = _add(commands, measure)
    command.add_argument("paths", nargs="+", metavar="PATH", help="folder of an export, or an ONNX file")
    command.add_argument(
        "--device",
        metavar="NAME[,SETTING=VALUE]",
        action="append",
        help="where, such as openvino-cpu,precision=bfloat16; may be repeated (default: onnxruntime-cpu)",
    )
    command.add_argument("--threads", type=int, metavar="N", help="of every device (default: 1)")
    command.add_argument("--batch", type=int, metavar="N", help="inputs per run (default: 1)")
    command.add_argument("--shape", metavar="C,H,W", help="of one input, where an ONNX file leaves it open")
    command.add_argument("--kernels", action="store_true", help="show what ran, by the runtime's profile")

    command = _add(commands, explain)
    command.add_argument(
        "paths",
        nargs="+",
        metavar="PATH",
        help="folders of exports, or ONNX files; or the name of a run: its front",
    )
    command.add_argument("--candidate", metavar="KEY", help="of a run, this one in place of the front")
    command.add_argument(
        "--device",
        metavar="NAME[,SETTING=VALUE]",
        help="where, such as openvino-cpu,threads=2 (default: onnxruntime-cpu; of a run, its own devices)",
    )
    command.add_argument("--threads", type=int, metavar="N", help="of the device (default: 1, or the run's)")
    command.add_argument("--batch", type=int, metavar="N", help="inputs per run (default: 1, or the run's)")
    command.add_argument("--shape", metavar="C,H,W", help="of one input, where an ONNX file leaves it open")
    command.add_argument("--fresh", action="store_true", help="measure the peaks of this machine anew")

    command = _add(commands, operators)
    command.add_argument("names", nargs="*", metavar="NAME", help="only these")
    command.add_argument(
        "--measure", action="store_true", help="time each in a block on this machine (some minutes)"
    )
    command.add_argument("--device", metavar="NAME", help="what to measure on (default: onnxruntime-cpu)")
    command.add_argument("--markdown", action="store_true", help="print the page docs/operators.md")

    command = _add(commands, doctor)
    command.add_argument("--runs", default="runs", help="folder of the runs (default: %(default)s)")
    return top


def _add(commands, verb: Callable, as_json: bool = True) -> argparse.ArgumentParser:
    what = verb.__doc__.splitlines()[0]
    command = commands.add_parser(verb.__name__, help=what, description=what)
    command.set_defaults(verb=verb)
    command.add_argument(
        "--store", default=DEFAULT_STORE, help="database URL of the store (default: %(default)s)"
    )
    command.add_argument("-v", "--verbose", action="store_true", help="log what is done, on stderr")
    if as_json:
        command.add_argument("--json", action="store_true", help="print the result as JSON")
    return command


def _experiment_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument("file", help="experiment file, such as examples/digits.yaml")
    _override_arguments(command, "the file's")


def _override_arguments(command: argparse.ArgumentParser, name: str) -> None:
    command.add_argument("--name", help=f"name of the run (default: {name})")
    command.add_argument("--data-dir", metavar="DIR", help="where the images are, instead of data.directory")
    command.add_argument(
        "-o",
        dest="override",
        metavar="KEY=VALUE",
        action="append",
        default=[],
        help="a setting instead of the file's, such as search.budget=64; may be repeated",
    )


def _carrying_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument("--fresh", action="store_true", help="start over; what was there is kept, renamed")
    command.add_argument("--runs", default="runs", help="folder of the runs (default: %(default)s)")
    _worker_arguments(command)


def _number_or_all(text: str) -> int | None:
    """A whole number, or None for all."""
    if text == "all":
        return None
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is neither a whole number nor all") from None


def _worker_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--workers", type=int, metavar="N", help="work on N Ray workers of one CPU each, not in this process"
    )
    command.add_argument(
        "--gpus-per-worker",
        type=float,
        default=0,
        metavar="G",
        help="GPUs of each worker, or a share of one, like 0.5 (default: none)",
    )
    command.add_argument(
        "--ray", metavar="HOST:PORT", help="a Ray cluster to join; without it one is started here"
    )


def main(argv: Sequence[str] | None = None) -> int:
    # threads that wait soon sleep: long spinning makes training ten times slower beside another process
    os.environ.setdefault("GOMP_SPINCOUNT", "2000")
    args = parser().parse_args(argv)
    if args.version:
        from importlib.metadata import version

        print(version("paretoshift"))
        return OK
    if args.command is None:
        parser().print_help()
        return MISTAKE
    level = logging.INFO if args.verbose else logging.WARNING
    logging.basicConfig(level=level, format="nas: %(message)s", stream=sys.stderr)
    try:
        code = args.verb(args)
        sys.stdout.flush()
        return code
    except KeyboardInterrupt:
        print("nas: interrupted; the last checkpoint and all candidates are saved", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        # whoever read our output is gone: what is left of it has nowhere to go
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return OK
    except Exception as error:
        code = _exit_code(error)
        if code is None or "NAS_DEBUG" in os.environ:
            raise  # our mistake: show all of it
        print(f"nas: {' '.join(str(error).split())}", file=sys.stderr)
        return code


def _exit_code(error: Exception) -> int | None:
    """The exit code of an error that a person can do something about; None for our own mistakes."""
    named = {"Infeasible": INFEASIBLE, "VerificationFailed": UNVERIFIED}
    named |= dict.fromkeys(("Diverged", "SearchFailed", "WorkersFailed"), FAILED) | {"Busy": MISTAKE}
    for kind in type(error).__mro__:
        if kind.__name__ in named:
            return named[kind.__name__]
    if isinstance(error, KeyError | IndexError):
        return None
    return MISTAKE if isinstance(error, ValueError | LookupError | OSError) else None


if __name__ == "__main__":
    sys.exit(main())
