"""Whether a server hosts a model and can do what a recipe needs, from what is known about it."""

from __future__ import annotations

from collections.abc import Sequence

from remote_mi.backends.capabilities import unmet_needs
from remote_mi.backends.ndif.servers import ServerFacts
from remote_mi.backends.options import Footprint, Option
from remote_mi.backends.settings.values import Limits
from remote_mi.common.sizes import format_size
from remote_mi.models.spec import ModelSpec


def evaluate_server(
    facts: ServerFacts, needs: Sequence[str], need: Footprint, limits: Limits, spec: ModelSpec
) -> Option:
    """Whether a server hosts the model and can do what the recipe needs."""

    def no(why: str, hint: str = "") -> Option:
        return Option(facts.backend, False, why, hint, spec)

    if facts.problem:
        return no(facts.problem, facts.hint)
    lacks = unmet_needs(needs, facts.place)
    if lacks:
        what = " and ".join(need.replace("_", " ") for need in lacks)
        return no(
            f"it runs the jobs of this key in its sandbox, where {what} cannot be read",
            "use a key with the tag 'trusted', or a server of your own (`remote-mi ndif up`)",
        )
    problem, hint = _hosting_problem(facts, spec)
    if problem:
        return no(problem, hint)
    differs = _dtype_mismatch(facts, spec)
    if differs:
        return no(*differs)
    for what, size, limit in (
        ("upload", need.bytes_up, limits.upload),
        ("results", need.bytes_down, limits.results),
    ):
        if limit is not None and size is not None and size > limit:
            return no(
                f"about {format_size(size)} would be transferred, and the limit 'limits.{what}' is "
                f"{format_size(limit)}",
                "raise it in remote-mi.yaml, or use fewer prompts",
            )
    down = "?" if need.bytes_down is None else format_size(need.bytes_down)
    traffic = f"about {format_size(need.bytes_up)} up and {down} down"
    return Option(facts.backend, True, f"{_describe_hosting(facts)}; {traffic}", model=spec)


def _hosting_problem(facts: ServerFacts, spec: ModelSpec) -> tuple[str, str]:
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
            f"it has deployed {hosted}{more}; --backend {facts.backend} asks it to deploy this one",
        )
    if there.state == "UNHEALTHY":
        return f"the process of {spec.name} died there", "try again later"
    if there.state == "DEPLOYING":
        return (
            f"{spec.name} is being deployed there",
            f"try again later; --backend {facts.backend} waits for it",
        )
    return "", ""


def may_deploy(facts: ServerFacts) -> bool:
    """Whether the only obstacle may be that the model is not ready on the server yet."""
    there = facts.deployment
    return not facts.problem and (there is None or there.state == "DEPLOYING")


def _dtype_mismatch(facts: ServerFacts, spec: ModelSpec) -> tuple[str, str] | None:
    """The reason and a hint if the weights there have another dtype than requested."""
    there = facts.deployment.dtype if facts.deployment else None
    asked = spec.quantization or spec.dtype
    if there is None or asked in ("auto", there):
        return None
    return (
        f"{spec.name} is loaded there in {there}, but {asked} was requested",
        "leave --dtype out to use it as it is",
    )


def _describe_hosting(facts: ServerFacts) -> str:
    there = facts.deployment
    if there is None:
        return f"{facts.url} serves the model; the first job loads it"
    limit = "no limit on time" if there.timeout_s is None else f"{there.timeout_s:g} s a job"
    level = there.level if there.state == "unknown" else f"{there.state} {there.level}"
    return f"{facts.url} has the model: {level}, {there.dtype or 'dtype not reported'}, {limit}"
