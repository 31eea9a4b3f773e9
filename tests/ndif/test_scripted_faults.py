"""Faults of submissions, against a scripted server: how a job gets there once, or not at all.

Each ends in the scripted numbers or in an error that says how to come to them; what is submitted
is counted.
"""

from __future__ import annotations

import threading

import pytest

import remote_mi as mi
from remote_mi.backends.ledger import Ledger
from remote_mi.backends.ndif.backend import NdifBackend
from remote_mi.backends.ndif.hosts import find_host
from remote_mi.common.errors import RemoteMIError
from remote_mi.common.progress import Silent

from . import replies
from .faulty import KEY, PROMPT, RIGHT, VALUES, Faulty, faulty_client
from .proxy import Proxy
from .scripted import (
    LOSE,
    Reply,
    Scripted,
    accept,
    accept_and_lose,
    accept_as,
    as_json,
    redirect,
    slow,
)


@pytest.fixture
def faulty(cli, project, tiny_llama, monkeypatch) -> Faulty:
    return faulty_client(cli, project, tiny_llama, monkeypatch)


def test_nothing_goes_wrong(faulty):
    with Scripted(result=RIGHT) as server:
        assert faulty.run(server.url).values == VALUES
        assert faulty.run(server.url).values == VALUES, "a hit"
        assert server.count("POST") == 1 and faulty.states == ["done"]
        with_key = {seen.path for seen in server.requests if seen.holds(KEY)}
        assert with_key == {"/env", "/request"}


# --- One at a time -----------------------------------------------------------------------------------


def test_nobody_listens_and_nothing_is_written_down(faulty):
    with Scripted() as server:
        pass
    said = faulty.run(server.url)
    assert said.code == 5 and "cannot be reached" in said.err and "doctor" in said.err
    assert faulty.entries == [] and not (faulty.project / "runs").exists()


def test_nobody_listens_any_more_when_the_job_is_sent(faulty):
    with Scripted(result=RIGHT) as server:
        assert faulty.run(server.url, "-p", "scale=2").code == 0  # its packages are known now
        with Proxy(server.url) as proxy:
            faulty.run(proxy.url, "-p", "scale=2")
            proxy.refuse()
            said = faulty.run(proxy.url)
            assert said.code == 5 and "cannot be reached" in said.err
            assert faulty.states[-1] == "failed"
            posted = server.count("POST")
            proxy.accept()
            assert faulty.run(proxy.url).values == VALUES
            assert server.count("POST") == posted + 1


def test_a_lost_reply_is_no_lost_job(faulty):
    with Scripted(post=[accept_and_lose], result=RIGHT) as server:
        assert faulty.run(server.url).values == VALUES
        assert server.count("POST") == 1


@pytest.mark.parametrize("lost", [LOSE, replies.INTERNAL], ids=["no reply", "500"])
def test_a_lost_job_is_submitted_once_more_and_not_silently(faulty, lost):
    with Scripted(post=[lost, accept], result=RIGHT) as server:
        said = faulty.run(server.url)
        assert said.values == VALUES
        assert "counts as not submitted" in said.err and "once more" in said.err
        first, second = faulty.entries
        assert (first.state, second.state) == ("failed", "done")
        assert second.replaces == first.id and server.count("POST") == 2


@pytest.mark.parametrize("lost", [LOSE, replies.INTERNAL], ids=["no reply", "500"])
def test_a_server_that_loses_every_job_gets_two(faulty, lost):
    with Scripted(post=[lost, lost, accept], result=RIGHT) as server:
        said = faulty.run(server.url)
        assert said.code == 5 and "submits it again" in said.err
        assert server.count("POST") == 2 and faulty.states == ["failed", "failed"]
        assert faulty.run(server.url).values == VALUES
        assert server.count("POST") == 3


def test_a_lost_reply_and_then_no_network(faulty):
    """Whether the job arrived is found out when the network is back; until then none is sent."""
    with Scripted(result=RIGHT) as server, Proxy(server.url) as proxy:

        def vanish(server, seen):
            server.add(seen)
            proxy.refuse()
            return Reply(lost=True)

        server.post = [vanish]
        said = faulty.run(proxy.url)
        assert said.code == 5 and "is unknown" in said.err and "asks first" in said.err
        assert faulty.states == ["unknown"]
        again = faulty.run(proxy.url)
        (job,) = faulty.entries
        assert again.code == 5 and f"jobs wait {job.id[:8]}" in again.err, again.err
        waited = faulty.wait()
        assert waited.code == 5 and "jobs wait" in waited.err
        proxy.accept()
        assert faulty.run(proxy.url).values == VALUES
        assert server.count("POST") == 1 and faulty.states == ["done"]


def test_a_lost_reply_and_then_another_server_at_the_address(faulty):
    with Scripted(post=[accept_and_lose], result=RIGHT) as server:
        server.routes = {}
        known = server.answer

        def page_after_post(seen):
            reply = known(seen)
            server.everything = replies.HTML_PAGE if seen.method == "POST" else server.everything
            return reply

        server.answer = page_after_post
        said = faulty.run(server.url)
        assert said.code == 5 and "is unknown" in said.err and faulty.states == ["unknown"]
        server.everything = None
        server.answer = known
        assert faulty.run(server.url).values == VALUES
        assert server.count("POST") == 1


