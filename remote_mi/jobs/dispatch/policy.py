"""The policy: from what is known of a job, this machine and the servers to where the job runs.

Plain functions of plain data, so that every decision can be tested and read. In order: a cached
result; a local device where the job fits and whose model is here; a server that hosts the model
and can do what the recipe needs; this machine after a download. Settings change the order.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

from remote_mi.backends.capabilities import lacking
from remote_mi.common.settings import Limits
from remote_mi.common.sizes import format_size
from remote_mi.jobs.dispatch.footprint import Footprint
from remote_mi.jobs.dispatch.resources import Device, Resources
from remote_mi.models.checkpoint import BITS, QUANTIZED_BITS, Checkpoint
from remote_mi.models.spec import ModelSpec

if TYPE_CHECKING:
    from remote_mi.jobs.dispatch.servers import ServerFacts

#: Share of the free memory that a job may take; the rest is for what allocators and the system need.
SHARE = 0.9
#: What a sweep's rows may take on a CPU: more would not make them quicker.
CPU_ROWS_BYTES = 1 << 30
#: Below this, a sweep would read the weights for a handful of rows at a time.
LEAST_ROWS_BYTES = 32 << 20


@dataclass(frozen=True)
class Option:
    """A backend that was considered.

    Attributes:
        backend: what `--backend` takes. can: whether the job can run there.
        why: the reason, in words. hint: what would make it possible; "" where it is.
        model: the model as it would run there: device, device map.
        rows_bytes: what the rows of a sweep may take there.
        download: bytes to fetch first.
    """

    backend: str
    can: bool
    why: str
    hint: str = ""
    model: ModelSpec = field(default_factory=ModelSpec)
    rows_bytes: int | None = None
    download: int = 0

    def to_json(self) -> dict[str, Any]:
        shown = asdict(self)
        shown["model"] = {"device": self.model.device, "device_map": self.model.device_map}
        return shown


def locally(
    spec: ModelSpec, checkpoint: Checkpoint, need: Footprint, resources: Resources, limits: Limits
) -> Option:
    """Whether and how a job runs on this machine; whether the weights are here is not judged."""
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
    devices = _asked_devices(spec, resources)
    if not devices:
        return Option(
            "local",
            False,
            f"this machine has no device {spec.device!r}",
            f"it has {', '.join(d.name for d in resources.devices)}",
            spec,
        )
    whole = _Wanted(spec, checkpoint, beside, wanted, limits)
    tried = [*_one_device(whole, devices, resources), *_several_devices(whole, devices)]
    fitting = next((option for option in tried if isinstance(option, Option)), None)
    return fitting or Option(
        "local",
        False,
        f"{wanted} do not fit into {', nor into '.join(map(str, tried))}",
        smaller(spec, checkpoint, beside, max(_room(d, limits) for d in devices)),
        spec,
    )


@dataclass(frozen=True)
class _Wanted:
    """What has to fit: the weights, and bytes beside them on each device; `text` says it."""

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


def _one_device(
    wanted: _Wanted, devices: list[Device], resources: Resources
) -> Iterator[Option | str]:
    """Each device by itself: the option, where it holds all of it, or how much it holds."""
    weights = wanted.checkpoint.weights or 0
    for device in devices if wanted.spec.device_map is None else []:
        room = _room(device, wanted.limits)
        holds = f"{format_size(room)} of {_named(device, wanted.limits)}"
        if weights + wanted.beside <= room:
            model = _on(wanted.spec, device, resources)
            yield wanted.fits(f" fit into {holds}", model, _rows(device, room - weights))
        yield holds


def _several_devices(wanted: _Wanted, devices: list[Device]) -> Iterator[Option | str]:
    """The GPUs together, each with its own layers and its own activations."""
    spec, weights = wanted.spec, wanted.checkpoint.weights or 0
    several = [d for d in devices if d.kind == "cuda"]
    if len(several) > 1 or (spec.device_map is not None and several):
        room = sum(_room(d, wanted.limits) for d in several)
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
    """Whether a job does not fit by arithmetic alone: its weights are here, and would fit."""
    if need.measured or not checkpoint.present or checkpoint.weights is None:
        return False
    rooms = [_room(device, limits) for device in _asked_devices(spec, resources)]
    return spec.device_map is None and any(checkpoint.weights < room for room in rooms)


def _asked_devices(spec: ModelSpec, resources: Resources) -> list[Device]:
    """The devices that a spec allows, the one with most room of the best kind first."""
    if spec.device == "auto":
        kinds = list(dict.fromkeys(d.kind for d in resources.devices))
        return [d for kind in kinds for d in sorted(resources.of_kind(kind), key=lambda d: -d.free)]
    exact = [d for d in resources.devices if d.name == spec.device]
    return exact or (resources.of_kind(spec.device)[:1] if ":" not in spec.device else [])


def _on(spec: ModelSpec, device: Device, resources: Resources) -> ModelSpec:
    """The spec for a device; as it is where "auto" takes that device by itself."""
    if spec.device != "auto" or device == resources.of_kind(resources.devices[0].kind)[0]:
        return spec
    return replace(spec, device=device.name)


def _room(device: Device, limits: Limits) -> int:
    """Bytes of a device that a job may take."""
    limit = limits.gpu_memory if device.kind == "cuda" else limits.memory
    room = int(device.free * SHARE)
    return room if limit is None else min(room, limit)


def _named(device: Device, limits: Limits) -> str:
    limit = limits.gpu_memory if device.kind == "cuda" else limits.memory
    limited = limit is not None and limit < device.free * SHARE
    return f"{device.name}'s memory ({'the limit set' if limited else 'free'})"


def _rows(device: Device, left: int) -> int:
    if device.kind == "cuda":
        return max(LEAST_ROWS_BYTES, left // 2)
    return max(LEAST_ROWS_BYTES, min(CPU_ROWS_BYTES, left // 2))


def smaller(spec: ModelSpec, checkpoint: Checkpoint, beside: int, room: int) -> str:
    """What would make a job fit: another dtype, or fewer and shorter prompts; "" if nothing."""
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


def on_server(
    facts: ServerFacts, needs: Sequence[str], need: Footprint, limits: Limits, spec: ModelSpec
) -> Option:
    """Whether a server hosts the model and can do what the recipe needs."""

    def no(why: str, hint: str = "") -> Option:
        return Option(facts.backend, False, why, hint, spec)

    if facts.problem:
        return no(facts.problem, facts.hint)
    lacks = lacking(needs, facts.place)
    if lacks:
        what = " and ".join(need.replace("_", " ") for need in lacks)
        return no(
            f"it runs the jobs of this key in its sandbox, where {what} cannot be read",
            "use a key with the tag 'trusted', or a server of your own (`remote-mi ndif up`)",
        )
    problem, hint = _hosting(facts, spec)
    if problem:
        return no(problem, hint)
    differs = _dtype_differs(facts, spec)
    if differs:
        return no(*differs)
    for what, size, limit in (
        ("upload", need.bytes_up, limits.upload),
        ("results", need.bytes_down, limits.results),
    ):
        if limit is not None and size is not None and size > limit:
            return no(
                f"about {format_size(size)} would travel, and the limit 'limits.{what}' is "
                f"{format_size(limit)}",
                "raise it in remote-mi.yaml, or take fewer prompts",
            )
    down = "?" if need.bytes_down is None else format_size(need.bytes_down)
    traffic = f"about {format_size(need.bytes_up)} up and {down} down"
    return Option(facts.backend, True, f"{_hosted(facts)}; {traffic}", model=spec)


def _hosting(facts: ServerFacts, spec: ModelSpec) -> tuple[str, str]:
    """Why the model is not ready there, and what to do; ("", "") if it is."""
    there = facts.deployment
    if there is None and facts.loads:
        return "", ""
    if there is None:
        same = [o for o in facts.others if o.lower().partition("@")[0] == spec.name.lower()]
        if same:
            return (
                f"{spec.name} is deployed there under another revision: {', '.join(same)}",
                "name it as deployed with --revision, or ask for this one: "
                f"--backend {facts.backend}",
            )
        hosted = ", ".join(facts.others[:4]) or "nothing"
        more = f" and {len(facts.others) - 4} more" if len(facts.others) > 4 else ""
        return (
            f"{spec.name} is not deployed there",
            f"deployed are {hosted}{more}; --backend {facts.backend} asks it to deploy this one",
        )
    if there.state == "UNHEALTHY":
        return f"the process of {spec.name} died there", "try again later"
    if there.state == "DEPLOYING":
        return (
            f"{spec.name} is being deployed there",
            f"wait, or --backend {facts.backend} waits for it",
        )
    return "", ""


def may_deploy(facts: ServerFacts) -> bool:
    """Whether the only thing in the way is that the server does not have the model ready yet."""
    there = facts.deployment
    return not facts.problem and (there is None or there.state == "DEPLOYING")


def _dtype_differs(facts: ServerFacts, spec: ModelSpec) -> tuple[str, str] | None:
    """Whether the weights there are held otherwise than was asked for; a reason and a hint."""
    there = facts.deployment.dtype if facts.deployment else None
    asked = spec.quantization or spec.dtype
    if there is None or asked in ("auto", there):
        return None
    return (
        f"{spec.name} is held there in {there}, and {asked} was asked for",
        "leave --dtype out to take it as it is there",
    )


def _hosted(facts: ServerFacts) -> str:
    there = facts.deployment
    if there is None:
        return f"{facts.url} serves the model; the first job loads it"
    limit = "no limit on time" if there.timeout_s is None else f"{there.timeout_s:g} s a job"
    level = there.level if there.state == "unknown" else f"{there.state} {there.level}"
    return f"{facts.url} has the model: {level}, {there.dtype or 'dtype not said'}, {limit}"


def fetched_first(local: Option, limits: Limits, disk_free: int) -> Option:
    """A local option whose model has to be fetched, judged by the download."""
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
