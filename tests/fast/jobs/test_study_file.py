"""Study files: the points they stand for."""

from __future__ import annotations

import json
import re
import subprocess
import sys

import pytest

from remote_mi.common.errors import NotFound, UsageError
from remote_mi.common.yaml_file import read_with_positions
from remote_mi.jobs import studies
from remote_mi.models.embedded import EMBEDDED
from remote_mi.prompts.choice import PromptChoice
from remote_mi.recipes import catalog

from .study_texts import FACTS, FOLDER, HEAD, IOI, MINE, ROOT, read


def points(study: studies.Study) -> list[tuple]:
    return [
        (p.model.name, p.recipe, p.choice.phenomenon, p.choice.seed, dict(p.parameters))
        for p in study.points
    ]


# -- the grid ------------------------------------------------------------------------------------


def test_a_study_is_the_product_of_what_it_lists_with_the_models_outermost(tmp_path):
    study = read(
        tmp_path,
        """
study: s
models: [a/one, {name: a/two, dtype: float32, backend: ndif}]
phenomena: [{name: ioi:store, n: 2}, landmark_city]
seeds: [0, 1]
recipes:
  - logit_lens
  - {name: activation_patching, parameters: {site: [attn_out, mlp_out]}, backend: local}
""",
    )
    one = [
        ("a/one", "logit_lens", "ioi:store", 0, {}),
        ("a/one", "logit_lens", "ioi:store", 1, {}),
        ("a/one", "logit_lens", "landmark_city", None, {}),
    ]
    one += [
        ("a/one", "activation_patching", name, seed, {"site": site})
        for name, seed in [("ioi:store", 0), ("ioi:store", 1), ("landmark_city", None)]
        for site in ("attn_out", "mlp_out")
    ]
    assert points(study) == one + [("a/two", *rest) for _, *rest in one]
    assert [p.index for p in study.points] == list(range(18))
    assert {p.backend for p in study.points[:9]} == {"auto", "local"}, "a recipe's goes first"
    assert [p.backend for p in study.points[9:12]] == ["ndif"] * 3
    assert study.points[9].model.dtype == "float32" and study.points[0].choice.size == 2


def test_a_list_of_lists_is_the_axis_of_a_parameter_that_is_a_list(tmp_path):
    study = read(
        tmp_path,
        HEAD
        + """
recipes:
  - steering: {layers: [1, 2], coefficients: [[1, 2.5], [3]], folds: "2"}
""",
    )
    assert [dict(p.parameters) for p in study.points] == [
        {"layers": [1, 2], "coefficients": [1.0, 2.5], "folds": 2},
        {"layers": [1, 2], "coefficients": [3.0], "folds": 2},
    ]


def test_shared_parameters_go_to_the_recipes_that_have_them_and_own_ones_win(tmp_path):
    study = read(
        tmp_path,
        HEAD
        + """
parameters: {site: [attn_out, mlp_out], metric: prob}
recipes: [activation_patching, head_patching: {metric: logit}, logit_lens]
""",
    )
    assert [(p.recipe, dict(p.parameters)) for p in study.points] == [
        ("activation_patching", {"site": "attn_out", "metric": "prob"}),
        ("activation_patching", {"site": "mlp_out", "metric": "prob"}),
        ("head_patching", {"metric": "logit"}),
        ("logit_lens", {}),
    ]


def test_exclusions_leave_out_what_has_all_they_name_defaults_counted(tmp_path):
    study = read(
        tmp_path,
        """
study: s
phenomena: [ioi:store, "ioi:park", {prompt: The city of}]
seeds: [0, 1]
recipes: [activation_patching: {site: [resid_pre, attn_out]}, logit_lens]
exclude:
  - {recipe: activation_patching, phenomenon: The city of}
  - {phenomenon: ioi, seed: 1, recipe: activation_patching}
  - {parameters: {site: attn_out, direction: denoise}}
""",
    )
    assert [(p.recipe, p.choice.phenomenon, p.choice.seed) for p in study.points] == [
        ("activation_patching", "ioi:store", 0),
        ("activation_patching", "ioi:park", 0),
        ("logit_lens", "ioi:store", 0),
        ("logit_lens", "ioi:store", 1),
        ("logit_lens", "ioi:park", 0),
        ("logit_lens", "ioi:park", 1),
        ("logit_lens", None, None),
    ]


