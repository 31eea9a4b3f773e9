"""The card of a recipe: everything known about it without importing it."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from remote_mi.common.errors import UsageError, nearest
from remote_mi.recipes.figures import Figure
from remote_mi.recipes.output_kinds import kind_of_output
from remote_mi.recipes.outputs import DRAW, Output, Ratio, output_json
from remote_mi.recipes.parameters import Param

Over = Literal["prompt", "pair", "prompts", "pairs", "none"]
#: The kind of evidence of a technique: a run is only read; it is changed; a variable or path of it
#: is exchanged for that of another input, and the outcome held against what it should be then.
Evidence = Literal["observational", "interventional", "counterfactual"]
#: Which pairs a recipe takes: of prompts of equal length; aligned ones of any length; or, as a dict
#: of parameters and values, aligned ones where every parameter has its value.
Lengths = Literal["equal", "any"] | Mapping[str, Any]
#: `over` of recipes called once with all examples → the dimension of per-example outputs.
EXAMPLE = {"prompts": "prompt", "pairs": "pair"}
NEEDS = (
    "gradients",
    "attention_weights",
    "generation",
    "weights",
    "causal",
    "unembedding",
    "lens",
    "plain_stream",
)
#: Names of the prompt inputs; a recipe's parameter cannot be called one of these.
INPUTS = ("prompt", "messages", "target", "clean", "corrupt", "answer", "wrong", "behaviour")


@dataclass(frozen=True)
class Card:
    """Everything known about a recipe without importing it.

    Attributes:
        name: the function's name; the recipe's name everywhere.
        path: the file that defines it, or None for a function defined in a notebook or prompt.
        doc: the docstring.
        over: what the body is called with: one "prompt", one "pair", all "prompts", all "pairs",
            or "none".
        returns: its outputs.
        summaries: values over all examples: ratios of means, and what `analysis` computes.
        controls: output or summary → the output or summary that it is compared with.
        setup: name of the file's function that is called once with all examples and whose result
            is passed to each call; "" for none.
        analysis: name of the file's function that computes summaries locally, "" for none.
        labels: dimension → the output that holds its coordinates.
        behaviour: the output that says whether the model does what is studied; "" for that of the
            first ratio, if there is one.
        shared: control → the output that numbers the examples which share its draws, or "set".
        figures, needs, references, parameters: as declared.
        line: line of the function in the file.
        evidence: the kind of evidence it gives; "" if it is not declared.
        lengths: which lengths the two prompts of a pair may have; see `Lengths`.
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
    setup: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    behaviour: str = ""
    shared: Mapping[str, str] = field(default_factory=dict)
    evidence: Evidence | Literal[""] = ""
    lengths: Lengths = "equal"

    @property
    def takes_pairs(self) -> bool:
        """Whether its examples are clean/corrupt pairs."""
        return self.over in ("pair", "pairs")

    @property
    def returned(self) -> dict[str, Output]:
        """The outputs that its function returns: all but those that are judged from texts here."""
        return {name: output for name, output in self.returns.items() if not output.judges}

    @property
    def judges(self) -> bool:
        """Whether it judges generated texts by the behaviour that prompts ask for."""
        return len(self.returned) < len(self.returns)

    @property
    def called_once(self) -> bool:
        """Whether it is called once for all examples."""
        return self.over in (*EXAMPLE, "none")

    @property
    def rests_on(self) -> str:
        """The output that says whether the model does what is studied; "" if none does."""
        ratios = (s.gap for s in self.summaries.values() if isinstance(s, Ratio))
        return self.behaviour or next(ratios, "")

    def why_equal(self, parameters: Mapping[str, Any]) -> str:
        """Why both prompts of a pair must have the same number of tokens; "" if they need not."""
        if self.lengths == "any":
            return ""
        why = "compares the two prompts position by position"
        if isinstance(self.lengths, str):
            return f"{self.name} {why}"
        for name, value in self.lengths.items():
            if parameters.get(name) != value:
                given = f"{name} {parameters.get(name)}"
                return f"{self.name} with {given} {why}; it does not with {name} {value}"
        return ""

    def calls(self, examples: list[Any]) -> list[Any]:
        """What its function is called with, one member per call."""
        if self.over == "none":
            return [None]
        return [examples] if self.called_once else examples

    def dims(self, name: str) -> tuple[str, ...]:
        """Dimensions of an output or summary."""
        output = self.returns.get(name) or self.summaries[name]
        return self.returns[output.effect].dims if isinstance(output, Ratio) else output.dims

    def control_problem(self, key: str, control: str) -> str:
        """The problem with the declared control of an output or summary, "" if there is none."""
        for name in (key, control):
            if name not in self.returns and name not in self.summaries:
                return f"controls names {name!r}, which it does not return"
            if name in self.returns and not kind_of_output(self.returns[name]).averaged:
                return f"controls names {name!r}, which is not numeric"
        own, other = (tuple(d for d in self.dims(n) if d != DRAW) for n in (key, control))
        if own[: len(other)] != other:
            leading = f"which are not the leading ones of {own}"
            return f"the control {control!r} has the dimensions {other}, {leading}"
        return ""

    @property
    def summary(self) -> str:
        """First line of the docstring."""
        return self.doc.strip().splitlines()[0] if self.doc.strip() else ""

    def resolve(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """The values of all parameters, with defaults filled in.

        Raises:
            UsageError: for an unknown or missing parameter, or an invalid value.
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
    def cached_json(self) -> dict[str, Any]:
        """The same as `to_json`, computed once; must not be modified."""
        return self.to_json()

    def to_json(self) -> dict[str, Any]:
        """The part of the card that a run stores for display, as JSON."""
        return {
            "name": self.name,
            "over": self.over,
            "evidence": self.evidence,
            "summary": self.summary,
            "doc": self.doc,
            "returns": {k: output_json(o) for k, o in self.returns.items()},
            "summaries": {
                k: {"effect": r.effect, "gap": r.gap} if isinstance(r, Ratio) else output_json(r)
                for k, r in self.summaries.items()
            },
            "controls": dict(self.controls),
            "analysis": self.analysis,
            "setup": self.setup,
            "labels": dict(self.labels),
            "behaviour": self.behaviour,
            "shared": dict(self.shared),
            "figures": [f.to_json() for f in self.figures],
            "references": list(self.references),
        }
