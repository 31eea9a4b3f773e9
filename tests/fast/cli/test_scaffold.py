"""`phenomena new` and `recipes new` write files that work as they are, and overwrite nothing."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from remote_mi.models.spec import ModelSpec
from remote_mi.prompts import phenomena
from remote_mi.prompts.examples import PromptSet
from remote_mi.prompts.tokens import tokenize
from remote_mi.recipes import catalog

from ...warm import python

ROOT = Path(__file__).resolve().parents[3]


def files(folder: Path) -> dict[str, str]:
    return {str(p.relative_to(folder)): p.read_text() for p in folder.rglob("*") if p.is_file()}


def checked(*command: object, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*python(), "-m", *map(str, command)],
        cwd=folder,
        timeout=600,
        capture_output=True,
        text=True,
    )


@pytest.mark.parametrize("over", ["pair", "prompt"])
def test_a_new_recipe_is_found_and_shows_every_part(project, cli, over):
    code, out, err = cli("recipes", "new", "my_try", "--over", over)
    assert code == 0
    recipe, test = project / "recipes" / "my_try.py", project / "tests" / "test_my_try.py"
    assert out.split() == [str(recipe), str(test)]
    assert "next: remote-mi run my_try" in err and "pytest tests/test_my_try.py" in err
    card = catalog.find("my_try", project)
    assert card.over == over and card.origin == "project"
    assert card.controls and card.figures and card.parameters and card.references
    for part in ("Sign:", "Units:", "Control:", "Cost:", "Not implemented:", " = "):
        assert part in card.doc
    assert all(parameter.help for parameter in card.parameters)
    assert "my_recipe" not in "".join(files(project).values())


@pytest.mark.parametrize("over", ["pair", "prompt"])
@pytest.mark.slow
def test_the_test_of_a_new_recipe_passes_and_its_code_is_clean(project, cli, over):
    assert cli("recipes", "new", "my_try", "--over", over)[0] == 0
    found = checked("pytest", "-q", "-p", "no:cacheprovider", "tests", folder=project)
    assert found.returncode == 0 and "2 passed" in found.stdout, found.stdout
    (project / "ruff.toml").write_text(f'extend = "{ROOT / "pyproject.toml"}"\n')
    for command in (["check"], ["format", "--check"]):
        found = checked("ruff", *command, ".", folder=project)
        assert found.returncode == 0, found.stdout


@pytest.mark.slow
def test_the_test_of_a_new_recipe_fails_when_the_recipe_is_wrong(project, cli):
    assert cli("recipes", "new", "my_try")[0] == 0
    recipe = project / "recipes" / "my_try.py"
    text = recipe.read_text()
    wrong = text.replace("whole[0]", "whole[1]")
    assert wrong != text
    recipe.write_text(wrong)
    found = checked("pytest", "-q", "-p", "no:cacheprovider", "tests", folder=project)
    assert found.returncode == 1, found.stdout


def test_a_new_recipe_runs_as_the_next_command_says(project, cli, tiny_llama):
    assert cli("recipes", "new", "my_try")[0] == 0
    code, out, err = cli("run", "my_try", "--model", tiny_llama, "--phenomenon", "ioi", "-n", "2")
    assert code == 0, err
    assert "effect" in out


def test_a_new_phenomenon_is_found_and_fits_a_tokenizer(project, cli, tiny_llama):
    from transformers import AutoTokenizer

    code, out, err = cli("phenomena", "new", "languages")
    path = project / "recipes" / "phenomena" / "languages.yaml"
    assert code == 0 and out.strip() == str(path)
    assert "next: remote-mi phenomena show languages" in err
    assert cli("phenomena", "show", "languages")[0] == 0
    found = phenomena.find("languages", project)
    assert found.name == "languages"
    tokenizer = AutoTokenizer.from_pretrained(tiny_llama)
    known = [
        e
        for e in found.prompts().examples
        if tokenizer.unk_token_id not in tokenizer(e.clean + e.answer + e.wrong).input_ids
    ]
    prompts = PromptSet(tuple(known), "test")
    if known:
        assert len(tokenize(tokenizer, prompts, ModelSpec(), "pair", 64).prompts) == len(known)


@pytest.mark.parametrize(
    "kind, name, said",
    [
        ("recipes", "My Recipe", "e.g. my_recipe"),
        ("recipes", "2nd", "e.g. my_recipe"),
        ("recipes", "_hidden", "e.g. hidden"),
        ("recipes", "class", "a Python keyword"),
        ("recipes", "torch", "e.g. torch_recipe"),
        ("recipes", "random", "e.g. random_recipe"),
        ("recipes", "../escape", "e.g. escape"),
        ("recipes", "a" * 41, "cannot be the name"),
        ("recipes", "logit_lens", "there is already a recipe 'logit_lens'"),
        ("phenomena", "ioi", "there is already a phenomenon 'ioi'"),
        ("phenomena", "a:b", "e.g. a_b"),
        ("phenomena", "", "e.g. my_phenomenon"),
    ],
)
def test_bad_names_are_refused_with_advice(project, cli, kind, name, said):
    code, out, err = cli(kind, "new", name)
    assert code == 2 and out == "" and said in err and "Traceback" not in err
    assert files(project) == {}


@pytest.mark.parametrize("there", ["recipes/my_try.py", "tests/test_my_try.py"])
def test_nothing_is_overwritten_and_nothing_half_written(project, cli, there):
    path = project / there
    path.parent.mkdir()
    path.write_text("# mine\n")
    code, _, err = cli("recipes", "new", "my_try")
    assert code == 2 and str(path) in err and "overwritten" in err
    assert files(project) == {there: "# mine\n"}


def test_a_project_that_cannot_be_written_is_said(project, cli):
    (project / "tests").write_text("a file, not a folder\n")
    code, _, err = cli("recipes", "new", "my_try")
    assert code == 1 and "cannot write recipe 'my_try'" in err
    assert list(files(project)) == ["tests"], "the recipe without its test is not left behind"
