"""Reading what a study file compares across its grid, and placing its points there."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from remote_mi.common.errors import RemoteMIError, UsageError, nearest
from remote_mi.common.yaml_file import KeyPath
from remote_mi.jobs.studies.coordinates import CoordinateCheck
from remote_mi.jobs.studies.entry_reader import Reader, selection
from remote_mi.jobs.studies.grid import StudyGrid
from remote_mi.jobs.studies.selection import Origin
from remote_mi.store.claims.cells import check_selector
from remote_mi.store.claims.expectation import WrongExpectation, check_output
from remote_mi.store.grid_comparison import SIZE, GridComparison, PlacedPoint

#: The axes of every grid, besides the parameters of its recipes.
_AXES: dict[str, Callable[[Origin], Any]] = {
    "model": lambda origin: _model_name(origin),
    "recipe": lambda origin: origin.recipe.card.name,
    "phenomenon": lambda origin: origin.prompts.word,
    "seed": lambda origin: origin.seed,
}
#: A model without its revision, for lines along revisions.
_NAME = "model name"
#: Axes of what models have in them, for `x`; a parameter of the same name takes precedence.
_MODEL_AXES: dict[str, Callable[[Origin], Any]] = {
    SIZE: lambda origin: origin.model.word,
    "revision": lambda origin: origin.model.spec.revision,
    "step": lambda origin: origin.model.step,
    _NAME: lambda origin: _training(origin),
}
#: Kind of comparison → the keys that only it has.
_OWN_KEYS = {"lines": ("x", "lines"), "agreement": ("top",), "differences": ("across",)}
_TITLES = {
    "lines": "{output} by {x}",
    "table": "{output}",
    "agreement": "agreement of {output}",
    "differences": "differences in {output} across {across}",
}
#: Most points of a matrix of agreements.
_MOST_AGREEING = 30


def _model_name(origin: Origin) -> str:
    """A model's name with what tells it from others of that name."""
    spec = origin.model.spec
    adapter = spec.adapter and Path(spec.adapter).name
    more = [spec.revision, spec.dtype, spec.quantization, adapter]
    told = [str(value) for value in more if value not in (None, "auto")]
    return " ".join([origin.model.word, *told])


def _training(origin: Origin) -> str:
    """The training that a model is a checkpoint of; its own name if it is none."""
    return origin.model.series or origin.model.word


@dataclass(frozen=True)
class _Chosen:
    """A point that a comparison is about, and the output that it is compared in."""

    index: int
    origin: Origin
    output: str = ""


