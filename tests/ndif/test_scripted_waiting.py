"""Faults while a submitted job is waited for, against a scripted server.

Each ends in the scripted numbers or in an error that says how to come to them; nothing is submitted
twice unasked.
"""

from __future__ import annotations

import threading
import time
from dataclasses import replace

import pytest

from remote_mi.backends.ndif import waiting
from remote_mi.backends.ndif_server import personal

from . import replies
from .faulty import RIGHT, VALUES, Faulty, faulty_client
from .proxy import Proxy
from .scripted import (
    Reply,
    Scripted,
    completed,
    failed,
    missing,
    redirect,
    slow,
)


@pytest.fixture
def faulty(cli, project, tiny_llama, monkeypatch) -> Faulty:
    return faulty_client(cli, project, tiny_llama, monkeypatch)


def test_an_outage_while_the_job_runs_is_waited_for(faulty):
    with Scripted(result=RIGHT) as server, Proxy(server.url) as proxy:

        def vanish(server, seen):
            threading.Timer(0.6, proxy.accept).start()
            proxy.refuse()
            return Reply(lost=True)

        server.response = ["RUNNING", vanish, completed]
        assert faulty.run(proxy.url).values == VALUES
        assert server.count("POST") == 1


def test_a_long_outage_ends_the_wait_and_not_the_job(faulty, monkeypatch):
    monkeypatch.setattr(waiting, "OUTAGE_LIMIT_S", 0.3)
    with Scripted(result=RIGHT) as server, Proxy(server.url) as proxy:

        def vanish(server, seen):
            proxy.refuse()
            return Reply(lost=True)

        server.response = ["RUNNING", vanish, completed]
        said = faulty.run(proxy.url)
        short = faulty.entries[0].id[:8]
        assert said.code == 5 and f"jobs wait {short}" in said.err, said.err
        assert faulty.collectors, "the collector goes on"
        again = faulty.run(proxy.url)
        assert again.code == 5 and f"jobs wait {short}" in again.err, again.err
        assert faulty.states == ["submitted"]
        proxy.accept()
        assert faulty.wait().values == VALUES
        assert server.count("POST") == 1


def test_a_server_that_takes_the_question_and_never_answers(faulty):
    with Scripted(response=["RUNNING", slow("RUNNING", 30)], result=RIGHT) as server:
        said = faulty.run(server.url, "--timeout", 1)
        assert said.code == 6 and "jobs wait" in said.err, said.err
        assert said.seconds < 25
        server.response = ["COMPLETED"]
        assert faulty.wait().values == VALUES


@pytest.mark.parametrize("status", ["QUEUED", "RUNNING", "SOMETHING NEW"])
def test_a_job_that_stays_as_it_is(faulty, status):
    with Scripted(response=[status], result=RIGHT) as server:
        said = faulty.run(server.url, "--timeout", 0.3)
        short = faulty.entries[0].id[:8]
        assert said.code == 6 and status in said.err and f"jobs wait {short}" in said.err
        assert faulty.wait("--timeout", 0.2).code == 6
        assert faulty.do("jobs", "fetch").code == 6
        server.response = ["COMPLETED"]
        assert faulty.wait().values == VALUES
        assert server.count("POST") == 1


@pytest.mark.parametrize(
    "before", [[], ["QUEUED"], ["RUNNING"]], ids=["never", "queued", "running"]
)
def test_a_job_that_the_server_does_not_know(faulty, monkeypatch, before):
    monkeypatch.setattr(waiting, "UNHEARD_LIMIT_S", 0.4)
    with Scripted(response=[*before, missing], result=RIGHT) as server:
        said = faulty.run(server.url, "--timeout", 240)
        short = faulty.entries[0].id[:8]
        assert said.code == 6 and said.seconds < 20, said.err
        assert f"jobs wait {short}" in said.err and f"jobs forget {short}" in said.err
        server.response = ["COMPLETED"]
        assert faulty.run(server.url).values == VALUES
        assert server.count("POST") == 1


