"""Claims and comparisons of a study: frozen, evaluated, shown in every medium."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from remote_mi.jobs import studies
from remote_mi.store.studies import StudyRecords
from remote_mi.store.study_comparisons import compared_points
from remote_mi.store.study_results import claim_findings

#: Numbers that depend on the prompt a little, and on the parameter: no model is needed for them.
KNOWN = '''"""Numbers that are known beforehand."""

from __future__ import annotations

from typing import Any

import torch

from remote_mi import Ratio, recipe
from remote_mi.interventions import Pair


@recipe(
    over="pair",
    returns={"map": ("layer", "position"), "score": (), "gap": ()},
    summaries={"share": Ratio("map", gap="gap")},
)
def known(lm: Any, pair: Pair, *, shift: float = 0.0) -> dict[str, Any]:
    """Each layer's number at the last position, with a little of each prompt's own."""
    own = 0.01 * ((sum(pair.clean.ids) % 7) - 3)
    layers = torch.arange(4.0)[:, None] * torch.ones(len(pair.clean.ids))
    layers = layers * (torch.arange(len(pair.clean.ids)) == pair.clean.end)
    return {
        "map": layers + own + shift * (layers == 3),
        "score": torch.tensor(1.0 + shift + own),
        "gap": torch.tensor(2.0 + own),
    }
'''
CLAIMS = [
    {
        "id": "late",
        "says": "The last layer carries it",
        "holds": {
            "recipe": "known",
            "parameters": {"shift": 0},
            "output": "map",
            "at": {"layer": ">=2", "position": "end"},
            "every": "> 1.5",
        },
    },
    {
        "id": "everywhere",
        "says": "Every layer carries it",
        "holds": {"recipe": "known", "output": "map", "at": {"position": "end"}, "every": "> 1.5"},
    },
    {
        "id": "exactly",
        "says": "The score is above one",
        "holds": {"recipe": "known", "output": "score", "value": "> 1"},
    },
    {
        "id": "shifted",
        "says": "The score is higher with the shift",
        "holds": {
            "recipe": "known",
            "parameters": {"shift": [0, 1]},
            "output": "score",
            "value": "> 1.5",
        },
    },
]
COMPARE = [
    {"show": "lines", "output": "map", "x": "layer", "at": {"position": "end"}, "title": "by layer"},
    {"show": "lines", "output": "score", "x": "shift", "title": "by shift"},
    {"show": "table", "output": ["score", "gap"], "title": "all scores"},
    {"show": "agreement", "output": "map", "top": 3, "title": "maps"},
    {
        "show": "differences",
        "output": "score",
        "across": "shift",
        "title": "what the shift does",
    },
]


def study_of(project: Path, model: Path, **more: Any) -> Path:
    (project / "recipes").mkdir(exist_ok=True)
    (project / "recipes" / "known.py").write_text(KNOWN)
    content = {
        "study": "expected",
        "models": [str(model)],
        "phenomena": [{"name": "ioi:store", "n": 8}],
        "recipes": [{"known": {"shift": [0.0, 1.0]}}],
        "claims": CLAIMS,
        "compare": COMPARE,
        **more,
    }
    folder = project / "recipes" / "studies"
    folder.mkdir(exist_ok=True)
    path = folder / "expected.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


@pytest.fixture
def done(project, cli, tiny_llama):
    """A study that has run."""
    study_of(project, tiny_llama)
    code, _, err = cli("study", "run", "expected", "-q")
    assert code == 0, err
    return StudyRecords(project).read("expected")


def test_flow(done, cli):
    code, out, err = cli("study", "show", "expected", "--width", "100")
    print(out, err)
    assert False
