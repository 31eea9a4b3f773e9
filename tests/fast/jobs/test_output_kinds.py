"""Outputs that are no numbers, from the recipe's body to every screen; and outputs that name others."""

from __future__ import annotations

import csv
import io
import json
import shutil
import unicodedata
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import remote_mi as mi
from remote_mi import Bars, Json, Table, Text, Texts, Tokens
from remote_mi.backends.base import check_outputs
from remote_mi.backends.errors import ResultRefused
from remote_mi.backends.ndif.results import LIMIT_BYTES, load, max_result_bytes, read_outputs
from remote_mi.common.errors import NotFound, RunFailed, UsageError
from remote_mi.interventions import Prompt
from remote_mi.interventions.session import settled
from remote_mi.jobs.keep import clusters_of
from remote_mi.models.spec import ModelSpec
from remote_mi.recipes.card_source import cards_in
from remote_mi.recipes.loading import load_function
from remote_mi.recipes.output_kinds import KINDS
from remote_mi.recipes.outputs import Output
from remote_mi.report.document.html import figure_html
from remote_mi.report.viewer.app import Viewer
from remote_mi.report.wording import Slice
from remote_mi.store.comparison import compare
from remote_mi.store.result import Result

from ..report.pages import Page
from ..report.viewing import driven, whole

#: What no screen may obey: escape codes, markup, directions, wide and unpaired characters, length.
HOSTILE = [
    "",
    "\x1b[31mred\x1b[0m\x1b]52;c;AAAA\x07",
    "[bold]markup[/bold][/] <script>alert(1)</script>",
    "\u202egnp.evil\u202c z\u200b\u200d",
    "漢字のトークン",
    "a\r\nb\t\x00\x9b2J",
    "\ud800",
    "=cmd|' /C calc'!A0",
    "x" * 100_000,
]
RECIPE = '''
import torch
from remote_mi import Bars, Json, Table, Text, Texts, Tokens, recipe

NAMES = {names!r}


@recipe(
    over="OVER",
    returns={{
        "note": Texts(),
        "facts": Json(),
        "each": Texts("feature"),
        "deep": Json("layer", "feature"),
        "feature_name": Texts("feature"),
        "effect": ("layer", "feature"),
        "score": (),
        "token": Tokens("rank"),
    }},
    labels={{"feature": "feature_name"}},
    figures=[
        Text("note"), Text("each"), Text("facts"), Text("deep"),
        Table("score", columns=("note", "facts", "token")),
        Bars("effect"),
    ],
)
def noting(lm, prompt, *, scale: float = 1.0, word: str = "seen"):
    """Says what it saw."""
    size = len(prompt.ids)
    effect = torch.arange(2.0 * len(NAMES)).reshape(2, -1) * scale
    return {{
        "note": f"{{word}} {{size}} tokens",
        "facts": {{"size": size, "list": [1, None, True, "é"], "tensor": torch.tensor([1.5])}},
        "each": list(NAMES),
        "deep": [[{{"l": l, "n": n[:9]}} for n in NAMES] for l in range(2)],
        "feature_name": list(NAMES),
        "effect": effect,
        "score": float(size) * scale,
        "token": torch.tensor([3, -1]),
    }}
'''
PROMPT = "When Mary and John went to the store"
TWO = [{"prompt": PROMPT}, {"prompt": "Mary and John"}]
PLAIN = ["red", "green", "blue"]


def recipe_file(project: Path, names: list[str]) -> str:
    path = project / "noting.py"
    path.write_text(RECIPE.replace("OVER", "prompt").format(names=names), encoding="utf-8")
    return str(path)


@pytest.fixture
def plain(project: Path, tiny_llama: Path) -> Result:
    """A run with outputs of every kind."""
    return mi.run(recipe_file(project, PLAIN), model=tiny_llama, prompt=PROMPT)


@pytest.mark.parametrize("value", [*HOSTILE, "NUL \0 and a byte ÿ"])
def test_a_text_is_kept_as_it_was(value):
    kind = KINDS["text"]
    assert kind.unpack(kind.pack(value, ())).item() == value
    several = kind.pack([[value, "b"], ["", value]], ("layer", "feature"))
    assert several.dtype == np.uint8 and kind.unpack(several).tolist() == [
        [value, "b"],
        ["", value],
    ]


