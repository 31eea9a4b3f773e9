"""Whether and how a job fits on this machine: its weights and what it needs in addition.

Plain functions of plain data, so that every decision can be tested and read.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from remote_mi.backends.local.resources import Device, Resources
from remote_mi.backends.options import Footprint, Option, Question
from remote_mi.backends.settings.values import Limits
from remote_mi.common.sizes import format_size
from remote_mi.models.checkpoint import BITS, QUANTIZED_BITS, Checkpoint
from remote_mi.models.spec import ModelSpec

#: Share of the free memory that a job may take; the rest is for allocators and the system.
SHARE = 0.9
#: Memory for a sweep's rows on a CPU: more would not make them faster.
CPU_ROWS_BYTES = 1 << 30
#: Below this, a sweep would read the weights for a handful of rows at a time.
LEAST_ROWS_BYTES = 32 << 20


def consider(question: Question, machine: Resources) -> Option:
    """Whether a job runs on this machine, and, unless the user named it, after which download."""
    option = _consider_memory(question, machine)
    problem = _results_problem(question, option.rows_bytes) if option.can else ""
    if not problem:
        return option
    return replace(
        option, can=False, why=problem, hint="raise it in remote-mi.yaml, or use fewer prompts"
    )


def _results_problem(question: Question, rows_bytes: int | None) -> str:
    """Why a job's results are too large, by the estimate or, in doubt, by a run without weights."""
    limit, need = question.limits.results, question.need
    if max(need.bytes_down or 0, need.bytes_down_most) <= limit:
        return ""
    need = question.measured(rows_bytes or LEAST_ROWS_BYTES)
    if (need.bytes_down or 0) <= limit:
        return ""
    return (
        f"its results would take about {format_size(need.bytes_down or 0)}, and the limit "
        f"'limits.results' is {format_size(limit)}"
    )


def _consider_memory(question: Question, machine: Resources) -> Option:
    """As `consider`, by the memory that the job takes."""
    model, checkpoint, limits = question.model, question.checkpoint, question.limits
    need = question.need
    option = evaluate_local(model, checkpoint, need, machine, limits)
    if not option.can and only_activations(model, checkpoint, need, machine, limits):
        need = question.measured(LEAST_ROWS_BYTES)
        option = evaluate_local(model, checkpoint, need, machine, limits)
    if not option.can and question.explicit and _might_fit(model, checkpoint, machine):
        # The user asked for it, and the system may free more memory than is free now.
        return Option("local", True, f"requested, although {option.why}", option.hint, model)
    if option.can and not checkpoint.present and not question.explicit:
        option = option_after_download(option, limits, machine.disk_free)
        return replace(option, defer_reason="the model is not on this machine")
    return option


def _might_fit(spec: ModelSpec, checkpoint: Checkpoint, machine: Resources) -> bool:
    """Whether the weights alone fit into the total memory, or their size is unknown."""
    if checkpoint.weights is None or spec.device_map is not None:
        return True
    kinds = {spec.device.split(":")[0]} - {"auto"} or {d.kind for d in machine.devices}
    sizes = [sum(d.total for d in machine.of_kind(kind)) for kind in kinds]
    return not any(sizes) or checkpoint.weights <= max(sizes)


def evaluate_local(
    spec: ModelSpec, checkpoint: Checkpoint, need: Footprint, resources: Resources, limits: Limits
) -> Option:
    """Whether and how a job runs on this machine, whether or not the weights are here."""
    if checkpoint.weights is None:
        reason = checkpoint.unknown or "how large its weights are is not known"
        return Option(
            "local", False, f"{spec.name}: {reason}", "name a folder, or a model that is here", spec
        )
    beside = need.activations or 0
    wanted = f"{format_size(checkpoint.weights)} of weights in {checkpoint.dtype}"
    if need.activations is not None:
        about = "" if need.measured else "about "
        wanted += f" and {about}{format_size(beside)} beside them"
    devices = _allowed_devices(spec, resources)
    if not devices:
        return Option(
            "local",
            False,
            f"this machine has no device {spec.device!r}",
            f"it has {', '.join(d.name for d in resources.devices)}",
            spec,
        )
    requirement = _Requirement(spec, checkpoint, beside, wanted, limits)
    tried = [
        *_single_device_options(requirement, devices, resources),
        *_multi_gpu_options(requirement, devices),
    ]
    fitting = next((option for option in tried if isinstance(option, Option)), None)
    return fitting or Option(
        "local",
        False,
        f"{wanted} do not fit into {', nor into '.join(map(str, tried))}",
        suggest_smaller(spec, checkpoint, beside, max(_usable_bytes(d, limits) for d in devices)),
        spec,
    )


@dataclass(frozen=True)
class _Requirement:
    """What has to fit: the weights, and `beside` more bytes on each device; `text` describes it."""

    spec: ModelSpec
    checkpoint: Checkpoint
    beside: int
    text: str
    limits: Limits

    def fits(self, where: str, model: ModelSpec, rows_bytes: int | None = None) -> Option:
        return Option(
            "local",
            True,
            f"{self.text}{where}",
            model=model,
            rows_bytes=rows_bytes,
            download=self.checkpoint.download or 0,
        )


