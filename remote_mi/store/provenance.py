"""Where and how a result was computed, as typed attributes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from remote_mi.store.environment import Environment
from remote_mi.store.typed_json import dataclass_from_json


@dataclass(frozen=True)
class ModelFacts:
    """The model as it entered the key; None for fields that it does not include."""

    name: str = "?"
    revision: str | None = None
    content: str | None = None
    quantization: str | None = None
    adapter: str | None = None
    tokenizer: str | None = None


@dataclass(frozen=True)
class PromptFacts:
    """Where the prompts come from, and how they were tokenized."""

    origin: str | None = None
    template: str | None = None
    seed: int | str | None = None
    source: str | None = None
    bos_prepended: bool = False
    chat_template: bool = False

    @property
    def name(self) -> str:
        """A phenomenon with its template, or the source file; "" for prompts given as text."""
        if self.origin in (None, "", "command line", "list", "no prompts"):
            return ""
        return f"{self.origin}:{self.template}" if self.template else str(self.origin)


@dataclass(frozen=True)
class ComputedFacts:
    """What the backend recorded: device, dtype, cost. None for what it did not record."""

    revision: str | None = None
    dtype: str | None = None
    device: str | None = None
    attention: str | None = None
    architecture: str | None = None
    parameters: int | None = None
    seconds: float | None = None
    forward_passes: int | None = None
    server_said: str | None = None
    quantization: str | None = None
    adapter: Mapping[str, Any] | None = None
    object: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class ArtifactFacts:
    """An artifact that a run took, and where it comes from.

    Attributes:
        named: as its user named it. digest: of its numbers. at: the part that was taken.
        run, output, recipe, parameters, site, prompts, model, artifacts: of the run that made it.
        file, tensor: that held it. kept: file in the run's folder, "cache", or "" for nowhere.
    """

    named: str = ""
    digest: str = ""
    dims: list[str] = field(default_factory=list)
    shape: list[int] = field(default_factory=list)
    at: Mapping[str, Any] = field(default_factory=dict)
    run: str | None = None
    output: str | None = None
    recipe: str | None = None
    parameters: Mapping[str, Any] = field(default_factory=dict)
    site: str | None = None
    prompts: str | None = None
    model: ModelFacts | None = None
    artifacts: Mapping[str, ArtifactFacts] = field(default_factory=dict)
    file: str | None = None
    tensor: str | None = None
    kept: str = ""

    @property
    def name(self) -> str:
        """A short name that finds it again: `RUN:output`, or `FILE:tensor`."""
        part = ",".join(f"{dim}={value}" for dim, value in self.at.items())
        if self.file:
            found = f"{self.file}:{self.tensor}" if self.tensor else self.file
        elif self.run:
            found = f"{self.run.rsplit('-', 1)[-1]}:{self.output}"
        else:
            return self.digest[:19]
        return f"{found}@{part}" if part else found

    @property
    def described(self) -> str:
        """Where it comes from, in words, back to what its own run took."""
        size = " × ".join(map(str, self.shape)) or "1"
        of = [f"run {self.run}" if self.run else "", self.recipe or "", self.prompts or ""]
        model = self.model.name if self.model and self.model.name != "?" else ""
        of += [
            f"on {model}" if model else "model not known",
            f"at {self.site}" if self.site else "",
        ]
        told = f"{self.name}: {size} numbers, {self.digest[:19]}…, of {', '.join(filter(None, of))}"
        for parameter, one in self.artifacts.items():
            told += f"; which took as {parameter} {one.described}"
        return told


@dataclass(frozen=True)
class Provenance:
    """Where and how a result was computed.

    Attributes:
        key, code: digests of the job and of the recipe's code.
        backend: its name; reason: why it was chosen.
        time: when it was finished, in UTC. cache: "miss" or "hit".
        reused: a note if the result was taken from another environment.
        record: what the backend recorded.
        artifacts: parameter → the artifact that it was.
    """

    key: str = ""
    code: str = ""
    backend: str = ""
    reason: str | None = None
    time: str | None = None
    cache: str = "?"
    reused: str = ""
    environment: Environment | None = None
    model: ModelFacts = ModelFacts()
    parameters: Mapping[str, Any] = field(default_factory=dict)
    prompts: PromptFacts = PromptFacts()
    record: ComputedFacts = ComputedFacts()
    artifacts: Mapping[str, ArtifactFacts] = field(default_factory=dict)

    @property
    def shown_parameters(self) -> dict[str, Any]:
        """The parameters, with a short name in place of the digest of an artifact."""
        named = {name: one.name for name, one in self.artifacts.items() if name in self.parameters}
        return {**self.parameters, **named}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Provenance:
        """Parse the provenance of a run.

        Raises:
            WrongJson: if it is not valid.
        """
        return dataclass_from_json(cls, data, "provenance")

    @property
    def kind(self) -> str:
        """The class of machine, "?" if it is not known."""
        return self.environment.kind if self.environment else "?"

    @property
    def host(self) -> str:
        """The server that computed it; "" for this machine."""
        return self.backend.partition(" ")[2]

    @property
    def where(self) -> str:
        """The class of machine, and the server if there was one; "" if neither is known."""
        kind = self.environment.kind if self.environment else ""
        return f"{kind} {self.host}" if self.host and self.host not in kind else kind