class ComparisonReader:
    """Reads comparisons, and places the points of the grid in them.

    Args:
        reader: collects the problems. grid: with its points made.
    """

    def __init__(self, reader: Reader, grid: StudyGrid) -> None:
        self.reader, self.grid = reader, grid
        self.check = CoordinateCheck(reader)

    def comparisons(self) -> tuple[GridComparison, ...]:
        """The comparisons; mistakes are added to the reader's problems."""
        made = []
        for where, entry in self.reader.entries(("compare",)):
            try:
                made.append(self._comparison(where, entry))
            except WrongExpectation as error:
                self.reader.add_error((*where, *error.inside), error)
        return tuple(found for found in made if found is not None)

    def _comparison(self, where: KeyPath, entry: Mapping[str, Any]) -> GridComparison | None:
        show = entry["show"]
        self._check_keys(entry)
        output = entry.get("output") or []
        outputs = output if isinstance(output, list) else [output]
        if not outputs:
            raise WrongExpectation("the output is missing", "output: NAME")
        points = self.grid.selected(selection(where, entry))
        if not points:
            return None
        at = dict(entry.get("at") or {})
        chosen = self._chosen([(i, self.grid.origins[i]) for i in points], outputs, at, show)
        made = GridComparison(
            show,
            entry.get("title") or "",
            outputs,
            at,
            x=entry.get("x") or "",
            lines=entry.get("lines") or "",
            across=entry.get("across") or "",
            top=entry.get("top") or 10,
        )
        made = {"lines": self._lines, "differences": self._differences}.get(show, self._plain)(
            made, chosen
        )
        if show != "agreement":
            self._check_dims(made, chosen)
        names = {"output": ", ".join(outputs), "x": made.x, "across": made.across}
        return replace(made, title=made.title or _TITLES[show].format(**names))

    def _check_keys(self, entry: Mapping[str, Any]) -> None:
        for show, keys in _OWN_KEYS.items():
            for key in keys:
                if key in entry and show != entry["show"]:
                    message = f"{key!r} belongs to 'show: {show}', not to {entry['show']!r}"
                    raise WrongExpectation(message, "leave it out", key)
        if entry["show"] == "agreement" and entry.get("at"):
            raise WrongExpectation(
                "agreement is of whole maps; 'at' selects cells", "leave it out", "at"
            )
        for dim, wanted in (entry.get("at") or {}).items():
            try:
                check_selector(wanted)
            except UsageError as error:
                raise WrongExpectation(error.message, error.hint, "at", dim) from None

    def _chosen(
        self,
        points: Sequence[tuple[int, Origin]],
        outputs: Sequence[str],
        at: Mapping[str, Any],
        show: str,
    ) -> list[_Chosen]:
        """The points with the output of each; of several, the first that its recipe has."""
        chosen = []
        for output in outputs:
            having = [o for _, o in points if output in _outputs(o)]
            if not having:  # says what there is
                check_output(points[0][1].recipe.card, output, {})
            for origin in having if show == "table" else ():
                dims = check_output(origin.recipe.card, output, {})
                self.check(origin, output, {d: w for d, w in at.items() if d in dims})
        for index, origin in points:
            found = next((o for o in outputs if o in _outputs(origin)), None)
            if found is None:
                if show == "table":
                    continue
                check_output(origin.recipe.card, outputs[0], {})
            assert found is not None
            if show != "table":
                check_output(origin.recipe.card, found, at)
                self.check(origin, found, at)
            chosen.append(_Chosen(index, origin, "" if show == "table" else found))
        return chosen

    def _check_dims(self, made: GridComparison, chosen: Sequence[_Chosen]) -> None:
        """Check that every dimension that is no axis is selected, and that there are no others."""
        axes = {name for name, is_dim in _axes_of(made) if is_dim}
        used: set[str] = set()
        for one in chosen:
            for output in [one.output] if one.output else made.output:
                if output not in _outputs(one.origin):
                    continue
                dims = check_output(one.origin.recipe.card, output, {})
                used.update(dims)
                left = [dim for dim in dims if dim not in made.at and dim not in axes]
                if left:
                    raise WrongExpectation(
                        f"{output!r} has the dimension {left[0]!r}, of which nothing is selected",
                        f"at: {{{left[0]}: …}}   one coordinate, or several whose mean is taken",
                        "output",
                    )
        for dim in made.at:
            if dim not in used:
                raise WrongExpectation(f"no output has the dimension {dim!r}", None, "at", dim)
            if dim in axes:
                raise WrongExpectation(f"{dim!r} is an axis, and is selected too", None, "at", dim)

    # -- axes ------------------------------------------------------------------------------------

    def _lines(self, made: GridComparison, chosen: Sequence[_Chosen]) -> GridComparison:
        if not made.x:
            raise WrongExpectation("the axis is missing", "x: layer, x: model, x: PARAMETER")
        x_is_dim = self._is_dim(made.x, chosen, "x")
        lines_is_dim = bool(made.lines) and self._is_dim(made.lines, chosen, "lines")
        free = [name for name in _varying(chosen) if name != made.x]
        if not x_is_dim and made.x in _MODEL_AXES and "model" in free:
            free.remove("model")  # it is what the axis is made of
            if made.x != SIZE and len({_training(one.origin) for one in chosen}) > 1:
                free.insert(0, _NAME)
        named = [made.lines] if made.lines and not lines_is_dim else []
        axes = named or ([] if lines_is_dim else free)
        placed: dict[tuple[Any, str], _Chosen] = {}
        points = []
        for one in chosen:
            x = None if x_is_dim else _value(one.origin, made.x)
            line = _line(one.origin, axes)
            twin = placed.setdefault((None if x_is_dim else _text(x), line), one)
            if twin is not one:
                raise WrongExpectation(
                    f"two points stand at the same place: they differ in {_differ(twin, one)}",
                    f"lines: {_differ(twin, one)}, or select one of its values",
                    *(("lines",) if made.lines else ()),
                )
            points.append(PlacedPoint(one.index, line or _text(x), one.output, x, line))
        return replace(
            made,
            x_is_dim=x_is_dim,
            lines=made.lines or ", ".join(axes),
            lines_is_dim=lines_is_dim,
            points=points,
        )

    def _is_dim(self, name: str, chosen: Sequence[_Chosen], key: str) -> bool:
        """Whether an axis is a dimension of the outputs; else it must be one of the grid."""
        dims = [check_output(one.origin.recipe.card, one.output, {}) for one in chosen]
        if all(name in some for some in dims):
            return True
        self._check_axis(name, chosen, key, [dim for some in dims for dim in some])
        return False

    def _check_axis(
        self, name: str, chosen: Sequence[_Chosen], key: str, more: Sequence[str] = ()
    ) -> None:
        parameters = [set(one.origin.parameters) for one in chosen]
        of_model = list(_MODEL_AXES)[:3] if key != "across" else []
        known = [*_AXES, *of_model, *set.intersection(*parameters), *more]
        if name not in [*_AXES, *of_model] and not all(name in some for some in parameters):
            close = nearest(name, known)
            kinds = ", ".join([*_AXES, *of_model, "a parameter", *["a dimension"] * bool(more)])
            raise WrongExpectation(
                f"{name!r} is no axis that all of these points have",
                f"did you mean {close!r}?" if close else kinds,
                key,
            )

    def _differences(self, made: GridComparison, chosen: Sequence[_Chosen]) -> GridComparison:
        if not made.across:
            raise WrongExpectation("the axis is missing", "across: model, across: PARAMETER")
        self._check_axis(made.across, chosen, "across")
        rest = [name for name in _varying(chosen) if name != made.across]
        groups: dict[str, dict[str, _Chosen]] = {}
        points = []
        for one in chosen:
            line, x = _name(one.origin, rest), _text(_value(one.origin, made.across))
            twin = groups.setdefault(line, {}).setdefault(x, one)
            if twin is not one:
                raise WrongExpectation(
                    f"two points have the same {made.across}: they differ in {_differ(twin, one)}",
                    "select one of them",
                    "across",
                )
            points.append(PlacedPoint(one.index, x, one.output, x, line))
        if all(len(group) < 2 for group in groups.values()):
            raise WrongExpectation(
                f"no two points differ only in {made.across!r}", "there is nothing to compare"
            )
        return replace(made, points=points)

    def _plain(self, made: GridComparison, chosen: Sequence[_Chosen]) -> GridComparison:
        """A table or matrix of points, each with a name."""
        if made.show == "agreement" and not 1 < len(chosen) <= _MOST_AGREEING:
            raise WrongExpectation(
                f"agreement is of 2 to {_MOST_AGREEING} points, and this matches {len(chosen)}",
                "select with recipe, model, phenomenon, seed or parameters",
            )
        varying = _varying(chosen)
        points = [PlacedPoint(c.index, _name(c.origin, varying), c.output) for c in chosen]
        return replace(made, points=points)


