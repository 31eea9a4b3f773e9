"""Building a card from a decorator and a signature; the only place that validates them."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from remote_mi.common.errors import UsageError
from remote_mi.recipes.card import EXAMPLE, INPUTS, NEEDS, Card, Evidence, Lengths, Over
from remote_mi.recipes.declared_types import declaration_problem
from remote_mi.recipes.docstrings import argument_docs
from remote_mi.recipes.figures import Figure
from remote_mi.recipes.output_kinds import KINDS
from remote_mi.recipes.outputs import DRAW, SET, Output, Ratio, label_problem
from remote_mi.recipes.parameters import Param, param_from

#: An argument's name, annotation, whether it has a default, the default, and if it is keyword-only.
_Argument = tuple[str, Any, bool, Any, bool]
#: Creates the error from a problem and a hint.
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
    """Build a card from a decorator and a signature, validating both.

    Args:
        signature: an `_Argument` for each argument.
        declaration: the decorator's keyword arguments.

    Raises:
        UsageError: naming the file and the problem of the declaration.
    """
    where = f"{path}:{line}: " if path else ""

    def refuse(problem: str, hint: str | None = None) -> UsageError:
        return UsageError(f"{where}recipe {name!r}: {problem}", hint)

    if problem := declaration_problem(declaration):
        raise refuse(problem)
    over = _one_of("over", declaration.get("over"), Over, refuse)
    evidence = declaration.get("evidence") or ""
    if evidence:
        _one_of("evidence", evidence, Evidence, refuse)
    returns, summaries, controls, figures = _parse_outputs(declaration, over, refuse)
    needs = tuple(declaration.get("needs") or ())
    for need in needs:
        if need not in NEEDS:
            raise refuse(f"needs {need!r}, which is not one of {', '.join(NEEDS)}")
    setup = declaration.get("setup") or ""
    first = _count_positional(name, over, setup, signature, refuse)
    card = Card(
        name,
        over,
        returns,
        summaries,
        figures,
        needs,
        tuple(declaration.get("references") or ()),
        _parse_parameters(signature[first:], doc, refuse),
        inspect.cleandoc(doc),
        path,
        line,
        origin,
        controls,
        declaration.get("analysis") or "",
        setup,
        dict(declaration.get("labels") or {}),
        declaration.get("behaviour") or "",
        dict(declaration.get("shared") or {}),
        evidence,
        declaration.get("lengths") or "equal",
    )
    problems = [
        _lengths_problem(card),
        _behaviour_problem(card),
        *(_shared_problem(card, key, name) for key, name in card.shared.items()),
        *(card.control_problem(key, control) for key, control in card.controls.items()),
        *(label_problem(returns, dim, name) for dim, name in card.labels.items()),
    ]
    for problem in filter(None, problems):
        raise refuse(problem)
    return card


def _one_of(argument: str, word: Any, words: Any, refuse: _Refuse) -> Any:
    """A word of an argument, refused if it is not one of a Literal's."""
    if word not in typing.get_args(words):
        known = ", ".join(repr(one) for one in typing.get_args(words))
        raise refuse(f"{argument}={word!r} is not one of {known}")
    return word


def _count_positional(
    name: str, over: str, setup: str, signature: Sequence[_Argument], refuse: _Refuse
) -> int:
    """How many arguments precede the parameters: the model, the prompts and the result of setup."""
    if setup and over not in ("prompt", "pair"):
        raise refuse(f"setup is only for recipes over a prompt or pair, not over {over!r}")
    first = 1 if over == "none" else 3 if setup else 2
    if len(signature) >= first and not any(entry[4] for entry in signature[:first]):
        return first
    what = {
        1: "first argument must be the model",
        2: "first two arguments must be the model and the prompts",
        3: "first three arguments must be the model, the prompts and the result of setup",
    }[first]
    raise refuse(f"its {what}", f"def {name}({', '.join(['lm', over, 'shared'][:first])}, *, ...)")


def _parse_outputs(
    declaration: Mapping[str, Any], over: str, refuse: _Refuse
) -> tuple[dict[str, Output], dict[str, Ratio | Output], dict[str, str], tuple[Figure, ...]]:
    """Outputs, summaries, controls and figures of a declaration, which refer to each other."""
    if not declaration.get("returns"):
        raise refuse("it declares no outputs", 'add returns={"name": ("layer", "position")}')
    returns = {key: _parse_output(value, over) for key, value in declaration["returns"].items()}
    _check_judged(returns, refuse)
    controls = dict(declaration.get("controls") or {})
    _add_outputs_of(controls, returns, declaration.get("summaries") or {})
    summaries: dict[str, Ratio | Output] = {}
    for key, value in (declaration.get("summaries") or {}).items():
        summaries[key] = value if isinstance(value, Ratio) else _parse_output(value, "none")
        analysis = declaration.get("analysis") or ""
        problem = _summary_problem(key, summaries[key], returns, analysis)
        if problem:
            raise refuse(problem)
    _add_ratios_of(controls, summaries)
    figures = tuple(declaration.get("figures") or ())
    for figure in figures:
        if figure.output not in returns and figure.output not in summaries:
            raise refuse(f"a figure shows {figure.output!r}, which it does not return")
    return returns, summaries, controls, figures


