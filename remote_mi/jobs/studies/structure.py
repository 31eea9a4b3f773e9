"""The structure of a study file as a pydantic model, which also yields a JSON schema for editors.

Only structure is checked here: the keys and their types. Whether a recipe exists, has a parameter
or accepts a value is checked in `remote_mi.jobs.studies.entry_reader`.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    RootModel,
    Tag,
    WithJsonSchema,
    model_validator,
)
from pydantic_core import PydanticCustomError, core_schema

from remote_mi.backends.registry import backend_name
from remote_mi.common.errors import UsageError, nearest
from remote_mi.models.embedded import EMBEDDED
from remote_mi.models.spec import ATTENTION, DTYPES, Bos
from remote_mi.prompts.examples import MOST_PAIRS
from remote_mi.prompts.messages import ROLES
from remote_mi.recipes.card import INPUTS

if TYPE_CHECKING:
    Dtype = Attention = str
else:
    Dtype, Attention = Literal[DTYPES], Literal[ATTENTION]

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,79}")


def _name(word: str) -> str:
    if not _NAME.fullmatch(word):
        raise _error("a name has letters, digits, '_', '-' and '.', at most 80 of them")
    return word


def _backend(word: str) -> str:
    try:
        return backend_name(word)
    except UsageError as error:
        raise _error(error.message, error.hint) from None


def _error(said: str, hint: str | None = None) -> PydanticCustomError:
    return PydanticCustomError("refused", "{said}", {"said": said, "hint": hint or ""})


def _as_list(value: Any) -> Any:
    """One entry as a list of one."""
    return value if isinstance(value, list) else [value]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, use_attribute_docstrings=True)


_Word = Annotated[str, Field(min_length=1)]
_Count = Annotated[int, Field(ge=1, le=MOST_PAIRS)]
_Backend = Annotated[str, AfterValidator(_backend)]
#: Checked against the recipe's parameters later.
_Values = dict[
    str, Annotated[Any, WithJsonSchema({"type": ["string", "number", "boolean", "array"]})]
]


class ModelFields(_Part):
    """A model, with everything that determines its numbers."""

    name: _Word
    """A hub id, a folder or GGUF file (relative to the project), or the embedded model's name; with a
    '*', folders of checkpoints: out/checkpoint-*."""
    revision: str | None = None
    """Branch, tag or commit of a hub id."""
    revisions: list[_Word] | None = None
    """Several of them, as a model each, in training order: [step1, step512]."""
    dtype: Dtype = "auto"
    """Of the weights; auto is what the checkpoint declares."""
    quantization: str | None = None
    """A name that nnsight knows, e.g. nf4 or int8."""
    attention: Attention = "auto"
    """Attention implementation; auto is transformers' choice."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1, mps."""
    device_map: str | None = None
    """auto spreads one model over several devices."""
    bos: Bos = "auto"
    """Whether prompts begin with the BOS token; auto is what the tokenizer does."""
    chat: bool = False
    """Whether prompts are put into the model's chat template."""
    names: dict[str, str] = {}
    """Module path → portable name, for an unknown architecture."""
    adapter: str | None = None
    """Hub id or folder (relative to the project) of a PEFT adapter, merged into the weights."""
    tokenizer: str | None = None
    """Hub id or folder in place of the model's own tokenizer; ids: prompts are token ids."""
    backend: _Backend | None = None
    """Where its jobs run: auto, local, ndif, ndif:here, ndif:URL."""


class PhenomenonEntry(_Part):
    """A phenomenon, and how many of its pairs."""

    name: _Word
    """Name or file (relative to the project), optionally with a template: ioi, ioi:store."""
    n: _Count | None = None
    """How many pairs; the phenomenon's own size if left out."""


class PairsEntry(_Part):
    """Prompts or pairs of a file."""

    pairs: _Word
    """A file of JSON, CSV, Parquet or Excel (relative to the project), or hf:… for a data set."""
    n: _Count | None = None
    """How many, from the first; all if left out."""
    columns: dict[str, str] = {}
    """Field → column of the file, where their names differ: {clean: question, answer: label}."""
    format: str = ""
    """Published format of its records, e.g. blimp; recognised by its columns if left out."""
    align: Literal["labels", "ends"] | None = None
    """How all its pairs of unequal length are aligned."""


_Message = Annotated[
    dict[str, Any],
    WithJsonSchema(
        {
            "type": "object",
            "properties": {"role": {"enum": list(ROLES)}, "content": {"type": "string"}},
            "required": ["role", "content"],
            "additionalProperties": False,
        }
    ),
]


