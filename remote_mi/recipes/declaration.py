"""What a recipe declares itself with: the decorator, and the names that stand in it.

A recipe is a plain function; `@recipe(...)` only attaches its declaration, so that the function
ships to a server as its own source and nothing of this module travels with it. The card is what
lists, help, keys and cache hits work with; `remote_mi.recipes.card_source` reads it from a file
without importing it.
"""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from remote_mi.common.errors import UsageError
from remote_mi.recipes.card import NEEDS as NEEDS
from remote_mi.recipes.card import Card as Card
from remote_mi.recipes.card import Over as Over
from remote_mi.recipes.card_building import build_card
from remote_mi.recipes.figures import Figure
from remote_mi.recipes.outputs import Json as Json
from remote_mi.recipes.outputs import Output as Output
from remote_mi.recipes.outputs import Ratio as Ratio
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
    figures: Sequence[Figure] = (),
    needs: Sequence[str] = (),
    references: Sequence[str] = (),
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Declare a function to be a recipe.

    The function is called as `fn(lm, prompt_or_pair_or_list, **parameters)` inside one nnsight
    session where the model is, and returns a dict with exactly the declared outputs. Parameters
    are keyword-only, annotated (str, int, float, bool, Literal[...], list of these,
    Annotated[int, Range(1, 9)], PromptText) and become command-line options and part of the
    job's key.

    Args:
        over: called once per "prompt" or per "pair", once with all "prompts" or all "pairs", or
            once with no examples ("none", as `fn(lm, **parameters)`).
        returns: output name → tuple of dimension names, `Tokens(...)` for token ids, `Texts(...)`
            for texts, or `Json(...)` for JSON values. The dimensions "layer" and "head" are numbered, "position", "query" and "key" are
            positions, "draw" holds replicates, and a dimension "x" takes the values of a list
            parameter "xs". Called with all "pairs", an output that begins with the dimension
            "pair" is per pair ("prompt" likewise); others are of the whole set.
        summaries: name → `Ratio(effect, gap)`, computed over all pairs with an interval, or a
            tuple of dimension names for what `analysis` computes. Other numeric outputs are
            summarised by their mean.
        controls: output or summary → the one of its control, of the same leading dimensions. A
            control that is not among the outputs is one, of the same dimensions and "draw" before
            them. Of a ratio's effect the ratio `control_NAME` follows by itself.
        setup: name of a function of the same file, called once where the model is, before the
            others, with all examples: `fn(lm, prompts_or_pairs, **parameters)`. What it returns is
            what each call gets after its prompt or pair, `fn(lm, pair, shared, **parameters)`. The
            results of an example then depend on the whole set.
        analysis: name of a function of the same file, called here with the outputs of all
            examples and the parameters: `fn(examples, **parameters)`; it gives the summaries.
        labels: dimension → the output, of that dimension alone, whose values are its coordinates.
        figures: what to show, each naming an output or a summary.
        needs: of the place that runs it: "gradients", "attention_weights", "generation",
            "weights" (in the recipe's own process). Of the model: "causal" (a position attends to
            those before it only), "unembedding" (it gives logits), "plain_stream" (its final
            stream is the sum of what its components added, unembedded as it is).
        references: keys in references.bib.

    Raises:
        UsageError: when the declaration contradicts itself.
    """
    declaration = {
        "over": over,
        "returns": returns,
        "summaries": summaries or {},
        "controls": controls or {},
        "setup": setup,
        "analysis": analysis,
        "labels": labels or {},
        "figures": figures,
        "needs": needs,
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
            f"{getattr(function, '__name__', function)!r} is not a recipe",
            "decorate it with @recipe(over=..., returns={...})",
        )
    hints = typing.get_type_hints(function, include_extras=True)
    signature = [
        (p.name, hints.get(p.name), p.default is not p.empty, p.default, p.kind is p.KEYWORD_ONLY)
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
