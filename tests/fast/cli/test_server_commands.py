"""`login`, `doctor` and `models --backend`, as far as they go without a genuine server."""

from __future__ import annotations

import io
import json
import os
import pty
import select
import socket
import stat
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.metadata import version

import pytest
import yaml

from remote_mi.backends.ndif import checks as of_servers
from remote_mi.backends.ndif.hosts import api_key, find_host
from remote_mi.common.deadline import run_with_deadline
from remote_mi.common.errors import BackendUnavailable, UsageError

from .test_commands import assert_torch_free

KEY = "0f1e2d3c-4b5a-6978-8796-a5b4c3d2e1f0"
OTHER = "11111111-2222-3333-4444-555555555555"
NOBODY = "ndif:http://127.0.0.1:9"
#: Of a server that is well: what is installed here, whichever versions those are.
VERSIONS = {name: version(name) for name in ("nnsight", "transformers", "torch")} | {
    "ndif": "0.1.2"
}


@pytest.fixture(autouse=True)
def settings(project, monkeypatch):
    """nnsight's settings are a file of the test's own, and no key is set."""
    path = project.parent / "nnsight" / "config.yaml"
    monkeypatch.setenv("NNSIGHT_CONFIG", str(path))
    monkeypatch.delenv("NDIF_HOST", raising=False)
    set_key(monkeypatch, None)
    return path


def set_key(monkeypatch, key):
    if key is None:
        monkeypatch.delenv("NDIF_API_KEY", raising=False)
    else:
        monkeypatch.setenv("NDIF_API_KEY", key)
    if "nnsight" in sys.modules:  # read when it was imported, by another test
        from nnsight.schema.config import CONFIG

        monkeypatch.setattr(CONFIG.API, "APIKEY", key)


@pytest.fixture
def answering():
    """Start a server of this machine that answers paths with what is given: (status, JSON)."""
    servers = []

    def start(answers):
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                status, content = answers.get(self.path, (404, {"detail": "Not Found"}))
                body = json.dumps(content).encode()
                self.send_response(status)
                self.send_header("content-type", "application/json")
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_):
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        servers.append(server)
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        return f"ndif:http://127.0.0.1:{server.server_port}"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def ndif(**changed):
    """What a server without key checks answers."""
    answers = {
        "/ping": (200, "pong"),
        "/whoami": (200, {"email": None, "tags": []}),
        "/status": (200, {"deployments": {}}),
        "/env": (200, {"python_version": sys.version, "packages": VERSIONS}),
    }
    return {**answers, **{f"/{name}": answer for name, answer in changed.items()}}


def typed(monkeypatch, text):
    monkeypatch.setattr(sys, "stdin", io.StringIO(text))


# --- the key --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "key",
    [
        "",
        "\n",
        "secret-of-mine",
        KEY[:-1],
        KEY + "0",
        KEY.replace("-", ""),
        f"{KEY} {KEY}",
        "g" + KEY[1:],
        "ключ-" + KEY,
        "\x1b[2J" + KEY,
        "x" * 10_000,
    ],
)
def test_what_is_no_key_is_refused_and_not_repeated(settings, cli, monkeypatch, key):
    typed(monkeypatch, key)
    code, out, err = cli("login", "--key-stdin", "--backend", NOBODY)
    assert code == 2 and out == "" and err.count("error:") == 1, err
    assert len(key) < 2 or key not in err
    assert KEY[:13] not in err and not settings.exists()


@pytest.mark.parametrize(
    "words", [[KEY], ["--key", KEY], [f"--key={KEY}"], ["--key-stdin", KEY], [f"--key-stdin={KEY}"]]
)
def test_the_key_is_no_argument(settings, cli, monkeypatch, words):
    typed(monkeypatch, KEY)
    code, out, err = cli("login", *words)
    assert code == 2 and KEY not in out + err and not settings.exists()


