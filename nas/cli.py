"""The command line: finds the commands (nas.commands), and ends each with an exit code and at most a line."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import NoReturn

from nas.commands.arguments import DEFAULT_STORE
from nas.exit_codes import EXIT_CODES, INTERRUPTED, MISTAKE, OK, exit_code

COMMANDS = (  # of each a file in nas/commands; in the order of the help
    "run",
    "train",
    "search",
    "profile",
    "report",
    "export",
    "pick",
    "health",
    "transfer",
    "verify",
    "dashboard",
    "devices",
    "measure",
    "explain",
    "operators",
    "doctor",
)
WITHOUT_RESULT = ("dashboard",)  # that could be printed as JSON


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
    for name in COMMANDS:
        _add(commands, name)
    return top


def _add(commands, name: str) -> None:
    module = import_module(f"nas.commands.{name}")
    what = module.__doc__.splitlines()[0]
    command = commands.add_parser(name, help=what, description=what)
    command.set_defaults(carry_out=module.carry_out)
    command.add_argument(
        "--store", default=DEFAULT_STORE, help="database URL of the store (default: %(default)s)"
    )
    command.add_argument("-v", "--verbose", action="store_true", help="log what is done, on stderr")
    if name not in WITHOUT_RESULT:
        command.add_argument("--json", action="store_true", help="print the result as JSON")
    module.add_arguments(command)


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
        code = args.carry_out(args)
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
        code = exit_code(error)
        if code is None or "NAS_DEBUG" in os.environ:
            raise  # our mistake: show all of it
        print(f"nas: {' '.join(str(error).split())}", file=sys.stderr)
        return code


if __name__ == "__main__":
    sys.exit(main())