def test_inclusions_add_points_and_take_from_the_study_what_they_do_not_name(tmp_path):
    study = read(
        tmp_path,
        HEAD
        + """
models: [a/one, a/two]
recipes: [logit_lens]
exclude: [{recipe: logit_lens, model: a/two}]
include:
  - {recipe: baseline, model: a/two, parameters: {top: [1, 2]}}
  - {recipe: saliency, phenomenon: [landmark_city, {prompt: A}], model: {name: a/3, chat: true}}
  - {recipe: head_detectors, model: a/one, backend: local}
""",
    )
    assert [(p.model.name, p.recipe, p.choice.phenomenon) for p in study.points] == [
        ("a/one", "logit_lens", "ioi:store"),
        ("a/one", "head_detectors", None),
        ("a/two", "baseline", "ioi:store"),
        ("a/two", "baseline", "ioi:store"),
        ("a/3", "saliency", "landmark_city"),
        ("a/3", "saliency", None),
    ]
    assert study.points[-1].choice.texts == {"prompt": "A"} and study.points[-1].model.chat
    assert study.points[1].choice == PromptChoice(), "it takes no prompts"
    assert study.points[1].backend == "local"


def test_identical_points_are_there_once_however_they_are_written(tmp_path):
    study = read(
        tmp_path,
        HEAD
        + f"""
models: [{EMBEDDED}, {{name: {EMBEDDED}}}]
recipes:
  - activation_patching
  - activation_patching: {{site: [resid_pre, resid_pre], metric: logit_diff}}
  - head_detectors
include: [{{recipe: activation_patching, parameters: {{control_draws: 1}}}}]
""",
    )
    assert [p.recipe for p in study.points] == ["activation_patching", "head_detectors"]


def test_files_are_found_relative_to_the_project_from_any_folder(tmp_path, monkeypatch):
    project, elsewhere = tmp_path / "project", tmp_path / "elsewhere"
    (project / "model").mkdir(parents=True)
    elsewhere.mkdir()
    (project / "model" / "config.json").write_text("{}")
    (project / "mine.py").write_text(MINE)
    (project / "pairs.jsonl").write_text('{"prompt": "a"}\n{"prompt": "b"}\n')
    shown = (ROOT / "recipes" / "phenomena" / "ioi.yaml").read_text()
    (project / "own.yaml").write_text(shown)
    monkeypatch.chdir(elsewhere)
    study = read(
        project,
        """
study: s
models: [./model]
recipes: [mine.py, mine.py:mine, logit_lens]
phenomena: [{pairs: pairs.jsonl, n: 1}, own.yaml:store]
""",
    )
    first, last = study.points[0], study.points[-1]
    assert first.model.name == str(project / "model")
    assert first.recipe == f"{project / 'mine.py'}:mine"
    assert len(study.points) == 4, "one recipe, named twice"
    assert len(first.choice.resolve(project).examples) == 1
    assert last.choice.resolve(project).examples[0].corrupt


def test_figures_are_chosen_at_the_recipe_or_for_all(tmp_path):
    study = read(
        tmp_path,
        HEAD
        + """
recipes: [{name: head_patching, figures: [largest recovery]}, logit_lens, baseline]
figures: {head_patching: [recovery], logit_lens: [top token, kl]}
""",
    )
    assert study.figures == {
        "head_patching": ("largest recovery", "recovery"),
        "logit_lens": ("top token", "kl"),
    }


