"""Recipes: cards without importing, the same card from a live function, mistakes located."""

from __future__ import annotations

import os
import sys
import textwrap
from typing import Annotated, Literal, get_args

import pytest

from remote_mi import Heatmap
from remote_mi.common.errors import FormerVersion, NotFound, UsageError
from remote_mi.common.paths import builtin_folder
from remote_mi.recipes import catalog, loading
from remote_mi.recipes.card import Evidence
from remote_mi.recipes.card_source import cards_in
from remote_mi.recipes.code_identity import code_digest
from remote_mi.recipes.declaration import card_of, recipe
from remote_mi.recipes.outputs import Ratio, Tokens
from remote_mi.recipes.parameters import Param, Range
from remote_mi.report.document import method

GOOD = '''
from __future__ import annotations
from typing import Annotated, Literal
import torch
from remote_mi import Heatmap, Range, recipe
from remote_mi.interventions import run

SCALE = 2.0

def helper(x):
    """Doubles."""
    return x * SCALE  # a comment

@recipe(over="prompt", returns={"norm": ("layer", "position")}, figures=[Heatmap("norm")])
def norms(lm, prompt, *, k: Annotated[int, Range(1, 3)] = 1, way: Literal["a", "b"] = "a"):
    """Norms of the stream.

    Args:
        k: how many.
        way: which way.
    """
    stream = [s[0] for s in run(lm, prompt, "resid_post").values]
    return {"norm": helper(torch.stack([s.norm(dim=-1) for s in stream[1:]]))}
'''


def write(folder, name="norms.py", text=GOOD):
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    path.write_text(textwrap.dedent(text))
    return path


def test_the_built_in_recipes_have_complete_cards(tmp_path):
    cards = {c.name: c for c in catalog.all_cards(tmp_path)}
    assert {"logit_lens", "activation_patching", "head_patching"} <= set(cards)
    for card in cards.values():
        assert card.origin == "built-in"
        assert card.figures and card.references and len(card.doc) > 300
        assert all(p.help for p in card.parameters)
        assert card.evidence in get_args(Evidence)
        assert len(method.not_shown(card.doc)) > 100, f"{card.name} says nothing of its limits"
        known = (builtin_folder() / "references.bib").read_text()
        assert all(f"{{{key}," in known for key in card.references)


def test_a_card_read_from_source_equals_the_one_of_the_imported_function(tmp_path):
    for card in catalog.all_cards(tmp_path):
        live = card_of(loading.load_function(card, tmp_path))
        assert live.to_json() == card.to_json()
        assert live.parameters == card.parameters


def test_a_recipe_of_the_project_is_found_by_name_and_by_file(tmp_path):
    path = write(tmp_path / "recipes")
    card = catalog.find("norms", tmp_path)
    assert (card.origin, card.path) == ("project", path)
    assert catalog.find(str(path), tmp_path).name == "norms"
    assert catalog.find(f"{path}:norms", tmp_path).name == "norms"
    assert card.parameters[0].help == "how many."


def test_an_unknown_recipe_suggests_the_nearest(tmp_path):
    with pytest.raises(NotFound, match="'logit_lens'"):
        catalog.find("logitlens", tmp_path)


def test_two_recipes_of_one_name_are_refused(tmp_path):
    write(tmp_path / "recipes")
    write(tmp_path / "recipes", "other.py")
    with pytest.raises(UsageError, match="two recipes are named 'norms'"):
        catalog.find("norms", tmp_path)


@pytest.mark.parametrize(
    "text, said",
    [
        ("def f(:\n", r"bad\.py:1: syntax error"),
        ("x = 1\n", "defines no recipe"),
        (GOOD.replace('over="prompt"', 'over="word"'), "'word' is not one of"),
        (
            GOOD.replace('("layer", "position")}', '("layer",)}').replace(
                'Heatmap("norm")', 'Heatmap("x")'
            ),
            "shows 'x'",
        ),
        (GOOD.replace('{"norm": ("layer", "position")}', "{}"), "declares no outputs"),
        (
            GOOD.replace("k: Annotated[int, Range(1, 3)] = 1", "k: dict = None"),
            "'k': its type must be",
        ),
        (
            GOOD.replace("k: Annotated", "prompt: Annotated"),
            "duplicate argument|name as a prompt input",
        ),
        (GOOD.replace("*, k", "k"), "not keyword-only"),
        (
            GOOD.replace('figures=[Heatmap("norm")]', "figures=list(map(Heatmap, ['norm']))"),
            "without importing",
        ),
        (GOOD.replace('figures=[Heatmap("norm")]', 'needs=["magic"]'), "needs 'magic'"),
    ],
)
def test_a_mistake_in_a_recipe_file_is_located(tmp_path, text, said):
    path = write(tmp_path, "bad.py", text)
    with pytest.raises(UsageError, match=said) as refused:
        catalog.find(str(path), tmp_path)
    assert "bad.py" in str(refused.value)


