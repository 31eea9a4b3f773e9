"""Faults of results: on their way, in what they hold, and in keeping them; a scripted server.

Each ends in the scripted numbers or in an error that says how to come to them, and nothing that
was sent is executed.
"""

from __future__ import annotations

import resource
import shutil
import time
from pathlib import Path

import pytest
import torch

from remote_mi.backends.ndif import client

from . import replies
from .faulty import BLOB, NUMBERS, RESULT, RIGHT, VALUES, Faulty, faulty_client
from .proxy import Proxy
from .scripted import Reply, Scripted, completed, corrupted, cut, endless, missing, redirect, status


@pytest.fixture
def faulty(cli, project, tiny_llama, monkeypatch) -> Faulty:
    return faulty_client(cli, project, tiny_llama, monkeypatch)


# --- On their way ---------------------------------------------------------------------------------


def test_a_download_that_is_cut_once_heals(faulty):
    with Scripted(response=["COMPLETED"], result=[cut(BLOB), *RIGHT]) as server:
        assert faulty.run(server.url).values == VALUES
        assert server.count("GET", "/result/") == 2 and server.count("POST") == 1


@pytest.mark.parametrize(
    "fault", [cut(BLOB), Reply(503), Reply(lost=True)], ids=["cut", "503", "lost"]
)
def test_a_download_that_never_ends_is_fetched_when_the_network_is_back(faulty, fault):
    with Scripted(response=["COMPLETED"], result=[fault]) as server:
        said = faulty.run(server.url)
        short = faulty.entries[0].id[:8]
        assert said.code == 5 and f"jobs wait {short}" in said.err, said.err
        assert faulty.states == ["submitted"] and not (faulty.project / "runs").exists()
        assert faulty.run(server.url).code == 5
        server.result = RIGHT
        assert faulty.wait().values == VALUES
        assert server.count("POST") == 1


def test_the_network_ends_when_the_result_is_to_be_fetched(faulty):
    with Scripted(result=RIGHT) as server, Proxy(server.url) as proxy:

        def vanish(server, seen):
            proxy.cut_next_download(0.5, times=client.DOWNLOAD_TRIES)
            return completed(server, seen)

        server.response = ["RUNNING", vanish, completed]
        said = faulty.run(proxy.url)
        assert said.code == 5 and "jobs wait" in said.err, said.err
        proxy.refuse()
        assert faulty.wait("--timeout", 0.5).code in (5, 6)
        proxy.accept()
        assert faulty.run(proxy.url).values == VALUES
        assert server.count("POST") == 1


def test_a_download_that_comes_byte_by_byte_is_given_up(faulty, monkeypatch):
    monkeypatch.setattr(client, "STALL_S", 0.05)
    monkeypatch.setattr(client, "SLOWEST_BYTES_S", 100_000)
    with Scripted(response=["COMPLETED"], result=[Reply(body=BLOB, pace=0.1)]) as server:
        said = faulty.run(server.url)
        assert said.code == 5 and "too slowly" in said.err and "jobs wait" in said.err
        server.result = RIGHT
        assert faulty.wait().values == VALUES


@pytest.mark.parametrize("fault", [replies.expired, replies.token_expired, replies.gone])
def test_an_address_that_is_no_longer_good(faulty, fault):
    with Scripted(response=["COMPLETED"], result=[fault, *RIGHT]) as server:
        said = faulty.run(server.url)
        assert said.code == 1 and "no longer has its result" in said.err, said.err
        assert faulty.states == ["expired"]
        waited = faulty.wait()
        assert waited.code == 1 and "remote-mi run first" in waited.err, waited.err
        assert server.count("POST") == 1, "waiting submits nothing"
        again = faulty.run(server.url)
        assert again.values == VALUES and "not fetched" in again.err
        assert server.count("POST") == 2 and faulty.states == ["expired", "done"]


@pytest.mark.parametrize("answer", [None, missing, completed], ids=["long ago", "unknown", "fresh"])
def test_the_machine_was_off_until_the_result_was_gone(faulty, answer):
    """The address is of long ago; or the server has forgotten the job altogether."""
    with Scripted(response=["RUNNING"], result=[replies.expired]) as server:
        assert faulty.run(server.url, "--timeout", 0.2).code == 6
        (job,) = faulty.entries
        old = f"{server.url}/result/{job.id}.pt?X-Amz-Date=20260101T000000Z&X-Amz-Expires=3600"
        server.response = [answer or status("COMPLETED", data=old)]
        if answer is not None:
            faulty.ledger.update(job.id, status="COMPLETED", deadline=time.time() - 60)
        waited = faulty.wait("--timeout", 240)
        assert waited.code == 1 and "remote-mi run first" in waited.err, waited.err
        assert server.count("POST") == 1 and faulty.states == ["expired"]
        server.response, server.result = ["COMPLETED"], RIGHT
        again = faulty.run(server.url)
        assert again.values == VALUES and "submitting the job again" in again.err
        assert faulty.run(server.url).values == VALUES
        assert server.count("POST") == 2 and faulty.states == ["expired", "done"]


