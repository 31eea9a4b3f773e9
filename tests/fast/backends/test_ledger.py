"""The ledger of remote jobs: every step is written down, by one at a time, and survives."""

from __future__ import annotations

import contextlib
import re
import sqlite3
import subprocess
import sys
import threading
import time
import uuid

import pytest

from remote_mi.backends.errors import Evicted, RecipeFailed, from_record, to_record
from remote_mi.backends.ledger import Entry, Ledger
from remote_mi.backends.ndif.errors import job_error
from remote_mi.common.errors import NotFound, StoreError, UsageError
from remote_mi.store.draft import Draft

from ...hostile import ACTING


def entry(key: str = "key", host: str = "ndif a", **more) -> Entry:
    return Entry(str(uuid.uuid4()), key, host, "http://a", "slow", "org/model", 1, {"x": 1}, **more)


def test_nothing_is_made_by_looking(tmp_path):
    ledger = Ledger(tmp_path)
    assert ledger.all() == [] and ledger.open_entries() == []
    with pytest.raises(NotFound):
        ledger.find(None)
    assert not ledger.folder.exists()


def test_an_entry_comes_back_as_it_was_written(tmp_path):
    made = entry(expected=[{"effect": [[3, 4], "float32"]}], command="remote-mi run slow")
    Ledger(tmp_path).claim(made, since=0)
    Ledger(tmp_path).note_status(made.id, "RUNNING", "it runs")
    found = Ledger(tmp_path).find(made.id[:6])
    assert (found.expected, found.draft, found.command) == (made.expected, {"x": 1}, made.command)
    assert found.status == "RUNNING" and found.is_open
    assert [s["status"] for s in Ledger(tmp_path).timeline(made.id)] == ["RUNNING"]
    assert (tmp_path / ".remote_mi" / ".gitignore").read_text() == "*\n"


def test_a_job_that_is_open_or_just_done_is_shared_and_another_host_is_another_job(tmp_path):
    ledger = Ledger(tmp_path)
    first = ledger.claim(entry(), since=time.time())
    assert ledger.claim(entry(), since=time.time()).id == first.id
    assert ledger.claim(entry(host="ndif b"), since=time.time()).id != first.id
    before = time.time()
    ledger.update(first.id, state="done", run="r", finished=time.time())
    assert ledger.claim(entry(), since=before).id == first.id, "it was done meanwhile"
    assert ledger.claim(entry(), since=time.time() + 1).id != first.id, "it was done long ago"


def test_a_forgotten_job_stays_forgotten_whoever_was_just_finishing_it(tmp_path):
    ledger = Ledger(tmp_path)
    job = ledger.claim(entry(), since=0)
    ledger.update(job.id, state="forgotten")
    ledger.update(job.id, state="done", run="r")
    assert ledger.get(job.id).state == "forgotten" and ledger.latest_of(job.key, job.host) is None


def test_of_many_threads_one_claims(tmp_path):
    claimed: list[str] = []

    def claim() -> None:
        claimed.append(Ledger(tmp_path).claim(entry(), since=time.time()).id)

    threads = [threading.Thread(target=claim) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(claimed) == 20 and len(set(claimed)) == 1


def test_of_many_processes_one_claims_in_a_new_project(tmp_path):
    script = (
        "import sys, time, uuid\nfrom pathlib import Path\n"
        "from remote_mi.backends.ledger import Entry, Ledger\n"
        "e = Entry(str(uuid.uuid4()), 'k', 'h', 'u', 'r', 'm', 1, {})\n"
        "print(Ledger(Path(sys.argv[1])).claim(e, since=time.time()).id)"
    )
    made = [
        subprocess.Popen([sys.executable, "-c", script, str(tmp_path)], stdout=subprocess.PIPE)
        for _ in range(4)
    ]
    ids = {process.communicate(timeout=240)[0] for process in made}
    assert len(ids) == 1 and len(Ledger(tmp_path).all()) == 1


def test_a_lock_is_held_by_one_and_given_back_when_its_holder_dies(tmp_path):
    ledger = Ledger(tmp_path)
    made = ledger.claim(entry(), since=0)
    script = (
        "import sys, time\nfrom pathlib import Path\n"
        "from remote_mi.backends.ledger import Ledger\n"
        "lock = Ledger(Path(sys.argv[1])).lock(sys.argv[2])\nlock.acquire(blocking=False)\n"
        "print('held', flush=True)\ntime.sleep(60)"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path), made.id], stdout=subprocess.PIPE
    )
    assert holder.stdout is not None and holder.stdout.readline() == b"held\n"
    lock = ledger.lock(made.id)
    with pytest.raises(TimeoutError):
        lock.acquire(blocking=False)
    holder.kill()
    holder.wait(10)
    lock.acquire(timeout=5)
    lock.release()


def test_ids_are_found_by_their_beginning(tmp_path):
    ledger = Ledger(tmp_path)
    ids = ["aaaa1111", "aaaa2222", "bbbb3333"]
    for index, job in enumerate(ids):
        made = entry(key=str(index))
        made.id = job
        ledger.claim(made, since=0)
    assert ledger.find("bbb").id == "bbbb3333"
    assert ledger.find(None).id == "bbbb3333"
    with pytest.raises(UsageError, match="matches 2 jobs"):
        ledger.find("aaaa")
    with pytest.raises(NotFound, match="did you mean 'bbbb3333'"):
        ledger.find("bbbb3334")


