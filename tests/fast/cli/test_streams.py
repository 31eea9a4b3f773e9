"""Streams that are closed or full, encodings that lack characters, a working folder that is gone."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest


def _shell(command: str, **environment: str) -> subprocess.CompletedProcess[bytes]:
    python = shlex.quote(sys.executable)
    return subprocess.run(
        ["sh", "-c", command.replace("MI", f"{python} -m remote_mi")],
        capture_output=True,
        env={**os.environ, **environment},
        timeout=240,
    )


@pytest.mark.parametrize(
    ("command", "to", "reason"),
    [
        ("MI recipes ls --json", "/dev/full", "No space left on device"),
        ("MI view demo --plain", "/dev/full", "No space left on device"),
        ("MI --version", "&-", "it is closed"),
        ("MI view demo --plain", "&-", "it is closed"),
    ],
)
def test_output_that_cannot_be_written_is_an_error_of_the_machine(
    project: Path, command: str, to: str, reason: str
):
    done = _shell(f"{command} >{to}")
    said = [line for line in done.stderr.decode().splitlines() if line.startswith("error")]
    assert (done.returncode, said) == (
        1,
        [f"error: the output cannot be written to stdout: {reason}"],
    )


@pytest.mark.parametrize("command", ["recipes ls", "recipes ls --json", "view demo --plain", "-h"])
def test_a_reader_that_has_gone_is_no_error(project: Path, command: str):
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [sys.executable, "-m", "remote_mi", *command.split()],
        stdout=writing,
        stderr=subprocess.PIPE,
        timeout=240,
    )
    os.close(writing)
    assert done.returncode == 0 and b"error" not in done.stderr, done.stderr


@pytest.mark.parametrize("to", ["2>/dev/full", "2>&- <&-"])
def test_messages_that_cannot_be_written_change_nothing(project: Path, to: str):
    done = _shell(f"MI runs ls --json {to}")
    assert (done.returncode, json.loads(done.stdout)["runs"]) == (0, [])


@pytest.fixture(scope="module")
def whole() -> str:
    """A run's figures as a terminal with UTF-8 shows them."""
    return _shell("MI view demo --plain", PYTHONIOENCODING="utf-8").stdout.decode()


@pytest.mark.parametrize(
    ("environment", "encoding"),
    [
        ({"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}, "ascii"),
        ({"PYTHONIOENCODING": "latin-1"}, "latin-1"),
        ({"PYTHONIOENCODING": "cp1252:strict"}, "cp1252"),
    ],
)
def test_what_an_encoding_lacks_is_replaced_at_the_same_width(
    project: Path, whole: str, environment: dict[str, str], encoding: str
):
    done = _shell("MI view demo --plain", **environment)
    shown = done.stdout.decode(encoding)
    assert done.returncode == 0
    assert [len(line) for line in shown.splitlines()] == [len(line) for line in whole.splitlines()]
    assert "?" not in shown


def test_a_table_on_stdout_is_utf_8_as_in_a_file(project: Path):
    from remote_mi.report.viewer.demo import demo_run

    done = _shell(f"MI export {demo_run()} --table recovery", PYTHONIOENCODING="ascii")
    assert "0,␠and,2,0.0" in done.stdout.decode()


def test_a_deleted_working_folder_is_said(tmp_path: Path, cache: Path):
    gone = tmp_path / "gone"
    gone.mkdir()
    command = (
        f"cd {shlex.quote(str(gone))}; rmdir ../gone; MI runs ls; echo $?; MI view demo --plain"
    )
    done = _shell(command, REMOTE_MI_PROJECT="")
    assert done.stderr.decode().splitlines()[0] == "error: the working folder no longer exists"
    assert done.stdout.startswith(b"3\n") and b"recovery" in done.stdout


def test_errors_of_the_system_are_no_bugs(cli, project: Path):
    (project / ".remote_mi").symlink_to(".remote_mi")  # a loop
    (project / "remote-mi.yaml").mkdir()
    code, _, said = cli("config", "show")
    assert code in (1, 2) and "bug" not in said, said