@pytest.mark.parametrize(
    "value", [None, 0, 1.5, "ÿ", [], {}, {"b": [1, {"a": None}], "a": "\x1b"}, [[], [1, [2]]]]
)
def test_a_json_value_is_kept_as_it_was(value):
    kind = KINDS["json"]
    assert kind.unpack(kind.pack(value, ())).item() == value
    assert kind.unpack(kind.pack([value, value], ("layer",))).tolist() == [value, value]


@pytest.mark.parametrize("shape", [(0,), (0, 3), (2, 0)])
def test_no_texts_have_the_shape_that_they_would_have(shape):
    values = np.empty(shape, object).tolist()
    packed = KINDS["text"].pack(values, ("layer", "feature")[: len(shape)])
    assert KINDS["text"].unpack(packed).shape == (shape if shape[0] else (0,) * len(shape))


@pytest.mark.parametrize(
    ("output", "value", "said"),
    [
        (Texts(), 3, "'x' is declared as text and holds int"),
        (Texts(), ["a"], "holds list"),
        (Texts("layer"), "ab", "a list was expected for 'layer'"),
        (Texts("layer", "head"), [["a"], ["b", "c"]], "different lengths in its dimension 'head'"),
        (Json(), float("nan"), "is not JSON"),
        (Json(), {"a": {1, 2}}, "set is not a JSON value"),
        (Json("layer"), {"a": 1}, "a list was expected for 'layer'"),
        (Output(()), "text", "is not an array of numbers"),
        (Tokens("step"), ["a"], "is not an array of numbers"),
    ],
)
def test_what_is_not_as_declared_is_refused_by_name(output, value, said):
    with pytest.raises(RunFailed) as caught:
        check_outputs("recipe 'r'", {"x": output}, {"x": settled(value)}, None)
    assert said in caught.value.message and "output 'x'" in caught.value.message


def test_a_run_gives_what_the_recipe_said(plain):
    size = len(plain.prompts[0]["tokens"])
    assert plain["note"].item() == f"seen {size} tokens" == plain.each("note")[0].item()
    facts = {"size": size, "list": [1, None, True, "é"], "tensor": [1.5]}
    assert plain["facts"].item() == facts
    assert plain["each"].values.tolist() == PLAIN
    assert plain["deep"].sel(layer=1, feature="green").item() == {"l": 1, "n": "green"}
    assert "note" in repr(plain["note"]) and "green" in plain["each"]._repr_html_()


def test_it_is_found_again_in_the_run_and_in_the_cache(project, plain, tiny_llama):
    again = mi.run(str(project / "noting.py"), model=tiny_llama, prompt=PROMPT)
    assert again.run_id == plain.run_id
    shutil.rmtree(project / "runs")
    cached = mi.run(str(project / "noting.py"), model=tiny_llama, prompt=PROMPT)
    assert cached.provenance["cache"] == "hit"
    for name in plain.names():
        assert cached[name].values.tolist() == plain[name].values.tolist()
    assert all(values.dtype.kind in "fiub" for values in mi.load_run().arrays.values())


def test_several_prompts_keep_their_own(project, tiny_llama):
    found = mi.run(recipe_file(project, PLAIN), model=tiny_llama, pairs=TWO)
    sizes = [len(part["tokens"]) for part in found.prompts]
    assert [a.item() for a in found.each("note")] == [f"seen {n} tokens" for n in sizes]
    with pytest.raises(NotFound, match="cannot be averaged over 2 prompts"):
        found["note"]
    assert found["score"].item() == np.mean(sizes)
    frame = found.to_pandas("facts")
    assert list(frame["prompt"]) == [0, 1] and frame["value"][1]["size"] == sizes[1]
    assert list(found.to_pandas("effect")["feature"].unique()) == PLAIN


def test_a_recipe_called_once_gives_a_text_for_each(project, tiny_llama):
    (project / "once.py").write_text(
        "from remote_mi import Texts, recipe\n\n\n"
        '@recipe(over="prompts", returns={"said": Texts("prompt"), "all": Texts()})\n'
        "def once(lm, prompts):\n"
        '    return {"said": [str(len(p.ids)) for p in prompts], "all": str(len(prompts))}\n'
    )
    found = mi.run("once.py", model=tiny_llama, pairs=TWO)
    assert [a.item() for a in found.each("said")] == [str(len(p["tokens"])) for p in found.prompts]
    assert found["all"].item() == "2"


