"""What a recipe is: the decorator, its parameters and outputs, and the card that describes it.

A recipe is a plain function; `@recipe(...)` only attaches its declaration, so that the function
ships to a server as its own source and nothing of this module travels with it. The card is what
lists, help, keys and cache hits work with; `remote_mi.recipes.card_source` reads it from a file
without importing it.
"""

from __future__ import annotations

import functools
import inspect
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from remote_mi.common.errors import UsageError, nearest
from remote_mi.recipes.docstrings import argument_docs
from remote_mi.recipes.figures import Figure
from remote_mi.recipes.outputs import Json as Json
from remote_mi.recipes.outputs import Output as Output
from remote_mi.recipes.outputs import Ratio as Ratio
from remote_mi.recipes.outputs import Texts as Texts
from remote_mi.recipes.outputs import Tokens as Tokens
from remote_mi.recipes.outputs import label_problem, output_json
from remote_mi.recipes.parameters import Param as Param
from remote_mi.recipes.parameters import Range as Range
from remote_mi.recipes.parameters import param_from

Over = Literal["prompt", "pair", "prompts", "pairs", "none"]
#: Recipes that are called once with all examples → the dimension of outputs that are per example.
EXAMPLE = {"prompts": "prompt", "pairs": "pair"}
NEEDS = ("gradients", "attention_weights", "generation")
#: Names of the prompt inputs; a recipe's parameter cannot be called one of these.
INPUTS = ("prompt", "target", "clean", "corrupt", "answer", "wrong")


