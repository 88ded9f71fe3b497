"""Say why networks take as long as they do: which steps waste time, and whose fault that is."""

from __future__ import annotations

import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Callable
from pathlib import Path

from nas.commands.arguments import add_shape, device_settings, networks_of, with_store
from nas.commands.printing import print_json
from nas.exit_codes import OK


def add_arguments(command: ArgumentParser) -> None:
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
        action="append",
        help="where, such as openvino-cpu,threads=2; may be repeated (default: onnxruntime-cpu; of a run, its own "
        "devices)",
    )
    command.add_argument(
        "--threads", type=int, metavar="N", help="of every device (default: 1, or the run's)"
    )
    command.add_argument("--batch", type=int, metavar="N", help="inputs per run (default: 1, or the run's)")
    add_shape(command)
    command.add_argument("--fresh", action="store_true", help="measure the peaks of this machine anew")


def carry_out(args: Namespace) -> int:
    if meant := _run_meant(args):
        return _explain_run(args, *meant)
    if args.candidate is not None:
        raise ValueError(
            f"--candidate is of a run; {args.paths[0]} is none: give the name of a run of {args.store}"
        )
    return _explain_files(args)


def _run_meant(args: Namespace) -> tuple | None:
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


# -- files -------------------------------------------------------------------------------------


def _explain_files(args: Namespace) -> int:
    """Exports and ONNX files, on each device."""
    from nas.explain import check_profiled
    from nas.hardware import DEFAULT
    from nas.measure import check, read_devices

    devices = read_devices(args.device or [DEFAULT], device_settings(args))
    networks = networks_of(args)
    check(networks, devices)
    for there in devices:
        check_profiled(there)
    told = [one for there in devices for one in _explain_files_on(args, networks, there)]
    if args.json:
        print_json(told[0] if len(told) == 1 else told)
    return OK


def _explain_files_on(args: Namespace, networks: list, there) -> list[dict]:
    """Those on one device: printed, or as JSON if that is asked for."""
    from nas.explain import explain
    from nas.explain_view import explained_as_json, print_compared, print_explained
    from nas.progress import track

    found = []
    with track("explaining", len(networks), brief=True) as shown:
        for one in networks:
            found.append(explain(one, there, args.fresh and not found))
            shown.to(len(found), f"{one.path} on {there.name}")
    advice = [_advised(args.store, one.path, there) for one in networks]
    if args.json:
        return [explained_as_json(*pair) for pair in zip(found, advice, strict=True)]
    if len(found) == 1:
        print_explained(found[0], advice[0])
    else:
        print_compared(found, "network")
    return []


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


# -- a run -------------------------------------------------------------------------------------


def _explain_run(args: Namespace, found, candidates) -> int:
    """The candidates of the front, or the one asked for, on each device of the run; kept for the dashboard."""
    from nas import explanations
    from nas.explain_run import devices_of

    told = [
        _explain_on(args, found, candidates, name, there)
        for name, there in devices_of(found, args.device, device_settings(args))
    ]
    if args.json:
        print_json(told)
    else:
        line = with_store("nas dashboard", args.store)
        print(f"kept in {explanations.folder_of(found)}; look at it:  {line}", file=sys.stderr)
    return OK


def _explain_on(args: Namespace, found, candidates, name: str, there) -> dict | None:
    """Those on one device, called `name` in the run: printed, or as JSON if that is asked for."""
    from nas.advice import advise_on
    from nas.explain_run import chosen, efficiency_on, explained_on
    from nas.explain_view import explained_as_json, gap_as_json, print_compared, print_explained, print_gaps
    from nas.progress import track

    several = chosen(found, candidates, args.candidate, name)
    with track("explaining", len(several), brief=True) as shown:
        apart = explained_on(found, several, name, there, args.fresh, shown)
    gaps = efficiency_on(candidates, name, there)
    advice = [_or_why(advise_on, one.architecture, found, there) for one in several]
    if args.json:
        return {
            "run": found.name,
            "device": name or there.name,
            "explained": [explained_as_json(*pair) for pair in zip(apart, advice, strict=bool(apart))],
            "efficiency": [gap_as_json(one) for one in gaps],
        }
    if len(apart) == 1:
        print_explained(apart[0], advice[0])
    elif apart:
        print_compared(apart, "candidate")
    else:
        print(f"only whole networks can be told of on this {there.name}: {there.unprofiled()}")
    print_gaps(gaps, len(candidates), name or there.name)
    return None