@pytest.mark.parametrize(
    "strange",
    [replies.HTML_PAGE, replies.OTHER_JSON, Reply(403, b"no"), redirect("http://x.invalid")],
)
def test_something_else_answers_while_the_job_runs(faulty, strange):
    with Scripted(response=["RUNNING", strange], result=RIGHT) as server:
        said = faulty.run(server.url)
        short = faulty.entries[0].id[:8]
        assert said.code in (4, 5) and f"jobs wait {short}" in said.err, said.err
        assert faulty.states == ["submitted"] and not (faulty.project / "runs").exists()
        server.response = ["COMPLETED"]
        assert faulty.wait().values == VALUES
        assert server.count("POST") == 1


@pytest.mark.parametrize(
    "answer, code, words",
    [
        (replies.out_of_memory, 1, "GPU 0 lacked 0.88 GiB"),
        (failed(replies.TIMED_OUT), 1, "execution timeout of 60.0s"),
        (failed(replies.EVICTED), 1, "evicted"),
        (failed(replies.CANCELLED), 1, "preempted"),
        (failed(replies.ACTOR_DIED), 1, "same command"),
        (failed(replies.NO_ROOM), 5, "CANT_ACCOMMODATE"),
        (failed(replies.NO_SUCH_MODEL), 5, "models --backend ndif"),
        (failed(replies.NOT_STARTED), 1, "same command"),
        (failed(replies.CRITICAL), 1, "few minutes"),
        (failed(replies.BY_OPERATOR), 1, "operators"),
        (failed(replies.UNREADABLE), 1, "could not be read"),
        (failed(replies.MODULES_DIFFER), 1, "doctor"),
        (failed(""), 1, "no reason given"),
        (failed("\x1b[31mred\x00"), 1, "red"),
    ],
)
def test_a_job_that_failed_says_why_and_is_submitted_again_when_asked(faulty, answer, code, words):
    with Scripted(response=["RUNNING", answer], result=RIGHT) as server:
        said = faulty.run(server.url)
        assert said.code == code and words in said.err, said.err
        assert "\x1b" not in said.err
        (job,) = faulty.entries
        assert job.state == "failed"
        waited = faulty.wait()
        assert waited.code == code and words in waited.err, waited.err
        assert server.count("POST") == 1, "waiting submits nothing"
        shown = faulty.do("jobs", "show")
        assert shown.code == 0 and "ERROR" in shown.out
        server.response = ["COMPLETED"]
        assert faulty.run(server.url).values == VALUES
        assert server.count("POST") == 2


def test_words_without_end_are_cut(faulty):
    with Scripted(response=[failed("word " * 200_000)]) as server:
        said = faulty.run(server.url)
        assert said.code == 1 and len(said.err) < 2000


def test_an_answer_that_comes_byte_by_byte(faulty):
    slowly = Reply(200, b'{"status": "RUNNING", "description": ""}', "application/json", pace=0.4)
    with Scripted(response=["RUNNING", slowly], result=RIGHT) as server:
        said = faulty.run(server.url, "--timeout", 0.5)
        assert said.code == 6 and said.seconds < 5
        server.response = ["COMPLETED"]
        assert faulty.wait().values == VALUES


def test_a_personal_server_that_was_ended_has_no_jobs(faulty, monkeypatch):
    """The next personal server has another address; what ran on the last one is sent again."""
    with Scripted(response=["RUNNING"], result=RIGHT) as old, Scripted(result=RIGHT) as new:
        served = personal.running_server("")

        def run_at(url: str) -> None:
            now = replace(served, url=url, since=time.time())
            monkeypatch.setattr(personal, "require_running", lambda: now)
            monkeypatch.setattr(personal, "running_server", lambda host: now)

        run_at(old.url)
        here = [a if not a.startswith("ndif:") else "ndif:here" for a in faulty.command("")]
        assert faulty.do(*here, "--timeout", 0.3).code == 6
        run_at(new.url)
        said = faulty.do(*here)
        assert said.values == VALUES and "was stopped" in said.err, said.err
        assert (old.count("POST"), new.count("POST")) == (1, 1)
        assert faulty.states == ["failed", "done"]
