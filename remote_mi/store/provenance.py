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
class Provenance:
    """Where and how a result was computed.

    Attributes:
        key, code: digests of the job and of the recipe's code.
        backend: its name; reason: why it was chosen.
        time: when it was finished, in UTC. cache: "miss" or "hit".
        reused: a note if the result was taken from another environment.
        record: what the backend recorded.
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
