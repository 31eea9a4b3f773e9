"""What a model needs, from its configuration alone, and the smallest machines that would do.

Sizes are those of `remote_mi.jobs.dispatch.footprint`, by the same arithmetic; machines are of the
sizes that are sold and rented.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from remote_mi.backends.local.fitting import SHARE
from remote_mi.backends.local.resources import Device
from remote_mi.common.errors import UsageError, first_line
from remote_mi.common.sizes import format_size
from remote_mi.jobs.dispatch.footprint import ModelParts, parts_of
from remote_mi.models.checkpoint import BITS, QUANTIZED_BITS, Checkpoint

_GB = 10**9
#: Memory of machines and of GPUs as sold, in GB; GPUs that come in numbers.
RAM_GB = (8, 16, 32, 64, 128, 256, 512, 1024, 2048)
GPU_GB = (8, 12, 16, 24, 32, 40, 48, 80, 96, 141, 192)
_SEVERAL = ((24, (2, 4, 8)), (80, (2, 4, 8)), (141, (2, 4, 8)), (192, (8,)))
#: The dtypes and quantizations that are told, largest first.
TOLD = ("float32", "bfloat16", "int8", "nf4")
#: Tokens of a harvest that are told.
HARVEST_TOKENS = 1_000_000


@dataclass(frozen=True)
class Machines:
    """The smallest machines that hold some weights and what is needed beside them.

    Attributes:
        ram: GB of main memory, for the CPU; gpu: GB of a single GPU; several: (number, GB each).
            None: none of the usual sizes.
    """

    ram: int | None
    gpu: int | None
    several: tuple[int, int] | None

    def __str__(self) -> str:
        found = []
        if self.gpu is not None:
            found.append(f"one GPU of {self.gpu} GB")
        elif self.several is not None:
            found.append(f"{self.several[0]} GPUs of {self.several[1]} GB")
        if self.ram is not None:
            found.append(f"{self.ram} GB of main memory")
        return ", or ".join([*found, *([] if found else ["none of the usual machines"])])

    def to_json(self) -> dict[str, Any]:
        several = self.several and {"number": self.several[0], "gb": self.several[1]}
        return {"ram_gb": self.ram, "gpu_gb": self.gpu, "gpus": several}


def smallest_machines(weights: int, beside: int) -> Machines:
    """The smallest machines for weights and for what is needed beside them, in bytes.

    On several GPUs each holds a part of the weights and all of the rest.
    """

    def holds(gb: int) -> float:
        return gb * _GB * SHARE

    need = weights + beside
    several = sorted((n * gb, n, gb) for gb, numbers in _SEVERAL for n in numbers)
    fitting = ((n, gb) for _, n, gb in several if math.ceil(weights / n) + beside <= holds(gb))
    return Machines(
        next((gb for gb in RAM_GB if need <= holds(gb)), None),
        next((gb for gb in GPU_GB if need <= holds(gb)), None),
        next(fitting, None),
    )


@dataclass(frozen=True)
class DtypeFit:
    """What a model needs in one dtype or quantization, in bytes, and where that fits."""

    dtype: str
    weights: int
    parts: ModelParts
    reading: Machines
    gradients: Machines

    def to_json(self) -> dict[str, Any]:
        return {
            "dtype": self.dtype,
            "weights": self.weights,
            "beside": self.parts.to_json(),
            "reading": self.reading.to_json(),
            "gradients": self.gradients.to_json(),
        }


@dataclass(frozen=True)
class ModelFit:
    """What a model needs.

    Attributes:
        parameters: how many numbers its weights have. stored: their dtype in the checkpoint.
        tokens: of the prompt that sizes are told for. harvest: bytes of the states of one layer
            for `HARVEST_TOKENS` tokens, in float32. fits: by dtype.
    """

    parameters: int
    stored: str
    tokens: int
    harvest: int
    fits: tuple[DtypeFit, ...]

    def to_json(self) -> dict[str, Any]:
        return {
            "parameters": self.parameters,
            "stored_dtype": self.stored,
            "tokens": self.tokens,
            "harvest": {"tokens": HARVEST_TOKENS, "bytes_a_layer": self.harvest},
            "dtypes": [fit.to_json() for fit in self.fits],
        }


def fit_model(checkpoint: Checkpoint, named: str, tokens: int) -> ModelFit:
    """What a model needs for prompts of some tokens, from its configuration.

    Args:
        checkpoint: without a requested dtype. named: the model's name in messages.

    Raises:
        UsageError: if its configuration is not known, or does not tell its sizes.
    """
    if not checkpoint.config:
        raise UsageError(
            f"the configuration of {named} is not known: {checkpoint.unknown or 'it is not here'}",
            "name a folder with a config.json, or a hub id with the hub in reach",
        )
    count = checkpoint.parameters or count_parameters(checkpoint.config, named)
    fits = []
    for dtype in TOLD:
        parts = parts_of(checkpoint.config, "bfloat16" if dtype != "float32" else dtype, tokens)
        if parts is None:
            raise UsageError(
                f"the configuration of {named} does not tell its width, layers and heads",
                "a job's own need is measured when it is planned",
            )
        weights = int(count * (QUANTIZED_BITS.get(dtype) or BITS[dtype]) / 8)
        beside = parts.forward + parts.states
        reading = smallest_machines(weights, beside)
        fits.append(
            DtypeFit(
                dtype, weights, parts, reading, smallest_machines(weights, beside + parts.graph)
            )
        )
    harvest = 4 * parts.width * HARVEST_TOKENS
    told = checkpoint.config.get("dtype") or checkpoint.config.get("torch_dtype") or "unknown"
    stored = checkpoint.dtype if checkpoint.parameters else str(told)
    return ModelFit(count, stored, tokens, harvest, tuple(fits))


def count_parameters(config: Mapping[str, Any], named: str) -> int:
    """How many numbers the weights of a model have, by building it without them.

    Raises:
        UsageError: if it cannot be built.
    """
    import torch
    from transformers import AutoConfig
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    from remote_mi.models.tasks import task_of

    kind = config.get("model_type")
    if kind not in CONFIG_MAPPING:
        raise UsageError(
            f"{named} has the model_type {str(kind)!r:.60}, which transformers does not know",
            "`pip install -U transformers`, if a newer version knows it",
        )
    try:
        members = {k: v for k, v in config.items() if k != "quantization_config"}
        built = AutoConfig.for_model(**members)
        _, auto = task_of(built)
        with torch.device("meta"):
            model = auto.from_config(built)
    except Exception as error:  # the model's own code, on a configuration that may be anything
        raise UsageError(
            f"{named} cannot be built from its configuration: {first_line(error)}",
            "its config.json needs a model_type that transformers knows",
        ) from error
    return sum(parameter.numel() for parameter in model.parameters())


def fit_rows(found: ModelFit) -> list[tuple[str, ...]]:
    """A table of what a model needs, as `FIT_COLUMNS`; machines are those without gradients."""
    rows = []
    for fit in found.fits:
        parts, machines = fit.parts, fit.reading
        gpus = "–" if machines.gpu is None else f"{machines.gpu} GB"
        if machines.gpu is None and machines.several is not None:
            gpus = f"{machines.several[0]} × {machines.several[1]} GB"
        rows.append(
            (
                fit.dtype + ("*" if fit.dtype == found.stored else ""),
                format_size(fit.weights),
                format_size(parts.forward + parts.states),
                format_size(parts.graph),
                "–" if machines.ram is None else f"{machines.ram} GB",
                gpus,
            )
        )
    return rows


#: Columns of `fit_rows`.
FIT_COLUMNS = ("dtype", "weights", "states", "gradients", "RAM", "GPU")


def fits_here(found: ModelFit, devices: Sequence[Device]) -> list[tuple[Device, list[str]]]:
    """Each device of this machine with the dtypes in which the model fits into what is free."""
    here = []
    for device in devices:
        room = device.free * SHARE
        here.append(
            (
                device,
                [
                    fit.dtype
                    for fit in found.fits
                    if fit.weights + fit.parts.forward + fit.parts.states <= room
                ],
            )
        )
    return here
