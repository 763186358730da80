"""`ledex inspect RUN`: look at single trajectories and episodes of a run in a browser, also while it goes on."""

from __future__ import annotations

import os
import socket
import threading
import time
from typing import Annotated

import typer

from actors.places import RemotePath
from launch.console import console, log
from launch.run_store import fetched
from launch.rundir import find_run, locate
from ledex_ray.errors import BadInput

HOST = "127.0.0.1"
PORT = 8642
FOLLOW_SECONDS = 10.0  # between two looks at a run's URL


def inspect(
    run: Annotated[str, typer.Argument(metavar="RUN", help="Name of a run, its directory or URL.")],
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port on this machine; 0 takes a free one.")] = PORT,
    follow: Annotated[bool, typer.Option("--follow", help="Reload the list as the run goes on.")] = False,
) -> None:
    """Serve a page over a run's trajectories and episodes, on this machine alone, until Ctrl-C.

    Example: ledex inspect quickstart --follow
    """
    os.environ.setdefault("HF_HUB_OFFLINE", "1")  # nothing is downloaded for a look; read when its library is imported
    import uvicorn

    from launch.browse.app import make_app

    root, recipe = find_run(run)
    listener = _listener(port)
    app = make_app(root, recipe, follow)
    where = locate(run)
    if follow and isinstance(where, RemotePath):
        threading.Thread(target=_keep_up, args=(where,), daemon=True).start()
    address = f"http://{HOST}:{listener.getsockname()[1]}/"
    console.print(f"{root}: {address}  (Ctrl-C ends it)", highlight=False, markup=False, soft_wrap=True)
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning", access_log=False))
    server.run(sockets=[listener])


def _keep_up(where: RemotePath) -> None:
    while True:
        time.sleep(FOLLOW_SECONDS)
        try:
            fetched(where)
        except BadInput as error:  # the pages show what there was
            log.warning("%s", error)


def _listener(port: int) -> socket.socket:
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((HOST, port))
    except OSError as error:
        listener.close()
        raise BadInput(
            "--port", f"cannot be served on ({error.strerror})", given=port, expected="a free one, or 0"
        ) from error
    return listener