def test_the_same_command_finds_that_the_result_was_gone(faulty):
    with Scripted(response=["RUNNING"], result=[replies.expired, *RIGHT]) as server:
        assert faulty.run(server.url, "--timeout", 0.2).code == 6
        (job,) = faulty.entries
        faulty.ledger.update(job.id, status="COMPLETED", deadline=time.time() - 60)
        server.response = ["COMPLETED"]
        again = faulty.run(server.url)
        assert again.values == VALUES and "submitting the job again" in again.err
        assert server.count("POST") == 2 and faulty.states == ["expired", "done"]


def test_a_clock_that_is_wrong_loses_no_result(faulty):
    with Scripted(response=["RUNNING"], result=RIGHT) as server:
        assert faulty.run(server.url, "--timeout", 0.2).code == 6
        (job,) = faulty.entries
        faulty.ledger.update(job.id, status="COMPLETED", deadline=time.time() - 60)
        server.response = ["COMPLETED"]
        assert faulty.run(server.url).values == VALUES
        assert server.count("POST") == 1 and faulty.states == ["done"]


def test_the_result_is_not_looked_for_on_another_server(faulty):
    with (
        Scripted() as thief,
        Scripted(response=["COMPLETED"], result=[redirect(thief.url)]) as server,
    ):
        said = faulty.run(server.url)
        assert said.code in (1, 5) and thief.requests == []


@pytest.mark.parametrize(
    "address",
    [
        None,
        "",
        7,
        "file:///etc/passwd",
        "http://[::1",
        "http://",
        "http://a b/",
        "http://\x00/",
        "http://" + "a" * 300 + "/",
    ],
)
def test_an_address_that_is_none(faulty, address):
    with Scripted(response=[status("COMPLETED", data=address)]) as server:
        said = faulty.run(server.url)
        assert (said.code in (1, 5) and "address" in said.err) or "cannot be fetched" in said.err


# --- In what they hold ----------------------------------------------------------------------------


class Refused:
    """What is sent in place of a result, and what is said of it."""

    def __init__(self, name: str, sent: object, words: str) -> None:
        self.name, self.sent, self.words = name, sent, words


REFUSED = [
    Refused("corrupted", corrupted(BLOB), "refused"),
    Refused("not compressed", Reply(body=replies.saved(RESULT, compress=False)), "refused"),
    Refused("a page", replies.HTML_PAGE, "refused"),
    Refused("empty", Reply(body=b""), "refused"),
    Refused("too long", Reply(body=BLOB, length=1 << 40), "more than the"),
    Refused("endless", endless(), "more than the"),
    Refused("zstd bomb", Reply(body=replies.zstd_bomb()), "unpacks to more than"),
    Refused("zip bomb", Reply(body=replies.zip_bomb(RESULT)), "unpacks to"),
    Refused("no dict", Reply(body=replies.saved([1])), "not a dict"),
    Refused("no outputs", Reply(body=replies.saved({"other": 1})), "outputs of none"),
    Refused("two calls", Reply(body=replies.saved({"outputs": RESULT["outputs"] * 2})), "2 of 1"),
    Refused("no call", Reply(body=replies.saved({"outputs": []})), "0 of 1"),
    Refused("a number", Reply(body=replies.saved({"outputs": [3]})), "int in place of"),
    Refused("missing", Reply(body=replies.saved({"outputs": [{}]})), "did not return 'first'"),
    Refused(
        "one more", Reply(body=replies.saved({"outputs": [{"first": NUMBERS, "x": 1}]})), "'x'"
    ),
    Refused("a text", Reply(body=replies.saved({"outputs": [{"first": "a"}]})), "not an array"),
    Refused("ragged", Reply(body=replies.saved({"outputs": [{"first": [[1], [1, 2]]}]})), "first"),
    Refused("short", Reply(body=replies.saved({"outputs": [{"first": NUMBERS[:5]}]})), "(5,)"),
    Refused("2d", Reply(body=replies.saved({"outputs": [{"first": NUMBERS[None]}]})), "(1, 6)"),
    Refused(
        "double", Reply(body=replies.saved({"outputs": [{"first": NUMBERS.double()}]})), "float64"
    ),
    Refused(
        "half", Reply(body=replies.saved({"outputs": [{"first": NUMBERS.bfloat16()}]})), "first"
    ),
    Refused(
        "sparse", Reply(body=replies.saved({"outputs": [{"first": NUMBERS.to_sparse()}]})), "first"
    ),
    Refused(
        "meta", Reply(body=replies.saved({"outputs": [{"first": NUMBERS.to("meta")}]})), "first"
    ),
]


