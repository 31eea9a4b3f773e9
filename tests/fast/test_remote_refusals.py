"""What comes back from a server is never executed, and the key does not leave in the open.

No genuine server can be made to send these bytes, so they are made here.
"""

from __future__ import annotations

import io
import os
import pickle

import pytest
import torch
import zstandard

from remote_mi.backends import ndif
from remote_mi.errors import AuthenticationError, BackendUnavailable, RunFailed
from remote_mi.models.spec import ModelSpec


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
    with pytest.raises(RunFailed, match="refused"):
        ndif._load(content)
    assert not (tmp_path / "executed").exists()


def test_an_oversized_result_is_refused_before_it_fills_the_memory(monkeypatch):
    monkeypatch.setattr(ndif, "RESULT_LIMIT_BYTES", 1000)
    with pytest.raises(RunFailed, match="larger than"):
        ndif._load(zstandard.compress(bytes(10_000_000)))


def test_a_good_result_is_taken():
    loaded = ndif._load(blob({"outputs": [{"x": torch.arange(3.0), "n": 1, "t": "a"}]}))
    assert loaded["outputs"][0]["x"].tolist() == [0, 1, 2]


def test_the_key_is_not_sent_over_plain_http_beyond_this_machine(monkeypatch):
    from nnsight.schema.config import CONFIG

    monkeypatch.setattr(CONFIG.API, "APIKEY", "a-key")
    with pytest.raises(AuthenticationError, match="plain http"):
        ndif.NdifBackend("http://example.invalid")._headers()
    assert ndif.NdifBackend("https://example.invalid")._headers() == {"ndif-api-key": "a-key"}
    assert ndif.NdifBackend("http://127.0.0.1:1")._headers() == {"ndif-api-key": "a-key"}


def test_a_server_that_is_not_there_is_said_to_be_unreachable(cache):
    from remote_mi.progress import Silent

    with pytest.raises(BackendUnavailable, match="cannot be reached"):
        ndif.NdifBackend("http://127.0.0.1:9").open(ModelSpec("a/b"), Silent())
