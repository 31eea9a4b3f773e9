"""What a recipe is: the decorator, its parameters and outputs, and the card that describes it.

A recipe is a plain function; `@recipe(...)` only attaches its declaration, so that the function
ships to a server as its own source and nothing of this module travels with it. The card is what
lists, help, keys and cache hits work with; `remote_mi.recipe_source` reads it from a file
without importing it.
"""

from __future__ import annotations

import inspect
import re
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from remote_mi.errors import UsageError, nearest
from remote_mi.figures import Figure, from_json
from remote_mi.parameters import Param as Param
from remote_mi.parameters import Range as Range
from remote_mi.parameters import param_from

Over = Literal["prompt", "pair", "set"]
NEEDS = ("gradients", "attention_weights", "generation")
#: Names of the prompt inputs; a recipe's parameter cannot be called one of these.
INPUTS = ("prompt", "target", "clean", "corrupt", "answer", "wrong")


@dataclass(frozen=True)
class Output:
    """One declared output.

    Attributes:
        dims: names of its dimensions, outermost first; () for a number.
        kind: "number" for arrays of numbers, "token" for arrays of token ids.
    """

    dims: tuple[str, ...]
    kind: Literal["number", "token"] = "number"


def Tokens(*dims: str) -> Output:  # noqa: N802 - reads as a type in the decorator
    """An output of token ids with these dimensions; shown as text, never averaged."""
    return Output(tuple(dims), "token")


@dataclass(frozen=True)
class Ratio:
    """Summary over pairs: mean of one output over the mean of another (ratio of means).

    Attributes:
        effect: name of the output in the numerator, of any shape.
        gap: name of the scalar output in the denominator.
    """

    effect: str
    gap: str


@dataclass(frozen=True)
class Card:
    """All that is known of a recipe without importing it.

    Attributes:
        name: the function's name; the recipe's name everywhere.
        path: the file it stands in, or None for a function defined in a notebook or prompt.
        doc: the docstring.
        over: what the body is called with: one "prompt", one "pair", or the whole "set".
        returns: its outputs.
        summaries: values computed over all pairs from the outputs.
        figures, needs, references, parameters: as declared.
        line: line of the function in the file.
        origin: "built-in", "project", "plug-in" or "file".
    """

    name: str
    over: Over
    returns: Mapping[str, Output]
    summaries: Mapping[str, Ratio] = field(default_factory=dict)
    figures: Sequence[Figure] = ()
    needs: Sequence[str] = ()
    references: Sequence[str] = ()
    parameters: Sequence[Param] = ()
    doc: str = ""
    path: Path | None = None
    line: int = 0
    origin: str = "file"

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
                raise UsageError(f"recipe {self.name!r} needs parameter {param.name!r}",
                                 f"add -p {param.name}=… ({param.expected})")  # fmt: skip
        return {
            p.name: p.parse(given[p.name]) if p.name in given else p.default
            for p in self.parameters
        }

    def shown(self) -> dict[str, Any]:
        """The part of the card that a run keeps to be shown later, as JSON."""
        return {
            "name": self.name,
            "over": self.over,
            "summary": self.summary,
            "doc": self.doc,
            "returns": {k: {"dims": list(o.dims), "kind": o.kind} for k, o in self.returns.items()},
            "summaries": {k: {"effect": r.effect, "gap": r.gap} for k, r in self.summaries.items()},
            "figures": [f.to_json() for f in self.figures],
            "references": list(self.references),
        }


def outputs_from_json(data: Mapping[str, Any]) -> dict[str, Output]:
    """The `returns` part of `Card.shown`, read back."""
    return {k: Output(tuple(v["dims"]), v["kind"]) for k, v in data.items()}


def figures_from_json(data: Sequence[dict[str, Any]]) -> list[Figure]:
    """The `figures` part of `Card.shown`, read back; kinds unknown to this version left out."""
    found = []
    for item in data:
        try:
            found.append(from_json(item))
        except KeyError:
            continue
    return found


