"""Which prompts a job uses, however they are given."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from remote_mi.common.annotated_types import shown
from remote_mi.common.errors import UsageError
from remote_mi.common.text import short_number
from remote_mi.prompts import phenomena
from remote_mi.prompts.alignment import parse_align
from remote_mi.prompts.examples import MOST_PAIRS, PromptSet, parse_example
from remote_mi.prompts.files.records import FileRecord, FileRecords
from remote_mi.prompts.reading import prompts_from, read_prompts


@dataclass(frozen=True)
class PromptChoice:
    """Which prompts a job uses: exactly one of a phenomenon, a file, or texts.

    Attributes:
        phenomenon: name or file, optionally `name:template`.
        pairs: a file (JSON, CSV, Parquet, Excel) or data set, or dicts like its records.
        texts: prompt/target or clean/corrupt/answer/wrong; a prompt may be messages.
        size, seed: for a phenomenon; None for the phenomenon's own.
        columns: field → column of the file, where their names differ.
        format: the published format of its records, "" to recognise it.
        thinking: of all prompts, switched on or off in the chat template; None leaves each as it is.
        align: how all pairs of unequal length are aligned, one of `ALIGN`; "" leaves each as it is.
    """

    phenomenon: str | None = None
    pairs: str | Path | Iterable[Mapping[str, Any]] | None = None
    texts: Mapping[str, Any] = field(default_factory=dict)
    size: int | None = None
    seed: int | None = None
    columns: Mapping[str, str] = field(default_factory=dict)
    format: str = ""
    thinking: bool | None = None
    align: str = ""

    def check_none(self, recipe: str) -> PromptSet:
        """The empty set of prompts, for a recipe that takes none.

        Raises:
            UsageError: if prompts are given.
        """
        given = [self.phenomenon, self.pairs, self.texts or None, self.size, self.seed]
        if any(value is not None for value in given) or self._settings:
            raise UsageError(f"recipe {recipe!r} takes no prompts", "leave them out")
        return PromptSet((), "no prompts")

    @property
    def _settings(self) -> bool:
        """Whether anything is said of how prompts are read."""
        return bool(self.columns or self.format or self.align) or self.thinking is not None

    def resolve(self, project: Path, drop: bool = False) -> PromptSet:
        """The prompts as text, with `thinking` and `align` as chosen.

        Arguments and errors as `_resolve`; `align` without pairs, or by another word, is refused.
        """
        chosen: dict[str, Any] = {} if self.thinking is None else {"thinking": self.thinking}
        if self.align:
            chosen["align"] = parse_align(self.align)
        prompts = self._resolve(project, drop)
        if self.align and any(e.corrupt is None for e in prompts.examples):
            raise UsageError("--align belongs to pairs", "leave it out")
        if not chosen:
            return prompts
        return replace(prompts, examples=tuple(replace(e, **chosen) for e in prompts.examples))

    def _resolve(self, project: Path, drop: bool) -> PromptSet:
        """The prompts as text.

        Args:
            drop: leave out records of a file of which no prompt can be made, and say which.

        Raises:
            UsageError: if none or more than one source is given.
            NotFound: for an unknown phenomenon or template.
        """
        given = [self.phenomenon is not None, self.pairs is not None, bool(self.texts)]
        if sum(given) != 1:
            raise UsageError(
                "give the prompts one way" if sum(given) else "there are no prompts",
                "--phenomenon NAME, or --pairs FILE, or -p prompt=…, or "
                "-p clean=… -p corrupt=… -p answer=… -p wrong=…",
            )
        if self.pairs is None and (self.columns or self.format):
            option = "--columns" if self.columns else "--format"
            raise UsageError(f"{option} belongs to a file of prompts", "give --pairs FILE")
        if self.phenomenon is not None:
            name, _, template = self.phenomenon.partition(":")
            phenomenon = phenomena.find(name, project)
            return phenomenon.prompts(self.size, self.seed, template or None)
        if self.seed is not None:
            raise UsageError("--seed belongs to a phenomenon", "leave it out")
        if self.size is not None and not 1 <= self.size <= MOST_PAIRS:
            raise UsageError(f"-n {short_number(self.size)} is not from 1 to {MOST_PAIRS:,}")
        if self.texts:
            return PromptSet((parse_example(self.texts),), "command line")
        if isinstance(self.pairs, (str, Path)):
            prompts = read_prompts(
                self.pairs, self.size, columns=self.columns, form=self.format, drop=drop
            )
        else:
            records = [FileRecord(f"pairs[{i}]", d) for i, d in enumerate(_dicts(self.pairs))]
            found = FileRecords("pairs", records)
            prompts = prompts_from(found, "list", self.columns, self.format, drop)
        if self.size is not None and self.size > len(prompts.examples):
            raise UsageError(f"-n {self.size}: there are {len(prompts.examples)} prompts")
        return PromptSet(prompts.examples[: self.size], prompts.origin, prompts.details)


def _dicts(pairs: Any) -> list[Mapping[str, Any]]:
    """The pairs of a list, a tuple or a generator of dicts.

    Raises:
        UsageError: if it is anything else, or empty.
    """
    given = isinstance(pairs, Iterable) and not isinstance(pairs, (Mapping, bytes))
    found: list[Any] = list(pairs) if given else []
    if not given or not all(isinstance(pair, Mapping) for pair in found):
        raise UsageError(
            f"pairs is {shown(pairs)}, not a file or a list of dicts",
            'e.g. [{"prompt": "…"}]; a data frame gives one with frame.to_dict("records")',
        )
    if not found:
        raise UsageError("there are no pairs: pairs is empty", 'e.g. [{"prompt": "…"}]')
    return found
