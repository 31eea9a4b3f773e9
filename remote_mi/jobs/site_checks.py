"""Which layers of a model a job measures: those that have its site."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from remote_mi.common.errors import UsageError
from remote_mi.models.load import LoadedModel
from remote_mi.recipes.card import Card


def layers_without_site(
    card: Card, parameters: Mapping[str, Any], name: str, model: LoadedModel
) -> tuple[list[int], list[str]]:
    """The layers that lack what a recipe measures, whose results are empty, and notes on them.

    A recipe measures its parameter `site`. A built-in one measures the attention weights that it
    declares to need, or where its outputs have heads, what these give.

    Args:
        name: the model's. model: with or without weights.

    Raises:
        UsageError: if no layer has the site, or one lacks it that is asked for.
    """
    from remote_mi.interventions.ports import name_layers, require
    from remote_mi.interventions.sites import having, row_of

    lacking: set[int] = set()
    notes: list[str] = []
    given = parameters.get("layers")
    asked = list(given) if isinstance(given, (list, tuple)) and given else None
    every = range(len(model.lm.layers))
    for site in _sites(card, parameters):
        row = row_of(site)
        there = [0] if row.once else having(model.lm, row)
        wanted = [i for i in asked or () if isinstance(i, int) and i in every]
        try:
            require(model.lm, site, row, [0] if row.once else wanted or there[:1] or every)
        except ValueError as error:
            raise UsageError(
                f"{card.name} cannot run on {name}: {error}",
                f"`remote-mi models sites {name}` draws what there is",
            ) from None
        missing = [] if row.once or asked else sorted({*every} - {*there})
        if missing:
            has = "has" if len(missing) == 1 else "have"
            why = row.why_not(model.lm, missing[0])
            notes.append(f"{name_layers(missing)} {has} no {site}, and stay empty: {why}")
            lacking |= {*missing}
    return sorted(lacking), notes


def _sites(card: Card, parameters: Mapping[str, Any]) -> list[str]:
    """The sites that a recipe measures, as far as its declaration tells."""
    from remote_mi.interventions.sites import SITES

    found = [str(parameters["site"])] if parameters.get("site") in SITES else []
    if found or card.origin != "built-in":
        return found
    if "attention_weights" in card.needs:
        return ["attn_pattern"]
    by_head = any("head" in output.dims for output in card.returns.values())
    return ["head_z"] if by_head else []
