"""The parts of a server: its services, their command lines, and their environment.

NDIF is started service by service rather than with its own `ndif start`, which waits two seconds
after each, listens on every interface, and stops Ray by name. The programs are the same, except
for the object store, where moto's S3 server stands in for a binary that is not on PyPI, and the
model hub, where `hub.py` stands in.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from remote_mi.backends.ndif_server.errors import ServerUnavailable
from remote_mi.backends.ndif_server.ports import Ports
from remote_mi.backends.ndif_server.processes import MARK

_HERE = Path(__file__).parent
_ACTOR = "remote_mi_ndif_actor"
# What a server needs from the environment it is started in. The rest is withheld: the user's keys,
# tokens and Python or Ray settings do not concern the server.
_INHERITED = ("HOME", "USER", "LOGNAME", "LANG", "LC_ALL", "TZ", "TMPDIR", "LD_LIBRARY_PATH")
_MORE_PROGRAMS = ("/usr/sbin", "/usr/local/bin", "/usr/local/sbin", "/opt/homebrew/bin")
_SHARE_OF_MEMORY = 0.7


@dataclass(frozen=True)
class ServerPlan:
    """Everything that is decided before the first service starts.

    Attributes:
        state: the server's folder.
        venv: the environment NDIF is installed in.
        ray_dir: Ray's own folder; short, since the paths of its sockets are limited to about a
            hundred bytes.
        mark: value of the environment variable that marks the server's processes.
        models: folder by repository id.
        threads: how many threads a model computes with.
        auth: whether keys are checked, and jobs of untrusted keys sandboxed.
        execution_timeout: seconds a job may run; None for no limit.
        more: further environment variables for NDIF, applied last.
    """

    state: Path
    venv: Path
    ray_dir: Path
    mark: str
    ports: Ports
    models: Mapping[str, Path]
    threads: int
    auth: bool
    execution_timeout: float | None
    more: Mapping[str, str]

    @property
    def python(self) -> str:
        """The interpreter of the server's environment."""
        return str(self.venv / "bin" / "python")

    def url(self, name: str, scheme: str = "http") -> str:
        """The address of a service."""
        return f"{scheme}://127.0.0.1:{self.ports.named[name]}"


def program(name: str, remedy: str, *folders: str) -> str:
    """The full path of a program that is not a Python package.

    Args:
        name: e.g. "redis-server".
        remedy: how to install it, for the message.
        folders: where else to look.

    Raises:
        ServerUnavailable: it is not installed.
    """
    path = os.pathsep.join([os.environ.get("PATH", ""), *_MORE_PROGRAMS, *folders])
    found = shutil.which(name, path=path)
    if not found:
        raise ServerUnavailable(f"{name} is missing: {remedy}")
    return found


def redis_server() -> str:
    """The full path of `redis-server`.

    Raises:
        ServerUnavailable: it is not installed.
    """
    return program(
        "redis-server",
        "install it with `apt-get install redis-server` (Debian, Ubuntu) or `brew install redis`",
    )


def environment(plan: ServerPlan) -> dict[str, str]:
    """The environment of every process of the server."""
    actor = "SandboxedModelActor" if plan.auth else "ModelActor"
    env = {name: os.environ[name] for name in _INHERITED if name in os.environ}
    env |= {
        MARK: plan.mark,
        "PATH": os.pathsep.join([str(plan.venv / "bin"), os.environ.get("PATH", os.defpath)]),
        "PYTHONPATH": str(_HERE / "shim"),
        # Processes that rename themselves would overwrite their environment, and with it the mark.
        "SPT_NOENV": "1",
        "OMP_NUM_THREADS": str(plan.threads),
        "TOKENIZERS_PARALLELISM": "false",
        "HF_ENDPOINT": plan.url("hub"),
        "HF_HOME": str(plan.state / "hf-server"),
        "HF_HUB_CACHE": str(plan.state / "hf-server" / "hub"),
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_DISABLE_XET": "1",
        "DO_NOT_TRACK": "1",
        "NDIF_HOME": str(plan.state),
        "NDIF_API_PORT": str(plan.ports.named["api"]),
        "NDIF_API_URL": plan.url("api"),
        "NDIF_REDIS_URL": plan.url("redis", "redis"),
        "NDIF_OBJECT_STORE_URL": plan.url("store"),
        "NDIF_RAY_ADDRESS": plan.url("ray_client", "ray"),
        "NDIF_MODEL_IMPORT_PATH": f"{_ACTOR}.{actor}",
        "NDIF_DEFAULT_DTYPE": "float32",
        # Memory reserved for CUDA itself, which is not used.
        "NDIF_DEFAULT_PADDING_BIAS": "0",
        "NDIF_STATUS_TTL_S": "2",
        "NDIF_SANDBOX_POOL_SIZE": "2",
    }
    env |= _ray_environment(plan)
    if plan.execution_timeout is not None:
        env["NDIF_DEFAULT_EXECUTION_TIMEOUT_SECONDS"] = str(plan.execution_timeout)
    if plan.auth:
        port = plan.ports.named["postgres"]
        env["NDIF_POSTGRES_URL"] = f"postgresql://postgres@127.0.0.1:{port}/postgres"
    return env | dict(plan.more)


