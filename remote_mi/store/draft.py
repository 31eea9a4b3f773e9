"""A run as far as it is known before its outputs are: plain data, so that any process can finish it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from remote_mi.recipes.card import Card
from remote_mi.store.environment import Environment
from remote_mi.store.run_info import card_from_json


@dataclass(frozen=True)
class Draft:
    """Everything of a run but the numbers; JSON throughout, and without torch.

    Attributes:
        recipe: the recipe's card as runs keep it. file: name of its file.
        key: the job's key. id8: of the run's name.
        keys: key of each call's raw outputs. missing: indices of the calls to compute.
        lock, sources: for the run folder. model: fields of the `ModelSpec`.
        parts: per prompt its tokens, labels, template, class, group and texts.
        notes: for the reader. provenance: all of it but `record`.
        record: what was noted on the way. events: what happened when.
        environment: where the outputs are computed.
        store: folder of a results cache of its own; "" is the user's.
        about: `Job.about`. kept: which of its prompts `parts` are of.
    """

    recipe: dict[str, Any]
    file: str | None
    key: str
    id8: str
    keys: list[str]
    missing: list[int]
    lock: dict[str, Any]
    sources: dict[str, str]
    model: dict[str, Any]
    parts: list[dict[str, Any]]
    notes: list[str]
    provenance: dict[str, Any]
    environment: dict[str, str]
    record: dict[str, Any] = field(default_factory=dict)
    events: list[dict[str, Any]] = field(default_factory=list)
    store: str = ""
    about: dict[str, Any] = field(default_factory=dict)
    kept: list[int] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Draft:
        """A draft that `to_json` wrote; parts of a newer version that this one lacks are left out."""
        known = cls.__dataclass_fields__
        return cls(**{name: value for name, value in data.items() if name in known})

    def about_call(self, index: int) -> dict[str, Any]:
        """What the key of one call's raw outputs was made of, as `Job.about`; {} if not known."""
        if not self.about:
            return {}
        kept = self.kept if self.card.called_once else self.kept[index : index + 1]
        return {**self.about, "prompts": [self.about["prompts"][i] for i in kept], "part": True}

    @property
    def card(self) -> Card:
        """The recipe's card, as far as a result needs it."""
        return card_from_json(self.recipe)

    @property
    def parameters(self) -> Mapping[str, Any]:
        """The recipe's parameters."""
        return self.provenance["parameters"]

    @property
    def where(self) -> Environment:
        """The environment, as the cache asks for it."""
        return Environment(**self.environment)
