"""A kind of backend: all that the package asks of it beside running a job there.

One object a kind, found by its name in `remote_mi.backends.registry`. Importing it must be quick:
names are looked up for help, settings and lists. What executes is `remote_mi.backends.base`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from remote_mi.backends.errors import from_record
from remote_mi.common.errors import RemoteMIError, UsageError
from remote_mi.models.spec import ModelSpec

if TYPE_CHECKING:
    from remote_mi.backends.base import Backend
    from remote_mi.backends.checking import Check
    from remote_mi.backends.detached import DetachedBackend
    from remote_mi.backends.ledger import Entry
    from remote_mi.backends.settings.values import Settings


@dataclass(frozen=True)
class ModelColumn:
    """A column of a list of models. `width`: the most cells; None lets a long name go on below."""

    name: str
    width: int | None = None
    right: bool = False


@dataclass(frozen=True)
class ModelList:
    """The models of a backend, as `remote-mi models` shows them.

    Attributes:
        columns: of the table; without any, a row is a line of its cells.
        rows: one a model. none: what is said where there are none.
        document: the same as JSON. next: what to type next.
    """

    rows: Sequence[Sequence[str]]
    document: Mapping[str, Any]
    next_step: str
    columns: Sequence[ModelColumn] = ()
    empty_message: str = ""


class KeyStore:
    """Takes the user's key for a backend and keeps it where the backend finds it.

    Attributes:
        name: what the key is for, in a word. source: who gives one, in a sentence.
        variable: environment variable that goes before the key that is kept; "" where none does.
    """

    name = ""
    source = ""
    variable = ""

    def format_problem(self, key: str) -> str:
        """What form a key has, where this has not; the text is not repeated. "" where it has."""
        return ""

    def verify(self, key: str) -> str:
        """What the backend says of a key, in words.

        Raises:
            AuthenticationError: if it does not know it.
        """
        raise NotImplementedError

    def save(self, key: str) -> Path:
        """Write the key down, readable by the user alone; the file."""
        raise NotImplementedError


class BackendKind:
    """A kind of backend. Only `name` and `backend` must be given; the rest has a sense without.

    Attributes:
        name: what `--backend` takes; what stands after a colon says which one of the kind.
        words: what `--backend` takes, for help.
        detaches: whether a job goes on while nobody waits for it: its backend is a
            `remote_mi.backends.detached.DetachedBackend` then.
        is_server: whether it is one more machine, which `doctor` looks at and that may want a key.
        secrets: environment variables that no process but the user's own is given.
    """

    name = ""
    detaches = False
    is_server = False
    secrets: tuple[str, ...] = ()

    @property
    def option_values(self) -> tuple[str, ...]:
        return (self.name,)

    def normalize_where(self, where: str) -> str:
        """Which one of the kind, as it is written down.

        Args:
            where: what stood after the colon, never empty.

        Raises:
            UsageError: if there is no such one.
        """
        raise UsageError(
            f"no backend {f'{self.name}:{where}'!r}", f"there is one {self.name}: {self.name}"
        )

    def auto_candidates(self, settings: Settings) -> list[str]:
        """The backends that the kind's name stands for in the setting `prefer`."""
        return [self.name]

    def backend(self, where: str, project: Path, rows_bytes: int | None = None) -> Backend:
        """What executes.

        Args:
            where: which one of the kind; "" for the kind's own. project: the user's project.
            rows_bytes: what the rows of a sweep may take, as its `Option` said.
        """
        raise NotImplementedError

    def backend_of(self, entry: Entry, project: Path) -> DetachedBackend:
        """The backend of a job of the ledger."""
        found = self.backend(entry.host.partition(" ")[2], project)
        assert self.detaches
        return found  # type: ignore[return-value]

    def error_of(self, record: Mapping[str, Any]) -> RemoteMIError:
        """An error that the ledger keeps."""
        return from_record(record)

    def spec_for_rerun(
        self, spec: ModelSpec, commit: str | None, environment: str | None, run: str
    ) -> ModelSpec:
        """The model of a run that is computed again here.

        Args:
            spec: as it was asked for. run: its name, for errors.
            commit: of the weights; None where it is not known, or they are told by their content.
            environment: kind of the environment of then; None where another place was asked for.

        Raises:
            BackendUnavailable: if what it was computed on is not here.
        """
        return spec

    def checks(self, where: str, spec: ModelSpec | None) -> Iterator[Check]:
        """What `doctor` finds about it, after what it finds about this machine.

        Args:
            where: which one. spec: a model to look at there, too.

        Raises:
            UsageError: at once, if there can be no such one.
        """
        return iter(())

    def models(self, where: str) -> ModelList:
        """The models that it has.

        Raises:
            UsageError: if it has no list of them.
        """
        raise UsageError(f"{self.name} has no list of models", "name any with --model")

    def keys(self, where: str) -> KeyStore:
        """What keeps the user's key for it.

        Raises:
            UsageError: if it takes none from the user.
        """
        raise UsageError(f"{self.name} takes no key", "nothing is to be kept for it")
