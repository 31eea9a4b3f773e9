"""The examples of docs/ndif.md that need a server, on a genuine one."""

from __future__ import annotations

import subprocess

from ..fast.test_docs import ROOT, blocks
from ..warm import python
from .conftest import TINY_LLAMA, slow_job

PAGE = ROOT / "docs" / "ndif.md"


def examples(language: str) -> list[str]:
    found = [b.text for b in blocks(PAGE) if b.kind == "server" and b.language == language]
    assert found, f"{PAGE.name} has no example in {language} for a server"
    return found


def test_the_python_examples_work(terminal):
    for example in examples("python"):
        done = subprocess.run(
            [*python(), "-c", example.replace("org/model", TINY_LLAMA)],
            capture_output=True,
            text=True,
            timeout=360,
            cwd=terminal.project,
            env=terminal.environment,
        )
        assert done.returncode == 0, done.stderr


def test_the_commands_for_jobs_work(terminal):
    job = terminal.run(*slow_job("--seconds", 0, "--detach")).stdout.strip()
    for line in "".join(examples("sh")).splitlines():
        arguments = line.replace("3ffcef4f", job[:8]).split()[1:]
        done = terminal.run(*arguments)
        assert done.returncode == 0, f"{line}\n{done.stderr}"