def _single_device_options(
    wanted: _Requirement, devices: list[Device], resources: Resources
) -> Iterator[Option | str]:
    """For each device: how much it holds, preceded by the option if that is enough."""
    weights = wanted.checkpoint.weights or 0
    for device in devices if wanted.spec.device_map is None else []:
        room = _usable_bytes(device, wanted.limits)
        holds = f"{format_size(room)} of {_describe_memory(device, wanted.limits)}"
        if weights + wanted.beside <= room:
            model = _pin_to(wanted.spec, device, resources)
            yield wanted.fits(f" fit into {holds}", model, _rows_budget(device, room - weights))
        yield holds


def _multi_gpu_options(wanted: _Requirement, devices: list[Device]) -> Iterator[Option | str]:
    """The GPUs together, each with its own layers and its own activations."""
    spec, weights = wanted.spec, wanted.checkpoint.weights or 0
    several = [d for d in devices if d.kind == "cuda"]
    if len(several) > 1 or (spec.device_map is not None and several):
        room = sum(_usable_bytes(d, wanted.limits) for d in several)
        holds = f"{format_size(room)} of {len(several)} GPUs together"
        if weights + wanted.beside * len(several) <= room:
            model = replace(spec, device_map=spec.device_map or "auto")
            yield wanted.fits(f" fit into {holds}", model, (room - weights) // (2 * len(several)))
        yield holds
    elif spec.device_map is not None:
        yield wanted.fits(f", where the device map {spec.device_map!r} puts them", spec)


def only_activations(
    spec: ModelSpec, checkpoint: Checkpoint, need: Footprint, resources: Resources, limits: Limits
) -> bool:
    """Whether only estimated activations keep a job out: its weights are here and fit."""
    if need.measured or not checkpoint.present or checkpoint.weights is None:
        return False
    rooms = [_usable_bytes(device, limits) for device in _allowed_devices(spec, resources)]
    return spec.device_map is None and any(checkpoint.weights < room for room in rooms)


def _allowed_devices(spec: ModelSpec, resources: Resources) -> list[Device]:
    """The devices that a spec allows, best kind first, most free memory first."""
    if spec.device == "auto":
        kinds = list(dict.fromkeys(d.kind for d in resources.devices))
        return [d for kind in kinds for d in sorted(resources.of_kind(kind), key=lambda d: -d.free)]
    exact = [d for d in resources.devices if d.name == spec.device]
    return exact or (resources.of_kind(spec.device)[:1] if ":" not in spec.device else [])


def _pin_to(spec: ModelSpec, device: Device, resources: Resources) -> ModelSpec:
    """The spec for a device; unchanged if "auto" selects that device anyway."""
    if spec.device != "auto" or device == resources.of_kind(resources.devices[0].kind)[0]:
        return spec
    return replace(spec, device=device.name)


def _usable_bytes(device: Device, limits: Limits) -> int:
    """Bytes of a device that a job may take."""
    limit = limits.gpu_memory if device.kind == "cuda" else limits.memory
    room = int(device.free * SHARE)
    return room if limit is None else min(room, limit)


def _describe_memory(device: Device, limits: Limits) -> str:
    limit = limits.gpu_memory if device.kind == "cuda" else limits.memory
    limited = limit is not None and limit < device.free * SHARE
    return f"{device.name}'s memory ({'the limit set' if limited else 'free'})"


def _rows_budget(device: Device, left: int) -> int:
    if device.kind == "cuda":
        return max(LEAST_ROWS_BYTES, left // 2)
    return max(LEAST_ROWS_BYTES, min(CPU_ROWS_BYTES, left // 2))


def suggest_smaller(spec: ModelSpec, checkpoint: Checkpoint, beside: int, room: int) -> str:
    """What would make a job fit: another dtype, or fewer or shorter prompts; "" if nothing."""
    if checkpoint.weights is None:
        return ""
    ideas = []
    if checkpoint.parameters and not spec.quantization:
        for dtype in ("bfloat16", "int8", "nf4"):
            bits = QUANTIZED_BITS.get(dtype) or BITS[dtype]
            size = int(checkpoint.parameters * bits / 8)
            if size < checkpoint.weights and size + beside <= room:
                option = "--quantization" if dtype in QUANTIZED_BITS else "--dtype"
                ideas.append(f"{option} {dtype} takes {format_size(size)}")
                break
    if checkpoint.weights < room:
        ideas.append("fewer or shorter prompts (-n) take less beside the weights")
    return "; ".join(ideas)


def option_after_download(local: Option, limits: Limits, disk_free: int) -> Option:
    """A local option whose model has to be fetched first, if limits and disk space allow."""
    size = format_size(local.download)
    if limits.download is not None and local.download > limits.download:
        return replace(
            local,
            can=False,
            why=f"the model is not here, and its {size} are more than "
            f"the limit 'limits.download', {format_size(limits.download)}",
            hint="raise it in remote-mi.yaml",
        )
    if local.download > disk_free:
        return replace(
            local,
            can=False,
            why=f"the model is not here, and its {size} do not fit on "
            f"the disk ({format_size(disk_free)} free)",
            hint="make room",
        )
    return replace(local, why=f"after a download of {size}; {local.why}")