def test_a_ledger_of_a_newer_version_or_a_damaged_one_is_said_so(tmp_path):
    ledger = Ledger(tmp_path)
    ledger.claim(entry(), since=0)
    with sqlite3.connect(ledger.path) as db:
        db.execute("PRAGMA user_version = 9")
    with pytest.raises(StoreError, match="schema 9"):
        Ledger(tmp_path).all()
    for path in ledger.folder.glob("jobs.sqlite-*"):
        path.unlink()
    ledger.path.write_bytes(b"this is no database" * 500)
    with pytest.raises(StoreError, match="cannot be used"):
        Ledger(tmp_path).all()


def test_errors_come_back_of_their_kind_with_the_servers_words():
    answer = {"description": "Replica was evicted while processing your request. Sorry."}
    error = from_record(to_record(job_error("abcdefgh", "http://a", answer, "slow.py")))
    assert isinstance(error, Evicted) and error.retryable and error.hint
    trace = (
        'Traceback (most recent call last):\n  File "[slow:8] slow.py", line 15, in slow\n'
        "    raise ValueError\nValueError: \x1b[31mmeant"
    )
    error = from_record(
        to_record(job_error("abcdefgh", "http://a", {"description": trace}, "slow.py"))
    )
    assert isinstance(error, RecipeFailed) and error.message.startswith("slow.py:15: ValueError")
    assert "Traceback" in error.server_text and "\x1b" not in str(error) + error.server_text
    assert type(from_record({"kind": "Path", "message": "x"})).__name__ == "JobFailed"


def test_a_draft_survives_json_and_a_newer_version():
    draft = Draft(
        {"name": "slow"}, "slow.py", "key", "abcd1234", ["k"], [0], {}, {}, {}, [], [], {}, {}
    )
    assert Draft.from_json({**draft.to_json(), "later": 1}) == draft


@pytest.mark.parametrize(
    ("column", "value", "said"),
    [
        ("created", "yesterday", "jobs.created: is a text, not a number"),
        ("created", 1e300, "jobs.created: 1e+300 is not a time"),
        ("deadline", -1e9, "jobs.deadline: -1e+09 is not a time"),
        ("bytes_up", 1.5, "jobs.bytes_up: is a number that a float can hold, not a whole number"),
        ("model", b"\x00\x01", "jobs.model: is a bytes, not a text"),
        ("state", "odd", "jobs.state: 'odd' is not a state"),
        ("server_id", "a\n", r"jobs.server_id: 'a\n' is not the id of a job"),
        ("id", "../../x", "jobs.id: '../../x' is not the id of a job"),
        ("draft", "{", "jobs.draft: "),
        ("draft", "[]", "jobs.draft: is a list, not an object"),
        ("error", "3", "jobs.error: is a whole number, not an object"),
    ],
)
def test_a_row_that_somebody_altered_is_told_with_its_column(project, cli, column, value, said):
    ledger = Ledger(project)
    job = ledger.claim(entry(), since=0)
    with contextlib.closing(sqlite3.connect(ledger.path)) as db:
        db.execute(f"UPDATE jobs SET {column} = ?", (value,))
        db.commit()
    with pytest.raises(StoreError, match=re.escape(said)):
        Ledger(project).all()
    for words in (("ls",), ("ls", "--json"), ("show",), ("logs",), ("forget", job.id)):
        code, out, err = cli("jobs", *words)
        assert code == 1 and said in err and "move it away" in err and not out, (words, err)
    for words in (("show", job.id[:8]), ("fetch",)):
        code, _, err = cli("jobs", *words)
        assert code in (1, 3) and "bug" not in err, (words, err)


def test_what_a_job_is_called_moves_no_cursor_and_no_address_is_guessed(project, cli):
    ledger = Ledger(project)
    job = ledger.claim(entry(), since=0)
    ledger.note_status(job.id, "RUN\x1b[2J\u202e", "now\x07")
    evil = {"recipe": "r\x1b[2J", "model": "m\u202e", "url": "http://[2J\x1b", "host": "ndif \x9b"}
    ledger.update(job.id, **evil, error={"kind": "x", "message": "e\x1b[2J", "said": 3})
    for words in (("ls",), ("show",), ("logs",), ("show", "--json")):
        code, out, err = cli("jobs", *words)
        assert code == 0 and not ACTING.search(out + err), (words, out)
    code, _, err = cli("jobs", "forget", job.id)
    assert code == 1 and "as the address of job" in err and not ACTING.search(err)


def test_a_schema_that_is_no_text_is_damage_like_any_other(project, cli):
    path = Ledger(project).path
    Ledger(project).claim(entry(), since=0)
    with contextlib.closing(sqlite3.connect(path)) as db:
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    content = path.read_bytes()
    assert content.count(b"CREATE TABLE jobs") == 1
    path.write_bytes(content.replace(b"CREATE TABLE jobs", b"CREATE abcd\x85 jobs"))
    for suffix in ("-wal", "-shm"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)
    code, out, err = cli("jobs", "ls")
    assert code == 1 and "the ledger of remote jobs in" in err and not out, err