def test_the_key_is_kept_where_nnsight_looks_and_the_rest_stays(settings, cli, monkeypatch):
    settings.parent.mkdir()
    target = settings.with_name("elsewhere.yaml")
    before = {"API": {"HOST": "https://ndif.example", "APIKEY": OTHER}, "APP": {"DEBUG": True}}
    target.write_text(yaml.safe_dump(before))
    target.chmod(0o644)
    settings.symlink_to(target)
    typed(monkeypatch, f"  {KEY}\n")
    code, out, err = cli("login", "--backend", NOBODY)
    assert code == 0, err
    assert out == f"{settings}\n" and "could not be asked" in err
    assert KEY not in out + err
    before["API"]["APIKEY"] = KEY
    assert yaml.safe_load(target.read_text()) == before and settings.is_symlink()
    assert stat.S_IMODE(target.stat().st_mode) == 0o600
    assert sorted(p.name for p in settings.parent.iterdir()) == ["config.yaml", "elsewhere.yaml"]


@pytest.mark.parametrize("content", ["API: [", "- a list", "API: words", b"\xff\xfe"])
def test_settings_that_cannot_be_read_are_not_overwritten(settings, cli, monkeypatch, content):
    settings.parent.mkdir()
    content = content if isinstance(content, bytes) else content.encode()
    settings.write_bytes(content)
    typed(monkeypatch, KEY)
    code, _, err = cli("login", "--backend", NOBODY)
    assert code == 2 and str(settings) in err and KEY not in err
    assert settings.read_bytes() == content


def test_settings_that_cannot_be_written_are_said(settings, cli, monkeypatch):
    monkeypatch.setenv("NNSIGHT_CONFIG", "/proc/nowhere/config.yaml")
    typed(monkeypatch, KEY)
    code, out, err = cli("login", "--backend", NOBODY)
    assert code == 5 and "cannot be written" in err and KEY not in out + err


def test_a_server_without_keys_and_a_key_in_the_environment_are_said(
    settings, cli, monkeypatch, answering
):
    typed(monkeypatch, KEY)
    set_key(monkeypatch, OTHER)
    code, out, err = cli("login", "--backend", answering(ndif()))
    assert code == 0, err
    assert "checks no keys" in err and "NDIF_API_KEY is set" in err
    assert KEY not in out + err and OTHER not in out + err
    assert yaml.safe_load(settings.read_text()) == {"API": {"APIKEY": KEY}}


def test_what_is_no_ndif_server_is_not_told_a_key_for_good(settings, cli, monkeypatch, answering):
    typed(monkeypatch, KEY)
    code, _, err = cli("login", "--backend", answering({}))
    assert code == 5 and "does not answer as an NDIF server" in err and not settings.exists()
    typed(monkeypatch, KEY)
    code, _, err = cli("login", "--backend", "ndif:http://ndif.example")
    assert code == 4 and "plain http" in err and not settings.exists()


def test_on_a_terminal_the_key_is_asked_for_and_not_shown(settings):
    child, terminal = pty.fork()
    if child == 0:
        os.execv(sys.executable, [sys.executable, "-m", "remote_mi", "login", "--backend", NOBODY])
    shown = b""
    deadline = time.monotonic() + 240
    while time.monotonic() < deadline:
        if not select.select([terminal], [], [], 1)[0]:
            continue
        try:
            found = os.read(terminal, 4096)
        except OSError:  # its end, on Linux
            break
        if not found:
            break
        if b"NDIF key" not in shown and b"NDIF key" in shown + found:
            os.write(terminal, KEY.encode() + b"\n")
        shown += found
    os.close(terminal)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0, shown
    assert KEY.encode() not in shown and b"saved" in shown
    assert yaml.safe_load(settings.read_text())["API"]["APIKEY"] == KEY


def test_a_key_with_a_space_at_its_end_is_sent_without(monkeypatch, settings):
    set_key(monkeypatch, f" {KEY}\n")
    assert api_key() == KEY
    assert find_host("http://127.0.0.1:9").key_headers() == {"ndif-api-key": KEY}


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:x", "http://[::1", "http://xn--", "http://", "http://me:pw@host:x"]
)
def test_what_no_request_could_name_is_no_address(url):
    with pytest.raises(UsageError, match="not the address") as caught:
        find_host(url)
    assert "pw" not in str(caught.value)


# --- is everything right --------------------------------------------------------------------------


def checks(cli, *words):
    """The exit code and the checks by name; what was printed is a document of the schema."""
    code, out, err = cli("doctor", "--json", *words)
    found = json.loads(out)
    assert found["schema"] == 1 and found["exit_code"] == code, err
    for check in found["checks"]:
        assert set(check) - {"exit_code"} == {"name", "state", "found", "advice"}
        assert check["state"] in ("ok", "note", "problem")
        assert ("exit_code" in check) == (check["state"] == "problem")
    return code, {check["name"]: check for check in found["checks"]}


