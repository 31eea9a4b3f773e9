"""Studies for tests: where the built-in ones lie, and reading one from a text."""

from __future__ import annotations

from pathlib import Path

import pytest

from remote_mi.common.errors import RemoteMIError
from remote_mi.jobs import studies

ROOT = Path(__file__).resolve().parents[3]
FOLDER = ROOT / "recipes" / "studies"
IOI, FACTS = FOLDER / "ioi_across_techniques.yaml", FOLDER / "facts_small.yaml"
HEAD = "study: s\nphenomena: [{name: ioi:store, n: 2}]\n"
MINE = '''"""Recipes of a test."""

from remote_mi import recipe


@recipe(over="prompts", returns={"size": ()})
def mine(lm, prompts, *, words: list[str] = ["a"]):
    """A recipe of the project."""
'''


def read(folder: Path, text: str) -> studies.Study:
    path = folder / "s.yaml"
    path.write_text(text, encoding="utf-8")
    return studies.read(path, folder)


def refusal(path: Path, project: Path) -> str:
    """What the reading of a file says; it must refuse it as a mistake of the user."""
    with pytest.raises(RemoteMIError) as refused:
        studies.read(path, project)
    assert refused.value.exit_code in (2, 3)
    return str(refused.value)
