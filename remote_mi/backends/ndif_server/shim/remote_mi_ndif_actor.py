"""Model actors that hold their model in main memory, for a machine without a GPU.

This file runs inside the server (it is on the server's PYTHONPATH), never in the client. NDIF
asks for an actor class by name (`NDIF_MODEL_IMPORT_PATH`); these are its own classes with the
few steps replaced that call `torch.cuda` without asking whether there is a GPU. How a job is
received, run, timed out, reported and answered is NDIF's code, unedited.
"""
# pyright: reportMissingImports=false
# Ray, NDIF and nnsight's server half are installed in the server's own environment only.

from __future__ import annotations

import contextlib
import os
import queue
import time
from collections.abc import Iterator
from typing import Any

# A card that happens to be there must not be half used: the pretended one is plain memory. CUDA
# reads this when it is first used, which importing torch is not.
os.environ["CUDA_VISIBLE_DEVICES"] = ""

import ray
import torch
from ndif.common.metrics import ModelLoadTimeMetric
from ndif.common.telemetry import elapsed_ms
from ndif.services.ray.deployments.modeling.base import BaseModelDeployment
from ndif.services.ray.sandbox import host as sandbox_host
from ndif.services.ray.sandbox import model as sandbox_model
from ndif.services.ray.sandbox.model import SandboxModelDeployment
from nnsight.modeling.huggingface import HuggingFaceModel

# A sandboxed job's process gets none of the server's variables but those named. Without the
# address of the hub it asks the public one, for longer than it may take to start; without the
# mark it could not be found when the server is stopped.
sandbox_host.RUNNER_ENV += (
    "HF_ENDPOINT",
    "HF_HUB_CACHE",
    "HF_HUB_DISABLE_TELEMETRY",
    "HF_HUB_DISABLE_XET",
    "REMOTE_MI_NDIF_SERVER",
)


@contextlib.contextmanager
def _nothing_to_synchronize() -> Iterator[None]:
    """Let NDIF's own code pass its `torch.cuda.synchronize()` calls, which fail without a GPU."""
    real = torch.cuda.synchronize
    torch.cuda.synchronize = lambda device=None: None
    try:
        yield
    finally:
        torch.cuda.synchronize = real


class OnCPU(BaseModelDeployment):
    """NDIF's deployment, with the model in main memory."""

    def __init__(self, *args: Any, gpu_mem_bytes_by_id: Any = None, **kwargs: Any) -> None:
        # The controller books bytes of the pretended card; the actor must not go looking for it.
        super().__init__(*args, gpu_mem_bytes_by_id={}, **kwargs)

    def load_from_disk(self) -> Any:
        """Load the weights into main memory, without gradients."""
        started = time.time()
        model = HuggingFaceModel.from_model_key(
            self.model_key, dispatch=True, dtype=self.dtype_name, device="cpu", **self.kwargs
        )
        model._module.requires_grad_(False)
        ModelLoadTimeMetric.update(
            model_key=self.model_key,
            duration_ms=elapsed_ms(started),
            load_type="initial",
            num_gpus=0,
        )
        return model

    async def to_cache(self) -> None:
        """Park the replica; its weights are in main memory already."""
        with _nothing_to_synchronize():
            await super().to_cache()

    def from_cache(self, gpu_mem_bytes_by_id: Any) -> None:
        """Serve again; nothing has to be moved."""
        self.cached = False

    def cleanup(self) -> None:
        """Release what a job left behind."""
        with _nothing_to_synchronize():
            super().cleanup()


class _BetweenJobs(sandbox_host.Pool):
    """NDIF's pool of processes for sandboxed jobs, filled up when a job has ended.

    NDIF starts the next process beside the job. On a machine with few processors, all of which
    the model computes with, that would take longer than the sandbox itself.
    """

    def acquire(self, timeout: float = 30.0) -> Any:
        """Take a process that is ready, or start one."""
        try:
            return self.ready.get(timeout=timeout)
        except queue.Empty:
            return self._spawn()

    def fill(self) -> None:
        """Start what is missing, in the background."""
        for _ in range(self.size):
            self.refill()


sandbox_model.Pool = _BetweenJobs


# `SandboxModelDeployment` calls up into a deployment, which is thus the one above.
class _Sandboxed(SandboxModelDeployment, OnCPU):
    def cleanup(self) -> None:
        """Release what a job left behind, and make ready for the next."""
        super().cleanup()
        self.pool.fill()


# Ray sends a decorated class by value but its bases by reference, so the worker imports this
# module, and with it the settings above, only if the class has a base that lives here.
@ray.remote(num_cpus=1, max_restarts=-1)
class ModelActor(OnCPU):
    """Runs every job in its own process, as NDIF's default actor does."""


@ray.remote(num_cpus=1, max_restarts=-1)
class SandboxedModelActor(_Sandboxed):
    """Runs the jobs of untrusted keys in a process of their own, as the public service does."""
