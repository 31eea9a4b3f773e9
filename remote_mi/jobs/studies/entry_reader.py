"""Reading the entries of a study file: models, prompts, recipes, exclusions, figures."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from remote_mi.common.errors import RemoteMIError, first_line
from remote_mi.common.yaml_file import (
    KeyPath,
    Problem,
    YamlWithPositions,
    describe_value,
    name_hint,
)
from remote_mi.jobs.studies.checkpoints import FoundModel, expand
from remote_mi.jobs.studies.entries import (
    Block,
    ModelEntry,
    PromptsEntry,
    RecipeEntry,
    SelectionEntry,
)
from remote_mi.models.embedded import EMBEDDED
from remote_mi.models.spec import ModelSpec
from remote_mi.prompts import phenomena
from remote_mi.prompts.choice import PromptChoice
from remote_mi.prompts.datasets import DATASET
from remote_mi.recipes import catalog
from remote_mi.recipes.card import INPUTS, Card
from remote_mi.recipes.parameters import Param

_LISTS = ("ints", "floats", "strs")
#: Longest error message taken from another part of the package, in characters.
_LONGEST = 300
#: A name this similar to the embedded model's is taken for a misspelling of it.
_MISSPELT = 0.8


class Reader:
    """Reads the entries of one file, and collects the mistakes in them.

    Reading continues after a mistake, so that all of them are reported at once.

    Args:
        found: the file.
        project: file names are relative to it.
        structure: mistakes in the file's structure; entries with one are skipped.
    """

    def __init__(
        self, found: YamlWithPositions, project: Path, structure: Mapping[KeyPath, Problem]
    ) -> None:
        self.found, self.project = found, project
        self.data: Mapping[str, Any] = found.data if isinstance(found.data, dict) else {}
        self.problems: list[Problem] = list(structure.values())
        self._bad = set(structure)
        self._around = {bad[:size] for bad in structure for size in range(len(bad) + 1)}
        self._cards: dict[str, Card | None] = dict(_all_cards(project))
        self._prompts: dict[str, Any] = {}

    def add_error(self, where: KeyPath, error: RemoteMIError) -> None:
        """Add the problem that an error describes."""
        self.add_problem(where, first_line(error)[:_LONGEST], error.hint or "")

    def add_problem(self, where: KeyPath, message: str, hint: str = "") -> None:
        """Add a problem with the value at a place."""
        self.problems.append(self.found.problem_at(where, message, hint))

    def is_valid(self, where: KeyPath) -> bool:
        """Whether a place, its contents and its containers have no structural mistakes."""
        within = any(where[:size] in self._bad for size in range(len(where)))
        return not within and where not in self._around

    def entries(self, where: KeyPath) -> Iterator[tuple[KeyPath, Any]]:
        """The valid entries of the list at a place; a single entry counts as a list of one."""
        value: Any = self.data
        for step in where:
            value = value.get(step) if isinstance(value, dict) else value[step]
        if value is None:
            return
        items = enumerate(value) if isinstance(value, list) else [(None, value)]
        for index, entry in items:
            inner = where if index is None else (*where, index)
            if self.is_valid(inner):
                yield inner, entry

    # -- models --------------------------------------------------------------------------------

    def models(self, where: KeyPath) -> list[ModelEntry]:
        """The models listed at a place."""
        made = []
        for place, entry in self.entries(where):
            try:
                found = expand({"name": entry} if isinstance(entry, str) else entry, self.project)
            except RemoteMIError as error:
                self.add_error(place, error)
                continue
            made += [self._model(place, model) for model in found]
        return [model for model in made if model is not None]

    def _model(self, where: KeyPath, found: FoundModel) -> ModelEntry | None:
        fields, word = dict(found.fields), found.fields["name"]
        backend = fields.pop("backend", None)
        if word != EMBEDDED and "/" not in word:
            alike = difflib.SequenceMatcher(None, word.lower(), EMBEDDED).ratio()
            if alike > _MISSPELT:
                self.add_problem(where, f"no model named {word!r}", f"did you mean {EMBEDDED!r}?")
                return None
        if word.startswith((".", "~")) or (self.project / word).is_dir():
            fields["name"] = str(self._resolve_path(word))
        for beside in ("adapter", "tokenizer"):
            name = fields.get(beside)
            if name and (name.startswith((".", "~")) or (self.project / name).is_dir()):
                fields[beside] = str(self._resolve_path(name))
        try:
            spec = ModelSpec(**fields)
        except RemoteMIError as error:
            self.add_error(where, error)
            return None
        if spec.folder is not None and not (spec.folder / "config.json").is_file():
            what = "is not a model: it has no config.json"
            self.add_problem(
                where,
                f"the folder {word!r} {what if spec.folder.is_dir() else 'does not exist'}",
                "name a folder written by save_pretrained, or a hub id",
            )
            return None
        return ModelEntry(where, found.word, spec, backend or "", found.series, found.step)

    def _resolve_path(self, name: str) -> Path:
        """A path in the file; relative paths are relative to the project."""
        path = Path(name).expanduser()
        return path if path.is_absolute() else self.project / path

    # -- prompts -------------------------------------------------------------------------------

    def prompts(self, where: KeyPath) -> list[PromptsEntry]:
        """The prompts listed at a place."""
        found = []
        for place, entry in self.entries(where):
            fields = {"name": entry} if isinstance(entry, str) else entry
            read: Callable[[KeyPath, Any], PromptsEntry] = self._phenomenon
            if "pairs" in fields:
                read = self._file
            elif set(fields) & set(INPUTS):
                read = self._texts
            try:
                found.append(read(place, fields))
            except RemoteMIError as error:
                about_size = "-n " in f"{error.message} {error.hint}"
                error.hint = (error.hint or "").replace("-n ", "n: ")
                self.add_error((*place, "n") if about_size else place, error)
        return found

    def _phenomenon(self, where: KeyPath, fields: Mapping[str, Any]) -> PromptsEntry:
        word, size = fields["name"], fields.get("n")
        name, colon, template = word.partition(":")
        if name.endswith((".yaml", ".yml")):
            name = str(self._resolve_path(name))
        if name not in self._prompts:
            self._prompts[name] = phenomena.find(name, self.project)
        found = self._prompts[name]
        made = found.prompts(size, None, template or None)
        choice = PromptChoice(phenomenon=f"{name}{colon}{template}", size=size)
        return PromptsEntry(where, word, choice, found.order == "random", True, made.metric)

    def _file(self, where: KeyPath, fields: Mapping[str, Any]) -> PromptsEntry:
        word = fields["pairs"]
        how = {"size": fields.get("n"), "columns": fields.get("columns") or {}}
        how |= {name: fields.get(name) or "" for name in ("format", "align")}
        if word.startswith(DATASET):
            address = word.removeprefix(DATASET)
            if address.startswith("."):
                address = f"{self.project}/{address}"
            # Reading a data set may need the network: its rows are checked when it runs.
            return PromptsEntry(where, word, PromptChoice(pairs=f"{DATASET}{address}", **how))
        choice = PromptChoice(pairs=self._resolve_path(word), **how)
        examples = choice.resolve(self.project).examples
        pairs = all(example.corrupt is not None for example in examples)
        return PromptsEntry(where, word, choice, pairs=pairs)

    def _texts(self, where: KeyPath, fields: Mapping[str, Any]) -> PromptsEntry:
        texts = {name: text for name, text in fields.items() if text is not None}
        choice = PromptChoice(texts=texts)
        example = choice.resolve(self.project).examples[0]
        return PromptsEntry(where, example.clean, choice, pairs=example.corrupt is not None)

    # -- recipes -------------------------------------------------------------------------------

    def recipes(self, where: KeyPath) -> list[RecipeEntry]:
        """The recipes listed at a place."""
        found = []
        for place, entry in self.entries(where):
            inner = place
            if isinstance(entry, str):
                fields: Mapping[str, Any] = {"name": entry}
            elif "name" in entry:
                fields, inner = entry, (*place, "parameters")
            else:
                [(name, given)] = entry.items()
                fields, inner = {"name": name, "parameters": given or {}}, (*place, name)
            found += self._recipe(place, fields, inner)
        return found

    def included_recipes(self, where: KeyPath, entry: Mapping[str, Any]) -> list[RecipeEntry]:
        """The recipe of an inclusion; [] if it is invalid."""
        fields = {**entry, "name": entry["recipe"]}
        return self._recipe((*where, "recipe"), fields, (*where, "parameters"))

    def _recipe(
        self, where: KeyPath, fields: Mapping[str, Any], inner: KeyPath
    ) -> list[RecipeEntry]:
        card = self.card(fields["name"], where)
        if card is None:
            return []
        axes = self._axes(card, fields.get("parameters") or {}, inner)
        for param in card.parameters:
            if param.required and param.name not in axes and self.is_valid(inner):
                self.add_problem(
                    where,
                    f"recipe {card.name!r} needs the parameter {param.name!r}",
                    f"it is {param.expected}",
                )
        path = f"{card.path}:{card.name}" if card.origin == "file" else card.name
        return [RecipeEntry(where, fields["name"], path, card, axes, fields.get("backend") or "")]

    def card(self, word: str, where: KeyPath) -> Card | None:
        """The card of a recipe; None, with a problem added, if there is none."""
        file, colon, name = word.partition(":")
        full = f"{self._resolve_path(file)}{colon}{name}" if file.endswith(".py") else word
        if self._cards.get(full) is None:
            try:
                self._cards[full] = catalog.find(full, self.project)
            except RemoteMIError as error:
                self._cards[full] = None
                self.add_error(where, error)
        return self._cards[full]

    def _axes(self, card: Card, given: Mapping[str, Any], where: KeyPath) -> dict[str, list[Any]]:
        """Parameter → values, from the recipe's own parameters and from the shared ones."""
        known = {param.name: param for param in card.parameters}
        own = {name: (value, (*where, name)) for name, value in given.items()}
        for name, (_, place) in own.items():
            if name not in known:
                hint = (
                    "prompts belong in 'phenomena'"
                    if name in INPUTS
                    else name_hint(name, known) or "it takes none"
                )
                message = f"recipe {card.name!r} has no parameter {name!r}"
                self.problems.append(self.found.key_problem_at(place, message, hint))
        shared = self.data.get("parameters") or {}
        if isinstance(shared, dict) and self.is_valid(("parameters",)):
            own = {**{k: (v, ("parameters", k)) for k, v in shared.items()}, **own}
        return {
            name: self._values(param, *own[name]) for name, param in known.items() if name in own
        }

    def _values(self, param: Param, value: Any, where: KeyPath) -> list[Any]:
        """The parsed values of a parameter."""
        values = [(where, value)]
        if is_axis(param, value):
            values = [((*where, index), item) for index, item in enumerate(value)]
            if not values:
                self.add_problem(where, f"{param.name!r}: the list is empty", "list its values")
        parsed = []
        for place, item in values:
            try:
                parsed.append(param.parse(item))
            except RemoteMIError as error:
                self.add_error(place, error)
        return parsed

    # -- exclusions ----------------------------------------------------------------------------

    def exclusions(self) -> list[SelectionEntry]:
        """The points to leave out of the grid."""
        found = []
        for where, entry in self.entries(("exclude",)):
            if not any(entry.values()):
                self.add_problem(
                    where,
                    "this would exclude everything",
                    "name recipe, model, phenomenon, seed or parameters",
                )
                continue
            found.append(selection(where, entry))
        return found

    def shared_parameters(self, blocks: list[Block]) -> None:
        """Report shared parameters that no recipe has."""
        recipes = [recipe for block in blocks for recipe in block.recipes]
        known = {param.name for recipe in recipes for param in recipe.card.parameters}
        shared = self.data.get("parameters")
        for name in shared if isinstance(shared, dict) else ():
            if name not in known and recipes:
                message = f"no recipe of the study has a parameter {describe_value(name)}"
                hint = name_hint(name, sorted(known))
                self.problems.append(self.found.key_problem_at(("parameters", name), message, hint))

    def figures(self, blocks: list[Block]) -> dict[str, tuple[str, ...]]:
        """Recipe → the figures chosen for it, from `figures` and from the recipes' entries."""
        cards = {name: r.card for b in blocks for r in b.recipes for name in (r.word, r.card.name)}
        chosen: dict[str, list[str]] = {}
        for where, entry in self.entries(("recipes",)):
            if isinstance(entry, dict) and "name" in entry and entry["name"] in cards:
                card = cards[entry["name"]]
                chosen.setdefault(card.name, []).extend(
                    self._figures(card, (*where, "figures"), entry.get("figures") or [])
                )
        named = self.data.get("figures")
        for name, wanted in named.items() if isinstance(named, dict) else ():
            where = ("figures", name)
            if not self.is_valid(where):
                continue
            if name in cards:
                chosen.setdefault(cards[name].name, []).extend(
                    self._figures(cards[name], where, wanted)
                )
            elif not any(card is None for card in self._cards.values()):
                message = f"no recipe {name!r} in this study"
                hint = name_hint(name, sorted(cards))
                self.problems.append(self.found.key_problem_at(where, message, hint))
        return {name: tuple(dict.fromkeys(names)) for name, names in chosen.items() if names}

    def _figures(self, card: Card, where: KeyPath, wanted: list[str]) -> list[str]:
        known = [*(f.name for f in card.figures), *card.returns, *card.summaries]
        for index, name in enumerate(wanted):
            if name not in known:
                self.add_problem(
                    (*where, index),
                    f"recipe {card.name!r} has no figure {name!r}",
                    name_hint(name, known),
                )
        return [name for name in wanted if name in known]


def _all_cards(project: Path) -> dict[str, Card]:
    """Name → card of all recipes; {} if one of the files has a mistake.

    In that case recipes are looked up one by one, so the mistake only affects studies that use it.
    """
    try:
        return {card.name: card for card in catalog.all_cards(project)}
    except RemoteMIError:
        return {}


def selection(where: KeyPath, entry: Mapping[str, Any]) -> SelectionEntry:
    """The selection of points that a mapping describes, possibly among other keys."""
    lists = {
        name: tuple(value if isinstance(value, list) else [value])
        for name in ("recipe", "model", "phenomenon", "seed")
        for value in [entry.get(name, [])]
    }
    return SelectionEntry(where, **lists, parameters=entry.get("parameters") or {})


def is_axis(param: Param, value: Any) -> bool:
    """Whether a value is an axis: a list, or for a list parameter a list of lists."""
    if not isinstance(value, list) or param.kind not in _LISTS:
        return isinstance(value, list)
    return bool(value) and all(isinstance(item, list) for item in value)