class TextEntry(_Part):
    """One prompt, or one clean/corrupt pair."""

    prompt: str | None = None
    """The text of a prompt."""
    messages: list[_Message] | None = None
    """A conversation in place of a text."""
    thinking: bool | None = None
    """Whether the chat template's thinking is on, if it knows `enable_thinking`."""
    align: Literal["labels", "ends"] | None = None
    """How a pair of prompts of unequal length is aligned."""
    target: str | None = None
    """The token to predict, with its leading space; optional."""
    clean: str | list[_Message] | None = None
    """The text of the clean prompt of a pair, or its messages."""
    corrupt: str | list[_Message] | None = None
    """The text of the corrupt prompt, or its messages."""
    answer: str | None = None
    """What follows the clean prompt, with its leading space."""
    wrong: str | None = None
    """What follows the corrupt prompt, with its leading space."""


class RecipeFields(_Part):
    """A recipe with its parameters, figures and backend."""

    name: _Word
    """Name or file (relative to the project): mine.py, mine.py:name."""
    parameters: _Values = {}
    """Its parameters. A list is an axis of the grid; for a parameter that is a list itself, a list of lists is."""
    figures: list[str] = []
    """The figures that the report shows; all that the recipe declares if left out."""
    backend: _Backend | None = None
    """Where its jobs run: auto, local, ndif, ndif:here, ndif:URL."""

    @model_validator(mode="before")
    @classmethod
    def _has_a_name(cls, value: Any) -> Any:
        if isinstance(value, dict) and "name" not in value:
            first = str(next(iter(value), "NAME"))
            hint = f"are the parameters of {first!r:.60} indented below it?"
            if first not in RecipeFields.model_fields and nearest(first, ["name"]):
                hint = f"is {first!r:.60} a misspelling of 'name'?"
            raise _error(
                "a recipe is NAME, or NAME: {PARAMETER: VALUE}, or a mapping with the key 'name'",
                hint,
            )
        return value


class ShortRecipe(
    RootModel[Annotated[dict[str, _Values | None], Field(min_length=1, max_length=1)]]
):
    """A recipe's name, and its parameters."""


def _kind(value: Any) -> str | None:
    """The form in which an entry is written."""
    if isinstance(value, str):
        return "as a text"
    if not isinstance(value, dict):
        return None
    if "pairs" in value:
        return "as a file"
    return "as texts" if set(value) & set(INPUTS) else "as a mapping"


def _plain_kind(value: Any) -> str | None:
    return "as a mapping" if isinstance(value, dict) else _kind(value)


def _recipe_kind(value: Any) -> str | None:
    short = isinstance(value, dict) and len(value) == 1 and "name" not in value
    return "as a short mapping" if short else _plain_kind(value)


def _discriminator(kind: Any) -> Any:
    return Discriminator(
        kind, custom_error_type="neither", custom_error_message="it is neither a name nor a mapping"
    )


_Named = Annotated[_Word, Tag("as a text")]
_AModel = Annotated[
    _Named | Annotated[ModelFields, Tag("as a mapping")], _discriminator(_plain_kind)
]
_Prompts = Annotated[
    _Named
    | Annotated[PhenomenonEntry, Tag("as a mapping")]
    | Annotated[PairsEntry, Tag("as a file")]
    | Annotated[TextEntry, Tag("as texts")],
    _discriminator(_kind),
]
_ARecipe = Annotated[
    _Named
    | Annotated[ShortRecipe, Tag("as a short mapping")]
    | Annotated[RecipeFields, Tag("as a mapping")],
    _discriminator(_recipe_kind),
]


class _OneOrMore:
    """Lets one entry stand for a list of one."""

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> Any:
        return core_schema.no_info_before_validator_function(_as_list, handler(source))

    def __get_pydantic_json_schema__(self, core: Any, handler: Any) -> dict[str, Any]:
        several = handler(core)
        return {"anyOf": [several["items"], several]}


_ONE_OR_MORE = (Field(min_length=1), _OneOrMore())
_Words = Annotated[list[str], *_ONE_OR_MORE]
_Numbers = Annotated[list[int], *_ONE_OR_MORE]


class Selection(_Part):
    """Points of the grid: the ones that match all of its keys."""

    recipe: _Words = []
    """Name of a recipe, or several."""
    model: _Words = []
    """Name of a model as written in `models`, or several."""
    phenomenon: _Words = []
    """A phenomenon, with or without its template, a file, or a prompt's text; or several."""
    seed: _Numbers = []
    """A seed of `seeds`, or several."""
    parameters: _Values = {}
    """Parameter → its value, or several in a list."""


class Exclusion(Selection):
    """Points that are left out of the grid: the ones that match all of its keys."""


