"""Show the runs of a store in a browser, while they are going and afterwards."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

from nas.exit_codes import OK


def add_arguments(command: ArgumentParser) -> None:
    command.add_argument("--port", type=int, default=8050, help="port to listen on (default: %(default)s)")
    command.add_argument("--host", default="127.0.0.1", help="address to bind (default: %(default)s)")


def carry_out(args: Namespace) -> int:
    from dashboard.app import serve

    serve(args.store, args.host, args.port)
    return OK