def _outputs(origin: Origin) -> list[str]:
    return [*origin.recipe.card.summaries, *origin.recipe.card.returns]


def _axes_of(made: GridComparison) -> list[tuple[str, bool]]:
    return [(made.x, made.x_is_dim), (made.lines, made.lines_is_dim)]


def _value(origin: Origin, axis: str) -> Any:
    """The place of a point on an axis of the grid."""
    if axis in _AXES:
        return _AXES[axis](origin)
    if axis in _MODEL_AXES and axis not in origin.parameters:
        return _MODEL_AXES[axis](origin)
    return origin.parameters.get(axis)


def _varying(chosen: Sequence[_Chosen]) -> list[str]:
    """The axes of the grid along which some points differ."""
    names = dict.fromkeys([*_AXES, *(name for one in chosen for name in one.origin.parameters)])
    return [
        name
        for name in names
        if len(
            {
                repr(_value(one.origin, name))
                for one in chosen
                if name in _AXES or name in one.origin.parameters
            }
        )
        > 1
    ]


def _differ(one: _Chosen, other: _Chosen) -> str:
    """An axis along which two points differ."""
    return next(iter(_varying([one, other])), "nothing")


def _name(origin: Origin, axes: Sequence[str]) -> str:
    """What tells a point from others: its place on the axes along which they differ."""
    parts = [
        f"{axis}={_text(_value(origin, axis))}"
        if axis in origin.parameters
        else _text(_value(origin, axis))
        for axis in axes
        if axis in _AXES or axis in _MODEL_AXES or axis in origin.parameters
    ]
    return ", ".join(parts) or origin.recipe.card.name


def _line(origin: Origin, axes: Sequence[str]) -> str:
    """The name of a point's line; "" if there is only one line."""
    if len(axes) == 1:
        return _text(_value(origin, axes[0]))
    return _name(origin, axes) if axes else ""


def _text(value: Any) -> str:
    return "–" if value is None else str(value)


def read_comparisons(reader: Reader, grid: StudyGrid) -> tuple[GridComparison, ...]:
    """The comparisons of a study; mistakes are added to the reader's problems."""
    try:
        return ComparisonReader(reader, grid).comparisons()
    except RemoteMIError as error:
        reader.add_error(("compare",), error)
        return ()
