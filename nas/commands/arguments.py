"""Arguments that several commands take, and what they say."""

from __future__ import annotations

import json
import shlex
from argparse import ArgumentParser, Namespace
from pathlib import Path

DEFAULT_STORE = "sqlite:///nas.db"


def add_experiment(command: ArgumentParser) -> None:
    """An experiment file, and settings instead of the file's."""
    command.add_argument("file", help="experiment file, such as examples/digits.yaml")
    add_overrides(command, "the file's")


def add_overrides(command: ArgumentParser, name: str) -> None:
    """Settings instead of an experiment file's; `name` is that of the run by default, in words."""
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


def add_carrying(command: ArgumentParser) -> None:
    """Where and how an experiment is carried out."""
    command.add_argument("--fresh", action="store_true", help="start over; what was there is kept, renamed")
    command.add_argument("--runs", default="runs", help="folder of the runs (default: %(default)s)")
    add_workers(command)


def add_workers(command: ArgumentParser) -> None:
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


def add_images(command: ArgumentParser) -> None:
    """Where the images of a run are, which may have moved."""
    command.add_argument("--data-dir", metavar="DIR", help="where the images are now")


def add_output(command: ArgumentParser) -> None:
    command.add_argument("--output", metavar="DIR", help="folder to write (default: in the run's, by key)")


def add_shape(command: ArgumentParser) -> None:
    command.add_argument("--shape", metavar="C,H,W", help="of one input, where an ONNX file leaves it open")


# -- what they say -----------------------------------------------------------------------------


def overrides(args: Namespace) -> list[str]:
    """The settings instead of the file's, KEY=VALUE each."""
    where = [f"data.directory={json.dumps(args.data_dir)}"] if args.data_dir else []
    return [*args.override, *where]


def device_settings(args: Namespace) -> dict[str, int]:
    """What is given of --threads and --batch."""
    given = {name: getattr(args, name) for name in ("threads", "batch")}
    return {name: value for name, value in given.items() if value is not None}


def networks_of(args: Namespace) -> list:
    """The networks at the paths, exports and ONNX files; --shape is that of their inputs."""
    from nas.measure import read_network, read_shape

    shape = None if args.shape is None else read_shape(args.shape)
    return [read_network(Path(path), shape) for path in args.paths]


def output_of(args: Namespace, run, name: str) -> Path:
    """The folder that an export is written to, by default `name` among those of the run."""
    return Path(args.output or Path(run.folder) / "exports" / name)


def with_store(line: str, url: str) -> str:
    """A command to be typed, with the store that it is about unless that is the default."""
    return line if url == DEFAULT_STORE else f"{line} --store {shlex.quote(url)}"


def check_epochs(args: Namespace) -> None:
    if args.epochs is not None and not 0 < args.epochs <= 1e6:
        raise ValueError(f"--epochs is {args.epochs:g}; it must be above 0 and at most a million")
