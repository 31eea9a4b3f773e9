"""A recipe checked with `--backend`: the server's numbers are held against this machine's."""

from __future__ import annotations

import json

import pytest

from .conftest import TINY_LLAMA

CHECK = """
import contextlib, io, json, sys
import remote_mi as mi
from remote_mi.jobs.recipe_check import check
check.FAMILIES, check.ENCODERS = ("llama",), ()
found = {}
for recipe in json.loads(sys.argv[2]):
    with contextlib.redirect_stdout(io.StringIO()):
        checked = mi.check_recipe(recipe, model=sys.argv[1], backend="ndif")
    found[recipe] = checked.to_json()
print(json.dumps(found))
"""
#: Of pairs with a control, of prompts, with an analysis, and with a part that only a server adds.
RECIPES = ["activation_patching", "logit_lens", "linear_probe", "elsewhere.py"]
ELSEWHERE = '''"""Another number wherever this file is not."""

from __future__ import annotations

import os
from typing import Any

import torch

from remote_mi import recipe
from remote_mi.interventions import run


@recipe(over="prompt", returns={"stream": ("layer",)})
def elsewhere(lm: Any, prompt: Any) -> dict[str, Any]:
    """The length of the stream after each layer, and a little more on a server."""
    lengths = torch.stack([x[0, -1].norm() for x in run(lm, prompt, "resid_post").values])
    return {"stream": lengths * (1.01 if not os.path.exists(FILE) else 1.0)}
'''


@pytest.fixture
def checked(client, project):
    """What each check found, in one client."""
    path = project / "elsewhere.py"
    path.write_text(ELSEWHERE.replace("FILE", repr(str(path))))
    return client(CHECK, TINY_LLAMA, json.dumps(RECIPES), timeout=580)


def test_a_server_gives_the_numbers_of_this_machine_or_it_is_said_which_differ(checked, project):
    print(json.dumps(checked, indent=1))
    for recipe in RECIPES[:3]:
        assert checked[recipe]["passed"], checked[recipe]
        assert checked[recipe]["properties"]["place"]["state"] == "holds"
        assert checked[recipe]["properties"]["place"]["findings"][0]["model"] == TINY_LLAMA
