"""The outputs a recipe declares, with named dimensions, and ratios of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

#: The dimension of replicates; estimates are means over it.
DRAW = "draw"
#: What all examples together are called, as the unit of what belongs to none of them alone.
SET = "set"
#: Dimensions whose coordinates are the tokens of a prompt.
POSITIONS = ("position", "query", "key")


@dataclass(frozen=True)
class Output:
    """One declared output.

    Attributes:
        dims: names of its dimensions, outermost first; () for a number.
        kind: "number" for arrays of numbers, "share" for numbers that are 0 or 1, "token" for arrays
            of token ids, "text" and "json" for texts and JSON values
            (`remote_mi.recipes.output_kinds`).
        of: "example" if there is one per prompt or pair, "set" if there is one for all of them.
        judges: the output of token ids whose texts it judges by the behaviour that the prompts ask
            for; "" for what the function itself returns.
        asked: the output with the probability that the model answers "yes" to a prompt's question.
        against: the output of a text that it is compared with; "" for none.
    """

    dims: tuple[str, ...]
    kind: Literal["number", "share", "token", "text", "json"] = "number"
    of: Literal["example", "set"] = "example"
    judges: str = ""
    asked: str = ""
    against: str = ""


def Share(*dims: str) -> Output:  # noqa: N802 - reads as a type in the decorator
    """An output that is 1 or 0 in each prompt (right or wrong); its mean is a share."""
    return Output(tuple(dims), "share")


def Tokens(*dims: str) -> Output:  # noqa: N802 - as above
    """An output of token ids with these dimensions, shown as text, never averaged; −1: no token."""
    return Output(tuple(dims), "token")


def Texts(*dims: str) -> Output:  # noqa: N802 - as above
    """An output of texts: a str, or lists of them nested as deeply as there are dimensions."""
    return Output(tuple(dims), "text")


def Json(*dims: str) -> Output:  # noqa: N802 - as above
    """An output of JSON values: numbers, texts, None, and lists and dicts of these."""
    return Output(tuple(dims), "json")


def Judged(texts: str, asked: str = "", against: str = "") -> Output:  # noqa: N802 - as above
    """Whether each text shows the behaviour that its prompt asks for: 1 or 0, by remote_mi.

    It is computed on this machine from the texts, so that another behaviour runs no forward pass,
    and has the dimensions of the texts without that of their tokens.

    Args:
        texts: the output of token ids, whose last dimension is that of a text.
        asked: the output with the probability of "yes" after the prompt's question, whose first
            dimension is "question", of size 1, or 0 if nothing is asked; then those of the result.
            A text shows a behaviour `yes_no` if it is larger than one half.
        against: an output of one text of each prompt, e.g. without an intervention: the result is
            then a difference, 1 − 0, 0 or 0 − 1.
    """
    kind = "number" if against else "share"
    return Output((), kind, judges=texts, asked=asked, against=against)


@dataclass(frozen=True)
class Ratio:
    """Summary over pairs: mean of one output over the size of another's mean (ratio of means).

    The size, so that a ratio has the sign of its effect whatever that of the gap. Where the mean gap
    is not told from 0 over several pairs, there is no ratio.

    Attributes:
        effect: name of the output in the numerator, of any shape.
        gap: name of the scalar output in the denominator.
    """

    effect: str
    gap: str


def coordinates(
    dim: str, size: int, parameters: Mapping[str, Any], columns: Sequence[str] | None
) -> list[Any]:
    """The label of each index of a dimension.

    Args:
        columns: labels of positions; None numbers them.
    """
    if dim in POSITIONS and chosen_cells(dim, parameters):
        return [f"[{name}]" for name in parameters[f"{dim}s"]]
    if dim in POSITIONS and columns is not None:
        return list(columns)
    given = parameters.get(f"{dim}s")
    if isinstance(given, list) and len(given) == size:
        return list(given)
    return list(range(size))


def chosen_cells(dim: str, parameters: Mapping[str, Any]) -> int:
    """How many cells a parameter names along a dimension of positions; 0: each token is one."""
    given = parameters.get(f"{dim}s")
    return len(given) if isinstance(given, list) else 0


def position_problem(
    output: Output, shape: Sequence[int], tokens: int, parameters: Mapping[str, Any]
) -> str:
    """The problem with the size of an example's output along its positions, "" if there is none.

    Args:
        shape: of its values. tokens: of the prompt, for a pair of the clean one.
    """
    for dim, size in zip(output.dims, shape, strict=True):
        if dim not in POSITIONS or output.of != "example":
            continue
        chosen = chosen_cells(dim, parameters)
        if chosen and size != chosen:
            return f"has {size} entries along {dim!r}, and {dim}s names {chosen}"
        if not chosen and size != tokens:
            return f"has {size} entries along {dim!r}, and the prompt has {tokens} tokens"
    return ""


def output_json(output: Output) -> dict[str, Any]:
    """A declared output as JSON."""
    names = {name: getattr(output, name) for name in ("judges", "asked", "against")}
    judged = names if output.judges else {}
    return {"dims": list(output.dims), "kind": output.kind, "of": output.of, **judged}


def outputs_from_json(data: Mapping[str, Any]) -> dict[str, Output]:
    """Read back the `returns` part of `Card.to_json`."""
    return {
        k: Output(
            tuple(v["dims"]),
            v.get("kind", "number"),
            v.get("of", "example"),
            v.get("judges", ""),
            v.get("asked", ""),
            v.get("against", ""),
        )
        for k, v in data.items()
    }


def summaries_from_json(data: Mapping[str, Any]) -> dict[str, Ratio | Output]:
    """Read back the `summaries` part of `Card.to_json`."""
    ratios = {k: Ratio(v["effect"], gap=v["gap"]) for k, v in data.items() if v.get("effect")}
    computed = outputs_from_json({k: v for k, v in data.items() if k not in ratios})
    return {k: ratios.get(k) or computed[k] for k in data}


def label_problem(returns: Mapping[str, Output], dim: str, name: str) -> str:
    """The problem with the output that labels a dimension, "" if there is none."""
    if name not in returns:
        return f"labels names {name!r}, which it does not return"
    output = returns[name]
    if output.dims != (dim,) or output.kind == "json" or dim in POSITIONS:
        return f"labels: {name!r} cannot name the indices of {dim!r}; declare it as Texts({dim!r})"
    if not any(dim in other.dims for key, other in returns.items() if key != name):
        return f"labels names the dimension {dim!r}, which no other output has"
    return ""
