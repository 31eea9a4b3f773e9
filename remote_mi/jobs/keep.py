"""From a draft and the outputs of its calls to a saved result, or a saved failure."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from remote_mi.common.digests import canonical_json
from remote_mi.common.errors import Mismatch, RemoteMIError, StoreError
from remote_mi.common.paths import cache_root
from remote_mi.common.progress import Watch
from remote_mi.models.spec import ModelSpec
from remote_mi.prompts.behaviours import parse_behaviour
from remote_mi.prompts.token_text import TokenTexts
from remote_mi.recipes.card import Card
from remote_mi.recipes.figures import Text
from remote_mi.store.array_checks import check_call
from remote_mi.store.cache import Cache
from remote_mi.store.draft import Draft
from remote_mi.store.environment import Environment
from remote_mi.store.kept_artifacts import inputs_to_keep
from remote_mi.store.result import Result, passage_key
from remote_mi.store.run_record import RunRecord, event_line
from remote_mi.store.runs import Runs
from remote_mi.store.typed_json import WrongJson

if TYPE_CHECKING:
    from remote_mi.jobs.aggregation import Part


def clusters_of(parts: Sequence[Mapping[str, Any]]) -> list[int]:
    """The number of each example's cluster, that of its first example.

    Examples of one group are not independent of each other, nor are those with the same text. So a
    text that is in two groups makes one of them.
    """
    clusters = list(range(len(parts)))
    first: dict[tuple[str, str], int] = {}
    for index, kept in enumerate(parts):
        for key in (("text", canonical_json(kept["text"])), ("group", kept.get("group") or "")):
            if key[1]:
                one, other = clusters[first.setdefault(key, index)], clusters[index]
                if one != other:
                    clusters = [min(one, other) if c in (one, other) else c for c in clusters]
    return clusters


def _asked(kept: Mapping[str, Any]) -> dict[str, str]:
    """The behaviour that a prompt asks for, in words; {} for none."""
    asked = kept.get("behaviour")
    return {"behaviour": str(parse_behaviour(asked))} if asked else {}


def cached_outputs(
    cache: Cache, key: str, environment: Environment, card: Card, prompts: int
) -> Mapping[str, np.ndarray] | None:
    """The raw outputs of one call that the cache has; None if it has none that can be used.

    Hashes are no secret: outputs that the recipe does not return are quarantined like damaged ones.

    Args:
        prompts: how many the run has.
    """
    entry = cache.get(key, environment)
    if entry is None:
        return None
    try:
        check_call(card, prompts, entry.arrays)
    except WrongJson:
        cache.quarantine(cache.entry_path(key, environment))
        return None
    return entry.arrays


class Finisher:
    """Collects the outputs of a draft's calls as they arrive, and writes the run.

    Args:
        tokenizer: the model's; loaded on demand if not given.
    """

    def __init__(self, draft: Draft, project: Path, watch: Watch, tokenizer: Any = None) -> None:
        self.draft, self.project, self.watch, self.tokenizer = draft, project, watch, tokenizer
        self.cache = Cache(Path(draft.store) if draft.store else cache_root())
        self.computed: dict[int, Mapping[str, np.ndarray]] = {}
        self.unsaved: StoreError | None = None

    def add_outputs(self, index: int, outputs: Mapping[str, np.ndarray]) -> None:
        """Add the raw outputs of one call; they are cached at once."""
        self.computed[index] = outputs
        about = self.draft.describe_call(index)
        self._put_in_cache(self.draft.keys[index], {}, outputs, {}, about)

    def result(self, record: Mapping[str, Any]) -> Result:
        """The result, saved to the project and the cache unless they cannot be written.

        Args:
            record: what the backend recorded.

        Raises:
            Mismatch: if outputs that were in the cache are no longer there.
            RunFailed: if the recipe's own analysis fails.
        """
        from remote_mi.jobs.aggregation import assemble
        from remote_mi.jobs.analysis import add_analysis

        taken = len(self.draft.keys) - len(self.draft.missing)
        draft = self._add_record({**record, "parts_from_cache": taken})
        self.watch.stage("putting the results together")
        raw = self._raw_outputs()
        parts, of_set = self._parts(raw)
        notes = self._judge(parts) if draft.card.judges else []
        assembled = assemble(
            draft.card, parts, of_set, draft.parameters, draft.empty_layers, draft.own_metric
        )
        assembled.notes += notes
        add_analysis(draft, parts, assembled)
        document = {
            "parts": [
                {name: p[name] for name in ("tokens", "labels", "alone") if name in p}
                | p["text"]
                | _asked(p)
                for p in draft.parts
            ],
            **assembled.document,
            "notes": draft.notes + assembled.notes,
            **self._texts(raw),
        }
        result = Result(draft.recipe, document, assembled.arrays, self._provenance())
        self._put_in_cache(draft.key, document, result.arrays, result.provenance, draft.about)
        if self.unsaved is not None:
            self.watch.note(f"warning: not cached: {self.unsaved}")
            result.provenance = {**result.provenance, "cache": "miss (not cached)"}
        draft.events.append(event_line("finished"))
        try:
            return self._write(result, None)
        except StoreError as error:
            self.watch.note(f"warning: the run was not saved: {error}")
            result.unsaved = error
            return result

    def write_failure(self, error: RemoteMIError, record: Mapping[str, Any]) -> str:
        """Write a failed run; returns its name, or "" if it cannot be written."""
        server_message = getattr(error, "server_text", "")
        self._add_record({**record, "server_said": server_message} if server_message else record)
        self.draft.events.append(event_line("failed", error=str(error)))
        empty = {"parts": [], "axes": {}, "notes": [], "vocabulary": {}, "texts": {}}
        result = Result(self.draft.recipe, empty, {}, self._provenance())
        try:
            return self._write(result, str(error)).run_id
        except StoreError:
            return ""  # the error itself is what the user needs to see

    def _add_record(self, record: Mapping[str, Any]) -> Draft:
        """Add to the draft's record; returns the new draft."""
        self.draft = replace(self.draft, record={**self.draft.record, **record})
        return self.draft

    def _write(self, result: Result, error: str | None) -> Result:
        draft, given = self.draft, dict(result.provenance)
        sources = {name: text.encode() for name, text in draft.sources.items()}
        record = RunRecord(draft.id8, result, draft.lock, sources, draft.events, error)
        if "artifacts" in given:
            inputs = inputs_to_keep(given["artifacts"], draft.made_in, self.cache)
            result.provenance = {**given, "artifacts": inputs.records}
            record.inputs = inputs.files
            for note in inputs.notes:
                self.watch.note(note)
        return Runs(self.project).write(record)

    def _raw_outputs(self) -> list[Mapping[str, np.ndarray]]:
        """Raw outputs of every call, in order."""
        outputs: list[Mapping[str, np.ndarray]] = []
        card, environment = self.draft.card, self.draft.parsed_environment
        for index, key in enumerate(self.draft.keys):
            if index in self.computed:
                outputs.append(self.computed[index])
                continue
            kept = cached_outputs(self.cache, key, environment, card, len(self.draft.parts))
            if kept is None:
                raise Mismatch(
                    "outputs that were in the cache are no longer there",
                    "run the same command again",
                )
            outputs.append(kept)
        return outputs

    def _parts(
        self, raw: list[Mapping[str, np.ndarray]]
    ) -> tuple[list[Part], Mapping[str, np.ndarray]]:
        """The outputs of each example, and of the whole set."""
        from remote_mi.jobs.aggregation import Part

        once = self.draft.card.called_once
        returns = self.draft.card.returns
        parts = []
        clusters = clusters_of(self.draft.parts)
        for index, kept in enumerate(self.draft.parts):
            if once:
                each = [
                    n
                    for n, output in returns.items()
                    if output.of == "example" and not output.judges
                ]
                arrays = {name: raw[0][f"{name}@{index}"] for name in each}
            else:
                arrays = raw[index]
            shown = kept["tokens"], kept["labels"], kept["template"], kept["text"]
            alone = kept.get("alone", [])
            parts.append(Part(arrays, *shown, str(clusters[index]), alone))
        of_set = [name for name, output in returns.items() if output.of == "set"]
        return parts, {name: raw[0][name] for name in of_set}

    def _judge(self, parts: list[Part]) -> list[str]:
        """Add the judged outputs to those of each example; returns notes on them."""
        from remote_mi.jobs.judging import judged_outputs, judging_notes

        card, decode = self.draft.card, TokenTexts(self._tokenizer()).plain_text
        asked = [kept.get("behaviour") for kept in self.draft.parts]
        behaviours = [parse_behaviour(one) if one else None for one in asked]
        for index, (part, behaviour) in enumerate(zip(parts, behaviours, strict=True)):
            judged = judged_outputs(card, part.arrays, behaviour, decode, index)
            part.arrays = {**part.arrays, **judged}
        return judging_notes(card, [part.arrays for part in parts], behaviours, decode)

    def _tokenizer(self) -> Any:
        """The model's tokenizer, loaded on demand."""
        if self.tokenizer is None:
            from remote_mi.models.load import load_tokenizer

            self.tokenizer = load_tokenizer(ModelSpec(**self.draft.model), self.watch)
        return self.tokenizer

    def _texts(self, raw: list[Mapping[str, np.ndarray]]) -> dict[str, dict[str, str]]:
        """The text of every token id in the outputs, and of the passages that figures show."""
        ids: set[int] = set()
        passages: set[tuple[int, ...]] = set()
        card = self.draft.card
        shown = {figure.output for figure in card.figures if isinstance(figure, Text)}
        for outputs in raw:
            for key, values in outputs.items():
                name = key.partition("@")[0]
                if card.returns[name].kind != "token" or not values.size:
                    continue
                ids.update(int(i) for i in values.reshape(-1) if i >= 0)
                if name in shown and values.ndim:
                    rows = values.reshape(-1, values.shape[-1]).tolist()
                    passages |= {tuple(i for i in row if i >= 0) for row in rows}
        if not ids:
            return {"vocabulary": {}, "texts": {}}
        texts = TokenTexts(self._tokenizer())
        return {
            "vocabulary": {str(i): texts.token(i) for i in sorted(ids)},
            "texts": {passage_key(row): texts.text(row) for row in sorted(passages)},
        }

    def _provenance(self) -> dict[str, Any]:
        finished = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        return {
            **self.draft.provenance,
            "record": self.draft.record,
            "time": finished,
            "cache": "miss",
        }

    def _put_in_cache(self, key: str, document: Any, arrays: Any, record: Any, about: Any) -> None:
        if self.unsaved is None:
            try:
                self.cache.put(key, self.draft.parsed_environment, document, arrays, record, about)
            except StoreError as error:
                self.unsaved = error
