"""An experiment that the arguments name: read, opened as a run, carried out, found again."""

from __future__ import annotations

import sys
from argparse import Namespace
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from nas.commands.arguments import overrides, with_store
from nas.commands.cluster import workers_of
from nas.commands.printing import print_json
from nas.commands.stopping import interrupted, stopping
from nas.exit_codes import INFEASIBLE, OK


def read(args: Namespace):
    """The experiment of the file, with the settings instead of the file's."""
    from nas.config import read_experiment

    return read_experiment(Path(args.file), overrides(args), args.name)


@contextmanager
def opened_by(args: Namespace, made: tuple | None = None) -> Iterator[tuple]:
    """The run that the arguments name, or of an experiment with its text, and the question whether to stop."""
    from nas.experiment import open_run
    from nas.storage.store import Store

    experiment, text = made or (read(args), Path(args.file).read_text(encoding="utf-8"))
    with (
        stopping() as stop,
        Store(args.store) as store,
        open_run(experiment, store, Path(args.runs), args.fresh, text) as opened,
    ):
        yield opened, stop


def train_and_search(
    args: Namespace, opened, stop: Callable[[], bool], train: bool = True, search: bool = True
) -> int:
    """What is asked and left of an opened experiment, with what came of it on stdout; the exit code."""
    from nas.experiment import search_run, train_run

    with workers_of(args, opened.experiment if search else None) as (trainer, make_pool, trials):
        if train and not train_run(opened, stop, trainer):
            return interrupted()
        if search and not search_run(opened, stop, make_pool, trials=trials):
            return interrupted()
    return _show_front(args, opened) if search else _say_trained(args, opened)


def _say_trained(args: Namespace, opened) -> int:
    trained = {"run": opened.run.name, "supernet": str(opened.supernet_file)}
    said = f"the supernet of {opened.run.name} is trained: {opened.supernet_file}"
    print_json(trained) if args.json else print(said)
    return OK


def _show_front(args: Namespace, opened) -> int:
    from nas.devices import anything_found
    from nas.report import front_as_json, print_front

    found, candidates = opened.store.run(opened.run.name), opened.store.candidates(opened.run.name)
    print_json(front_as_json(found, candidates)) if args.json else print_front(found, candidates)
    if not anything_found(found, candidates):
        return INFEASIBLE
    if not args.json:
        url = opened.store.url
        print(f"export the knee point:  {with_store(f'nas export {found.name}', url)}", file=sys.stderr)
        print(f"look at it:             {with_store('nas dashboard', url)}", file=sys.stderr)
    return OK


def experiment_of(found, data_dir: str | None) -> tuple:
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
