"""A run before its outputs are computed: plain data, so that any process can finish it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from remote_mi.interventions.vocabulary import MetricFacts
from remote_mi.recipes.card import Card
from remote_mi.store.environment import Environment
from remote_mi.store.run_info import card_from_json


@dataclass(frozen=True)
class Draft:
    """Everything in a run except the numbers; plain JSON, and without torch.

    Attributes:
        recipe: the recipe's card as runs store it. file: name of its file.
        key: the job's key. id8: of the run's name.
        keys: key of each call's raw outputs. missing: indices of the calls to compute.
        lock, sources: for the run folder. model: fields of the `ModelSpec`.
        parts: for each prompt its tokens, labels, template, class, group and texts.
        notes: for the reader. provenance: without `record`.
        record: what was recorded so far. events: with their times.
        environment: where the outputs are computed.
        store: folder of a separate results cache; "" for the user's.
        about: `Job.key_description`. kept: indices of the job's prompts that `parts` holds.
        empty_layers: those that lack what is measured.
        made_in: parameter → folder of the run that made its artifact.
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
    empty_layers: list[int] = field(default_factory=list)
    made_in: dict[str, str] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Draft:
        """A draft from the output of `to_json`; fields that only a newer version has are ignored."""
        known = cls.__dataclass_fields__
        return cls(**{name: value for name, value in data.items() if name in known})

    def describe_call(self, index: int) -> dict[str, Any]:
        """What one call's key was made of, as `Job.key_description`; {} if not known."""
        if not self.about:
            return {}
        kept = self.kept if self.card.called_once else self.kept[index : index + 1]
        return {**self.about, "prompts": [self.about["prompts"][i] for i in kept], "part": True}

    @property
    def card(self) -> Card:
        """The part of the recipe's card that a result needs."""
        return card_from_json(self.recipe)

    @property
    def parameters(self) -> Mapping[str, Any]:
        """The recipe's parameters."""
        return self.provenance["parameters"]

    @property
    def own_metric(self) -> MetricFacts | None:
        """What is known of the metric that the run measures, if it is the project's own."""
        declared = self.lock.get("metrics", {}).get("metric")
        if declared is None:
            return None
        names = ("unit", "rises", "differentiable", "against_clean")
        return MetricFacts(*(declared[name] for name in names))

    @property
    def parsed_environment(self) -> Environment:
        """`environment` as an object."""
        return Environment.from_json(self.environment)
