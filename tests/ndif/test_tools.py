"""The tools that make faults, themselves: a scripted server and a proxy. Nothing genuine runs."""

from __future__ import annotations

import io
import json
import pickle
import threading
import time
import zipfile
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
import zstandard

from . import replies
from .proxy import Proxy
from .scripted import (
    LOSE,
    Reply,
    Scripted,
    accept,
    accept_and_lose,
    accept_as,
    completed,
    corrupted,
    cut,
    endless,
    missing,
    redirect,
    slow,
)
from .surgery import SLOW

#: One for all: each client of its own would read the certificates anew.
web = httpx.Client(timeout=5, trust_env=False, verify=False)
KEY = "11111111-1111-1111-1111-111111111111"
RESULT = {"outputs": [{"effect": torch.arange(6.0).reshape(2, 3)}]}


def submit(url: str, job_id: str = "job-1", **more: Any) -> httpx.Response:
    envelope = {"id": job_id, "model_key": "m", "session_id": "", "compress": True, "env": {}}
    return web.post(
        f"{url}/request",
        data={"data": json.dumps(envelope)},
        files={"blob": ("request", b"\r\n--blob\r\n\0\r\n", "application/octet-stream")},
        headers={"ndif-api-key": KEY},
        **more,
    )


def statuses(url: str, times: int, job_id: str = "job-1") -> list[str]:
    return [web.get(f"{url}/response/{job_id}").json().get("status", "") for _ in range(times)]


def result_of(url: str, job_id: str = "job-1") -> str:
    return web.get(f"{url}/response/{job_id}").json()["data"]


def load(content: bytes) -> Any:
    plain = zstandard.ZstdDecompressor().stream_reader(io.BytesIO(content)).read()
    return torch.load(io.BytesIO(plain), weights_only=True)


def test_a_job_goes_its_way_and_every_request_is_written_down():
    with Scripted(result=[Reply(body=replies.saved(RESULT))]) as server:
        assert submit(server.url).json()["status"] == "RECEIVED"
        assert statuses(server.url, 4) == ["QUEUED", "RUNNING", "COMPLETED", "COMPLETED"]
        content = web.get(result_of(server.url)).content
        assert torch.equal(load(content)["outputs"][0]["effect"], RESULT["outputs"][0]["effect"])
        assert web.get(f"{server.url}/response/other").status_code == 404
        (post,) = server.seen("POST", "/request")
        assert post.envelope == server.jobs["job-1"]
        assert post.blob == b"\r\n--blob\r\n\0\r\n"
        assert post.headers["ndif-api-key"] == KEY and post.holds(KEY) and post.size > 200
        assert server.count("GET", "/response/job-1") == 5
        assert not any(seen.holds(KEY) for seen in server.seen("GET"))
    with pytest.raises(httpx.ConnectError):
        web.get(f"{server.url}/ping")


def test_the_paths_beside_jobs_answer_as_ndif_does():
    with Scripted(routes={"/status": [replies.NO_STATUS, replies.STATUS_LATE]}) as server:
        assert web.get(f"{server.url}/ping").json() == "pong"
        assert web.get(f"{server.url}/env").json()["packages"]["nnsight"]
        assert web.get(f"{server.url}/whoami").json() == {"email": None, "tags": []}
        codes = [web.get(f"{server.url}/status").status_code for _ in range(3)]
        assert codes == [503, 504, 504]
        assert web.get(f"{server.url}/absent").json() == {"detail": "Not Found"}


def test_a_reply_can_be_lost_with_the_job_known_or_not():
    with Scripted(post=[LOSE, accept_and_lose, accept]) as server:
        for job_id, known in (("a", 404), ("b", 200)):
            with pytest.raises(httpx.RemoteProtocolError):
                submit(server.url, job_id)
            assert web.get(f"{server.url}/response/{job_id}").status_code == known
        assert submit(server.url, "c").status_code == 200
        assert server.count("POST") == 3


def test_refusals_come_as_scripted_and_then_end():
    script = [
        replies.RECONNECTING,
        replies.INTERNAL,
        replies.UNKNOWN_KEY,
        replies.malformed_key("x"),
        replies.BAD_ENVELOPE,
        accept_as("theirs"),
    ]
    with Scripted(post=script) as server:
        answers = [submit(server.url) for _ in range(6)]
        assert [a.status_code for a in answers] == [503, 500, 403, 400, 422, 200]
        assert answers[4].json()["detail"][0]["loc"] == ["model_key"]
        assert answers[5].json()["id"] == "theirs"
        assert statuses(server.url, 1, "theirs") == ["QUEUED"]


def test_statuses_can_fail_be_absent_or_go_on_for_ever():
    script = [missing, missing, "RUNNING", replies.out_of_memory]
    with Scripted(response=script) as server, Scripted(response=["RUNNING"]) as stuck:
        for each in (server, stuck):
            submit(each.url)
        assert statuses(server.url, 4) == ["", "", "RUNNING", "ERROR"]
        said = web.get(f"{server.url}/response/job-1").json()
        assert said["meta"]["alloc_shortfall_by_gpu"] == {"0": 944892805}
        assert "CUDA out of memory" in said["description"]
        assert set(statuses(stuck.url, 9)) == {"RUNNING"}


