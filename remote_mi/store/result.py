"""A job's result: arrays with named dimensions and coordinates, the prompts, the provenance."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from remote_mi.common.display import Displayed
from remote_mi.common.errors import NotFound, StoreError, nearest
from remote_mi.common.statistics.randomisation import LEVEL
from remote_mi.recipes.card import Card
from remote_mi.recipes.figures import Figure
from remote_mi.recipes.output_kinds import kind_of_output
from remote_mi.recipes.outputs import Output, Ratio, coordinates, outputs_from_json
from remote_mi.store.claims.evaluation import Judgement, judge
from remote_mi.store.claims.expectation import check_expectation, parse_expectation
from remote_mi.store.contrasts.contrast import Contrast
from remote_mi.store.named_array import NamedArray, import_pandas
from remote_mi.store.provenance import Provenance
from remote_mi.store.run_info import card_from_json
from remote_mi.store.typed_json import dataclass_from_json
from remote_mi.store.verdict import ControlTest, Verdict

if TYPE_CHECKING:
    import pandas


def passage_key(tokens: Sequence[int]) -> str:
    """The name of a passage in `Result.document["texts"]`: its token ids."""
    return " ".join(map(str, tokens))


@dataclass(repr=False)
class Result(Displayed):
    """The result of a job.

    `result["name"]` is an output or summary over all prompts; `result.each("name")` is a list with
    one array per prompt. In a notebook a result displays its figures.

    Attributes:
        recipe: the stored part of the recipe's card.
        document: prompts, tokens, coordinates, notes (see docs/results.md).
        arrays: raw arrays by "output@index", estimates by name, intervals by "name:low|high".
        provenance: where and how it was computed, key, versions, times.
        run_id: name of the run folder, if there is one.
        path: the run folder, if there is one. unsaved: why there is none, if it was not saved.
    """

    recipe: Mapping[str, Any]
    document: Mapping[str, Any]
    arrays: Mapping[str, np.ndarray]
    provenance: Mapping[str, Any] = field(default_factory=dict)
    run_id: str = ""
    path: Path | None = None
    unsaved: StoreError | None = None

    @property
    def made(self) -> Provenance:
        """The provenance as typed attributes; see `remote_mi.store.provenance.Provenance`."""
        return Provenance.from_json(self.provenance)

    @property
    def card(self) -> Card:
        """The part of the recipe's card that a run stores."""
        return card_from_json(self.recipe)

    @property
    def name(self) -> str:
        """The recipe's name."""
        return self.recipe["name"]

    @property
    def id8(self) -> str:
        """The eight hex digits of the run's id; "" if the result was not saved."""
        return self.run_id.rsplit("-", 1)[-1]

    @property
    def outputs(self) -> dict[str, Output]:
        """The declared outputs."""
        return outputs_from_json(self.recipe["returns"])

    @property
    def figures(self) -> list[Figure]:
        """The figures the recipe declares; instead of a ratio that is not given, its effect."""
        return list(dict.fromkeys(map(self.shown_figure, self.card.figures)))

    def shown_figure(self, figure: Figure) -> Figure:
        """A declared figure, or that of the effect if it shows a ratio that is not given."""
        ratio = self.card.summaries.get(figure.output)
        if figure.output not in self.withheld or not isinstance(ratio, Ratio):
            return figure
        return replace(figure, output=ratio.effect, title=ratio.effect)

    @property
    def verdict(self) -> Verdict | None:
        """Whether the model does what is studied; None if the recipe rests on no behaviour, or for
        a run of an earlier version."""
        kept = self.document.get("verdict")
        return None if kept is None else dataclass_from_json(Verdict, kept, "document.verdict")

    @property
    def withheld(self) -> Mapping[str, str]:
        """Ratio → why it is not given: what it would be divided by is not told from 0."""
        return self.document.get("withheld", {})

    def control_test(self, name: str) -> ControlTest | None:
        """How an output or summary was tested against its control; None if it was not."""
        kept = self.document.get("tests", {}).get(name)
        return None if kept is None else dataclass_from_json(ControlTest, kept, "document.tests")

    @property
    def controls(self) -> Mapping[str, str]:
        """Output or summary → its control."""
        return self.recipe.get("controls", {})

    @property
    def prompts(self) -> list[Mapping[str, Any]]:
        """Text, tokens and labelled positions of every prompt or pair."""
        return self.document["parts"]

    @property
    def notes(self) -> list[str]:
        """What a reader of the numbers has to know, e.g. faulty pairs and omitted prompts."""
        return list(self.document.get("notes", []))

    @property
    def vocabulary(self) -> Mapping[str, str]:
        """Token id (as a string) → its text, for every id that occurs in an output."""
        return self.document["vocabulary"]

    @property
    def texts(self) -> Mapping[str, str]:
        """Passage (`passage_key`) → its text, decoded as a whole."""
        return self.document.get("texts", {})

    def names(self) -> list[str]:
        """All names that `result[name]` accepts."""
        return [*self.recipe["summaries"], *self.recipe["returns"]]

    def __getitem__(self, name: str) -> NamedArray:
        """An output or summary over all prompts: the value of one prompt, or the mean of several.

        Texts and JSON values are returned as arrays of objects.

        Raises:
            NotFound: for an unknown name, or for an output without a mean and several prompts.
        """
        if name not in self.names():
            close = nearest(name, self.names())
            raise NotFound(
                f"the result has no {name!r}",
                f"did you mean {close!r}?" if close else f"it has: {', '.join(self.names())}",
            )
        if name not in self.arrays:
            raise NotFound(
                f"{name!r} cannot be averaged over {len(self.prompts)} prompts",
                f"take them one by one: result.each({name!r})",
            )
        dims, axes = self._dims(name), self.document["axes"][name]
        coords = {dim: self._labels(dim, len(axes[dim])) or axes[dim] for dim in dims}
        return NamedArray(
            kind_of_output(self.outputs.get(name)).unpack(self.arrays[name]),
            dims,
            coords,
            self.arrays.get(f"{name}:low"),
            self.arrays.get(f"{name}:high"),
            name,
        )

    def _dims(self, name: str) -> tuple[str, ...]:
        """The dimensions in the order of the recipe's declaration.

        The order of JSON keys cannot be relied on: the cache sorts them.
        """
        axes = self.document["axes"][name]
        declared = self.recipe["summaries"].get(name) or self.recipe["returns"][name]
        if declared.get("effect"):  # a ratio has the dimensions of its numerator
            declared = self.recipe["returns"][declared["effect"]]
        return tuple(dim for dim in declared["dims"] if dim in axes)

    def each(self, name: str) -> list[NamedArray]:
        """An output of each prompt separately, with the prompt's own tokens as coordinates.

        Raises:
            NotFound: for an unknown output (summaries exist only over all prompts).
        """
        if name not in self.outputs:
            raise NotFound(
                f"the recipe has no output {name!r}", f"it has: {', '.join(self.outputs)}"
            )
        return list(self._each(name))

    def _each(self, name: str) -> Iterator[NamedArray]:
        dims, kind = self.outputs[name].dims, kind_of_output(self.outputs[name])
        each: list[Any] = [part["tokens"] for part in self.prompts]
        for index, tokens in enumerate([None] if self.outputs[name].of == "set" else each):
            values = kind.unpack(self.arrays[f"{name}@{index}"])
            coords = {
                dim: self._labels(dim, size, index)
                or coordinates(dim, size, self.provenance.get("parameters", {}), tokens)
                for dim, size in zip(dims, values.shape, strict=True)
            }
            yield NamedArray(values, dims, coords, name=name)

    def _labels(self, dim: str, size: int, index: int | None = None) -> list[Any] | None:
        """The coordinates of a dimension that another output provides; None if none does.

        Args:
            size: of the dimension. index: of the prompt; None for the labels that all prompts share.
        """
        name = self.recipe.get("labels", {}).get(dim)
        if name is None:
            return None
        output = self.outputs[name]
        every = range(max(1, len(self.prompts))) if index is None else [index]
        keys = [f"{name}@{0 if output.of == 'set' else i}" for i in every]
        labels = [
            self._coordinates_from(output, self.arrays[key]) for key in keys if key in self.arrays
        ]
        same = bool(labels) and all(one == labels[0] for one in labels)
        return labels[0] if same and len(labels[0]) == size else None

    def _coordinates_from(self, output: Output, packed: np.ndarray) -> list[Any]:
        """The values of an output as coordinates: texts, the text of tokens, numbers."""
        values = kind_of_output(output).unpack(packed).tolist()
        return [self.text(token) for token in values] if output.kind == "token" else values

    def control_band(self, name: str) -> np.ndarray | None:
        """How large an output or summary is if only its control is at work.

        Returns:
            An array of the output's shape: the largest size of the same mean among the draws of the
            control. None if the output has no control, or no draws of it.
        """
        control = self.controls.get(name)
        if control is None or control not in self.arrays or name not in self.arrays:
            return None
        band = self.arrays.get(f"{name}:band")
        if band is None:
            ends = [self.arrays.get(f"{control}{end}") for end in ("", ":low", ":high")]
            band = np.abs(np.stack([end for end in ends if end is not None])).max(0)
        if not np.isfinite(band).any():
            return None  # no draws were requested
        shape = self.arrays[name].shape
        return np.broadcast_to(band.reshape(band.shape + (1,) * (len(shape) - band.ndim)), shape)

    def explained(self, name: str) -> np.ndarray | None:
        """Which cells of an output or summary are not told from its control, or from 0.

        Returns:
            False where the cell is told from the control, corrected over all cells
            (docs/statistics.md), is larger than `control_band`, and its own interval excludes 0; and
            where it has no size. True elsewhere, and everywhere if nothing was tested. None without
            a control.
        """
        band = self.control_band(name)
        if band is None:
            return None
        p, array = self.arrays.get(f"{name}:p"), self[name]
        if p is None:
            return np.ones(array.shape, bool)
        told = (p <= LEVEL * (1 + 1e-6)) & (np.abs(array.values) > band)  # stored in float32
        if array.low is not None and array.high is not None:
            told &= (array.low > 0) | (array.high < 0)
        return ~told & ~self.without_size(name)

    def without_size(self, name: str) -> np.ndarray:
        """Which cells are 0 up to rounding in every prompt, so that they are no cells of a map."""
        p, values = self.arrays.get(f"{name}:p"), self[name].values
        if p is not None:
            return np.isnan(p) & np.isfinite(values)
        return np.zeros(values.shape, bool)

    def text(self, token: int) -> str:
        """The text of a token id of this result, `<ID>` if it has none.

        A negative id means no token; its text is "".
        """
        return "" if token < 0 else self.vocabulary.get(str(int(token))) or f"<{int(token)}>"

    def passage(self, tokens: Iterable[int]) -> str:
        """The text of consecutive token ids of this result; negative ids are skipped.

        Decoded as a whole if the result stores that text, else token by token.
        """
        ids = [int(token) for token in tokens if token >= 0]
        text = self.texts.get(passage_key(ids))
        return "".join(self.text(token) for token in ids) if text is None else text

    def holds(
        self,
        output: str,
        at: Mapping[str, Any] | None = None,
        *,
        every: str | None = None,
        any: str | None = None,
        mean: str | None = None,
        value: str | None = None,
    ) -> Judgement:
        """Whether an expectation holds, fails or is undecided, from the 95% intervals.

            result.holds("recovery", at={"layer": ">= 24", "position": "end"}, every="> 0.8")

        Args:
            output: an output or summary.
            at: dimension → coordinate, list of them, or comparison such as ">= 24"; a position is
                named by its label, index or token. All cells of dimensions that are left out.
            every, any, mean, value: one of them, the comparison: of every cell, of at least one,
                of their mean, or of the only one; "> 0.8", "<= 3", "between 0.2 and 0.4".

        Raises:
            UsageError, NotFound: for anything malformed, or that the result does not have.
        """
        given = {"every": every, "any": any, "mean": mean, "value": value}
        expected = parse_expectation({"output": output, "at": at, **given})
        check_expectation(self.card, expected)
        return judge(self, expected)

    def compare(self, other: Result) -> Contrast:
        """Paired differences (other − this, interval, p) and the agreement of maps.

        `remote_mi.compare` tells how the two were made, and how far apart their numbers are.
        """
        return Contrast(self, other)

    def to_pandas(self, name: str | None = None) -> pandas.DataFrame:
        """One output or summary as a table; by default what the first figure shows.

        A summary has one row per cell; an output one row per cell and prompt, with a column
        `prompt`. Token ids get a column `token` with their text.
        """
        pandas = import_pandas()
        name = name or (self.figures[0].output if self.figures else self.names()[0])
        if name in self.recipe["summaries"]:
            return self[name].to_pandas()
        frames = []
        for index, array in enumerate(self.each(name)):
            frame = array.to_pandas()
            frame.insert(0, "prompt", index)
            frames.append(frame)
        table = pandas.concat(frames, ignore_index=True)
        if self.outputs[name].kind == "token":
            table["token"] = [self.text(t) for t in table["value"]]
        return table
