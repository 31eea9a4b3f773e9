"""A recipe checked with `--backend`: the server's numbers are held against this machine's."""

from __future__ import annotations

import json

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
#: Of pairs with a control, of prompts, and with an analysis.
RECIPES = ["activation_patching", "logit_lens", "linear_probe"]


def test_a_server_gives_the_numbers_of_this_machine(client):
    checked = client(CHECK, TINY_LLAMA, json.dumps(RECIPES), timeout=580)
    for recipe in RECIPES:
        assert checked[recipe]["passed"], checked[recipe]
        assert checked[recipe]["properties"]["place"]["state"] == "holds"
        assert checked[recipe]["properties"]["place"]["findings"][0]["model"] == TINY_LLAMA