def test_downloads_can_be_expired_gone_cut_corrupted_late_or_endless():
    blob = replies.saved(RESULT)
    script = [
        replies.expired,
        replies.gone,
        cut(blob),
        corrupted(blob),
        slow(Reply(body=blob), 0.2),
        endless(said=1 << 50),
    ]
    with Scripted(response=[completed], result=script) as server:
        submit(server.url)
        url = result_of(server.url)
        assert "<Message>Request has expired</Message>" in web.get(url).text
        assert "<Code>NoSuchKey</Code>" in web.get(url).text
        with pytest.raises(httpx.RemoteProtocolError, match=f"expected {len(blob)}"):
            web.get(url)
        spoilt = web.get(url).content
        assert len(spoilt) == len(blob) and spoilt != blob
        begun = time.monotonic()
        assert web.get(url).content == blob and time.monotonic() - begun >= 0.2
        with web.stream("GET", url) as reply:
            assert reply.headers["content-length"] == str(1 << 50)
            assert len(next(reply.iter_raw(1 << 20))) == 1 << 20
        assert web.get(f"{server.url}/ping").status_code == 200


def test_a_server_can_be_another_one_or_send_elsewhere():
    with Scripted(everything=replies.HTML_PAGE) as page, Scripted() as thief:
        with Scripted(post=[redirect(thief.url)]) as server:
            assert web.get(f"{page.url}/env").text.startswith("<!doctype html>")
            assert submit(server.url).headers["location"] == f"{thief.url}/request"
            submit(server.url, follow_redirects=True)
            assert thief.count("POST", "/request") == 1


def test_results_that_are_not_as_they_should_be(tmp_path: Path):
    trap = tmp_path / "created"
    hostile = replies.creates(trap, RESULT)
    with pytest.raises(pickle.UnpicklingError):
        load(hostile)
    assert not trap.exists(), "it is harmless to whoever does not execute it"
    bomb = replies.zstd_bomb(1 << 30)
    assert len(bomb) < 1 << 20
    reader = zstandard.ZstdDecompressor().stream_reader(io.BytesIO(bomb))
    assert len(reader.read(1 << 24)) == 1 << 24
    archive = zstandard.ZstdDecompressor().stream_reader(
        io.BytesIO(replies.zip_bomb(RESULT, 16 << 20))
    )
    entries = zipfile.ZipFile(io.BytesIO(archive.read())).infolist()
    assert sum(e.file_size for e in entries) > 16 << 20 > 50 * sum(e.compress_size for e in entries)


def test_the_proxy_forwards_and_downloads_pass_through_it():
    blob = replies.saved(RESULT)
    with Scripted(response=[completed], result=[Reply(body=blob)]) as server:
        with Proxy(server.url) as proxy:
            assert submit(proxy.url).status_code == 200
            url = result_of(proxy.url)
            assert url.startswith(f"{proxy.url}/elsewhere/127.0.0.1:")
            assert web.get(url).content == blob
            (download,) = server.seen("GET", "/result/")
            assert download.headers["host"] == server.url.removeprefix("http://")
            proxy.cut_next_download(at=0.25)
            with pytest.raises(httpx.RemoteProtocolError, match=f"expected {len(blob)}"):
                web.get(url)
            assert web.get(url).content == blob
            assert (proxy.downloads, proxy.struck["download"]) == (3, 1)


def test_the_proxy_loses_requests_and_replies():
    with Scripted() as server, Proxy(server.url) as proxy:
        proxy.drop_next_request("POST", "/request")
        proxy.drop_next_reply("POST", "/request")
        for arrived in (0, 1):
            with pytest.raises(httpx.RemoteProtocolError):
                submit(proxy.url)
            assert server.count("POST", "/request") == arrived
        assert submit(proxy.url).status_code == 200
        proxy.delay_next("GET", "/ping", 0.2)
        begun = time.monotonic()
        assert web.get(f"{proxy.url}/ping").json() == "pong"
        assert time.monotonic() - begun >= 0.2
        assert proxy.count("POST") == 3


def test_the_proxy_refuses_accepts_again_and_pauses():
    with Scripted(response=[slow("RUNNING", 5)]) as server, Proxy(server.url) as proxy:
        proxy.refuse()
        with pytest.raises(httpx.ConnectError):
            web.get(f"{proxy.url}/ping")
        proxy.accept()
        assert web.get(f"{proxy.url}/ping").status_code == 200
        proxy.pause()
        with pytest.raises(httpx.ReadTimeout):
            web.get(f"{proxy.url}/ping", timeout=0.2)
        proxy.resume()
        submit(proxy.url)
        threading.Timer(0.2, proxy.refuse).start()
        with pytest.raises(httpx.RemoteProtocolError):  # what is under way is cut
            web.get(f"{proxy.url}/response/job-1", timeout=4)


def test_the_proxy_ends_the_connection_when_nobody_is_behind_it():
    with Scripted() as server:
        pass
    with Proxy(server.url) as proxy, pytest.raises(httpx.RemoteProtocolError):
        web.get(f"{proxy.url}/ping")


def test_the_slow_recipe_is_a_recipe(tmp_path: Path):
    from remote_mi.recipes import catalog

    (tmp_path / "recipes").mkdir()
    text = SLOW.format(seconds=2.0, ran=str(tmp_path / "ran"))
    (tmp_path / "recipes" / "slow.py").write_text(text)
    card = catalog.find("slow", tmp_path)
    assert card.resolve({})["seconds"] == 2.0
    assert card.returns["norm"].dims == ("layer", "position")
