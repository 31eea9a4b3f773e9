"""What comes back from a server is never executed, and the key does not leave in the open.

No genuine server can be made to send these bytes, so they are made here.
"""

from __future__ import annotations

import io
import os
import pickle
import zipfile

import pytest
import torch
import zstandard

from remote_mi.backends.errors import ResultRefused, ServerDown
from remote_mi.backends.ndif.backend import NdifBackend
from remote_mi.backends.ndif.errors import KeyRefused
from remote_mi.backends.ndif.hosts import Host, find_host
from remote_mi.backends.ndif.results import load, max_result_bytes
from remote_mi.common.errors import UsageError
from remote_mi.common.progress import Silent
from remote_mi.models.spec import ModelSpec

LIMIT = 1 << 20


def blob(value) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return zstandard.compress(buffer.getvalue())


class Hostile:
    def __reduce__(self):
        return (os.system, ("touch executed",))


@pytest.mark.parametrize(
    "content",
    [
        blob({"outputs": [Hostile()]}),
        zstandard.compress(pickle.dumps(Hostile())),
        blob({"outputs": [torch.zeros(3)]})[:-20],
        b"not zstd at all",
        b"",
        blob([1, 2]),
    ],
    ids=["code", "plain pickle", "cut", "garbage", "empty", "no dict"],
)
def test_a_bad_result_is_refused_and_nothing_of_it_runs(tmp_path, monkeypatch, content):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ResultRefused, match="refused"):
        load(content, True, LIMIT)
    assert not (tmp_path / "executed").exists()


def test_an_oversized_result_is_refused_before_it_fills_the_memory():
    with pytest.raises(ResultRefused, match="unpacks to more than"):
        load(zstandard.compress(bytes(10_000_000)), True, LIMIT)


def test_an_archive_that_unpacks_to_more_than_it_has_is_refused():
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data/0", bytes(10_000_000))
    assert len(buffer.getvalue()) < 20_000
    with pytest.raises(ResultRefused, match="10,000,0"):
        load(buffer.getvalue(), False, LIMIT)


def test_the_limit_follows_what_is_expected():
    expected = [{"effect": [[30, 14], "float32"]}]
    assert 30 * 14 * 4 < max_result_bytes(expected) < 2 << 20
    assert max_result_bytes(None) > 1 << 30


def test_a_good_result_is_taken():
    content = blob({"outputs": [{"x": torch.arange(3.0), "n": 1, "t": "a"}]})
    assert load(content, True, LIMIT)["outputs"][0]["x"].tolist() == [0, 1, 2]


def host(url: str) -> Host:
    return Host(url, f"ndif {url}")


def test_the_key_is_not_sent_over_plain_http_beyond_this_machine(monkeypatch):
    from nnsight.schema.config import CONFIG

    monkeypatch.setattr(CONFIG.API, "APIKEY", "a-key")
    with pytest.raises(KeyRefused, match="plain http") as caught:
        host("http://example.invalid").key_headers()
    assert "a-key" not in str(caught.value)
    assert host("https://example.invalid").key_headers() == {"ndif-api-key": "a-key"}
    assert host("http://127.0.0.1:1").key_headers() == {"ndif-api-key": "a-key"}


@pytest.mark.parametrize("url", ["ftp://x", "api.ndif.us", "", "http://", "https://me:pw@host"])
def test_what_is_no_address_is_refused(url, monkeypatch):
    monkeypatch.setenv("NDIF_HOST", url or "nothing")
    with pytest.raises(UsageError, match="address") as caught:
        find_host(url or None)
    assert "pw" not in str(caught.value)


def test_a_server_that_is_not_there_is_said_to_be_unreachable(cache, project):
    with pytest.raises(ServerDown, match="cannot be reached"):
        NdifBackend(host("http://127.0.0.1:9"), project).open(ModelSpec("a/b"), Silent())