@pytest.mark.parametrize(
    "line",
    [
        "from remote_mi.interventions import Prompt, run_residuals",
        "from remote_mi.interventions.metrics import answer_logits",
        "from remote_mi.interventions.sites import skip_unembedding",
    ],
)
def test_a_recipe_made_of_an_earlier_kit_says_so(tmp_path, line):
    path = write(tmp_path, "old.py", f"{line}\n{GOOD.replace('from __future__', '# from', 1)}")
    with pytest.raises(FormerVersion, match=r"old\.py:1: written for an earlier version .* kit"):
        catalog.find(str(path), tmp_path)


def test_a_recipe_of_an_earlier_version_says_so(tmp_path):
    text = GOOD.replace(
        "from remote_mi import Heatmap, Range, recipe",
        "from remote_mi.recipe import Range, recipe\nfrom remote_mi.figures import Heatmap",
    )
    assert "remote_mi.figures" in text
    path = write(tmp_path, "old.py", text)
    with pytest.raises(
        FormerVersion, match=r"old\.py:\d+: written for an earlier version"
    ) as refused:
        catalog.find(str(path), tmp_path)
    assert "from remote_mi import" in refused.value.hint


def test_a_broken_file_does_not_hide_the_other_recipes(tmp_path):
    write(tmp_path / "recipes", "bad.py", "def f(:\n")
    assert catalog.find("logit_lens", tmp_path).name == "logit_lens"


def test_reading_a_card_runs_nothing_of_the_file(tmp_path):
    path = write(tmp_path, text=GOOD + "\nraise SystemExit('imported')\n")
    assert cards_in(path)[0].name == "norms"


@pytest.mark.parametrize(
    "param, value, expected",
    [
        (Param("k", "int", low=1, high=3), "2", 2),
        (Param("k", "ints"), "1,2", [1, 2]),
        (Param("k", "float"), "1e-2", 0.01),
        (Param("k", "bool"), "yes", True),
        (Param("k", "choice", choices=("a", "b")), "b", "b"),
    ],
)
def test_parameters_take_texts_and_values(param, value, expected):
    assert param.parse(value) == expected
    assert param.parse(expected) == expected


@pytest.mark.parametrize(
    "param, value",
    [
        (Param("k", "int"), "two"),
        (Param("k", "int"), 1.5),
        (Param("k", "int"), True),
        (Param("k", "int", low=1), 0),
        (Param("k", "float", high=1), 2),
        (Param("k", "float"), "nan"),
        (Param("k", "bool"), "perhaps"),
        (Param("k", "choice", choices=("a",)), "A"),
        (Param("k", "ints", low=0), "1,-1"),
        (Param("k", "str"), 3),
    ],
)
def test_a_wrong_parameter_says_what_is_expected(param, value):
    with pytest.raises(UsageError, match=r"parameter 'k': .* is not "):
        param.parse(value)


# -- the digest of a recipe's code ---------------------------------------------------------------


def changed(tmp_path, text, name="norms.py", companion=None):
    path = write(tmp_path, name, text)
    if companion is not None:
        write(tmp_path, "mylib.py", companion)
    return code_digest(path, "norms", tmp_path)


@pytest.mark.parametrize(
    "old, new",
    [
        ("  # a comment", "  # another comment"),
        ('"""Doubles."""', '"""Twice."""'),
        ("how many.", "the number."),
        ('figures=[Heatmap("norm")]', 'figures=[Heatmap("norm", center=0)]'),
        ("return x * SCALE", "return (x  *  SCALE)"),
        ("SCALE = 2.0", "SCALE = 2.0\nUNUSED = 3"),
    ],
)
def test_what_does_not_change_the_meaning_does_not_change_the_digest(tmp_path, old, new):
    assert old in GOOD
    assert changed(tmp_path, GOOD) == changed(tmp_path, GOOD.replace(old, new))


@pytest.mark.parametrize(
    "old, new",
    [
        ("x * SCALE", "x + SCALE"),
        ("SCALE = 2.0", "SCALE = 3.0"),
        ("stream[1:]", "stream[:-1]"),
        ("] = 1, way", "] = 2, way"),
    ],
)
def test_what_changes_the_meaning_changes_the_digest(tmp_path, old, new):
    assert old in GOOD
    assert changed(tmp_path, GOOD) != changed(tmp_path, GOOD.replace(old, new))


