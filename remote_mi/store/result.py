"""A job's result: arrays with named dimensions and coordinates, the prompts, the provenance."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from remote_mi.common.display import Displayed
from remote_mi.common.errors import NotFound, nearest
from remote_mi.recipes.card import Card
from remote_mi.recipes.figures import Figure, figures_from_json
from remote_mi.recipes.output_kinds import kind_of_output
from remote_mi.recipes.outputs import Output, coordinates, outputs_from_json
from remote_mi.store.named_array import NamedArray, import_pandas
from remote_mi.store.run_info import Provenance, card_from_json

if TYPE_CHECKING:
    import pandas

#: Values this small beside the largest are 0 up to rounding.
_ROUNDING = 1e-6


def passage_key(tokens: Sequence[int]) -> str:
    """The name of a passage in `Result.document["texts"]`: its token ids."""
    return " ".join(map(str, tokens))


@dataclass(repr=False)
class Result(Displayed):
    """What a job gave.

    `result["name"]` is an output or summary over all prompts; `result.each("name")` keeps them
    apart. In a notebook a result displays its figures.

    Attributes:
        recipe: the shown part of the recipe's card.
        document: prompts, tokens, coordinates, notes (see docs/results.md).
        arrays: raw arrays by "output@index", estimates by name, intervals by "name:low|high".
        provenance: where and how it was computed, key, versions, times.
        run_id: id of the run folder, when there is one.
        path: the run folder, when there is one.
    """

    recipe: Mapping[str, Any]
    document: Mapping[str, Any]
    arrays: Mapping[str, np.ndarray]
    provenance: Mapping[str, Any] = field(default_factory=dict)
    run_id: str = ""
    path: Path | None = None

    @property
    def made(self) -> Provenance:
        """The provenance, by names; see `remote_mi.store.run_info.Provenance`."""
        return Provenance.from_json(self.provenance)

    @property
    def card(self) -> Card:
        """The recipe's card, as far as a run keeps it."""
        return card_from_json(self.recipe)

    @property
    def name(self) -> str:
        """The recipe's name."""
        return self.recipe["name"]

    @property
    def id8(self) -> str:
        """The eight digits of the run's id; "" of a result that was not kept."""
        return self.run_id.rsplit("-", 1)[-1]

    @property
    def outputs(self) -> dict[str, Output]:
        """The declared outputs."""
        return outputs_from_json(self.recipe["returns"])

    @property
    def figures(self) -> list[Figure]:
        """The figures the recipe declares."""
        return figures_from_json(self.recipe["figures"])

    @property
    def controls(self) -> Mapping[str, str]:
        """Output or summary → the one that it is held against."""
        return self.recipe.get("controls", {})

    @property
    def prompts(self) -> list[Mapping[str, Any]]:
        """Text, tokens and labelled positions of every prompt or pair."""
        return self.document["parts"]

    @property
    def notes(self) -> list[str]:
        """What a reader of the numbers has to know: pairs at fault, what was left out."""
        return list(self.document.get("notes", []))

    @property
    def vocabulary(self) -> Mapping[str, str]:
        """Token id, as text → its text, of every id that an output holds."""
        return self.document["vocabulary"]

    @property
    def texts(self) -> Mapping[str, str]:
        """Passage (`passage_key`) → its text, decoded together."""
        return self.document.get("texts", {})

    def names(self) -> list[str]:
        """Everything `result[name]` can give."""
        return [*self.recipe["summaries"], *self.recipe["returns"]]

    def __getitem__(self, name: str) -> NamedArray:
        """An output or summary over all prompts: the value of one prompt, the mean of several.

        Texts and JSON values are what they are: arrays of objects.

        Raises:
            NotFound: for an unknown name, or for token ids or texts of several prompts.
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

        JSON objects do not keep an order that is to be relied on: the cache sorts their keys.
        """
        axes = self.document["axes"][name]
        declared = self.recipe["summaries"].get(name) or self.recipe["returns"][name]
        if "effect" in declared:  # a ratio has the dimensions of what it divides
            declared = self.recipe["returns"][declared["effect"]]
        return tuple(dim for dim in declared["dims"] if dim in axes)

    def each(self, name: str) -> list[NamedArray]:
        """An output of every prompt by itself, with its own tokens as coordinates.

        Raises:
            NotFound: for an unknown output (summaries exist over all prompts only).
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
        """The coordinates that another output gives a dimension; None where none does.

        Args:
            size: of the dimension. index: of the prompt; None asks for those that all prompts share.
        """
        name = self.recipe.get("labels", {}).get(dim)
        if name is None:
            return None
        output = self.outputs[name]
        every = range(max(1, len(self.prompts))) if index is None else [index]
        keys = [f"{name}@{0 if output.of == 'set' else i}" for i in every]
        found = [self._named(output, self.arrays[key]) for key in keys if key in self.arrays]
        same = bool(found) and all(labels == found[0] for labels in found)
        return found[0] if same and len(found[0]) == size else None

    def _named(self, output: Output, packed: np.ndarray) -> list[Any]:
        """The values of an output as coordinates: texts, the text of tokens, numbers."""
        values = kind_of_output(output).unpack(packed).tolist()
        return [self.text(token) for token in values] if output.kind == "token" else values

    def control_band(self, name: str) -> np.ndarray | None:
        """How large an output or summary would be by its control alone.

        Returns:
            Of the output's shape: the largest size within the control's 95% interval, or the size
            of the control where it has none. None if the output has no control.
        """
        control = self.controls.get(name)
        if control is None or control not in self.arrays or name not in self.arrays:
            return None
        found = self[control]
        ends = [e for e in (found.values, found.low, found.high) if e is not None]
        band = np.abs(np.stack(ends)).max(0)
        if not np.isfinite(band).any():
            return None  # no draws were asked for
        shape = self.arrays[name].shape
        return np.broadcast_to(band.reshape(band.shape + (1,) * (len(shape) - band.ndim)), shape)

    def explained(self, name: str) -> np.ndarray | None:
        """Which cells of an output or summary its control explains.

        Returns:
            True where the value is no larger than `control_band`, or its own interval contains 0;
            False where it is 0 up to rounding (nothing is to be explained). None without a control.
        """
        band = self.control_band(name)
        if band is None:
            return None
        found = self[name]
        marked = np.abs(found.values) <= band
        if found.low is not None and found.high is not None:
            marked |= (found.low <= 0) & (found.high >= 0)
        sizes = np.abs(found.values)
        largest = np.max(sizes[np.isfinite(sizes)], initial=0.0)
        return marked & (sizes > _ROUNDING * largest)

    def text(self, token: int) -> str:
        """A token id of this result as text; of a negative one, which is none, nothing."""
        return "" if token < 0 else self.vocabulary.get(str(int(token)), f"<{int(token)}>")

    def passage(self, tokens: Iterable[int]) -> str:
        """Token ids of this result that follow one another, as text; negative ones are none.

        Where the result has it, as its tokenizer decodes them together; else token by token.
        """
        ids = [int(token) for token in tokens if token >= 0]
        found = self.texts.get(passage_key(ids))
        return "".join(self.text(token) for token in ids) if found is None else found

    def to_pandas(self, name: str | None = None) -> pandas.DataFrame:
        """One output as a table; by default what the first figure shows.

        With several prompts a summary has one row a cell, an output one row a cell and prompt
        (column `prompt`). Token ids get a column `token` with their text.
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