def test_an_analysis_gets_what_the_recipe_returned(project, tiny_llama):
    (project / "analysed.py").write_text(
        "from remote_mi import Json, Texts, recipe\n\n\n"
        '@recipe(over="prompt", returns={"said": Texts("layer"), "facts": Json()},\n'
        '        summaries={"total": ()}, analysis="counted")\n'
        "def analysed(lm, prompt):\n"
        '    return {"said": ["a", "bc"], "facts": {"n": 4}}\n\n\n'
        "def counted(examples):\n"
        '    lengths = [sum(map(len, e["arrays"]["said"])) for e in examples]\n'
        '    return {"total": sum(lengths) + sum(e["arrays"]["facts"]["n"] for e in examples)}\n'
    )
    found = mi.run("analysed.py", model=tiny_llama, pairs=TWO)
    assert float(found["total"]) == 14


def test_two_runs_are_compared_by_what_they_say(project, plain, tiny_llama):
    path = str(project / "noting.py")
    other = mi.run(path, model=tiny_llama, prompt=PROMPT, word="met")
    found = {d.name: d for d in compare(plain, other).outputs}
    size = len(plain.prompts[0]["tokens"])
    assert (found["note"].kind, found["note"].differing, found["note"].cells) == ("text", 1, 1)
    assert found["note"].values == (f"seen {size} tokens", f"met {size} tokens")
    assert found["facts"].relative == 0 and found["deep"].cells == 6
    assert not compare(plain, other).within(1e-4) and compare(plain, plain).within(0)
    assert json.loads(json.dumps(compare(plain, other).to_json()))
    text = repr(compare(plain, other))
    assert "1 of 1 texts differ" in text and f"seen {size} tokens → met {size} tokens" in text
    assert "0 of 6 JSON values differ" in text


def test_it_is_reproduced_and_an_edit_of_a_text_is_found(project, plain, cli):
    code, _, err = cli("reproduce", plain.run_id, "--verify-only")
    assert code == 0, err
    code, out, err = cli("reproduce", plain.run_id)
    assert code == 0, out + err
    arrays = plain.path / "artifacts" / "result.safetensors"
    content = arrays.read_bytes()
    arrays.write_bytes(content.replace(b"seen", b"been"))
    assert cli("reproduce", plain.run_id, "--verify-only")[0] == 7
    assert cli("view", "--plain")[0] == 7


def test_tables_hold_the_whole_of_it(project, plain, cli):
    code, out, err = cli("export", "--table", "each")
    assert code == 0, err
    rows = list(csv.DictReader(io.StringIO(out)))
    assert [(row["feature"], row["text"]) for row in rows] == [(n, n) for n in PLAIN]
    code, out, err = cli("export", "--table", "deep")
    assert json.loads(list(csv.DictReader(io.StringIO(out)))[-1]["json"]) == {"l": 1, "n": "blue"}
    code, out, err = cli("export", "--table", "effect")
    assert [row["feature"] for row in csv.DictReader(io.StringIO(out))] == PLAIN * 2
    for ending in ("csv", "json", "tex"):
        assert cli("export", "--table", "score", "-o", f"t.{ending}")[0] == 0
        assert "tokens" in (project / f"t.{ending}").read_text()
    code, _, err = cli("export", "--figure", "note", "-o", "f.svg")
    assert code == 2 and "--table note" in err


def acting(text: str) -> list[str]:
    categories = ("Cc", "Cf", "Cs", "Zl", "Zp")
    return [c for c in text if unicodedata.category(c) in categories and c not in "\n\t"]