@pytest.mark.parametrize(
    "form", ["from mylib import helper", "import mylib", "import mylib as lib"]
)
def test_a_local_module_is_part_of_the_digest(tmp_path, form):
    call = {
        "from mylib import helper": "helper",
        "import mylib": "mylib.helper",
        "import mylib as lib": "lib.helper",
    }[form]
    text = GOOD.replace(
        'def helper(x):\n    """Doubles."""\n    return x * SCALE  # a comment\n', ""
    )
    text = text.replace("import torch", f"import torch\n{form}").replace(
        "helper(torch", f"{call}(torch"
    )
    library = "FACTOR = 2\ndef helper(x):\n    return x * FACTOR\ndef other():\n    return 1\n"
    first = changed(tmp_path, text, companion=library)
    assert first == changed(tmp_path, text, companion=library.replace("return 1", "return 2"))
    assert first == changed(tmp_path, text, companion="# a comment\n" + library)
    assert first != changed(tmp_path, text, companion=library.replace("= 2", "= 3"))


def test_the_kit_is_part_of_the_digest_symbol_by_symbol(tmp_path):
    from remote_mi.recipes.code_identity import Closure

    path = write(tmp_path)
    closure = Closure([tmp_path])
    closure.visit(closure.module(path, "recipe"), "norms")
    reached = set(closure.parts)
    assert "remote_mi.interventions.forward:run" in reached
    assert not any("sweeps" in name for name in reached)


def test_a_live_function_has_a_card_and_refuses_what_cannot_be_keyed(tmp_path):
    from remote_mi.recipes.live_code import live_code_digest

    @recipe(
        over="pair",
        returns={"effect": ("layer",), "gap": (), "top": Tokens("layer")},
        summaries={"share": Ratio("effect", "gap")},
        figures=[Heatmap("effect")],
    )
    def mine(lm, pair, *, size: Annotated[int, Range(1, 4)] = 2, way: Literal["x", "y"] = "x"):
        """Mine."""
        return {}

    card = card_of(mine)
    assert [p.name for p in card.parameters] == ["size", "way"]
    assert len(live_code_digest(mine, tmp_path)) == 64


@pytest.mark.parametrize(
    "head, call",
    [
        ("from mylib import *", "helper"),
        ("import pkg.deep", "pkg.deep.helper"),
        ("import pkg.deep\nimport pkg", "pkg.deep.helper"),
        ("try:\n    from mylib import helper\nexcept ImportError:\n    pass", "helper"),
    ],
)
def test_every_form_of_import_is_followed(tmp_path, head, call):
    (tmp_path / "pkg").mkdir()
    (tmp_path / "pkg" / "__init__.py").write_text("")
    text = GOOD.replace(
        'def helper(x):\n    """Doubles."""\n    return x * SCALE  # a comment\n', ""
    )
    text = text.replace("import torch\n", f"import torch\n{head}\n")
    text = text.replace("helper(torch", f"{call}(torch")
    library = "def helper(x):\n    return x * 2\n"

    def digest_with(content):
        (tmp_path / "pkg" / "deep.py").write_text(content)
        return changed(tmp_path, text, companion=content)

    assert digest_with(library) != digest_with(library.replace("2", "3"))


def test_an_import_inside_the_function_is_followed(tmp_path):
    text = GOOD.replace("    stream =", "    from mylib import helper\n    stream =")
    first = changed(tmp_path, text, companion="def helper(x):\n    return x\n")
    assert first != changed(tmp_path, text, companion="def helper(x):\n    return -x\n")


def test_a_tensor_that_a_live_recipe_reads_is_refused(tmp_path):
    import torch

    from remote_mi.recipes.live_code import live_code_digest

    scope = {"VECTOR": torch.zeros(2), "recipe": recipe, "__name__": "__main__"}
    source = "@recipe(over='prompt', returns={'x': ()})\ndef mine(lm, prompt):\n    return {'x': VECTOR}\n"
    import linecache

    linecache.cache["<cell>"] = (len(source), None, source.splitlines(keepends=True), "<cell>")
    exec(compile(source, "<cell>", "exec"), scope)
    with pytest.raises(UsageError, match=r"'VECTOR' \(Tensor\)"):
        live_code_digest(scope["mine"], tmp_path)


def test_an_edit_of_the_same_second_and_size_runs_as_edited(tmp_path, monkeypatch):
    """Which is all that Python looks at before it takes kept bytecode for a file's own."""
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    path = tmp_path / "quick.py"
    text = (
        "from __future__ import annotations\nfrom remote_mi import recipe\n\n"
        '@recipe(over="prompt", returns={"x": ()})\ndef quick(lm, prompt):\n    """Q."""\n'
        '    return {"x": 1}\n'
    )
    found = []
    for number in (1, 2, 3):
        path.write_text(text.replace("1}", f"{number}}}"))
        os.utime(path, (1_700_000_000, 1_700_000_000))
        card = catalog.find(str(path), tmp_path)
        found.append(loading.load_function(card, tmp_path)(None, None)["x"])
    assert found == [1, 2, 3]
