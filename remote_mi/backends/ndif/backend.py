"""An NDIF server: the block is sent as source, run there as one job, and its result fetched.

Jobs are non-blocking: submitted by one POST under an id of our own, polled, and downloaded from
the address that COMPLETED carries. The ledger knows of each step before it is taken, so that any
process can go on where one ended.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from remote_mi.backends.base import FinishedElsewhere, Outputs, Ticket, Work, checked, nobody_left
from remote_mi.backends.errors import (
    ResultExpired,
    ServerDown,
    SubmissionUnknown,
    from_record,
    to_record,
)
from remote_mi.backends.job_locks import JobLocks
from remote_mi.backends.ledger import Entry, Ledger, typed
from remote_mi.backends.ndif import facts
from remote_mi.backends.ndif.client import Client, ReplyLost
from remote_mi.backends.ndif.errors import NotNdif
from remote_mi.backends.ndif.hosts import HERE, Host, find_host, recall
from remote_mi.backends.ndif.results import check_expected, limit_for, read_outputs
from remote_mi.backends.ndif.waiting import Waiter, add_way_back
from remote_mi.backends.ndif_server import personal
from remote_mi.common.errors import (
    BackendUnavailable,
    Detached,
    RemoteMIError,
    RunFailed,
    StoreError,
    UsageError,
)
from remote_mi.common.progress import Watch
from remote_mi.models.embedded import EMBEDDED
from remote_mi.models.spec import ModelSpec
from remote_mi.models.surroundings import at_work
from remote_mi.recipes.loading import at_home
from remote_mi.recipes.outputs import outputs_from_json
from remote_mi.store.environment import PACKAGES, Environment

if TYPE_CHECKING:
    from remote_mi.models.load import LoadedModel

#: How long a job is waited for when nobody says otherwise.
DEFAULT_TIMEOUT_S = 3600.0


class NdifBackend:
    """Executes on an NDIF server.

    Args:
        host: the server. project: the user's project, which keeps the ledger.
    """

    detaches = True

    def __init__(self, host: Host, project: Path) -> None:
        self.host, self.project = host, project
        self.name = host.name
        self.client = Client(host)
        self.ledger = Ledger(project)
        self.locks = JobLocks(self.ledger)
        self._absent: BackendUnavailable | None = None

    @classmethod
    def asked_for(cls, host: str | None, project: Path) -> NdifBackend:
        """The backend of `ndif` (None), `ndif:here` or `ndif:URL`; errors as `find_host`.

        A personal server that does not run is an error only when something is to run there: what
        was computed on it before needs none.
        """
        try:
            return cls(find_host(host), project)
        except BackendUnavailable as error:
            backend = cls(HERE, project)
            backend._absent = error
            return backend

    def environment(self, spec: ModelSpec) -> Environment | None:
        """The server's versions as last seen; None before the first job there."""
        known = recall(self.host).get("packages")
        if not known:
            return None
        return Environment(self.name, *(known[0].get(name, "unknown") for name in PACKAGES))

    def open(self, spec: ModelSpec, watch: Watch) -> LoadedModel:
        from remote_mi.models.load import build_weightless

        watch.stage(f"describing {spec.name} (configuration and tokenizer only)")
        facts.packages(self.client)  # under which its results are kept
        return build_weightless(spec, watch, self._served_as(spec))

    def _served_as(self, spec: ModelSpec) -> str | None:
        """The repository id of weights of this machine that the personal server serves."""
        if self.host.served is None:
            return None
        found = None
        named = personal.asked_as(spec.name, self.host.served)
        if named != spec.name:
            raise UsageError(
                f"{spec.name} is what the personal server calls weights of this machine",
                f"name them by what holds them: --model {named}",
            )
        if spec.name == EMBEDDED:
            found = personal.SERVED_EMBEDDED
            found = found if found in self.host.served.models else None
        elif spec.folder is not None:
            found = personal.served_as(spec.folder, self.host.served)
        if found is None and (spec.folder is not None or spec.name == EMBEDDED):
            raise UsageError(
                f"the personal server does not serve {spec.name}",
                f"`remote-mi ndif down`, then `remote-mi ndif up --model {spec.name}`",
            )
        return found

    def resume(self, key: str, watch: Watch) -> Ticket | None:
        if self._absent is not None:
            raise self._absent
        entry = self.ledger.latest_of(key, self.name)
        if entry is None:
            return None
        if entry.is_open and self.locks.take(entry.id):
            try:
                entry = self.look(self.ledger.get(entry.id), watch)
            except ResultExpired:
                entry = self.ledger.get(entry.id)
            except RemoteMIError as error:
                if self.ledger.get(entry.id).is_open:
                    add_way_back(entry.id, error)
                raise
            finally:
                self.locks.release(entry.id)
        if entry.state == "expired":
            watch.note(
                f"the result of job {entry.id[:8]} was not fetched within the time that "
                f"{entry.url} keeps it; submitting the job again"
            )
        if not entry.is_open:
            return None
        watch.note(f"job {entry.id[:8]} of the same run is under way already")
        return self.ticket_of(entry)

    def look(self, entry: Entry, watch: Watch) -> Entry:
        """Bring an open entry up to date, asking the server once; holding its lock.

        Raises:
            JobFailed, NotHosted: if it failed there. ResultExpired: if its result is gone.
            ServerDown, NotNdif: as the server answers.
        """
        if entry.state == "fetched" or not entry.is_open:
            return entry
        waiter = Waiter(self.client, self.ledger, entry, watch)
        if entry.url != self.host.url:
            waiter.ended()
        elif entry.state in ("submitting", "unknown"):
            waiter.is_known()
        else:
            waiter.look()
        return entry

    def ticket_of(self, entry: Entry) -> Ticket:
        """The ticket of an entry of the ledger."""
        return Ticket(self.name, entry.id, draft=entry.draft)

    def submit(self, model: LoadedModel, work: Work, watch: Watch) -> Ticket:
        """Check, write down and send the work. An open job with the same key is shared instead.

        Raises:
            UsageError, RunFailed: if a check finds what would fail there.
            CannotDo: if the recipe cannot work in the server's sandbox.
            KeyRefused, VersionRefused, RequestRefused, ServerDown, SubmissionUnknown, NotNdif: as
            the server answers.
        """
        begun = work.draft["events"][0]["time"]
        entry, blob, envelope = self._prepared(model, work, watch)
        ticket = self._sent(entry, blob, envelope, begun, watch)
        if ticket is None:
            watch.note("submitting it once more")
            entry = replace(entry, id=str(uuid.uuid4()), state="submitting", replaces=entry.id)
            ticket = self._sent(entry, blob, {**envelope, "id": entry.id}, begun, watch)
        if ticket is None:
            raise SubmissionUnknown(
                f"{self.host.url} was sent the job twice and has heard of it neither time",
                "the same command submits it again; `remote-mi doctor` looks at the server",
            )
        return ticket

    def _sent(
        self, entry: Entry, blob: bytes, envelope: dict[str, Any], since: float, watch: Watch
    ) -> Ticket | None:
        """Write an entry down and send its work; None if the reply was lost and the work, too.

        The same job under another entry, open or done since then, takes its place.
        """
        self.locks.take(entry.id)  # first: nobody may see the entry and take its job for lost
        try:
            claimed = self.ledger.claim(entry, since)
            if claimed.id != entry.id:
                watch.note(f"job {claimed.id[:8]} of the same run is under way already")
                self.ledger.clean(entry.id)
                return self.ticket_of(claimed)
            return self.ticket_of(entry) if self._send(entry, blob, envelope, watch) else None
        except RemoteMIError as error:
            if not isinstance(error, (SubmissionUnknown, StoreError)):
                self.ledger.update(entry.id, state="failed", error=to_record(error))
            raise
        finally:
            self.locks.release(entry.id)

    def _prepared(
        self, model: LoadedModel, work: Work, watch: Watch
    ) -> tuple[Entry, bytes, dict[str, Any]]:
        """The entry, payload and envelope of work that has passed the checks."""
        from remote_mi.backends.ndif.payload import model_key, serialize
        from remote_mi.backends.ndif.preflight import check, check_sandbox

        packages = facts.packages(self.client)
        with at_work(watch), at_home(work.function):
            expected, comes_back = check(model, work, packages, watch)
        key = model_key(model.lm)
        check_sandbox(work, self.client, key)
        with at_work(watch):
            blob = serialize(model.lm, work)
            env = model.lm._remoteable_get_env()
        watch.note(f"{self.host.url} · sending {len(blob):,} bytes, {comes_back}")
        entry = Entry(
            str(uuid.uuid4()),
            work.key,
            self.name,
            self.host.url,
            work.card.name,
            work.spec.name,
            len(work.calls),
            dict(work.draft),
            expected,
            bytes_up=len(blob),
            command=typed(),
        )
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
                return Waiter(self.client, self.ledger, entry, watch).is_known()
            except (ServerDown, NotNdif) as down:
                raise SubmissionUnknown(
                    f"whether job {entry.id[:8]} reached {self.host.url} is not known: {down.message}",
                    "the same command asks first, and submits only what did not arrive",
                ) from None
        self.ledger.update(entry.id, state="submitted", server_id=server_id)
        entry.state, entry.server_id = "submitted", server_id
        return True

    def collect(
        self,
        ticket: Ticket,
        watch: Watch,
        timeout: float | None = None,
        on_leave: Callable[[], None] = nobody_left,
    ) -> Iterator[Outputs]:
        deadline = time.monotonic() + (timeout or DEFAULT_TIMEOUT_S)
        try:
            entry = self._hold(ticket.id, watch, deadline)
            yield from self._collected(entry, ticket, watch, deadline, on_leave)
        except KeyboardInterrupt:
            on_leave()
            self.locks.release(ticket.id)
            short = ticket.id[:8]
            raise Detached(
                f"job {short} goes on at {self.host.url}, and its result will be fetched: "
                f"`remote-mi jobs wait {short}` or the same command picks it up\n"
                f"  a server cannot be told to stop it; `remote-mi jobs forget {short}` "
                "gives up its result"
            ) from None
        except BaseException as error:
            if self.ledger.get(ticket.id).is_open and not isinstance(error, GeneratorExit):
                on_leave()
                add_way_back(ticket.id, error)
            self.locks.release(ticket.id)
            raise

    def _hold(self, job_id: str, watch: Watch, deadline: float) -> Entry:
        """Wait until this process is the one that collects the job."""
        while not self.locks.take(job_id):
            entry = self.ledger.get(job_id)
            if entry.state == "done":
                raise FinishedElsewhere
            watch.stage(
                f"{entry.url} · {entry.status.lower() or 'submitting'} "
                "(another process fetches the result)"
            )
            if time.monotonic() > deadline:
                Waiter(self.client, self.ledger, entry, watch).out_of_patience()
            time.sleep(0.1)
        entry = self.ledger.get(job_id)
        if entry.state == "done":
            raise FinishedElsewhere
        if not entry.is_open:
            raise from_record(entry.error or {"message": f"job {job_id[:8]} is {entry.state}"})
        return entry

    def _collected(
        self,
        entry: Entry,
        ticket: Ticket,
        watch: Watch,
        deadline: float,
        on_leave: Callable[[], None],
    ) -> Iterator[Outputs]:
        waiter = Waiter(self.client, self.ledger, entry, watch)
        path = self.ledger.result_path(entry.id)
        try:
            if entry.state in ("submitting", "unknown") and not waiter.is_known():
                raise SubmissionUnknown(
                    f"job {entry.id[:8]} did not reach {self.host.url}",
                    "the same command submits it again",
                )
            if entry.state != "fetched" or not path.exists():
                answer = waiter.completed(deadline, on_leave)
                path = waiter.fetch(answer)
            yield from self._read(waiter, path)
        finally:
            ticket.record.update(self._record(entry))

    def _read(self, waiter: Waiter, path: Path) -> Iterator[Outputs]:
        entry, draft = waiter.entry, waiter.entry.draft
        recipe = f"job {entry.id[:8]}: recipe {entry.recipe!r}"
        declared = outputs_from_json(draft["recipe"]["returns"])
        once = draft["recipe"]["over"] not in ("prompt", "pair")
        examples = len(draft["parts"]) if once else None
        try:
            outputs = read_outputs(
                path, entry.calls, bool(entry.compress), limit_for(entry.expected)
            )
            for index, returned in enumerate(outputs):
                found = checked(recipe, declared, returned, examples)
                check_expected(recipe, index, found, entry.expected)
                yield found
        except RunFailed as error:
            path.unlink(missing_ok=True)
            raise waiter.refused(error) from None

    def _record(self, entry: Entry) -> dict[str, Any]:
        """What the provenance of a run keeps of its job."""
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

    def settle(self, ticket: Ticket, run: str | None, error: RemoteMIError | None = None) -> None:
        """The run is kept: the entry is done. One that could not be kept stays open."""
        try:
            if error is not None:
                self.ledger.update(ticket.id, state="failed", error=to_record(error))
            elif run is not None:
                self.ledger.update(ticket.id, state="done", run=run, finished=time.time())
            if error is not None or run is not None:
                self.ledger.clean(ticket.id)
        except StoreError:
            pass  # a result that is there is shown; the next command finds the entry as it was
        self.locks.release(ticket.id)
