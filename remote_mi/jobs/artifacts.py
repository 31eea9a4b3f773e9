"""The artifacts that a job's parameters name: found, checked and identified before anything runs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from remote_mi.common.errors import StoreError, UsageError
from remote_mi.common.paths import cache_root
from remote_mi.common.text import line
from remote_mi.jobs.job import Job, Memo
from remote_mi.models.checkpoint import layers_and_width
from remote_mi.models.spec import ModelSpec
from remote_mi.recipes.card import Card
from remote_mi.recipes.parameters import Param
from remote_mi.store.artifacts import LAYER, StoredArtifact, find_artifact, is_digest
from remote_mi.store.cache import Cache
from remote_mi.store.kept_artifacts import keep, kept

WIDTH = "d_model"
#: Sites whose activations are as wide as the stream.
_OF_THE_STREAM = frozenset(
    {
        *("", "embed", "resid_pre", "resid_mid", "resid_post", "final_norm"),
        *("attn_in", "mixer_in", "attn_out", "mixer_out", "mlp_in", "mlp_out"),
    }
)
#: What tells two models apart whose numbers an artifact may be used with.
_SAME = ("revision", "adapter")


def artifact_parameters(card: Card) -> Iterable[Param]:
    """The parameters of a recipe that are artifacts."""
    return (param for param in card.parameters if param.kind == "artifact")


def take_artifacts(
    card: Card, parameters: Mapping[str, Any], spec: ModelSpec, project: Path, memo: Memo
) -> tuple[dict[str, Any], dict[str, StoredArtifact]]:
    """The parameters with the digest of each artifact in place of its name, and the artifacts.

    Raises:
        UsageError: if one was made for another model or site, or does not fit. Others as
            `remote_mi.store.artifacts.find_artifact`.
    """
    values, found = dict(parameters), {}
    for param in artifact_parameters(card):
        named = values[param.name]
        if named is None:
            continue
        name = ("artifact", named, param.dims, str(project))
        artifact = memo.get_or_compute(name, lambda p=param, n=named: _find(n, p, project))
        _check(param, artifact, spec, param.site or str(values.get("site") or ""))
        values[param.name], found[param.name] = artifact.digest, artifact
    return values, found


def _find(named: str, param: Param, project: Path) -> StoredArtifact:
    what = f"parameter {param.name!r}"
    there = kept(Cache(cache_root()), named) if is_digest(named) else None
    if there is not None:
        return there.fitted(param.dims, what)
    return find_artifact(named, param.dims, project, what)


def _check(param: Param, artifact: StoredArtifact, spec: ModelSpec, site: str) -> None:
    """Check that an artifact was made for the model and the site of a job, and has their sizes.

    Raises:
        UsageError: saying which of the two was made for what.
    """
    what = f"parameter {param.name!r}: {artifact.named}"
    if artifact.model and (differs := _difference(artifact.model, spec)):
        raise UsageError(
            f"{what} was made for {differs[0]}, and the job is on {differs[1]}",
            "run what makes it on the job's model; for weights that you know to share it, "
            "export it, and import it with --model",
        )
    if site and artifact.site and artifact.site != site:
        raise UsageError(
            f"{what} was made at the site {artifact.site}, and the job uses it at {site}",
            f"make it with site={site}"
            + ("" if param.site else f", or run the job with site={artifact.site}"),
        )
    _check_sizes(param, artifact, spec, site)


def _check_sizes(param: Param, artifact: StoredArtifact, spec: ModelSpec, site: str) -> None:
    """Check the layers and the width against the model's configuration, as far as it is known."""
    what = f"parameter {param.name!r}: {artifact.named}"
    sizes = dict(zip(artifact.dims or (), artifact.array.shape, strict=True))
    layers, width = layers_and_width(spec)
    if width is not None and sizes.get(WIDTH, width) != width and site in _OF_THE_STREAM:
        raise UsageError(
            f"{what} has vectors of {sizes[WIDTH]} numbers, and the stream of {spec.name} has "
            f"{width}",
            "it was made for another model, or at another site",
        )
    if LAYER not in sizes:
        return
    own = [str(layer) for layer in artifact.coords.get(LAYER, range(sizes[LAYER]))]
    whole = sizes[LAYER] == (layers or sizes[LAYER])
    if own == [str(index) for index in range(sizes[LAYER])] and whole:
        return
    if LAYER not in artifact.coords and sizes[LAYER] == 1:
        return  # one for every layer
    count = "" if layers is None else f", and {spec.name} has layers 0 to {layers - 1}"
    raise UsageError(
        f"{what} has the layers {', '.join(own[:8])}{', …' if len(own) > 8 else ''}{count}",
        f"choose one for every layer: {artifact.named}@{LAYER}={own[0]}",
    )


def _difference(made_for: Mapping[str, Any], spec: ModelSpec) -> tuple[str, str] | None:
    """Two models in words, if an artifact of one is not one of the other; else None."""
    own = spec.identity()
    contents = made_for.get("content"), own.get("content")
    same = contents[0] == contents[1] if all(contents) else made_for.get("name") == own["name"]
    apart = [name for name in _SAME if (made_for.get(name) or None) != (own.get(name) or None)]
    if same and not apart:
        return None
    shown = ("content",) if not apart and made_for.get("name") == own["name"] else tuple(apart)
    return _described(made_for, shown), _described(own, shown)


def _described(model: Mapping[str, Any], more: tuple[str, ...]) -> str:
    told = [f"{name} {line(str(model.get(name) or 'none'), 12)}" for name in more]
    name = line(str(model.get("name", "?")), 80)
    return f"{name} ({', '.join(told)})" if told else name


def keep_artifacts(job: Job) -> list[str]:
    """Keep a job's artifacts in its cache, so that any process can finish it.

    Returns:
        notes on those that could not be kept.
    """
    notes = []
    for artifact in job.artifacts.values():
        try:
            keep(Cache(job.cache), artifact)
        except StoreError as error:
            notes.append(f"{artifact.named} is not kept: {error.message}")
    return notes


def records_of(artifacts: Mapping[str, StoredArtifact]) -> dict[str, Any]:
    """What a run records of its artifacts; {} without any."""
    return {name: artifact.to_json() for name, artifact in artifacts.items()}


def folders_of(artifacts: Mapping[str, StoredArtifact]) -> dict[str, str]:
    """The folder of the run that made each artifact, for those that one on this machine made."""
    return {name: str(found.folder) for name, found in artifacts.items() if found.folder}