#: Dimension → selector; checked against the output later.
_Places = dict[str, Annotated[Any, WithJsonSchema({"type": ["string", "number", "array"]})]]


class HoldsEntry(Selection):
    """What is expected of the selected points: in each of them it must be so."""

    output: _Word
    """An output or summary of the recipe."""
    at: _Places = {}
    """Dimension → coordinate, a list of them, or a comparison such as ">= 24"; all if left out."""
    every: str | None = None
    """What every cell must be: "> 0.8", "<= 3", "between 0.2 and 0.4"."""
    any: str | None = None
    """What at least one cell must be."""
    mean: str | None = None
    """What the mean of the cells must be."""
    value: str | None = None
    """What the only cell must be."""


class ClaimEntry(_Part):
    """What the study expects, said before it runs."""

    id: Annotated[str, AfterValidator(_name)]
    """Its short name, once in the study."""
    says: _Word
    """The claim in words, for the report."""
    holds: HoldsEntry
    """What must be so for it to hold."""


class ComparisonEntry(Selection):
    """A figure or table across the selected points."""

    show: Literal["lines", "table", "agreement", "differences"]
    """Values along an axis, points × outputs, agreement of maps, or paired differences."""
    title: str = ""
    """Its heading."""
    output: _Words = []
    """An output or summary; of several, a table has a column for each, all others take the first that a recipe has."""
    at: _Places = {}
    """Dimension → coordinate, a list of them, or a comparison; the mean of several cells."""
    x: str = ""
    """lines: a dimension of the output, a parameter, or model, phenomenon, recipe, seed, size, revision, step."""
    lines: str = ""
    """lines: what has a line for each of its values; by default what else differs between points."""
    across: str = ""
    """differences: a parameter, or model, recipe, phenomenon or seed; its first value is compared with the others."""
    top: Annotated[int, Field(ge=1, le=10_000)] | None = None
    """agreement: how many of the largest cells are compared; 10 if left out."""


class Inclusion(_Part):
    """Points beyond the grid. Omitted keys are as in the study."""

    recipe: _Word
    """Name or file of a recipe, whether or not it is in `recipes`."""
    model: Annotated[list[_AModel], *_ONE_OR_MORE] = []
    """A model, or several, as in `models`."""
    phenomenon: Annotated[list[_Prompts], *_ONE_OR_MORE] = []
    """Prompts as in `phenomena`, once or in a list."""
    seed: _Numbers = []
    """A seed of the phenomenon, or several."""
    parameters: _Values = {}
    """As in `recipes`; a list is an axis."""
    backend: _Backend | None = None
    """Where its jobs run."""


class StudyFile(_Part):
    """A study: a grid of jobs, models × recipes × phenomena × parameters × seeds."""

    study: Annotated[str, AfterValidator(_name)]
    """Its name; should be the same as the file's."""
    title: str = ""
    """Its title in the report; its name if left out."""
    question: str = ""
    """The question that it should answer."""
    models: Annotated[list[_AModel], Field(min_length=1)] = [EMBEDDED]
    """Names, or mappings; the embedded model if left out."""
    recipes: Annotated[list[_ARecipe], Field(min_length=1)] = []
    """Names, `NAME: {PARAMETER: VALUE}`, or mappings with `name`."""
    phenomena: Annotated[list[_Prompts], Field(min_length=1)] = []
    """Phenomena by name, files of pairs, or texts."""
    seeds: Annotated[list[int], Field(min_length=1)] = []
    """Seeds of phenomena whose pairs are drawn at random; an axis of the grid."""
    parameters: _Values = {}
    """Parameters of every recipe that has them. A list is an axis of the grid."""
    backend: _Backend = "auto"
    """Where jobs run, unless recipe or model say otherwise: auto, local, ndif, ndif:here, ndif:URL."""
    exclude: list[Exclusion] = []
    """Points that are left out of the grid."""
    include: list[Inclusion] = []
    """Points beyond the grid."""
    figures: dict[str, list[str]] = {}
    """Recipe → the figures that the report shows; all that it declares if left out."""
    claims: list[ClaimEntry] = []
    """What the study expects; evaluated when it has run."""
    compare: list[ComparisonEntry] = []
    """Figures and tables across the grid, shown before the single points."""


def schema() -> dict[str, Any]:
    """The JSON schema of a study file, for editors."""
    made = _without_titles(StudyFile.model_json_schema())
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "A study", **made}


def _without_titles(part: Any) -> Any:
    """Without the titles that pydantic derives from names, which add nothing."""
    if isinstance(part, list):
        return [_without_titles(item) for item in part]
    if not isinstance(part, dict):
        return part
    return {k: _without_titles(v) for k, v in part.items() if k != "title" or isinstance(v, dict)}