def test_untrusted_texts_are_shown_and_never_obeyed(project, tiny_llama, cli):
    names = [*HOSTILE[1:], "plain"]
    found = mi.run(recipe_file(project, names), model=tiny_llama, prompt=PROMPT)
    assert found["each"].values.tolist() == names
    for words in (
        ["view", "--plain"],
        ["view", "--plain", "--width", "60"],
        ["compare", *[found.run_id] * 2],
    ):
        code, out, err = cli(*words)
        assert code == 0 and not acting(out), err
    assert "[bold]markup[/bold]" in out or "[bold]" in cli("view", "--plain")[1]
    for table in ("each", "deep", "effect"):
        code, out, err = cli("export", "--table", table)
        assert code == 0 and not acting(out.replace("\r", "")), err
        cells = [cell for row in csv.reader(io.StringIO(out)) for cell in row]
        assert not [cell for cell in cells if cell.startswith(("=", "@", "+"))]
    for figure in found.figures:
        text = figure_html(figure, found, Slice())
        assert not acting(text) and not Page(text).scripts and len(text) < 200_000
    for ending in ("html", "md"):
        code, _, err = cli("report", "-o", f"r.{ending}")
        assert code == 0, err
        assert not acting((project / f"r.{ending}").read_text(encoding="utf-8"))
    cli("export", "--figure", "effect", "-o", "f.svg")
    assert not acting("".join(ET.parse(project / "f.svg").getroot().itertext()))

    async def drive(app: Viewer, pilot) -> None:
        for _ in app.panels:
            whole(app, 60)
            await pilot.press("down", "end", "y", "w", "escape", "tab")
            assert app.is_running

    assert found.path is not None
    driven(found.path, project, drive, (60, 20))


def test_an_empty_text_is_told_from_none(project, tiny_llama):
    found = mi.run(recipe_file(project, ["", "b"]), model=tiny_llama, prompt=PROMPT)
    assert found["each"].values.tolist() == ["", "b"]
    assert "feature ∅: ∅" in repr(found) and "feature b: b" in repr(found)


def test_an_output_names_the_coordinates_of_others(project, plain, cli):
    assert plain["effect"].coords["feature"] == PLAIN
    assert float(plain["effect"].sel(layer=1, feature="blue")) == 5
    text = repr(plain)
    assert "layer 1 · feature blue" in text and "feature green: green" in text
    page = figure_html(Bars("effect"), plain, Slice())
    assert "feature blue" in page


def test_names_that_prompts_do_not_share_are_not_given_to_what_is_of_all(project, tiny_llama):
    (project / "named.py").write_text(
        "import torch\nfrom remote_mi import Texts, recipe\n\n\n"
        '@recipe(over="prompt", returns={"x": ("feature",), "name": Texts("feature")},\n'
        '        labels={"feature": "name"})\n'
        "def named(lm, prompt):\n"
        '    return {"x": torch.ones(2), "name": ["a", str(len(prompt.ids))]}\n'
    )
    found = mi.run("named.py", model=tiny_llama, pairs=TWO)
    assert found["x"].coords["feature"] == [0, 1]
    sizes = [len(part["tokens"]) for part in found.prompts]
    assert [a.coords["feature"] for a in found.each("x")] == [["a", str(n)] for n in sizes]
    alike = mi.run("named.py", model=tiny_llama, pairs=[TWO[0], TWO[0]])
    assert alike["x"].coords["feature"] == ["a", str(sizes[0])]


@pytest.mark.parametrize(
    ("declared", "given", "names"),
    [('("feature",)', "[0.5, 2.0]", [0.5, 2.0]), ('Tokens("feature")', "[3, 4]", None)],
)
def test_numbers_and_tokens_name_coordinates_too(project, tiny_llama, declared, given, names):
    (project / "named.py").write_text(
        "import torch\nfrom remote_mi import Tokens, recipe\n\n\n"
        f'@recipe(over="prompt", returns={{"x": ("feature",), "name": {declared}}},\n'
        '        labels={"feature": "name"})\n'
        "def named(lm, prompt):\n"
        f'    return {{"x": torch.ones(2), "name": torch.tensor({given})}}\n'
    )
    found = mi.run("named.py", model=tiny_llama, prompt=PROMPT)
    expected = names or [found.text(3), found.text(4)]
    assert found["x"].coords["feature"] == expected and len(set(expected)) == 2