def _ray_environment(plan: ServerPlan) -> dict[str, str]:
    port = plan.ports.named
    return {
        # For our launch of the controller: its address, and the ports that must answer first.
        "REMOTE_MI_NDIF_RAY": f"127.0.0.1:{port['ray_gcs']}",
        "REMOTE_MI_NDIF_RAY_PORTS": f"{port['ray_gcs']},{port['ray_node']}",
        # For our narrowing of the client proxy's ports.
        "REMOTE_MI_NDIF_CLIENT_PORTS": f"{plan.ports.clients[0]}-{plan.ports.clients[-1]}",
        # Meant for systems where Ray supports one node only; anywhere, it makes Ray stay on
        # loopback. Without it, an address of 127.0.0.1 is replaced by the machine's own.
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
        "RAY_USAGE_STATS_ENABLED": "0",
        # Set explicitly: otherwise, a token that some other Ray once put into the user's home makes
        # a part of the processes demand one, and the rest come without.
        "RAY_AUTH_MODE": "disabled",
        # A dispatcher whose Ray has died would start its own Ray, outside our control.
        "RAY_ENABLE_AUTO_CONNECT": "0",
        "DASHBOARD_METRIC_PORT": str(port["ray_dashboard_metrics"]),
        # One idle worker per pretended CPU would be started along with the first driver, and
        # none of them could be used: NDIF's actors need workers with settings of their own.
        "RAY_prestart_worker_first_driver": "0",
        "RAY_enable_worker_prestart": "0",
        # NDIF's start script sets this: the client server's children often hang without it.
        "GRPC_ENABLE_FORK_SUPPORT": "0",
    }


def commands(plan: ServerPlan) -> dict[str, list[str]]:
    """Command line by service, in the order in which they are started."""
    port = plan.ports.named
    return {
        "hub": [
            *(plan.python, "-I", str(_HERE / "hub.py"), f"fd:{plan.ports.holder.fileno()}"),
            *(f"{repo_id}={folder}" for repo_id, folder in plan.models.items()),
        ],
        "ray": _ray_command(plan),
        "redis": [
            *(redis_server(), "--port", str(port["redis"]), "--bind", "127.0.0.1"),
            *("--daemonize", "no", "--save", "", "--appendonly", "no", "--dir", str(plan.state)),
        ],
        "api": [
            *(plan.python, "-m", "gunicorn", "--config"),
            *("python:remote_mi_ndif_gunicorn", "--bind", f"127.0.0.1:{port['api']}"),
            # Its default place is in the user's home, shared by all servers.
            *("--no-control-socket", "ndif.services.api.app:app"),
        ],
        "store": [
            *(plan.python, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port["store"])),
        ],
    }


def _ray_command(plan: ServerPlan) -> list[str]:
    port = plan.ports.named
    memory = int(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") * _SHARE_OF_MEMORY)
    # "head" is where NDIF's controller asks to run; the others are what it places models by.
    resources = {"head": 10, "cuda_memory_bytes": memory, "cpu_memory_bytes": memory}
    options: dict[str, object] = {
        "node-ip-address": "127.0.0.1",
        "port": port["ray_gcs"],
        "ray-client-server-port": port["ray_client"],
        "object-manager-port": port["ray_objects"],
        "node-manager-port": port["ray_node"],
        "include-dashboard": "true",  # the controller asks it which nodes there are
        "dashboard-host": "127.0.0.1",
        "dashboard-port": port["ray_dashboard"],
        "dashboard-agent-listen-port": port["ray_agent_http"],
        "dashboard-agent-grpc-port": port["ray_agent_grpc"],
        "metrics-export-port": port["ray_metrics"],
        "runtime-env-agent-port": port["ray_runtime_env"],
        "worker-port-list": ",".join(map(str, plan.ports.workers)),
        "temp-dir": plan.ray_dir,
        "num-cpus": 8,
        "num-gpus": 1,  # pretended: the controller overlooks nodes without a GPU
        "resources": json.dumps(resources),
        "object-store-memory": 256 << 20,
        # Nobody reads the workers' output through a driver, and there is nothing to scale.
        "include-log-monitor": "false",
    }
    flags = ["--head", "--block", "--no-monitor", "--disable-usage-stats"]
    listed = [f"--{name}={value}" for name, value in options.items()]
    return [plan.python, "-m", "ray.scripts.scripts", "start", *flags, *listed]
