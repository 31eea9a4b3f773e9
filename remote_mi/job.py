"""A job: recipe × model × prompts × parameters, validated and immutable, with its keys."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from remote_mi.key import SCHEMA, code_digest, digest, live_code_digest, local_modules
from remote_mi.models.spec import ModelSpec
from remote_mi.phenomena import PromptSet
from remote_mi.recipe import Card


@dataclass(frozen=True)
class Job:
    """Work to do, described completely.

    Attributes:
        card: the recipe.
        function: the recipe's function when it was defined in a notebook; None for a file.
        model: the model as asked for.
        prompts: the prompts as text.
        parameters: all of the recipe's parameters, defaults filled in.
        drop_invalid: leave out prompts that do not fit the tokenizer instead of refusing.
        project: the user's project folder (for local modules; not part of the key).
    """

    card: Card
    model: ModelSpec
    prompts: PromptSet
    parameters: Mapping[str, Any]
    project: Path
    function: Callable[..., Any] | None = None
    drop_invalid: bool = False

    @functools.cached_property
    def code(self) -> str:
        """Digest of the project code that the recipe reaches."""
        return self._digest_of(self.card.name)

    def _digest_of(self, name: str) -> str:
        """Digest of the project code that the recipe, or its analysis, reaches."""
        if self.card.path is not None:
            return code_digest(self.card.path, name, self.project)
        assert self.function is not None
        return live_code_digest(self.function, self.project)

    @functools.cached_property
    def described(self) -> dict[str, Any]:
        """Everything that decides the numbers, as JSON; the key is its digest."""
        return {
            "schema": SCHEMA,
            "recipe": self.card.name,
            "code": self.code,
            "over": self.card.over,
            "returns": self.card.shown()["returns"],
            "parameters": dict(self.parameters),
            "model": self.model.identity(),
            "prompts": [e.to_json() for e in self.prompts.examples],
        }

    @functools.cached_property
    def key(self) -> str:
        """Key of the whole job's result, summaries included."""
        summaries = self.card.shown()["summaries"]
        examples = self.prompts.examples
        described = {**self.described, "summaries": summaries,
                     "templates": [e.template for e in examples],
                     "drop_invalid": self.drop_invalid}  # fmt: skip
        if self.card.analysis:
            described["analysis"] = self._digest_of(self.card.analysis)
            described["classes"] = [[e.label, e.group] for e in examples]
        return digest(described)

    @functools.cached_property
    def part_keys(self) -> list[str]:
        """Keys of the raw outputs: one an example, or a single one for a recipe that is called once."""
        prompts = self.described["prompts"]
        groups = [prompts] if self.card.called_once else [[p] for p in prompts]
        return [digest({**self.described, "prompts": group, "part": True}) for group in groups]

    def lock(self) -> dict[str, Any]:
        """The job as config.lock.yaml keeps it: enough to run it again."""
        return {
            "schema": 1,
            "key": self.key,
            "recipe": {"name": self.card.name, "code": self.code,
                       "file": self.card.path.name if self.card.path else None},
            "model": asdict(self.model),
            "model_identity": self.model.identity(),
            "parameters": dict(self.parameters),
            "prompts": {"origin": self.prompts.origin, **self.prompts.details,
                        "examples": [{**e.to_json(), "template": e.template, "label": e.label,
                                      "group": e.group} for e in self.prompts.examples]},
            "drop_invalid": self.drop_invalid,
        }  # fmt: skip

    def sources(self) -> dict[str, bytes]:
        """The files a reader needs to see what was run."""
        if self.card.path is None:
            assert self.function is not None
            return {f"{self.card.name}.py": inspect.getsource(self.function).encode()}
        sources = {self.card.path.name: self.card.path.read_bytes()}
        for name, path in local_modules(self.card.path, self.project).items():
            sources[f"{name.replace('.', '/')}.py"] = path.read_bytes()
        return sources
