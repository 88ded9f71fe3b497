"""List what a search space can be made of: operators and attentions, with what they cost here."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

from nas.commands.printing import print_json
from nas.exit_codes import OK


def add_arguments(command: ArgumentParser) -> None:
    command.add_argument("names", nargs="*", metavar="NAME", help="only these")
    command.add_argument(
        "--measure", action="store_true", help="time each in a block on this machine (some minutes)"
    )
    command.add_argument("--device", metavar="NAME", help="what to measure on (default: onnxruntime-cpu)")
    command.add_argument("--markdown", action="store_true", help="print the page docs/operators.md")


def carry_out(args: Namespace) -> int:
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
        print_json(catalogue.as_json(found))
    elif args.markdown:
        print(catalogue.as_markdown(found), end="")
    else:
        catalogue.print_entries(found)
    return OK
