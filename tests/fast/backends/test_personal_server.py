"""The personal server, as far as it can be asked without being started."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import uuid

import pytest

from remote_mi.backends import registry
from remote_mi.backends.errors import Evicted
from remote_mi.backends.ledger import Entry, Ledger
from remote_mi.backends.ndif.hosts import HERE
from remote_mi.backends.ndif.waiting import Waiter
from remote_mi.backends.ndif_server import launch, personal, settings
from remote_mi.backends.ndif_server.processes import started_at
from remote_mi.backends.ndif_server.record import Record
from remote_mi.common.errors import BackendUnavailable, UsageError
from remote_mi.common.progress import Silent
from remote_mi.models.embedded import EMBEDDED

URL = "http://127.0.0.1:24001"


@pytest.fixture
def recorded(cache, tiny_llama):
    """A record of a server whose API is this process: it runs, as far as anyone can see."""
    state = personal.state_folder()
    state.mkdir(parents=True)
    models = {"remote-mi/tiny-llama": str(tiny_llama)}
    record = Record("running", URL, "http://127.0.0.1:24000", {}, [], models, 1)
    record.pids, record.started = {"api": os.getpid()}, {"api": started_at(os.getpid())}
    record.write(state)
    return record


@pytest.mark.parametrize(
    "model, repo_id",
    [
        (EMBEDDED, "remote-mi/smollm2-135m-q4_1"),
        ("EleutherAI/pythia-70m", "EleutherAI/pythia-70m"),
        ("gpt2", "gpt2"),
        ("./tiny", "local/tiny"),
        ("/models/My model (v2)", "local/My-model-v2"),
        ("/models/a--b..c.git", "local/a-b.c"),
        ("/models/-modèle-", "local/mod-le"),
        ("/", "local/model"),
    ],
)
def test_every_model_has_a_repository_id_that_hub_and_server_take(model, repo_id):
    from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

    assert personal.repo_id_of(model) == repo_id
    validate_repo_id(repo_id)


@pytest.mark.parametrize("model", ["a b", "org/model/more", "org--x/model", "org/", "-x", "a/b.."])
def test_what_is_neither_folder_nor_hub_id_is_refused(model):
    with pytest.raises(UsageError, match="neither a folder nor a hub id"):
        personal.repo_id_of(model)


def test_a_server_that_does_not_run_is_said_so(cache, cli):
    assert personal.running_server("here") is None
    assert personal.running_server(URL) is None
    with pytest.raises(BackendUnavailable, match="ndif up"):
        personal.require_running()
    code, out, err = cli("ndif", "status")
    assert (code, out) == (5, "not running\n") and "remote-mi ndif up" in err
    code, out, _ = cli("ndif", "status", "--json")
    found = json.loads(out)
    assert (code, found["schema"], found["running"], found["processes"]) == (5, 1, False, 0)
    assert cli("ndif", "down")[:2] == (0, "nothing to stop\n")
    assert cli("ndif", "logs")[0] == 3
    assert not personal.state_folder().exists(), "asking leaves nothing behind"


def test_a_running_server_is_known_by_its_addresses_and_its_models(recorded, tiny_llama, tmp_path):
    found = personal.require_running()
    assert found.url == URL and not found.auth
    for host in ("here", URL, URL + "/", URL.replace("127.0.0.1", "localhost")):
        assert personal.running_server(host) == found, host
    for host in (
        "https://api.ndif.us",
        "http://127.0.0.1:24002",
        "http://127.0.0.1:x",
        "",
        "there",
    ):
        assert personal.running_server(host) is None, host
    link = tmp_path / "link"
    link.symlink_to(tiny_llama)
    assert personal.served_repo_id(link, found) == "remote-mi/tiny-llama"
    assert personal.served_repo_id(tmp_path, found) is None
    begun = time.perf_counter()
    for _ in range(100):
        personal.running_server(URL)
    assert (time.perf_counter() - begun) / 100 < 0.002


@pytest.mark.parametrize("damage", ["", "{}", "[]", '{"phase": "running"}', "\x00"])
def test_a_damaged_record_is_no_server(recorded, damage):
    (personal.state_folder() / "server.json").write_text(damage)
    assert personal.running_server("here") is None


def test_a_record_whose_process_is_another_one_by_now_is_no_server(recorded):
    recorded.started = {"api": "1"}
    recorded.write(personal.state_folder())
    assert personal.running_server("here") is None


def test_a_server_that_is_starting_is_not_there_yet(recorded, cli):
    recorded.phase = "starting"
    recorded.write(personal.state_folder())
    with pytest.raises(BackendUnavailable, match="still starting"):
        personal.require_running()
    assert cli("ndif", "status")[:2] == (5, "starting\n")


@pytest.mark.parametrize(
    "dead, said",
    [
        ([], "running, but not answering"),
        (["redis"], "running, but redis died"),
        (["api"], "not running: api died"),
        (["redis", "api"], "not running\n"),  # all of them: the machine was restarted
    ],
)
def test_status_names_the_service_that_died(recorded, cli, dead, said):
    recorded.pids |= {"redis": os.getpid()}
    recorded.started |= {"redis": recorded.started["api"]} | dict.fromkeys(dead, "1")
    recorded.write(personal.state_folder())
    code, out, err = cli("ndif", "status")
    assert code == 5 and out.startswith(said), out
    assert ("next: remote-mi ndif up" in err) == bool(dead), err
    found = json.loads(cli("ndif", "status", "--json")[1])
    assert not found["healthy"] and found["running"] == ("api" not in dead)


def test_the_log_of_a_failed_start_is_short_and_plain(tmp_path):
    def failure(text: str) -> str:
        (tmp_path / "logs").mkdir(exist_ok=True)
        (tmp_path / "logs" / "ray.log").write_text(text)
        launcher = launch.Launcher.__new__(launch.Launcher)
        launcher._logs = tmp_path / "logs"
        return str(launcher._failure("ray ended with code 1", "ray"))

    said = failure("\x1b[31mno room\x1b[39m\n\x1b]0;title\x07\n\n" + "line\n" * 3)
    assert "no room\n" in said and "\x1b" not in said and "[31m" not in said
    assert len(failure("line\n" * 500).splitlines()) < 15


def job_here(project, **changes) -> Entry:
    """A job of the personal server, as submitted just now."""
    entry = Entry(str(uuid.uuid4()), "key", HERE.name, URL, "slow", "org/model", 1, {})
    Ledger(project).claim(entry, since=0)
    Ledger(project).update(entry.id, state="submitted", **changes)
    return Ledger(project).get(entry.id)


@pytest.mark.parametrize(
    "server, lost",
    [
        ("the same", False),
        ("none", True),
        ("starting", True),
        ("at another address", True),
        ("started since", True),
    ],
)
def test_a_job_is_lost_with_the_server_that_had_it(recorded, project, server, lost):
    entry = job_here(project)
    recorded.phase = "starting" if server == "starting" else "running"
    recorded.url = URL.replace("24001", "24065") if server == "at another address" else URL
    recorded.since = time.time() + (1 if server == "started since" else -100)
    recorded.write(personal.state_folder())
    if server == "none":
        Record.remove(personal.state_folder())
    backend = registry.backend_of(entry, project)
    assert Waiter(backend.client, backend.ledger, entry, Silent()).is_lost() == lost
    if lost:
        with pytest.raises(Evicted, match="was stopped, and its jobs with it") as caught:
            next(backend.collect(backend.ticket_of(entry), Silent()))
        assert caught.value.hint == "the same command submits it again"
        assert not Ledger(project).get(entry.id).is_open
        job_here(project)
        assert backend.resume("key", Silent()) is None, "the same command submits it anew"


def test_a_job_whose_result_was_fetched_outlives_its_server(cache, project):
    entry = job_here(project, status="COMPLETED")
    Ledger(project).update(entry.id, state="fetched")
    backend = registry.backend_of(entry, project)
    assert backend.is_ready(backend.refresh(Ledger(project).get(entry.id), Silent()))


def test_a_second_server_is_refused_with_where_the_first_one_is(recorded, cli, tiny_llama):
    code, _, err = cli("ndif", "up", "--model", "remote-mi/tiny-llama")
    assert code == 2 and URL in err and "--backend ndif:here" in err
    code, _, err = cli("ndif", "up", "--model", tiny_llama)
    assert code == 2 and URL in err
    assert f"`remote-mi ndif down` first: it does not serve local/{tiny_llama.name}" in err


def test_what_is_missing_is_said_before_anything_is_fetched(cache, cli, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(settings, "_MORE_PROGRAMS", ())
    code, out, err = cli("ndif", "up")
    assert code == 5 and "redis-server is missing" in err and "apt-get install" in err
    assert out == "" and not cache.exists()


@pytest.fixture
def any_redis(monkeypatch):
    monkeypatch.setattr(
        "remote_mi.backends.ndif_server.server.redis_server", lambda: "redis-server"
    )


@pytest.mark.parametrize(
    "models, code, said",
    [
        (["./nowhere"], 2, "there is no folder"),
        (["."], 2, "no config.json"),
        (["a b"], 2, "neither a folder nor a hub id"),
        (["smollm2-135m"], 3, "did you mean 'smollm2-135m-q4_1'"),
        (["./one/same", "./two/same"], 2, "would both be served as local/same"),
    ],
)
def test_a_model_that_cannot_be_served_gets_one_clear_message(
    project, any_redis, cli, models, code, said
):
    found, out, err = cli("ndif", "up", *(part for model in models for part in ("--model", model)))
    assert found == code and said in err, err
    assert err.count("error:") == 1 and "Traceback" not in err and out == ""
    assert not (personal.state_folder() / "server.json").exists()


def test_a_hub_that_cannot_be_reached_is_said_so(project, any_redis, process):
    if not settings.shutil.which("redis-server"):
        pytest.skip("redis-server is not installed, and its absence is reported first")
    done = process(
        "ndif",
        "up",
        "--model",
        "org/model",
        HF_ENDPOINT="http://127.0.0.1:9",
        HF_HOME=str(project / "hf"),
    )
    assert done.returncode == 5, done.stderr
    assert "org/model could not be fetched" in done.stderr and "Traceback" not in done.stderr


def test_help_and_lookup_are_quick_and_import_no_machine_learning(cache):
    script = (
        "import sys, time\nbegun = time.perf_counter()\n"
        "from remote_mi.backends.ndif_server.personal import running_server\nrunning_server('here')\n"
        "from remote_mi.cli.main import run_command\n"
        "assert run_command(['ndif', 'up', '--help']) == 0\n"
        "seconds = time.perf_counter() - begun\n"
        "heavy = {'torch', 'transformers', 'nnsight', 'huggingface_hub'} & set(sys.modules)\n"
        "assert not heavy, heavy\nassert seconds < 2, seconds\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=240, check=False
    )
    assert done.returncode == 0, done.stderr
