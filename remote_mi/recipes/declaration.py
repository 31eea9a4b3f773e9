"""Declaring recipes: the decorator, and the names used in it.

A recipe is a plain function; `@recipe(...)` only attaches its declaration, so that the function
is sent to a server as its own source, without anything from this module. Lists, help, keys and
cache hits use the card; `remote_mi.recipes.card_source` reads it from a file without importing it.
"""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from remote_mi.common.annotated_types import shown
from remote_mi.common.errors import UsageError, first_line
from remote_mi.recipes.card import NEEDS as NEEDS
from remote_mi.recipes.card import Card as Card
from remote_mi.recipes.card import Evidence as Evidence
from remote_mi.recipes.card import Lengths as Lengths
from remote_mi.recipes.card import Over as Over
from remote_mi.recipes.card_building import build_card
from remote_mi.recipes.figures import Figure
from remote_mi.recipes.outputs import Json as Json
from remote_mi.recipes.outputs import Judged as Judged
from remote_mi.recipes.outputs import Output as Output
from remote_mi.recipes.outputs import Ratio as Ratio
from remote_mi.recipes.outputs import Share as Share
from remote_mi.recipes.outputs import Texts as Texts
from remote_mi.recipes.outputs import Tokens as Tokens
from remote_mi.recipes.parameters import Param as Param
from remote_mi.recipes.parameters import Range as Range


def recipe(
    *,
    over: Over,
    returns: Mapping[str, Any],
    summaries: Mapping[str, Any] | None = None,
    controls: Mapping[str, str] | None = None,
    setup: str = "",
    analysis: str = "",
    labels: Mapping[str, str] | None = None,
    evidence: Evidence | None = None,
    behaviour: str = "",
    shared: Mapping[str, str] | None = None,
    figures: Sequence[Figure] = (),
    needs: Sequence[str] = (),
    lengths: Lengths = "equal",
    references: Sequence[str] = (),
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Declare a function as a recipe.

    The function is called as `fn(lm, prompt_or_pair_or_list, **parameters)` inside one nnsight
    session on the machine with the model, and returns a dict with exactly the declared outputs.
    Parameters are keyword-only, annotated (str, int, float, bool, Literal[...], list of these,
    Annotated[int, Range(1, 9)], PromptText, Artifact[...]) and become command-line options and part of the
    job's key.

    Args:
        over: called once per "prompt" or per "pair", once with all "prompts" or all "pairs", or
            once with no examples ("none", as `fn(lm, **parameters)`).
        returns: output name → tuple of dimension names, `Share(...)` for what is 0 or 1 in each
            prompt, `Tokens(...)` for token ids, `Texts(...)` for texts, or `Json(...)` for JSON values. The dimensions "layer" and "head" are
            numbered; "position", "query" and "key" are positions; "draw" holds replicates; a
            dimension "x" takes the values of a list parameter "xs". If called with all "pairs", an
            output whose first dimension is "pair" is per pair ("prompt" likewise); other outputs
            belong to the whole set.
        summaries: name → `Ratio(effect, gap)`, computed over all pairs with an interval, or a
            tuple of dimension names for a value that `analysis` computes. Other numeric outputs
            are summarised by their mean.
        controls: output or summary → its control, with the same leading dimensions. A control
            that is not declared as an output becomes one, with the same dimensions preceded by
            "draw". The control of a ratio's effect gives the ratio `control_NAME` automatically.
            Each draw must give the same statistic as the effect, with its sign, over the same
            examples; the two are exchanged to test them (docs/statistics.md).
        shared: control → an output of one number per example: examples with the same number share
            the control's draws (e.g. one random vector for a fold); or "set", if all examples share
            them. Without it, each example has draws of its own.
        behaviour: the output of one number that says whether the model does what is studied, with
            0 (a half for `Share`) for not at all; by default the gap of the first ratio.
        setup: name of a function in the same file, called once on the machine with the model,
            before the others, with all examples: `fn(lm, prompts_or_pairs, **parameters)`. Its
            result is passed to each call after the prompt or pair, `fn(lm, pair, shared,
            **parameters)`. The results for an example then depend on the whole set.
        analysis: name of a function in the same file that computes the summaries, called locally
            with the outputs of all examples and the parameters: `fn(examples, **parameters)`.
        labels: dimension → the output with only that dimension whose values are its coordinates.
        evidence: what kind it gives: "observational" (the run is only read: lenses, probes,
            patterns, attributions), "interventional" (the run is changed: ablation, patching,
            steering) or "counterfactual" (a variable, path or circuit is exchanged for that of
            another input, and the outcome held against what it should be then: interchange, path
            patching, tested circuits). Words about the results follow it; without it they are
            neutral.
        figures: what to show, each naming an output or a summary.
        needs: of the backend: "gradients", "attention_weights", "generation", "weights" (in the
            recipe's own process). Of the model: "causal" (a position attends only to earlier ones
            and itself), "unembedding" (it has logits), "lens" (what reads its final stream can
            read that of any layer: no decoder of its own stands between), "plain_stream" (its final
            stream is the sum of what its components added, and is unembedded directly).
        lengths: which pairs it takes: "equal", only prompts with the same number of tokens; "any",
            also aligned prompts of unequal length, whose positions correspond as `Prompt.matches`
            says, and of which a sweep takes `Pair.cells`; or {"parameter": value}, the latter
            only where the parameter has that value.
        references: keys in references.bib.

    Raises:
        UsageError: if the declaration contradicts itself.
    """
    declaration = {
        "over": over,
        "returns": returns,
        "summaries": summaries or {},
        "controls": controls or {},
        "setup": setup,
        "analysis": analysis,
        "labels": labels or {},
        "evidence": evidence or "",
        "behaviour": behaviour,
        "shared": shared or {},
        "figures": figures,
        "needs": needs,
        "lengths": lengths,
        "references": references,
    }

    def attach(function: Callable[..., Any]) -> Callable[..., Any]:
        function.__recipe__ = declaration  # type: ignore[attr-defined]
        return function

    return attach


def card_of(function: Callable[..., Any]) -> Card:
    """The card of a live function decorated with `@recipe`, e.g. one defined in a notebook."""
    declaration = getattr(function, "__recipe__", None)
    if declaration is None:
        raise UsageError(
            f"{getattr(function, '__name__', None) or shown(function)} is not a recipe",
            "decorate it with @recipe(over=..., returns={...})",
        )
    try:
        hints = typing.get_type_hints(function, include_extras=True)
    except Exception as error:  # annotations may hold any expression
        raise UsageError(
            f"recipe {function.__name__!r}: its annotations cannot be evaluated: "
            f"{type(error).__name__}: {first_line(error)}",
            "import or define the names that they use",
        ) from None
    signature = [
        (p.name, hints.get(p.name), *_default_of(p), p.kind is p.KEYWORD_ONLY)
        for p in inspect.signature(function).parameters.values()
    ]
    line = function.__code__.co_firstlineno
    return build_card(
        function.__name__,
        inspect.getdoc(function) or "",
        signature,
        declaration,
        path=None,
        line=line,
    )


def _default_of(parameter: inspect.Parameter) -> tuple[bool, Any]:
    """Whether a parameter has a default, and the default or None."""
    given = parameter.default is not parameter.empty
    return given, parameter.default if given else None