def recipe(
    *,
    over: Over,
    returns: Mapping[str, Any],
    summaries: Mapping[str, Ratio] | None = None,
    figures: Sequence[Figure] = (),
    needs: Sequence[str] = (),
    references: Sequence[str] = (),
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Declare a function to be a recipe.

    The function is called as `fn(lm, prompt_or_pair_or_list, **parameters)` inside one nnsight
    session where the model is, and returns a dict with exactly the declared outputs. Parameters
    are keyword-only, annotated (str, int, float, bool, Literal[...], list of these,
    Annotated[int, Range(1, 9)]) and become command-line options and part of the job's key.

    Args:
        over: called once per "prompt", once per "pair", or once with the whole "set".
        returns: output name → tuple of dimension names, or `Tokens(...)` for token ids. The
            dimensions "layer", "head" and "position" get their coordinates by themselves.
        summaries: name → `Ratio(effect, gap)`, computed over all pairs with an interval.
            Other numeric outputs are summarised by their mean.
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
    return build_card(function.__name__, inspect.getdoc(function) or "", signature, declaration,
                      path=None, line=line)  # fmt: skip


def build_card(
    name: str,
    doc: str,
    signature: Sequence[tuple[str, Any, bool, Any, bool]],
    declaration: Mapping[str, Any],
    path: Path | None,
    line: int,
    origin: str = "file",
) -> Card:
    """A card from what a decorator and a signature say; the one place that checks them.

    Args:
        signature: (name, annotation, has a default, default, keyword-only) per argument.
        declaration: the decorator's keyword arguments.

    Raises:
        UsageError: naming the file and what is wrong with the declaration.
    """
    where = f"{path}:{line}: " if path else ""

    def refuse(problem: str, hint: str | None = None) -> UsageError:
        return UsageError(f"{where}recipe {name!r}: {problem}", hint)

    over = declaration.get("over")
    if over not in ("prompt", "pair", "set"):
        raise refuse(f"over={over!r} is not one of 'prompt', 'pair', 'set'")
    if not isinstance(declaration.get("returns"), Mapping) or not declaration["returns"]:
        raise refuse("it declares no outputs", 'add returns={"name": ("layer", "position")}')
    returns = {
        key: value if isinstance(value, Output) else Output(tuple(value))
        for key, value in declaration["returns"].items()
    }
    summaries = dict(declaration.get("summaries") or {})
    for key, ratio in summaries.items():
        for output in (ratio.effect, ratio.gap):
            if output not in returns:
                raise refuse(f"summary {key!r} names {output!r}, which is no output")
        if returns[ratio.gap].dims:
            raise refuse(f"summary {key!r} divides by {ratio.gap!r}, which is not a number")
    figures = tuple(declaration.get("figures") or ())
    for figure in figures:
        if figure.output not in returns and figure.output not in summaries:
            raise refuse(f"a figure shows {figure.output!r}, which it does not return")
    needs = tuple(declaration.get("needs") or ())
    for need in needs:
        if need not in NEEDS:
            raise refuse(f"needs {need!r}, which is not one of {', '.join(NEEDS)}")
    if len(signature) < 2 or any(entry[4] for entry in signature[:2]):
        raise refuse("its first two arguments must be the model and the prompts",
                     f"def {name}(lm, {over}, *, ...)")  # fmt: skip
    parameters = []
    helps = _argument_docs(doc)
    for argument, annotation, has_default, default, keyword_only in signature[2:]:
        if not keyword_only:
            raise refuse(f"parameter {argument!r} is not keyword-only", "put a * before it")
        if argument in INPUTS:
            raise refuse(f"parameter {argument!r} has the name of a prompt input; rename it")
        try:
            param = param_from(argument, annotation, has_default, default)
        except TypeError as error:
            raise refuse(f"parameter {argument!r}: {error}") from None
        parameters.append(Param(**{**param.__dict__, "help": helps.get(argument, "")}))
    return Card(name, over, returns, summaries, figures, needs,
                tuple(declaration.get("references") or ()), tuple(parameters),
                inspect.cleandoc(doc), path, line, origin)  # fmt: skip


def _argument_docs(doc: str) -> dict[str, str]:
    """Argument name → its text in the docstring's "Args:" section."""
    match = re.search(r"^\s*Args:\s*\n(.*?)(?=\n\s*\n\s*\w+:\s*$|\Z)", doc, re.S | re.M)
    if not match:
        return {}
    found: dict[str, str] = {}
    name = ""
    indent: int | None = None
    for line in match[1].splitlines():
        depth = len(line) - len(line.lstrip())
        indent = depth if indent is None else indent
        entry = re.match(r"\s*(\w+):\s*(.*)", line)
        if entry and depth == indent:
            name = entry[1]
            found[name] = entry[2]
        elif name and line.strip():
            found[name] += " " + line.strip()
    return found