def test_doctor_on_a_server_that_is_well(cli, answering):
    code, found = checks(cli, "--backend", answering(ndif()))
    assert code == 0
    assert found["server"]["state"] == "ok" and "ms" in found["server"]["found"]
    assert "none needed" in found["key"]["found"]
    assert found["compute backend"]["found"] == "up, 0 models deployed"
    for name in ("Python there", "nnsight there", "transformers there", "ndif there"):
        assert found[name]["state"] == "ok", found[name]
    for name in ("Python", "packages", "cache", "project"):
        assert found[name]["state"] == "ok", found[name]
    assert found["embedded model"]["state"] == "note"


def test_doctor_says_what_another_version_there_means(cli, answering):
    versions = {**VERSIONS, "transformers": "4.50.0", "ndif": "0.2.0"}
    env = (200, {"python_version": "3.99.1 (main)", "packages": versions})
    code, found = checks(cli, "--backend", answering(ndif(env=env)))
    assert code == 0
    for name in ("transformers there", "ndif there", "Python there"):
        assert found[name]["state"] == "note" and found[name]["advice"], found[name]
    assert found["Python there"]["found"].startswith("3.99.1 (here ")


def test_doctor_looks_on_where_one_check_fails(cli, answering, monkeypatch):
    monkeypatch.setenv("REMOTE_MI_CACHE", "/proc/nowhere")
    down = (503, {"detail": "compute backend is \x1b[31mreconnecting"})
    code, out, err = cli("doctor", "--backend", answering(ndif(status=down, env=down)))
    assert code == 1, "that of the first problem"
    assert "\x1b" not in out and "reconnecting" in out
    assert "2 problems: cache, compute backend" in err
    assert max(map(len, out.splitlines())) <= 80


def test_doctor_on_a_server_whose_compute_backend_is_down(cli, answering):
    down = (503, {"detail": "compute backend is reconnecting"})
    code, found = checks(cli, "--backend", answering(ndif(status=down, env=down)))
    assert code == 5 and found["compute backend"]["exit_code"] == 5
    assert found["key"]["state"] == "ok" and "nnsight there" not in found


@pytest.mark.parametrize("answer", [(200, "pang"), (404, {}), (302, {})])
def test_doctor_on_what_is_no_ndif_server(cli, answering, answer):
    code, found = checks(cli, "--backend", answering(ndif(ping=answer)))
    assert code == 5 and found["server"]["state"] == "problem"


