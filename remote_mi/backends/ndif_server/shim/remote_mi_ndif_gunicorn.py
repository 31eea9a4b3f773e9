"""How gunicorn runs NDIF's API, dispatcher and controller launch: one import for all of them.

This file runs inside the server (it is on the server's PYTHONPATH), never in the client. It is
NDIF's own gunicorn configuration but for the moment at which NDIF is imported. Each of its
processes needs the same four seconds of imports; on a machine with two cores they would take
turns. Here the master imports once, and the others are forked from it.

NDIF forbids its master to import so early because its log and metrics shippers start threads,
which a fork loses. Both are off here: no address is configured for either.
"""
# pyright: reportMissingImports=false

from __future__ import annotations

import os
import signal
import socket
import time
import traceback
from multiprocessing import get_context
from typing import Any

import ndif.services.api.app
import ndif.services.api.queue.dispatcher  # noqa: F401 - imported for the processes forked later
import ray
from ndif.services.api.gunicorn_conf import (  # noqa: F401 - gunicorn reads them here
    _run_dispatcher,
    post_fork,
    timeout,
    worker_class,
    workers,
)
from ndif.services.ray.deployments.controller.controller import app as launch_controller

_SECONDS = 120


def on_starting(server: Any) -> None:
    """Launch the controller in Ray and start the dispatcher, both while the API starts."""
    forked = get_context("fork")
    # Nothing is ever written to this pipe: its reader goes on when all writers have closed it.
    reader, writer = os.pipe()
    launch = forked.Process(target=_controller, args=(writer, os.getpid()), name="ControllerLaunch")
    launch.start()
    os.close(writer)
    forked.Process(target=_dispatcher, args=(reader,), name="DispatcherProcess").start()
    os.close(reader)


def _controller(launched: int, master: int) -> None:
    """Launch the controller, close the pipe, and stay until it is ready."""
    try:
        for port in os.environ["REMOTE_MI_NDIF_RAY_PORTS"].split(","):
            _wait_for(int(port))
        # By address, so that it can never be the Ray of somebody else on this machine.
        address = os.environ["REMOTE_MI_NDIF_RAY"]
        ray.init(address=address, namespace="NDIF", logging_level="error")
        launch_controller()
        controller = ray.get_actor("Controller", namespace="NDIF")
        os.close(launched)
        # Ray drops an actor it has only registered when whoever asked for it leaves.
        ray.get(controller.__ray_ready__.remote(), timeout=_SECONDS)
        ray.shutdown()
    except BaseException:
        # Without a controller the server would come up and never answer. Asked to end, the master
        # would wait for the dispatcher, which ends only when it is killed.
        traceback.print_exc()
        os.kill(master, signal.SIGKILL)


def _dispatcher(launched: int) -> None:
    """NDIF's dispatcher, as soon as there is a controller.

    Earlier, it would connect, find none, and connect anew, each time through a further process
    that Ray starts for it.
    """
    os.read(launched, 1)
    os.close(launched)
    _run_dispatcher()


def _wait_for(port: int) -> None:
    deadline = time.monotonic() + _SECONDS
    while time.monotonic() < deadline:
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    raise TimeoutError(f"Ray does not listen on port {port}")
