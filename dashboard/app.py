"""The dashboard: pages over a store, and the web server that shows them on this machine."""

from __future__ import annotations

import errno
import socket
import sys

import dash_mantine_components as dmc
import waitress
from dash import Dash, Input, Output, State, dcc, html
from dash.development.base_component import Component
from waitress.server import BaseWSGIServer

from dashboard import routes
from dashboard.pages import architecture, front, hardware, health, parts, runs, training
from dashboard.reader import Reader
from nas.storage.store import Store

TITLE = "ParetoShift"
PAGE = """<!DOCTYPE html>
<html lang="en">
    <head>
        {%metas%}
        <title>{%title%}</title>
        <link rel="icon" type="image/svg+xml" href="/assets/favicon.svg">
        {%css%}
    </head>
    <body>
        {%app_entry%}
        <footer>{%config%}{%scripts%}{%renderer%}</footer>
    </body>
</html>"""


def create_app(store: Store) -> Dash:
    """The pages over a store; it only reads."""
    app = Dash(
        __name__,
        title=TITLE,
        update_title=None,  # polling must not flicker in the tab
        index_string=PAGE,
        suppress_callback_exceptions=True,  # a page's callbacks are there before the page is
        meta_tags=[{"name": "viewport", "content": "width=device-width, initial-scale=1"}],
    )
    reader = Reader(store)
    app.layout = dmc.MantineProvider(
        [
            dcc.Location(id="url"),
            html.Header(
                [dcc.Link([html.Img(src="/assets/favicon.svg", alt=""), TITLE], "/", className="brand")],
                className="top",
            ),
            html.Main(id="page"),
            dcc.Store(id="title"),
        ],
        forceColorScheme="light",
    )

    @app.callback(
        Output("page", "children"),
        Output("title", "data"),
        Input("url", "pathname"),
        State("url", "search"),
    )
    def show(pathname, search):
        return page(reader, pathname, search)

    app.clientside_callback("title => { if (title) document.title = title; }", Input("title", "data"))
    for module in (runs, front, training, health, hardware):
        module.register(app, reader)
    return app


def page(reader: Reader, pathname: str | None, search: str | None = None) -> tuple[Component, str]:
    """The page at an address, and its title."""
    try:
        match routes.parts(pathname):
            case ():
                return runs.layout(reader), f"runs · {TITLE}"
            case ("run", name):
                return front.layout(reader, name, search), f"{name} · {TITLE}"
            case ("run", name, "training"):
                return training.layout(reader, name), f"{name} training · {TITLE}"
            case ("run", name, "health", *report) if len(report) <= 1:
                return health.layout(reader, name, *report), f"{name} health · {TITLE}"
            case ("run", name, "hardware"):
                return hardware.layout(reader, name), f"{name} hardware · {TITLE}"
            case ("run", name, "candidate", key):
                return architecture.layout(reader, name, key), f"{key} · {name} · {TITLE}"
        raise LookupError(f"there is no page {pathname}")
    except LookupError as error:
        return parts.notice("Not found", str(error.args[0])), f"not found · {TITLE}"
    except OSError as error:
        return parts.notice("The store cannot be read", str(error)), f"no store · {TITLE}"


def serve(store_url: str, host: str = "127.0.0.1", port: int = 8050) -> None:
    """Show a store until Ctrl-C.

    Raises:
        FileNotFoundError: there is no such store.
        ValueError: it is not a store of this version.
        OSError: the port is in use, or may not be used.
    """
    with Store(store_url, create=False) as store:
        server = listen(create_app(store), host, port)
        print(f"{store.url} is shown at http://{host}:{port}; Ctrl-C ends it", file=sys.stderr, flush=True)
        if host not in ("127.0.0.1", "localhost", "::1"):
            print(
                f"everyone who can reach {host} can read it: there is no password",
                file=sys.stderr,
                flush=True,
            )
        server.run()


def listen(app: Dash, host: str, port: int) -> BaseWSGIServer:
    """A web server that has its port but does not answer yet."""
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        place = socket.create_server((host, port), family=family, backlog=128)
    except OverflowError as error:
        raise ValueError(f"there is no port {port}; they go from 0 to 65535") from error
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise OSError(f"port {port} is in use; give another with --port") from error
        if error.errno == errno.EACCES:
            raise OSError(f"port {port} is reserved; give one above 1023 with --port") from error
        raise OSError(f"{host} is no address of this machine ({error.strerror}); 127.0.0.1 is one") from error
    return waitress.create_server(app.server, sockets=[place], threads=8)