def test_ten_thousand_points_are_expanded_and_far_more_are_refused(tmp_path):
    grid = (
        f"{HEAD}seeds: [SEEDS]\nexclude: [{{seed: 3}}]\nrecipes:\n"
        "  - activation_patching: {site: [attn_out, mlp_out], direction: [noise, denoise]}\n"
    )
    study = read(tmp_path, grid.replace("SEEDS", ", ".join(map(str, range(2501)))))
    assert len(study.points) == 10_000
    assert len({(p.choice.seed, *p.parameters.values()) for p in study.points}) == 10_000
    with pytest.raises(UsageError, match="100,004 points, more than 100,000"):
        read(tmp_path, grid.replace("SEEDS", ", ".join(map(str, range(25_001)))))


# -- the built-in ones ---------------------------------------------------------------------------


def test_the_built_in_studies_are_jobs_on_the_embedded_model(tmp_path):
    from remote_mi.jobs.building import make_job

    every = studies.available(tmp_path)
    assert set(every) >= {IOI.stem, FACTS.stem}
    for name, path in every.items():
        study = studies.read(path, tmp_path)
        assert study.name == name and study.title and study.question
        assert {p.model.name for p in study.points} == {EMBEDDED}
        keys = set()
        for p in study.points:
            keys.add(make_job(p.recipe, p.model, p.choice, p.parameters, tmp_path).key)
        assert len(keys) == len(study.points)


def test_every_built_in_recipe_has_its_place_in_the_study_of_all_techniques(tmp_path):
    used = {p.recipe for p in studies.read(IOI, tmp_path).points}
    # They take what another run made, or a behaviour in place of answers.
    used |= {"direction_ablation", "direction_addition", "behaviour", "behaviour_steering"}
    assert used == {card.name for card in catalog.all_cards(tmp_path) if card.origin == "built-in"}


def test_the_schema_for_editors_is_up_to_date_and_describes_every_key():
    from remote_mi.jobs.studies.structure import StudyFile

    made = studies.schema()
    assert json.loads((FOLDER / "study.schema.json").read_text(encoding="utf-8")) == made, (
        "write it anew from remote_mi.jobs.studies.schema()"
    )
    for part in (made, *made["$defs"].values()):
        for name, field in part.get("properties", {}).items():
            assert field.get("description"), name
    for path in (IOI, FACTS):
        StudyFile.model_validate(read_with_positions(path).data)
        assert path.read_text().startswith("# yaml-language-server: $schema=study.schema.json\n")


def test_the_page_on_studies_names_every_key():
    from remote_mi.jobs.studies.structure import StudyFile

    page = (ROOT / "docs" / "studies.md").read_text(encoding="utf-8")
    table = page.partition("| Key | |")[2].partition("\n\n")[0]
    named = [
        name
        for cell in re.findall(r"^\| ([^|]*) \|", table, re.M)
        for name in re.findall(r"`(\w+)`", cell)
    ]
    assert sorted(named) == sorted(StudyFile.model_fields)


def test_a_study_is_found_by_name_or_path_and_the_projects_own_comes_first(tmp_path):
    own = tmp_path / "studies" / f"{FACTS.stem}.yaml"
    own.parent.mkdir()
    own.write_text(FACTS.read_text())
    assert studies.find(FACTS.stem, tmp_path) == own
    assert studies.find(f"studies/{FACTS.stem}.yaml", tmp_path) == own
    assert studies.find(IOI.stem, tmp_path) == IOI
    with pytest.raises(NotFound, match="did you mean 'facts_small'"):
        studies.find("fact_small", tmp_path)
    with pytest.raises(NotFound, match=r"no file x\.yaml"):
        studies.find("x.yaml", tmp_path)


def test_finding_studies_needs_no_pydantic_and_reading_them_no_torch(tmp_path):
    code = f"""
import sys
from pathlib import Path
from remote_mi.jobs import studies
studies.find("facts_small", Path("."))
assert "pydantic" not in sys.modules
studies.read(Path({str(IOI)!r}), Path("."))
assert not {{"torch", "nnsight", "transformers"}} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path, timeout=240)


# -- mistakes ------------------------------------------------------------------------------------