def test_doctor_where_nobody_listens_or_nobody_answers(cli, monkeypatch):
    code, found = checks(cli, "--backend", NOBODY)
    assert code == 5 and "cannot be reached" in found["server"]["found"]
    assert found["key"]["state"] == "note"
    monkeypatch.setattr(of_servers, "QUICK_S", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        begun = time.monotonic()
        backend = f"ndif:http://127.0.0.1:{silent.getsockname()[1]}"
        code, found = checks(cli, "--backend", backend)
        assert code == 5 and "no answer within" in found["server"]["found"]
        assert time.monotonic() - begun < 5


def test_doctor_without_a_personal_server(cli):
    code, found = checks(cli, "--backend", "ndif:here")
    assert code == 5 and "server" not in found
    assert found["personal server"]["state"] == "problem" and found["personal server"]["advice"]


@pytest.mark.parametrize("key", ["secret-of-mine", "it's 'quoted'", KEY + "0", "sécret"])
def test_doctor_does_not_send_or_show_what_is_no_key(cli, monkeypatch, answering, key):
    set_key(monkeypatch, key)
    code, out, err = cli("doctor", "--json", "--backend", answering(ndif()))
    assert code == 4 and key not in out + err
    code, out, err = cli("doctor", "--backend", "ndif:http://ndif.invalid")
    assert code in (4, 5) and key not in out + err and "plain http" in out


def test_doctor_refuses_what_is_no_server_and_names_a_bad_setting(cli, monkeypatch):
    for backend in ("local", "nidf", "ndif:ftp://x", "ndif:http://127.0.0.1:x"):
        assert cli("doctor", "--backend", backend)[0] == 2
    monkeypatch.setenv("NDIF_HOST", "no address")
    code, found = checks(cli)
    assert code == 1 and "not the address" in found["server"]["found"]


def test_doctor_looks_at_a_model(cli, answering, tiny_llama, project):
    backend = answering(ndif())
    _, found = checks(cli, "--backend", backend, "--model", tiny_llama)
    assert "not a hub id" in found["architecture"]["found"]
    assert "hub token" not in found and "deployed there" not in found


def test_work_is_waited_for_no_longer_than_said():
    assert run_with_deadline(5, lambda: 3) == 3
    with pytest.raises(ZeroDivisionError):
        run_with_deadline(5, lambda: 1 // 0)
    with pytest.raises(BackendUnavailable, match=r"within 0\.05 seconds"):
        run_with_deadline(0.05, lambda: time.sleep(1))


# --- what is deployed -----------------------------------------------------------------------------


def deployed(repo_id, replica="a", revision=None, **more):
    key = json.dumps({"repo_id": repo_id, "revision": revision, "task": "text-generation"})
    return {
        f"{replica}:{repo_id}": {
            "model_key": f"nnsight.modeling.transformers.TransformersModel:{key}",
            "repo_id": repo_id,
            "revision": revision,
            "deployment_level": "HOT",
            "application_state": "RUNNING",
            "dtype": "bfloat16",
            "execution_timeout_seconds": 3600,
            "n_params": 70_553_706_496,
            "size_bytes": 141_107_412_992,
            "schedule": {"end_time": "2030-11-22 20:53:51.101455+00:00"},
            **more,
        }
    }


def test_models_of_a_server(cli, answering):
    warm = deployed("org/warm", deployment_level="WARM", dtype=None, size_bytes=float("nan"))
    del warm["a:org/warm"]["application_state"]
    listed = {
        **deployed("org/Llama-3.1-405B-Instruct-of-a-long-name"),
        **warm,
        **deployed("org/b", "x", "v2"),
        **deployed("org/b", "y", "v2", application_state="DEPLOYING"),
        **deployed("[bold]\x1b[2J\u202e" + "x" * 300, dtype="[red]" * 50),
    }
    backend = answering(ndif(status=(200, {"deployments": listed})))
    code, out, err = cli("models", "--backend", backend)
    assert code == 0, err
    assert max(map(len, out.splitlines())) <= 80, out
    assert "\x1b" not in out + err and "\u202e" not in out + err and "[bold]" in out
    assert "org/b@v2" in out and "70.6B" in out and "141GB" in out and "3600 s" in out
    assert "22 Nov" in out or "23 Nov" in out
    code, out, _ = cli("models", "ls", "--backend", backend, "--json")
    document = json.loads(out)
    assert code == 0 and document["schema"] == 1 and document["url"] == backend[5:]
    found = {item["repo_id"]: item for item in document["models"]}
    assert found["org/b"]["replicas"] == 2 and found["org/b"]["state"] == "RUNNING"
    assert found["org/b"]["ends"] == pytest.approx(1921611231.1, abs=1)
    assert found["org/warm"]["level"] == "WARM" and found["org/warm"]["size_bytes"] is None


def test_models_of_a_server_that_has_none_or_is_none(cli, answering):
    code, out, err = cli("models", "ls", "--backend", answering(ndif()))
    assert (code, out) == (0, "") and "no model" in err and "next: remote-mi run" in err
    for backend, expected, said in (
        (NOBODY, 5, "cannot be reached"),
        ("ndif:here", 5, "remote-mi ndif up"),
        ("nidf", 2, "did you mean 'ndif'"),
        (answering({}), 5, "NDIF"),
        (answering(ndif(status=(200, []))), 5, "NDIF"),
    ):
        code, out, err = cli("models", "--backend", backend)
        assert (code, out) == (expected, "") and said in err, err
    assert cli("models", "--backend", "ndif", "fetch")[0] == 2
    assert cli("models")[:2] == cli("models", "ls")[:2]


@pytest.mark.parametrize("command", [["doctor"], ["models", "ls"], ["login", "--key-stdin"]])
def test_the_commands_do_not_import_torch(answering, command, monkeypatch):
    if command[0] == "login":
        command = ["login", "--help"]
    assert_torch_free([*command, "--backend", answering(ndif())])
