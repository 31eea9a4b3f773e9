"""Checkpoints of a training as models of a study: in training order, with the step as a number."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import remote_mi as mi
from remote_mi.common.errors import UsageError
from remote_mi.jobs.studies.checkpoints import training_step
from remote_mi.jobs.studies.reading import load_study


@pytest.mark.parametrize(
    ("name", "step"),
    [
        ("step3000", 3000),
        ("step0", 0),
        ("checkpoint-500", 500),
        ("global_step1000", 1000),
        ("stage1-step150000-tokens629B", 150000),
        ("step1000-tokens4B", 1000),
        ("epoch2-step70", 70),
        ("ckpt_0356", 356),
        ("step10k", 10_000),
        ("iter-2M", 2_000_000),
        ("0500", 500),
        ("run-40", 40),
        ("main", None),
        ("v2", None),
        ("tokens4B", None),
        ("2024-01", None),
        ("", None),
        (None, None),
    ],
)
def test_the_step_in_the_name_of_a_checkpoint(name, step):
    assert training_step(name) == step


def read(project: Path, models: str, more: str = ""):
    path = project / "growth.yaml"
    path.write_text(
        "study: growth\n"
        f"models:\n{models}\n"
        "phenomena: [{name: ioi:store, n: 3}]\n"
        "recipes: [baseline]\n"
        "compare:\n  - {show: lines, output: logit_diff, x: step}\n" + more
    )
    return load_study(path, project)


def checkpoints(base: Path, project: Path, steps: tuple[int, ...]) -> None:
    """Folders as a training leaves them, with weights that differ."""
    for step in steps:
        folder = project / "out" / f"checkpoint-{step}"
        shutil.copytree(base, folder)
        weights = load_file(folder / "model.safetensors")
        weights = {
            name: value + 1e-3 * step * torch.ones_like(value) for name, value in weights.items()
        }
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def test_folders_of_checkpoints_stand_along_the_step_of_training(tiny_llama, project, cli):
    checkpoints(tiny_llama, project, (10, 2, 1))
    (project / "out" / "checkpoint-5").mkdir()  # as a training that was killed leaves it
    study = read(project, "  - out/checkpoint-*", "exclude: [{model: out/checkpoint-1}]\n")
    assert [Path(point.model.name).name for point in study.points] == [
        "checkpoint-2",
        "checkpoint-10",
    ]
    assert [(p.x, p.line) for p in study.compare[0].points] == [(2, ""), (10, "")]
    whole = read(project, "  - out/checkpoint-*", "exclude: []\n")
    assert [p.x for p in whole.compare[0].points] == [1, 2, 10]
    code, _, err = cli("study", "run", "growth.yaml", "-y")
    assert code == 0, err
    code, out, err = cli("study", "show", "growth", "--json")
    assert code == 0, err
    lines = json.loads(out)["compare"][0]["points"]
    assert [point["x"] for point in lines] == [1, 2, 10]
    for point in lines:
        folder = project / "out" / f"checkpoint-{point['x']}"
        alone = mi.run("baseline", model=folder, phenomenon="ioi:store", n=3)
        assert point["value"] == pytest.approx(float(alone["logit_diff"].values), abs=1e-6)


def test_revisions_are_models_in_training_order(project):
    study = read(
        project,
        "  - {name: a/small, revisions: [step1000, main, step2, step512]}\n"
        "  - {name: a/large, revisions: [step512, step2]}",
        "exclude: [{model: a/small@step512}]\n",
    )
    asked = [(point.model.name, point.model.revision) for point in study.points]
    assert asked == [
        ("a/small", "step2"), ("a/small", "step1000"), ("a/small", "main"),
        ("a/large", "step2"), ("a/large", "step512"),
    ]  # fmt: skip
    places = [(point.line, point.x) for point in study.compare[0].points]
    assert places == [
        ("a/small", 2), ("a/small", 1000), ("a/small", None), ("a/large", 2), ("a/large", 512),
    ]  # fmt: skip


def test_adapters_of_a_training_are_checkpoints_too(tiny_llama, project):
    for step in (20, 3):
        folder = project / "lora" / f"checkpoint-{step}"
        folder.mkdir(parents=True)
        (folder / "adapter_config.json").write_text("{}")
        (folder / "adapter_model.safetensors").write_bytes(b"%d" % step)
    study = read(project, f"  - {{name: {tiny_llama}, adapter: lora/checkpoint-*}}")
    assert [Path(str(p.model.adapter)).name for p in study.points] == [
        "checkpoint-3",
        "checkpoint-20",
    ]
    assert [point.x for point in study.compare[0].points] == [3, 20]


@pytest.mark.parametrize(
    ("models", "said"),
    [
        ("  - nowhere/checkpoint-*", "nothing matches 'nowhere/checkpoint-*'"),
        ("  - empty/*", "none of the 1 matches of 'empty/*' has a config.json"),
        ("  - {name: a/b, revisions: []}", "'revisions' is empty"),
        ("  - {name: a/b, revisions: [step1, step1]}", "the revision 'step1' is listed twice"),
        ("  - {name: a/b, revisions: [1, 2]}", "growth.yaml:3"),
        ("  - {name: a/b, revision: x, revisions: [y]}", "both 'revision' and 'revisions'"),
        ("  - {name: out/*, revisions: [y]}", "several fields list checkpoints: revisions, name"),
    ],
)
def test_mistakes_in_lists_of_checkpoints(models, said, project):
    (project / "empty" / "one").mkdir(parents=True)
    with pytest.raises(UsageError) as error:
        read(project, models)
    assert said in str(error.value)