def test_a_server_that_says_503_has_no_job(faulty):
    with Scripted(post=[replies.RECONNECTING, accept], result=RIGHT) as server:
        said = faulty.run(server.url)
        assert said.code == 5 and "reconnecting" in said.err and "few minutes" in said.err
        assert server.count("POST") == 1 and faulty.states == ["failed"]
        assert faulty.run(server.url).values == VALUES


def test_a_server_may_choose_the_id(faulty):
    with Scripted(post=[accept_as("theirs")], result=RIGHT) as server:
        assert faulty.run(server.url).values == VALUES
        assert faulty.entries[0].server_id == "theirs"


@pytest.mark.parametrize("job_id", ["a b\x00c", "x" * 70_000, "../../whoami?a=", ""])
def test_an_id_that_is_none_is_refused(faulty, job_id):
    with Scripted(post=[as_json({"id": job_id, "status": "RECEIVED"})]) as server:
        said = faulty.run(server.url)
        assert said.code == 5 and "does not answer as an NDIF server" in said.err
        assert len(said.err) < 1000


@pytest.mark.parametrize("page", [replies.HTML_PAGE, replies.OTHER_JSON, Reply(404)])
def test_another_web_server_is_told_from_ndif(faulty, page):
    with Scripted(everything=page) as server:
        said = faulty.run(server.url)
        assert said.code == 5 and "does not answer as an NDIF server" in said.err
        assert "ndif:https://host" in said.err
        assert server.count("POST") == 0 and faulty.entries == []


@pytest.mark.parametrize("path", ["/env", "/request"])
def test_the_key_does_not_follow_a_redirect(faulty, path):
    with Scripted() as thief, Scripted(routes={path: [redirect(thief.url)]}) as server:
        said = faulty.run(server.url)
        assert said.code == 5 and "redirects elsewhere" in said.err
        assert thief.requests == []


@pytest.mark.parametrize(
    "refusal, code, words",
    [
        (replies.NO_KEY, 4, "remote-mi login"),
        (replies.UNKNOWN_KEY, 4, "remote-mi login"),
        (replies.malformed_key(KEY), 4, "remote-mi login"),
        (replies.OLD_NNSIGHT, 5, "0.9.0"),
        (replies.OLD_PYTHON, 5, "3.12"),
        (replies.NO_VERSION, 5, "version"),
        (replies.BAD_ENVELOPE, 2, "Field required"),
        (replies.AUTH_DOWN, 5, "few minutes"),
        (Reply(413, b"too large"), 2, "too large"),
    ],
)
def test_what_is_refused_is_said_and_sent_once(faulty, refusal, code, words):
    with Scripted(post=[refusal, accept], result=RIGHT) as server:
        said = faulty.run(server.url)
        assert said.code == code and words in said.err, said.err
        assert faulty.states == ["failed"] and server.count("POST") == 1
        assert KEY not in str(faulty.entries)
        assert faulty.run(server.url).values == VALUES


# --- Several at once ------------------------------------------------------------------------------


def test_the_one_who_waits_for_another_gets_the_same_error(faulty, tiny_llama):
    said: list[str] = []

    def one(url: str) -> None:
        try:
            mi.run(
                "first", model=str(tiny_llama), backend=f"ndif:{url}", prompt=PROMPT, timeout=120
            )
        except RemoteMIError as error:
            said.append(error.message)

    with Scripted(response=["RUNNING"] * 8 + [replies.out_of_memory]) as server:
        threads = [threading.Thread(target=one, args=(server.url,)) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(40)
        assert len(said) == 3 and all("out of memory" in message for message in said), said
        assert server.count("POST") == 1


def test_nobody_takes_a_job_for_lost_while_it_is_being_sent(faulty, monkeypatch):
    """Another process looks right after the job is written down, before it is sent."""
    found = []

    def claim(self, entry, since):
        claimed = original(self, entry, since)
        other = NdifBackend(find_host(entry.url), faulty.project)
        found.append(other.resume(entry.key, Silent()))
        return claimed

    original = Ledger.claim
    monkeypatch.setattr(Ledger, "claim", claim)
    with Scripted(post=[slow(accept, 0.2)], result=RIGHT) as server:
        assert faulty.run(server.url).values == VALUES
        assert found[0] is not None and faulty.states == ["done"]


def test_a_job_that_was_done_meanwhile_is_not_submitted(faulty, monkeypatch):
    """Another process has the result between this one's look and its submission."""
    original = Ledger.claim

    def claim(self, entry, since):
        monkeypatch.setattr(Ledger, "claim", original)
        mi.run("first", model=str(faulty.model), backend=f"ndif:{entry.url}", prompt=PROMPT)
        return original(self, entry, since)

    monkeypatch.setattr(Ledger, "claim", claim)
    with Scripted(result=RIGHT) as server:
        assert faulty.run(server.url).values == VALUES
        assert server.count("POST") == 1 and faulty.states == ["done"]


def test_a_repeat_that_another_process_has_sent_is_shared(faulty, monkeypatch):
    original = Ledger.claim
    claims = []

    def claim(self, entry, since):
        claims.append(entry.id)
        if len(claims) == 2:
            monkeypatch.setattr(Ledger, "claim", original)
            mi.submit("first", model=str(faulty.model), backend=f"ndif:{entry.url}", prompt=PROMPT)
        return original(self, entry, since)

    monkeypatch.setattr(Ledger, "claim", claim)
    with Scripted(post=[LOSE, accept], result=RIGHT) as server:
        assert faulty.run(server.url).values == VALUES
        assert server.count("POST") == 2 and faulty.states == ["failed", "done"]
        assert all(job in {e.id for e in faulty.entries} for job in server.jobs)
