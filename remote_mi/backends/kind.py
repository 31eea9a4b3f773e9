"""A kind of backend: everything the package needs to know about it, apart from running jobs.

There is one object per kind, found by name in `remote_mi.backends.registry`. Importing it must be
quick: help, settings and lists look up names. Jobs are executed by a `remote_mi.backends.base`.
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
    """A column of a list of models. `width`: at most so many cells; None wraps long names."""

    name: str
    width: int | None = None
    right: bool = False


@dataclass(frozen=True)
class ModelList:
    """The models of a backend, as `remote-mi models` shows them.

    Attributes:
        columns: of the table; without any, each row is printed as a line.
        rows: one per model. empty_message: shown if there are none.
        document: the same as JSON. next_step: what to type next.
    """

    rows: Sequence[Sequence[str]]
    document: Mapping[str, Any]
    next_step: str
    columns: Sequence[ModelColumn] = ()
    empty_message: str = ""


class KeyStore:
    """Stores the user's key for a backend where the backend finds it.

    Attributes:
        name: what the key is for, in one word. source: where to get one, in a sentence.
        variable: environment variable that overrides the stored key; "" for none.
    """

    name = ""
    source = ""
    variable = ""

    def format_problem(self, key: str) -> str:
        """The expected form of a key if this one is malformed, without repeating it; else ""."""
        return ""

    def verify(self, key: str) -> str:
        """Ask the backend about a key; its answer in words.

        Raises:
            AuthenticationError: if it does not know the key.
        """
        raise NotImplementedError

    def save(self, key: str) -> Path:
        """Write the key to a file that only the user can read; returns its path."""
        raise NotImplementedError


class BackendKind:
    """A kind of backend. Only `name` and `backend` are required; the rest has defaults.

    Attributes:
        name: what `--backend` takes; a part after a colon selects one of the kind.
        option_values: what `--backend` takes, for help.
        detaches: whether jobs continue while nobody waits for them; the backend is then a
            `remote_mi.backends.detached.DetachedBackend`.
        is_server: whether it is another machine, which `doctor` checks and which may need a key.
        secrets: environment variables that are withheld from background processes.
    """

    name = ""
    detaches = False
    is_server = False
    secrets: tuple[str, ...] = ()

    @property
    def option_values(self) -> tuple[str, ...]:
        return (self.name,)

    def normalize_where(self, where: str) -> str:
        """The part after the colon in its recorded form.

        Args:
            where: the part after the colon, never empty.

        Raises:
            UsageError: if it selects none.
        """
        raise UsageError(
            f"no backend {f'{self.name}:{where}'!r}", f"there is one {self.name}: {self.name}"
        )

    def auto_candidates(self, settings: Settings) -> list[str]:
        """The backends that the kind's name expands to in the setting `prefer`."""
        return [self.name]

    def backend(self, where: str, project: Path, rows_bytes: int | None = None) -> Backend:
        """The backend that executes jobs.

        Args:
            where: which one of the kind; "" for the default. project: the user's project.
            rows_bytes: memory for the rows of a sweep, as its `Option` said.
        """
        raise NotImplementedError

    def backend_of(self, entry: Entry, project: Path) -> DetachedBackend:
        """The backend of a job in the ledger."""
        found = self.backend(entry.host.partition(" ")[2], project)
        assert self.detaches
        return found  # type: ignore[return-value]

    def error_of(self, record: Mapping[str, Any]) -> RemoteMIError:
        """An error as stored in the ledger."""
        return from_record(record)

    def spec_for_rerun(
        self, spec: ModelSpec, commit: str | None, environment: str | None, run: str
    ) -> ModelSpec:
        """The model for computing a run again here.

        Args:
            spec: as originally requested. run: the run's name, for errors.
            commit: of the weights; None if unknown, or if they are identified by content.
            environment: kind of the original environment; None if another place was requested.

        Raises:
            BackendUnavailable: if the original kind of device is not available.
        """
        return spec

    def checks(self, where: str, spec: ModelSpec | None) -> Iterator[Check]:
        """The checks that `doctor` makes after those of this machine.

        Args:
            where: which one of the kind. spec: a model to check there, too.

        Raises:
            UsageError: immediately, if `where` is invalid.
        """
        return iter(())

    def models(self, where: str) -> ModelList:
        """The models available there.

        Raises:
            UsageError: if it cannot list them.
        """
        raise UsageError(f"{self.name} has no list of models", "name any with --model")

    def keys(self, where: str) -> KeyStore:
        """The store of the user's key.

        Raises:
            UsageError: if the user provides no key for it.
        """
        raise UsageError(f"{self.name} takes no key", "there is nothing to save for it")
