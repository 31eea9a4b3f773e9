"""An NDIF server: the block is sent as source, run there as one job, and its result fetched.

Jobs are non-blocking: submitted by one POST under an id of our own, polled, and downloaded from
the address in the COMPLETED status. Every step is recorded in the ledger before it is taken, so
that any process can continue where another ended.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from remote_mi.backends.base import Outputs, Ticket, Work
from remote_mi.backends.detached import DetachedBackend
from remote_mi.backends.errors import ServerDown, SubmissionUnknown
from remote_mi.backends.ledger import Entry
from remote_mi.backends.ndif import facts
from remote_mi.backends.ndif.client import Client, ReplyLost
from remote_mi.backends.ndif.errors import NotNdif
from remote_mi.backends.ndif.hosting import evaluate_server, may_deploy
from remote_mi.backends.ndif.hosts import HERE, Host, find_host, recall
from remote_mi.backends.ndif.results import check_expected, max_result_bytes, read_outputs
from remote_mi.backends.ndif.servers import ServerFacts, adapter_there, gather_facts
from remote_mi.backends.ndif.waiting import Waiter
from remote_mi.backends.ndif_server import personal
from remote_mi.backends.options import Option, Question
from remote_mi.common.errors import BackendUnavailable, RunFailed, UsageError
from remote_mi.common.progress import Watch
from remote_mi.models.embedded import EMBEDDED
from remote_mi.models.isolation import exclusive_model_use
from remote_mi.models.spec import ModelSpec
from remote_mi.recipes.loading import recipe_imports
from remote_mi.store.environment import PACKAGES, Environment

if TYPE_CHECKING:
    from remote_mi.models.load import LoadedModel


class NdifBackend(DetachedBackend):
    """Executes on an NDIF server.

    Args:
        host: the server. project: the user's project, with the ledger.
        word: what `--backend` takes for it.
    """

    def __init__(self, host: Host, project: Path, word: str = "ndif") -> None:
        super().__init__(host.name, project, host.url)
        self.host, self.word = host, word
        self.client = Client(host)
        # A server on this machine that has been gone for minutes has lost its jobs.
        self.patience_s = 120.0 if host.is_loopback else super().patience_s
        self._facts: dict[str, ServerFacts] = {}
        self._unavailable: BackendUnavailable | None = None

    @classmethod
    def for_host(cls, host: str | None, project: Path) -> NdifBackend:
        """The backend of `ndif` (None), `ndif:here` or `ndif:URL`; errors as for `find_host`.

        A personal server that is not running is an error only when a job is to run there: results
        computed on it before need no server.
        """
        word = f"ndif:{host}" if host else "ndif"
        try:
            return cls(find_host(host), project, word)
        except BackendUnavailable as error:
            backend = cls(HERE, project, word)
            backend._unavailable = error
            return backend

    def environment(self, spec: ModelSpec) -> Environment | None:
        """The server's versions as last seen; None before the first job there."""
        known = recall(self.host).get("packages")
        if not known:
            return None
        return Environment(self.name, *(known[0].get(name, "unknown") for name in PACKAGES))

    def consider(self, question: Question) -> Option:
        """Whether the server hosts the model and can do what the recipe needs."""
        spec, asked_for = question.model, Option(self.word, True, "requested", model=question.model)
        if question.explicit and not question.survey:
            # Its answer when the job arrives is more accurate than one beforehand.
            return asked_for
        facts = self.facts(spec, question.needs)
        option = evaluate_server(facts, question.needs, question.need, question.limits, spec)
        if not option.can and question.explicit and may_deploy(facts):
            return replace(asked_for, why=f"requested, although {option.why}")
        return option

    def facts(self, spec: ModelSpec, needs: tuple[str, ...]) -> ServerFacts:
        """What the server reports about a model, for recipes with these needs; asked once."""
        key = repr((spec, needs))
        if key not in self._facts:
            self._facts[key] = gather_facts(self.word, spec, needs)
        return self._facts[key]

    def open(self, spec: ModelSpec, watch: Watch) -> LoadedModel:
        from remote_mi.models.load import build_weightless

        why, hint = spec.only_here()
        if why:
            raise UsageError(f"{self.name} cannot run this: {why}", hint)
        adapter = adapter_there(spec, self.host)
        watch.stage(f"describing {spec.name} (configuration and tokenizer only)")
        facts.packages(self.client)  # under which its results are kept
        return build_weightless(spec, watch, self._served_repo_id(spec), adapter)

    def _served_repo_id(self, spec: ModelSpec) -> str | None:
        """The repository id under which the personal server serves weights of this machine."""
        if self.host.served is None:
            return None
        found = None
        named = personal.model_option(spec.name, self.host.served)
        if named != spec.name:
            raise UsageError(
                f"{spec.name} is the personal server's name for weights of this machine",
                f"name the weights themselves: --model {named}",
            )
        if spec.name == EMBEDDED:
            found = personal.SERVED_EMBEDDED
            found = found if found in self.host.served.models else None
        elif spec.folder is not None:
            found = personal.served_repo_id(spec.folder, self.host.served)
        if found is None and (spec.folder is not None or spec.name == EMBEDDED):
            raise UsageError(
                f"the personal server does not serve {spec.name}",
                f"`remote-mi ndif down`, then `remote-mi ndif up --model {spec.name}`",
            )
        return found

    def resume(self, key: str, watch: Watch) -> Ticket | None:
        if self._unavailable is not None:
            raise self._unavailable
        return super().resume(key, watch)

    def refresh(self, entry: Entry, watch: Watch) -> Entry:
        """Bring an open entry up to date, asking the server once; its lock is held.

        Raises:
            JobFailed, NotHosted: if it failed there. ResultExpired: if its result is gone.
            ServerDown, NotNdif: depending on the answer.
        """
        if entry.state == "fetched" or not entry.is_open:
            return entry
        waiter = Waiter(self.client, self.ledger, entry, watch)
        if waiter.is_lost():
            watch.note(waiter.mark_lost().message)
        elif entry.state in ("submitting", "unknown"):
            waiter.was_received()
        else:
            waiter.poll()
        return entry

    def submit(self, model: LoadedModel, work: Work, watch: Watch) -> Ticket:
        """Check, record and send the work. An open job with the same key is reused instead.

        Raises:
            UsageError, RunFailed: if a check finds a mistake that would fail there.
            CannotDo: if the recipe cannot work in the server's sandbox.
            KeyRefused, VersionRefused, RequestRefused, ServerDown, SubmissionUnknown, NotNdif:
            depending on the answer.
        """
        entry, blob, envelope = self._prepare(model, work, watch)
        first, again = entry, replace(entry, id=str(uuid.uuid4()), replaces=entry.id)
        ticket = self.record_and_send(
            first, work, watch, lambda: self._send(first, blob, envelope, watch)
        )
        if ticket is None:
            watch.note("submitting it once more")
            envelope = {**envelope, "id": again.id}
            ticket = self.record_and_send(
                again, work, watch, lambda: self._send(again, blob, envelope, watch)
            )
        if ticket is None:
            raise SubmissionUnknown(
                f"{self.host.url} was sent the job twice and knows of neither",
                "the same command submits it again; `remote-mi doctor` checks the server",
            )
        return ticket

    def _prepare(
        self, model: LoadedModel, work: Work, watch: Watch
    ) -> tuple[Entry, bytes, dict[str, Any]]:
        """The entry, payload and envelope of work that has passed the checks."""
        from remote_mi.backends.ndif.payload import model_key, serialize
        from remote_mi.backends.ndif.preflight import check, check_sandbox, check_upload

        packages = facts.packages(self.client)
        with exclusive_model_use(watch), recipe_imports(*work.sent_functions):
            expected, comes_back = check(model, work, packages, watch)
        key = model_key(model.lm)
        check_sandbox(work, self.client, key)
        with exclusive_model_use(watch):
            blob = serialize(model.lm, work)
            env = model.lm._remoteable_get_env()
        check_upload(work, len(blob))
        watch.note(f"{self.host.url} · sending {len(blob):,} bytes, {comes_back}")
        entry = self.new_entry(work, expected=expected, bytes_up=len(blob))
        envelope = {
            "id": entry.id,
            "model_key": key,
            "session_id": "",
            "compress": True,
            "env": env,
        }
        return entry, blob, envelope

    def _send(self, entry: Entry, blob: bytes, envelope: dict[str, Any], watch: Watch) -> bool:
        watch.stage(f"submitting to {self.host.url}")
        try:
            server_id = self.client.submit(envelope, blob)
        except ReplyLost as error:
            self.ledger.update(entry.id, state="unknown")
            entry.state = "unknown"
            watch.note(
                f"the reply of {self.host.url} was lost ({error}); asking for job "
                f"{entry.id[:8]} by its id"
            )
            try:
                return Waiter(self.client, self.ledger, entry, watch).was_received()
            except (ServerDown, NotNdif) as down:
                raise SubmissionUnknown(
                    f"whether job {entry.id[:8]} reached {self.host.url} is unknown: {down.message}",
                    "the same command asks first, and submits only what did not arrive",
                ) from None
        self.ledger.update(entry.id, state="submitted", server_id=server_id)
        entry.state, entry.server_id = "submitted", server_id
        return True

    def detached_message(self, entry: Entry) -> str:
        short = entry.id[:8]
        return (
            f"job {short} goes on at {self.host.url}, and its result will be fetched: "
            f"`remote-mi jobs wait {short}` or the same command picks it up\n"
            f"  a server cannot be told to stop it; `remote-mi jobs forget {short}` "
            "gives up its result"
        )

    def await_outputs(
        self, entry: Entry, watch: Watch, deadline: float, on_leave: Callable[[], None]
    ) -> Iterator[Outputs]:
        waiter = Waiter(self.client, self.ledger, entry, watch)
        path = self.ledger.result_path(entry.id)
        if entry.state in ("submitting", "unknown") and not waiter.was_received():
            raise SubmissionUnknown(
                f"job {entry.id[:8]} did not reach {self.host.url}",
                "the same command submits it again",
            )
        if entry.state != "fetched" or not path.exists():
            answer = waiter.wait_until_completed(deadline, on_leave)
            path = waiter.fetch(answer)
        try:
            limit = max_result_bytes(entry.expected)
            returned = read_outputs(path, entry.calls, bool(entry.compress), limit)
            for index, found in enumerate(self.checked_outputs(entry, iter(returned))):
                recipe = f"job {entry.id[:8]}: recipe {entry.recipe!r}"
                check_expected(recipe, index, found, entry.expected)
                yield found
        except RunFailed as error:
            path.unlink(missing_ok=True)
            raise waiter.mark_refused(error) from None

    def record_of(self, entry: Entry) -> dict[str, Any]:
        """The job's record in the provenance of its run."""
        seen = self.ledger.timeline(entry.id)
        packages = recall(self.host).get("packages", [{}])[0]
        return {
            "host": entry.url,
            "job_id": entry.id,
            "server_id": entry.server_id,
            "versions": {name: packages.get(name) for name in (*PACKAGES, "ndif")},
            "timeline": [[s["status"], s["time"]] for s in seen],
            "seconds": round(seen[-1]["time"] - entry.created, 3) if seen else None,
            "bytes_up": entry.bytes_up,
            "bytes_down": entry.bytes_down,
            "meta": entry.meta,
        }