@pytest.mark.parametrize("case", REFUSED, ids=[case.name for case in REFUSED])
def test_a_result_that_is_not_as_it_should_be_is_refused(faulty, case):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with Scripted(response=["COMPLETED"], result=[case.sent, *RIGHT]) as server:
        said = faulty.run(server.url)
        assert said.code == 1 and case.words in said.err, said.err
        assert "submits the job again" in said.err or "tensors, numbers" in said.err, said.err
        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
        assert grown < 200_000, f"{grown:,} KiB"
        assert faulty.states == ["failed"]
        assert not list((faulty.project / ".remote_mi" / "results").iterdir())
        waited = faulty.wait()
        assert waited.code == 1 and case.words in waited.err
        assert server.count("POST") == 1
        assert faulty.run(server.url).values == VALUES
        assert server.count("POST") == 2


def test_a_result_that_carries_code_is_refused_and_nothing_runs(faulty, tmp_path):
    trap = tmp_path / "created"
    hostile = Reply(body=replies.creates(trap, RESULT))
    with Scripted(response=["COMPLETED"], result=[hostile, *RIGHT]) as server:
        said = faulty.run(server.url)
        assert said.code == 1 and "refused" in said.err and "tensors, numbers" in said.err
        assert not trap.exists() and faulty.states == ["failed"]
        assert faulty.run(server.url).values == VALUES and not trap.exists()


# --- In keeping them ------------------------------------------------------------------------------


def blocked(*folders: Path) -> None:
    """Make these folders files: nothing can be written into them, whoever one is."""
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)
        folder.write_text("")


def test_a_result_that_cannot_be_kept_is_shown_and_kept_later(faulty, cache):
    with Scripted(response=["RUNNING"], result=RIGHT) as server:

        def full(server, seen):
            blocked(cache, faulty.project / "runs")
            return completed(server, seen)

        server.response = ["RUNNING", full]
        said = faulty.run(server.url)
        assert said.code == 1 and "not saved" in said.err, said.err
        assert str(VALUES[3]) in said.out
        assert faulty.states == ["fetched"]
    for path in (cache, faulty.project / "runs"):
        path.unlink()
    assert faulty.wait().values == VALUES, "the server is no longer needed"
    assert faulty.states == ["done"]


def test_a_disk_without_room_for_the_download(faulty):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)

    def full(server, seen):
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, limits[1]))
        return RIGHT[0]

    with Scripted(response=["COMPLETED"], result=[full, *RIGHT]) as server:
        try:
            said = faulty.run(server.url)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        assert said.code == 1 and "jobs wait" in said.err, said.err
        assert faulty.entries[0].is_open
        assert faulty.wait().values == VALUES
        assert server.count("POST") == 1


def test_a_disk_that_is_full_once_the_result_is_there(faulty, cache):
    """Nothing can be written any more, the ledger neither: the result is shown."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    original = torch.load

    def full(*arguments, **options):
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, limits[1]))
        return original(*arguments, **options)

    with Scripted(response=["COMPLETED"], result=RIGHT) as server:
        faulty.monkeypatch.setattr(torch, "load", full)
        try:
            said = faulty.run(server.url)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
            faulty.monkeypatch.setattr(torch, "load", original)
        assert said.code == 1 and "not saved" in said.err, said.err
        assert str(VALUES[3]) in said.out
        assert faulty.entries[0].is_open
        assert faulty.wait().values == VALUES
        assert server.count("POST") == 1


def test_what_cannot_be_written_down_is_not_sent(faulty):
    blocked(faulty.project / ".remote_mi")
    with Scripted(result=RIGHT) as server:
        said = faulty.run(server.url)
        assert said.code == 1 and "not sent" in said.err, said.err
        assert server.count("POST") == 0


def test_parts_that_have_left_the_cache_are_computed_again(faulty, cache):
    """The job had only what was missing; what was there has been removed since."""
    pairs = faulty.project / "prompts.jsonl"
    lines = ['{"prompt": "When Mary and John went to"}', '{"prompt": "When John and Mary went to"}']

    def command(url, count):
        return [a for a in faulty.command(url) if not a.startswith(("-p", "prompt="))] + [
            "--pairs",
            str(pairs),
            "-n",
            str(count),
        ]

    pairs.write_text("\n".join(lines))
    with Scripted(response=["COMPLETED"], result=RIGHT) as server:
        assert faulty.do(*command(server.url, 1)).code == 0
        server.response = ["RUNNING"]
        assert faulty.do(*command(server.url, 2), "--timeout", 0.2).code == 6
        assert faulty.entries[-1].calls == 1
        shutil.rmtree(cache)
        server.response = ["COMPLETED"]
        gone = faulty.wait()
        assert gone.code == 7 and "same command" in gone.err, gone.err
        said = faulty.do(*command(server.url, 2))  # what came back last time is there
        assert said.code == 0, said.err
        assert server.count("POST") == 3 and faulty.entries[-1].calls == 1