@dataclass(frozen=True)
class Card:
    """All that is known of a recipe without importing it.

    Attributes:
        name: the function's name; the recipe's name everywhere.
        path: the file it stands in, or None for a function defined in a notebook or prompt.
        doc: the docstring.
        over: what the body is called with: one "prompt", one "pair", all "prompts", all "pairs",
            or "none".
        returns: its outputs.
        summaries: values over all examples: ratios of means, and what `analysis` gives.
        controls: output or summary → the output or summary that it is held against.
        analysis: name of the file's function that computes summaries here, "" for none.
        labels: dimension → the output that holds its coordinates.
        figures, needs, references, parameters: as declared.
        line: line of the function in the file.
        origin: "built-in", "project", "plug-in" or "file".
    """

    name: str
    over: Over
    returns: Mapping[str, Output]
    summaries: Mapping[str, Ratio | Output] = field(default_factory=dict)
    figures: Sequence[Figure] = ()
    needs: Sequence[str] = ()
    references: Sequence[str] = ()
    parameters: Sequence[Param] = ()
    doc: str = ""
    path: Path | None = None
    line: int = 0
    origin: str = "file"
    controls: Mapping[str, str] = field(default_factory=dict)
    analysis: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)

    @property
    def takes_pairs(self) -> bool:
        """Whether its examples are clean/corrupt pairs."""
        return self.over in ("pair", "pairs")

    @property
    def called_once(self) -> bool:
        """Whether it is called once for all examples."""
        return self.over in (*EXAMPLE, "none")

    def dims(self, name: str) -> tuple[str, ...]:
        """Dimensions of an output or summary."""
        found = self.returns.get(name) or self.summaries[name]
        return self.returns[found.effect].dims if isinstance(found, Ratio) else found.dims

    @property
    def summary(self) -> str:
        """First line of the docstring."""
        return self.doc.strip().splitlines()[0] if self.doc.strip() else ""

    def resolve(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """All parameters with their values, defaults filled in.

        Raises:
            UsageError: for an unknown or missing parameter, or a wrong value.
        """
        known = {p.name: p for p in self.parameters}
        for name in given:
            if name not in known:
                close = nearest(name, [*known, *INPUTS])
                hint = f"did you mean {close!r}? " if close else ""
                raise UsageError(
                    f"recipe {self.name!r} has no parameter {name!r}",
                    f"{hint}it takes: {', '.join(known) or 'none'}"
                    f" (`remote-mi recipes show {self.name}`)",
                )
        for param in self.parameters:
            if param.required and param.name not in given:
                raise UsageError(
                    f"recipe {self.name!r} needs parameter {param.name!r}",
                    f"add -p {param.name}=… ({param.expected})",
                )
        return {
            p.name: p.parse(given[p.name]) if p.name in given else p.default
            for p in self.parameters
        }

    @functools.cached_property
    def declared(self) -> dict[str, Any]:
        """As `shown`, made once; not to be changed."""
        return self.shown()

    def shown(self) -> dict[str, Any]:
        """The part of the card that a run keeps to be shown later, as JSON."""
        return {
            "name": self.name,
            "over": self.over,
            "summary": self.summary,
            "doc": self.doc,
            "returns": {k: output_json(o) for k, o in self.returns.items()},
            "summaries": {
                k: {"effect": r.effect, "gap": r.gap} if isinstance(r, Ratio) else output_json(r)
                for k, r in self.summaries.items()
            },
            "controls": dict(self.controls),
            "analysis": self.analysis,
            "labels": dict(self.labels),
            "figures": [f.to_json() for f in self.figures],
            "references": list(self.references),
        }


def recipe(
    *,
    over: Over,
    returns: Mapping[str, Any],
    summaries: Mapping[str, Any] | None = None,
    controls: Mapping[str, str] | None = None,
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
        controls: output or summary → the one of its control, of the same leading dimensions.
        analysis: name of a function of the same file, called here with the outputs of all
            examples and the parameters: `fn(examples, **parameters)`; it gives the summaries.
        labels: dimension → the output, of that dimension alone, whose values are its coordinates.
        figures: what to show, each naming an output or a summary.
        needs: of "gradients", "attention_weights", "generation".
        references: keys in references.bib.

    Raises:
        UsageError: when the declaration contradicts itself.
    """
    declaration = {
        "over": over,
        "returns": returns,
        "summaries": summaries or {},
        "controls": controls or {},
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


#: Name, annotation, whether it has a default, the default, and whether it is keyword-only.
_Argument = tuple[str, Any, bool, Any, bool]
#: Makes the error of a problem and a hint.
_Refuse = Callable[..., UsageError]


def build_card(
    name: str,
    doc: str,
    signature: Sequence[_Argument],
    declaration: Mapping[str, Any],
    path: Path | None,
    line: int,
    *,
    origin: str = "file",
) -> Card:
    """A card from what a decorator and a signature say; the one place that checks them.

    Args:
        signature: per argument what `_Argument` says.
        declaration: the decorator's keyword arguments.

    Raises:
        UsageError: naming the file and what is wrong with the declaration.
    """
    where = f"{path}:{line}: " if path else ""

    def refuse(problem: str, hint: str | None = None) -> UsageError:
        return UsageError(f"{where}recipe {name!r}: {problem}", hint)

    over: Any = declaration.get("over")
    if over not in typing.get_args(Over):
        known = ", ".join(repr(word) for word in typing.get_args(Over))
        raise refuse(f"over={over!r} is not one of {known}")
    returns, summaries, figures = _shown(declaration, over, refuse)
    needs = tuple(declaration.get("needs") or ())
    for need in needs:
        if need not in NEEDS:
            raise refuse(f"needs {need!r}, which is not one of {', '.join(NEEDS)}")
    first = 1 if over == "none" else 2
    if len(signature) < first or any(entry[4] for entry in signature[:first]):
        what = (
            "first argument must be the model"
            if over == "none"
            else ("first two arguments must be the model and the prompts")
        )
        raise refuse(f"its {what}", f"def {name}(lm{'' if first == 1 else f', {over}'}, *, ...)")
    card = Card(
        name,
        over,
        returns,
        summaries,
        figures,
        needs,
        tuple(declaration.get("references") or ()),
        _parameters(signature[first:], doc, refuse),
        inspect.cleandoc(doc),
        path,
        line,
        origin,
        dict(declaration.get("controls") or {}),
        declaration.get("analysis") or "",
        dict(declaration.get("labels") or {}),
    )
    problems = [
        *(_control_problem(card, key, control) for key, control in card.controls.items()),
        *(label_problem(returns, dim, name) for dim, name in card.labels.items()),
    ]
    for problem in filter(None, problems):
        raise refuse(problem)
    return card


def _shown(
    declaration: Mapping[str, Any], over: str, refuse: _Refuse
) -> tuple[dict[str, Output], dict[str, Ratio | Output], tuple[Figure, ...]]:
    """Outputs, summaries and figures of a declaration, which name each other."""
    if not isinstance(declaration.get("returns"), Mapping) or not declaration["returns"]:
        raise refuse("it declares no outputs", 'add returns={"name": ("layer", "position")}')
    returns = {key: _declared(value, over) for key, value in declaration["returns"].items()}
    summaries: dict[str, Ratio | Output] = {}
    for key, value in (declaration.get("summaries") or {}).items():
        summaries[key] = value if isinstance(value, Ratio) else _declared(value, "none")
        analysis = declaration.get("analysis") or ""
        problem = _summary_problem(key, summaries[key], returns, analysis)
        if problem:
            raise refuse(problem)
    figures = tuple(declaration.get("figures") or ())
    for figure in figures:
        if figure.output not in returns and figure.output not in summaries:
            raise refuse(f"a figure shows {figure.output!r}, which it does not return")
    return returns, summaries, figures


def _parameters(signature: Sequence[_Argument], doc: str, refuse: _Refuse) -> tuple[Param, ...]:
    """The parameters of a signature, with what the docstring says of them."""
    found = []
    helps = argument_docs(doc)
    for argument, annotation, has_default, default, keyword_only in signature:
        if not keyword_only:
            raise refuse(f"parameter {argument!r} is not keyword-only", "put a * before it")
        if argument in INPUTS:
            raise refuse(f"parameter {argument!r} has the name of a prompt input; rename it")
        try:
            param = param_from(argument, annotation, has_default, default)
        except TypeError as error:
            raise refuse(f"parameter {argument!r}: {error}") from None
        found.append(Param(**{**param.__dict__, "help": helps.get(argument, "")}))
    return tuple(found)


def _declared(value: Any, over: str) -> Output:
    """An output as declared, with what it is of: each example, or the whole set."""
    output = value if isinstance(value, Output) else Output(tuple(value))
    if over in ("prompt", "pair"):
        return output
    if over in EXAMPLE and output.dims[:1] == (EXAMPLE[over],):
        return Output(output.dims[1:], output.kind, "example")
    return Output(output.dims, output.kind, "set")


def _summary_problem(
    key: str, summary: Ratio | Output, returns: Mapping[str, Output], analysis: str
) -> str:
    """What is wrong with a summary's declaration, "" if nothing."""
    if isinstance(summary, Output):
        if summary.kind != "number":
            return f"summary {key!r} is declared as {summary.kind}: summaries are numbers"
        return "" if analysis else f"summary {key!r} needs analysis=..., the function that gives it"
    for output in (summary.effect, summary.gap):
        if output not in returns:
            return f"summary {key!r} names {output!r}, which is no output"
        if returns[output].kind != "number":
            return f"summary {key!r} names {output!r}, which is no number"
    if set(returns[summary.gap].dims) - {"draw"}:
        return f"summary {key!r} divides by {summary.gap!r}, which is not a number"
    return ""


def _control_problem(card: Card, key: str, control: str) -> str:
    """What is wrong with a control's declaration, "" if nothing."""
    for name in (key, control):
        if name not in card.returns and name not in card.summaries:
            return f"controls names {name!r}, which it does not return"
        if name in card.returns and card.returns[name].kind != "number":
            return f"controls names {name!r}, which is no number"
    own, other = (tuple(d for d in card.dims(n) if d != "draw") for n in (key, control))
    if own[: len(other)] != other:
        return f"the control {control!r} has the dimensions {other}, which do not lead {own}"
    return ""