@pytest.mark.parametrize(
    ("declaration", "said"),
    [
        ('returns={"x": ("f",)}, labels={"f": "y"}', "names 'y', which it does not return"),
        ('returns={"x": ("f",), "y": Texts("g")}, labels={"f": "y"}', "declare it as Texts('f')"),
        ('returns={"x": ("f",), "y": Json("f")}, labels={"f": "y"}', "cannot name the indices"),
        ('returns={"x": ("g",), "y": Texts("f")}, labels={"f": "y"}', "no other output has"),
        (
            'returns={"x": Texts(), "y": ()}, summaries={"z": Ratio("x", "y")}',
            "which is not numeric",
        ),
        ('returns={"x": ()}, summaries={"z": Texts()}, analysis="a"', "summaries must be numbers"),
        ('returns={"x": (), "y": Texts()}, controls={"x": "y"}', "which is not numeric"),
    ],
)
def test_declarations_that_contradict_themselves_are_refused(project, declaration, said):
    path = project / "wrong.py"
    path.write_text(
        "from remote_mi import Json, Ratio, Texts, recipe\n\n\n"
        f'@recipe(over="prompt", {declaration})\ndef wrong(lm, prompt):\n    return {{}}\n'
    )
    with pytest.raises(UsageError) as caught:
        cards_in(path)
    assert said in caught.value.message


def test_a_card_says_what_outputs_hold(project, cli):
    recipe_file(project, PLAIN)
    code, out, _ = cli("recipes", "show", "noting.py")
    assert code == 0 and "() texts" in out and "(layer, feature) JSON values" in out
    card = cards_in(project / "noting.py")[0]
    assert card.labels == {"feature": "feature_name"} and card.returns["note"] == Texts()
    assert card.figures[4] == Table("score", columns=("note", "facts", "token"))
    assert card.figures[0] == Text("note")


def archive(path: Path, outputs: list) -> Path:
    """A result as a server sends it."""
    torch.save({"outputs": outputs}, path)
    return path


def test_what_a_server_sends_is_texts_and_never_code(tmp_path):
    declared = {"note": Texts("layer"), "facts": Json(), "x": Output(())}
    sent = {"note": HOSTILE, "facts": {"a": [1, None, "b"]}, "x": torch.tensor(1.0)}
    path = archive(tmp_path / "r.pt", [settled(sent)])
    (returned,) = read_outputs(path, 1, False, LIMIT_BYTES)
    found = check_outputs("recipe 'r'", declared, returned, None)
    assert KINDS["text"].unpack(found["note"]).tolist() == HOSTILE
    assert KINDS["json"].unpack(found["facts"]).item() == sent["facts"]
    bad = archive(tmp_path / "bad.pt", [{"note": Path("x"), "facts": None, "x": 1.0}])
    with pytest.raises(ResultRefused):
        load(bad.read_bytes(), False, LIMIT_BYTES)


def test_how_long_texts_are_is_not_foreseen_and_mistakes_beside_them_are(project, tiny_llama):
    from remote_mi.backends.base import Work
    from remote_mi.backends.dry_run import expected_outputs
    from remote_mi.models.load import LoadedModel
    from remote_mi.models.wrap import nnsight_model

    lm = nnsight_model(
        ModelSpec(str(tiny_llama)), str(tiny_llama), with_weights=False, device="meta"
    )
    model = LoadedModel(lm, lm.tokenizer, 64, {})

    def foreseen():
        card = cards_in(path)[0]
        function = load_function(card, project)
        call = Prompt(list(range(5, 12)), {"end": 6}, None)
        return expected_outputs(model, Work(card, function, [call], card.resolve({}), "key"))

    path = Path(recipe_file(project, PLAIN))
    found = foreseen()
    assert found.outputs is None and found.reason == "it returns texts of any length"
    assert max_result_bytes(found.outputs) == LIMIT_BYTES
    path.write_text(path.read_text().replace('"effect": effect', '"effect": effect[0]'))
    with pytest.raises(RunFailed, match=r"declared as \(layer, feature\) and has shape \(3,\)"):
        foreseen()


def test_prompts_of_a_group_and_copies_are_one_cluster():
    def part(text: str, group: str) -> dict[str, Any]:
        return {"text": {"clean": text}, "group": group}

    parts = [part("a", "0"), part("b", "1"), part("a", "2"), part("c", "1"), part("d", "2")]
    assert clusters_of(parts) == [0, 1, 0, 1, 0]
    joined = [part("a", "0"), part("b", "1"), part("a", "1"), part("e", "")]
    assert clusters_of(joined) == [0, 0, 0, 3], "a copy joins its groups"