def _check_judged(returns: dict[str, Output], refuse: _Refuse) -> None:
    """Give judged outputs the dimensions of their texts."""
    for name, output in list(returns.items()):
        texts, asked = returns.get(output.judges), returns.get(output.asked)
        if not output.judges:
            continue
        if texts is None or texts.kind != "token" or not texts.dims or texts.of != "example":
            raise refuse(
                f"{name!r} judges {output.judges!r}, which is no output of texts of each prompt",
                'declare them as Tokens("step"), or Tokens("draw", "step")',
            )
        if output.asked and (asked is None or asked.dims != ("question", *texts.dims[:-1])):
            raise refuse(
                f"{name!r} is answered by {output.asked!r}, whose dimensions are not 'question' and "
                f"those of {output.judges!r} without its last"
            )
        other = returns.get(output.against)
        if output.against and (other is None or other.kind != "token" or len(other.dims) != 1):
            raise refuse(f"{name!r} is held against {output.against!r}, which is no single text")
        returns[name] = replace(output, dims=texts.dims[:-1], of="example")


def _add_outputs_of(
    controls: Mapping[str, str], returns: dict[str, Output], summaries: Mapping[str, Any]
) -> None:
    """Add outputs for controls that are not declared as outputs: like their output, per draw."""
    for name, control in controls.items():
        if name in returns and control not in returns and control not in summaries:
            own = returns[name]
            dims = own.dims if DRAW in own.dims else (DRAW, *own.dims)
            returns[control] = Output(dims, own.kind, own.of)


def _add_ratios_of(controls: dict[str, str], summaries: dict[str, Ratio | Output]) -> None:
    """Add, for each ratio of an effect, the ratio of the effect's control to the same gap."""
    for name, summary in list(summaries.items()):
        if isinstance(summary, Ratio) and summary.effect in controls and name not in controls:
            control = f"control_{name}"
            summaries.setdefault(control, Ratio(controls[summary.effect], gap=summary.gap))
            controls[name] = control


def _parse_parameters(
    signature: Sequence[_Argument], doc: str, refuse: _Refuse
) -> tuple[Param, ...]:
    """The parameters of a signature, with their descriptions from the docstring."""
    found = []
    helps = argument_docs(doc)
    for argument, annotation, has_default, default, keyword_only in signature:
        if not keyword_only:
            raise refuse(f"parameter {argument!r} is not keyword-only", "put a * before it")
        if argument in INPUTS:
            raise refuse(f"parameter {argument!r} has the same name as a prompt input; rename it")
        try:
            param = param_from(argument, annotation, has_default, default)
        except TypeError as error:
            raise refuse(f"parameter {argument!r}: {error}") from None
        found.append(Param(**{**param.__dict__, "help": helps.get(argument, "")}))
    return tuple(found)


def _parse_output(value: Any, over: str) -> Output:
    """A declared output, classified as one per example or one for the whole set."""
    output = value if isinstance(value, Output) else Output(tuple(value))
    if over in ("prompt", "pair"):
        return output
    if over in EXAMPLE and output.dims[:1] == (EXAMPLE[over],):
        return replace(output, dims=output.dims[1:], of="example")
    return replace(output, of="set")


def _summary_problem(
    key: str, summary: Ratio | Output, returns: Mapping[str, Output], analysis: str
) -> str:
    """The problem with a summary's declaration, "" if there is none."""
    if isinstance(summary, Output):
        if not KINDS[summary.kind].averaged:
            return f"summary {key!r} is declared as {summary.kind}: summaries must be numbers"
        return "" if analysis else f"summary {key!r} needs analysis=..., a function to compute it"
    for output in (summary.effect, summary.gap):
        if output not in returns:
            return f"summary {key!r} names {output!r}, which is not an output"
        if not KINDS[returns[output].kind].averaged:
            return f"summary {key!r} names {output!r}, which is not numeric"
    if set(returns[summary.gap].dims) - {"draw"}:
        return f"summary {key!r} divides by {summary.gap!r}, which is not a single number"
    return ""


def _behaviour_problem(card: Card) -> str:
    """The problem with the declared behaviour, "" if there is none."""
    name = card.behaviour
    if not name:
        return ""
    output = card.returns.get(name)
    if output is None or not KINDS[output.kind].averaged or set(output.dims) - {DRAW}:
        return f"behaviour names {name!r}, which is not an output of one number"
    return ""


def _lengths_problem(card: Card) -> str:
    """The problem with the lengths of pairs that a recipe takes, "" if there is none."""
    words = typing.get_args(typing.get_args(Lengths)[0])
    if isinstance(card.lengths, str) and card.lengths not in words:
        known = ", ".join(map(repr, words))
        return f"lengths={card.lengths!r} is not one of {known}, or a dict of parameters"
    if card.lengths != "equal" and not card.takes_pairs:
        return f"lengths is for recipes over pairs, not over {card.over!r}"
    parameters = {param.name: param for param in card.parameters}
    for name, value in () if isinstance(card.lengths, str) else card.lengths.items():
        if name not in parameters:
            return f"lengths names {name!r}, which is none of its parameters"
        try:
            parameters[name].parse(value)
        except UsageError as error:
            return f"lengths: {error.message}"
    return ""


def _shared_problem(card: Card, control: str, name: str) -> str:
    """The problem with the output that says which examples share a control's draws, or ""."""
    if control not in card.controls.values():
        return f"shared names {control!r}, which is the control of nothing"
    output = card.returns.get(name)
    if name == SET and output is None:
        return ""
    if output is None or output.of != "example" or output.dims or output.kind != "number":
        return f'shared: {name!r} is neither "set" nor an output of one number for each example'
    return ""
