"""What one run makes and another takes: named, checked, in the key, kept, told, made again."""

from __future__ import annotations

import json
import pickle
import re
import shutil

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

import remote_mi as mi
from remote_mi.common.errors import Mismatch, NotFound, RunFailed, UsageError
from remote_mi.common.paths import cache_root
from remote_mi.jobs.reproduction.verify import verify
from remote_mi.recipes import catalog
from remote_mi.store import kept_artifacts
from remote_mi.store.artifacts import find_artifact
from remote_mi.store.cache import Cache
from remote_mi.store.run_folder import RunFolder

FILE = '''
from __future__ import annotations
from typing import Any
from remote_mi import recipe
from remote_mi.interventions import Artifact, Pair, Prompt, Site, run, stack


@recipe(over="prompt", returns={"vector": ("layer", "d_model"), "both": ("layer", "side", "d_model"),
                                "fails": ()})
def make(lm: Any, prompt: Prompt, *, site: Site = "resid_pre", scale: float = 1.0,
         layers: list[int] | None = None, broken: bool = False) -> dict[str, Any]:
    """The stream at the end."""
    if broken:
        raise ValueError("broken as asked")
    chosen = range(len(lm.layers)) if layers is None else layers
    x = stack([run(lm, prompt, site).values[i][0, -1] for i in chosen]) * scale
    return {"vector": x, "both": stack([x, -x], 1), "fails": 0.0}


@recipe(over="prompt", returns={"sum": ("layer",), "device": (), "entries": ()})
def take(lm: Any, prompt: Prompt, *, vector: Artifact["layer", "d_model"],
         site: Site = "resid_pre") -> dict[str, Any]:
    """What it got."""
    on = vector.device == lm.embed_tokens.weight.device
    whole = vector.expand(len(lm.layers), -1)
    return {"sum": whole.sum(-1), "device": float(on), "entries": float(len(vector))}


@recipe(over="prompt", returns={"count": ()})
def maybe(lm: Any, prompt: Prompt, *, each: Artifact["prompt", "layer", "d_model"] | None = None):
    """As many as it got."""
    return {"count": 0.0 if each is None else float(len(each))}


@recipe(over="prompt", returns={"count": ()}, summaries={"total": ()}, analysis="add")
def analysed(lm: Any, prompt: Prompt, *, vector: Artifact["layer", "d_model"]) -> dict[str, Any]:
    """Numbers for the analysis."""
    return {"count": 1.0}


def add(examples, *, vector, **_):
    return {"total": float(vector.sum())}


@recipe(over="prompt", returns={"sum": ("layer",)})
def fixed(lm: Any, prompt: Prompt, *, vector: Artifact["layer", "d_model", "resid_pre"]):
    """Only of resid_pre."""
    return {"sum": vector.expand(len(lm.layers), -1).sum(-1)}
'''
TEXT, OTHER = "When Mary and John went to the store", "Then, Mary and John had a long argument"


@pytest.fixture
def do(project, tiny_llama):
    (project / "mine.py").write_text(FILE)

    def run(name, model=tiny_llama, **given):
        given = given if "pairs" in given else {"prompt": TEXT, **given}
        path = str(project / "mine.py") + f":{name}"
        return mi.run(path, model=str(model), project=project, backend="local", **given)

    return run


def job_of(project, model, name, **given):
    path = str(project / "mine.py") + f":{name}"
    return mi.job(path, model=str(model), project=project, prompt=TEXT, **given)


def save(path, array, name="v"):
    save_file({name: np.asarray(array, np.float32)}, path)
    return str(path)


def test_the_card_says_what_it_takes_without_importing_the_recipe(project):
    (project / "mine.py").write_text(FILE + "\nraise SystemExit('imported')\n")
    card = catalog.find(str(project / "mine.py") + ":fixed", project)
    [param] = card.parameters
    assert (param.kind, param.dims, param.site) == ("artifact", ("layer", "d_model"), "resid_pre")
    assert param.required and "layer × d_model" in param.expected
    [each] = catalog.find(str(project / "mine.py") + ":maybe", project).parameters
    assert each.optional and each.default is None and not each.required


def test_an_output_of_a_run_is_the_input_of_another(do):
    made = do("make")
    got = do("take", vector=f"{made.id8}:vector")
    np.testing.assert_allclose(got["sum"].values, made["vector"].values.sum(-1), rtol=1e-5)
    assert float(got["device"]) == 1.0
    facts = got.made.artifacts["vector"]
    assert (facts.run, facts.output, facts.recipe) == (made.run_id, "vector", "make")
    assert facts.site == "resid_pre" and facts.model == made.made.model
    assert got.provenance["parameters"]["vector"] == facts.digest
    again = do("take", vector=str(made.path))
    assert again.provenance["cache"] == "hit", "the only output that fits"


def test_the_key_has_the_numbers_and_not_where_they_come_from(do, project, tiny_llama):
    made, same, other = do("make"), do("make", prompt=OTHER), do("make", scale=2.0)
    file = save(project / "v.safetensors", made["vector"].values)
    keys = [
        job_of(project, tiny_llama, "take", vector=name).key
        for name in (f"{made.id8}:vector", file, f"{file}:v", str(made.path))
    ]
    assert len(set(keys)) == 1
    assert job_of(project, tiny_llama, "take", vector=f"{other.id8}:vector").key not in keys
    assert job_of(project, tiny_llama, "take", vector=f"{same.id8}:vector").key not in keys
    double = save(project / "w.safetensors", made["vector"].values * 2)
    by_file = job_of(project, tiny_llama, "take", vector=double).key
    assert by_file == job_of(project, tiny_llama, "take", vector=f"{other.id8}:vector").key


def test_a_missing_artifact_leaves_the_default(do):
    assert float(do("maybe")["count"]) == 0.0


def test_a_mean_over_the_prompts_unless_each_is_asked_for(do):
    prompts = [{"prompt": TEXT}, {"prompt": "When Tom and Mark went to the park"}]
    made = do("make", pairs=prompts)
    got = do("take", vector=f"{made.id8}:vector")
    mean = np.mean([one.values for one in made.each("vector")], 0)
    np.testing.assert_allclose(got["sum"].values, mean.sum(-1), rtol=1e-5)
    assert float(do("maybe", each=f"{made.id8}:vector")["count"]) == 2.0


def test_a_part_is_chosen_by_its_coordinate(do):
    made = do("make")
    one = do("take", vector=f"{made.id8}:both@side=1")
    np.testing.assert_allclose(one["sum"].values, -made["vector"].values.sum(-1), rtol=1e-5)
    every = do("take", vector=f"{made.id8}:vector@layer=2")
    assert float(every["entries"]) == 1.0
    np.testing.assert_allclose(every["sum"].values, made["vector"].values[2].sum(), rtol=1e-5)


def test_an_analysis_gets_the_numbers(do):
    made = do("make")
    got = do("analysed", vector=f"{made.id8}:vector")
    assert float(got["total"]) == pytest.approx(float(made["vector"].values.sum()), rel=1e-5)


def mistakes(project, tiny, made, failed):
    """(name, recipe, error, what is said) of everything that is refused before anything runs."""
    v = made["vector"].values
    good = save(project / "good.safetensors", v)
    save(project / "narrow.safetensors", v[:, :5])
    save(project / "few.safetensors", v[:2])
    save(project / "flat.safetensors", np.zeros((2, 3, 4, 5)))
    save(project / "nan.safetensors", np.full_like(v, np.nan))
    save_file({"a": v, "b": v}, project / "two.safetensors")
    (project / "cut.safetensors").write_bytes((project / "good.safetensors").read_bytes()[:-9])
    (project / "p.safetensors").write_bytes(pickle.dumps({"v": v}))
    (project / "x.pt").write_bytes(b"never opened")
    np.save(project / "x.npy", v)
    id8 = made.id8
    return [
        ("deadbeef:vector", "take", NotFound, "deadbeef"),
        (f"{id8}:vektor", "take", NotFound, "did you mean 'vector'"),
        (f"{failed}:vector", "take", RunFailed, "failed, so it made nothing: .*broken as asked"),
        (f"{id8}:both", "take", UsageError, "choose one of side: .*@side=0"),
        (f"{id8}:fails", "take", UsageError, "takes layer × d_model: there is no"),
        (f"{id8}:vector@layer=9", "take", UsageError, "layer has no '9'"),
        (f"{id8}:vector@head=1", "take", UsageError, "there is no dimension 'head'"),
        (f"{project}/none.safetensors", "take", NotFound, "there is no file"),
        (f"{good}:w", "take", NotFound, "has no tensor 'w'.*it has: v"),
        (f"{project}/two.safetensors", "take", UsageError, "has 2 tensors: a, b"),
        (f"{project}/narrow.safetensors", "take", UsageError, "vectors of 5 .* has 32"),
        (f"{project}/few.safetensors", "take", UsageError, "has the layers 0, 1, and .* 0 to 2"),
        (f"{project}/flat.safetensors", "take", UsageError, "shape 2 × 3 × 4 × 5"),
        (f"{project}/nan.safetensors", "take", UsageError, "are not finite"),
        (f"{project}/cut.safetensors", "take", UsageError, "is not a whole safetensors file"),
        (f"{project}/p.safetensors", "take", UsageError, "is not a whole safetensors file"),
        (f"{project}/x.pt", "take", UsageError, "may run code when it is loaded"),
        (f"{project}/x.npy", "take", UsageError, "artifacts import"),
        ("sha256:" + "0" * 64, "take", NotFound, "not in the results cache any more"),
        ("", "take", UsageError, "is not an artifact"),
    ]


def test_what_does_not_fit_is_refused_before_anything_runs(do, project, tiny, tiny_llama):
    made = do("make")
    done = {p.name for p in (project / "runs").iterdir()}
    with pytest.raises(RunFailed):
        do("make", broken=True)
    [failed] = {p.name for p in (project / "runs").iterdir()} - done
    for name, recipe, error, said in mistakes(project, tiny, made, failed):
        with pytest.raises(error) as caught:
            job_of(project, tiny_llama, recipe, vector=name)
        whole = f"{caught.value.message} {caught.value.hint}"
        assert re.search(said, whole), (name, whole)
    assert len(list((project / "runs").iterdir())) == 2, "nothing ran"


def test_it_must_be_made_for_the_same_model_and_site(do, project, tiny, tiny_llama):
    made, after = do("make"), do("make", site="resid_post")
    with pytest.raises(UsageError, match="was made for tiny-llama, and the job is on tiny-gpt2"):
        job_of(project, tiny("gpt2"), "take", vector=f"{made.id8}:vector")
    with pytest.raises(
        UsageError, match=r"made at the site resid_post, and .* uses it at resid_pre"
    ):
        job_of(project, tiny_llama, "take", vector=f"{after.id8}:vector")
    with pytest.raises(UsageError, match="made at the site resid_post"):
        job_of(project, tiny_llama, "fixed", vector=f"{after.id8}:vector")
    job_of(project, tiny_llama, "take", vector=f"{after.id8}:vector", site="resid_post")
    some = do("make", layers=[0, 2])
    with pytest.raises(UsageError, match=r"has the layers 0, 2.*") as caught:
        job_of(project, tiny_llama, "take", vector=f"{some.id8}:vector")
    assert "@layer=0" in str(caught.value.hint)


def test_a_damaged_run_is_not_taken(do, project, tiny_llama):
    made = do("make")
    file = made.path / "artifacts" / "result.safetensors"
    file.write_bytes(file.read_bytes()[:-4] + b"\1\2\3\4")
    with pytest.raises(Mismatch, match="is damaged"):
        job_of(project, tiny_llama, "take", vector=f"{made.id8}:vector")


def test_a_small_one_is_kept_in_the_folder_with_what_made_it(do, project):
    made = do("make")
    got = do("take", vector=f"{made.id8}:vector")
    kept = got.made.artifacts["vector"].kept
    assert kept == "artifacts/inputs/vector.safetensors" and (got.path / kept).is_file()
    ancestor = got.path / "ancestors" / made.run_id
    assert json.loads((ancestor / "run.json").read_text())["recipe"]["name"] == "make"
    assert (ancestor / "source" / "mine.py").read_text() == FILE
    assert verify(got.path).holds
    (ancestor / "source" / "mine.py").write_text("changed")
    assert not verify(got.path).holds


def test_a_large_one_is_kept_by_digest_and_named(do, project, monkeypatch):
    monkeypatch.setattr(kept_artifacts, "SMALL", 100)
    made = do("make")
    got = do("take", vector=f"{made.id8}:vector")
    assert got.made.artifacts["vector"].kept == "cache"
    assert not (got.path / "artifacts" / "inputs").exists()
    digest = got.made.artifacts["vector"].digest
    there = kept_artifacts.kept(Cache(cache_root()), digest)
    np.testing.assert_array_equal(there.array, made["vector"].values)
    assert do("take", vector=digest).provenance["cache"] == "hit"
    assert mi.reproduce(got, model=got.provenance["model"]["name"] and None).matches


def test_the_same_result_from_the_cache_tells_its_own_lineage(do, project, tmp_path):
    made = do("make")
    first = do("take", vector=f"{made.id8}:vector")
    file = save(project / "v.safetensors", made["vector"].values)
    for folder in (project / "runs").iterdir():
        if folder.name == first.run_id:
            shutil.rmtree(folder)
    second = do("take", vector=file)
    assert second.provenance["hit_from"] == "cache"
    assert second.made.artifacts["vector"].file == "v.safetensors"
    assert (second.path / "artifacts" / "inputs" / "vector.safetensors").is_file()


def test_a_run_is_reproduced_from_its_folder_and_so_is_the_chain(do, project):
    made = do("make", scale=1.5)
    got = do("take", vector=f"{made.id8}:vector")
    for path in made.path.rglob("*"):
        path.unlink() if path.is_file() else None
    last = mi.reproduce(got)
    assert last.matches and not any("made again" in note for note in last.notes)
    chain = mi.reproduce(got, chain=True)
    assert chain.matches
    assert f"{made.id8}:vector, made again, has the same numbers" in chain.notes


def test_numbers_that_were_changed_in_the_folder_are_found(do):
    made = do("make")
    got = do("take", vector=f"{made.id8}:vector")
    kept = got.path / got.made.artifacts["vector"].kept
    save(kept, made["vector"].values * 2, "vector")
    with pytest.raises(Mismatch, match=r"inputs/vector\.safetensors"):
        mi.reproduce(got)
    with pytest.raises(Mismatch, match="does not hold the numbers"):
        kept_artifacts.kept_input(RunFolder(got.path), "vector", ())


def test_a_chain_of_three_keeps_every_ancestor(do, project, tiny_llama):
    (project / "mine.py").write_text(
        FILE.replace(
            'returns={"sum": ("layer",), "device"',
            'returns={"out": ("layer", "d_model"), "sum": ("layer",), "device"',
        ).replace('"sum": whole.sum(-1), "dev', '"out": whole * 2, "sum": whole.sum(-1), "dev')
    )
    first = do("make")
    second = do("take", vector=f"{first.id8}:vector")
    third = do("take", vector=f"{second.id8}:out")
    kept = {path.name for path in (third.path / "ancestors").iterdir()}
    assert kept == {first.run_id, second.run_id}
    assert "which took as vector" in third.made.artifacts["vector"].described
    assert first.run_id in third.made.artifacts["vector"].described
    again = mi.reproduce(third, chain=True)
    assert again.matches and sum("the same numbers" in note for note in again.notes) == 2


def test_the_lineage_is_read_where_a_run_is_read(do, cli, project):
    made = do("make")
    got = do("take", vector=f"{made.id8}:vector")
    code, out, _ = cli("report", got.id8, "-o", str(project / "r.md"))
    text = (project / "r.md").read_text().replace("\\", "")
    assert code == 0 and f"of run {made.run_id}, make" in text and f"{made.id8}:vector" in text
    assert cli("report", got.id8, "-o", str(project / "r.html"))[0] == 0
    assert f"of run {made.run_id}, make" in (project / "r.html").read_text()
    shown = json.loads(cli("runs", "show", got.id8)[1])
    assert shown["provenance"]["artifacts"]["vector"]["run"] == made.run_id
    assert f"vector={made.id8}:vector" in cli("runs", "ls")[1]
    code, out, _ = cli("view", got.id8, "--plain")
    assert code == 0 and f"vector={made.id8}:vector" in out


def test_a_bfloat16_tensor_is_read_exactly(project):
    from safetensors.torch import save_file as save_torch

    values = torch.randn(3, 4, generator=torch.Generator().manual_seed(0)).to(torch.bfloat16)
    save_torch({"v": values}, project / "b.safetensors")
    found = find_artifact(f"{project}/b.safetensors", ("layer", "d_model"), project, "it")
    np.testing.assert_array_equal(found.array, values.float().numpy())


def test_the_plan_says_how_much_is_sent_along(do, project, tiny_llama):
    made = do("make")
    job = job_of(project, tiny_llama, "take", vector=f"{made.id8}:vector")
    assert job.artifact_sizes == {"vector": made["vector"].values.nbytes}
    from remote_mi.jobs.dispatch import footprint

    plain = job_of(project, tiny_llama, "make")
    extra = footprint.estimate(job, {}, "float32").bytes_up
    assert extra - footprint.estimate(plain, {}, "float32").bytes_up == made["vector"].values.nbytes


def test_more_than_the_settings_allow_is_refused_before_it_is_sent(project):
    from remote_mi.backends.base import Work
    from remote_mi.backends.ndif.errors import CannotDo
    from remote_mi.backends.ndif.preflight import check_upload

    (project / "remote-mi.yaml").write_text("limits: {upload: 1kB}\n")
    card = catalog.find("direction_ablation", project)
    work = Work(card, lambda: None, [], {"direction": torch.zeros(30, 20)}, "key", project)
    with pytest.raises(CannotDo, match=r"would send 5.0 kB, with direction \(2.4 kB\)") as caught:
        check_upload(work, 5000)
    assert "RUN:output@layer=14" in str(caught.value.hint)
    check_upload(work, 900)


def test_commands_list_show_export_and_import(do, cli, project, tiny_llama):
    made = do("make")
    code, out, _ = cli("artifacts", "ls", "-q")
    assert code == 0 and f"{made.id8}:vector" in out.split()
    listed = json.loads(cli("artifacts", "ls", "--json")[1])["artifacts"]
    assert {"layer", "d_model"} == set(next(a for a in listed if a["output"] == "vector")["dims"])
    digest = cli("artifacts", "show", f"{made.id8}:vector", "-q")[1].strip()
    file = str(project / "v.safetensors")
    assert cli("artifacts", "export", f"{made.id8}:vector", "-o", file, "-q")[:2] == (
        0,
        f"{file}\n",
    )
    assert cli("artifacts", "show", file, "-q")[1].strip() == digest
    got = do("take", vector=file)
    assert got.made.artifacts["vector"].run == made.run_id, "the file tells where it comes from"
    np.save(project / "v.npy", made["vector"].values.astype(np.float64))
    given = ("--dims", "layer,d_model", "--model", str(tiny_llama), "--site", "resid_pre")
    code, out, _ = cli("artifacts", "import", str(project / "v.npy"), *given, "--json")
    known = json.loads(out)
    assert code == 0 and known["digest"] == digest and known["site"] == "resid_pre"
    assert do("take", vector=known["file"]).provenance["cache"] == "hit"


@pytest.mark.parametrize(
    "arguments, code, said",
    [
        (("import", "x.pt", "--dims", "d_model"), 2, "may run code"),
        (("import", "o.npy", "--dims", "d_model"), 2, "not a file of plain numbers"),
        (("import", "v.npy", "--dims", "d_model"), 2, "has 2 dimensions (3 × 4)"),
        (("import", "v.npy", "--dims", "layer,d_model", "-o", "v.txt"), 2, "not a .safetensors"),
        (("import", "no.npy", "--dims", "d_model"), 3, "there is no file"),
        (("show", "deadbeef:x"), 3, "there are no runs"),
        (("export", "v.safetensors"), 3, "there is no file"),
    ],
)
def test_bad_input_of_the_commands_gets_one_line(cli, project, monkeypatch, arguments, code, said):
    monkeypatch.chdir(project)
    np.save("v.npy", np.zeros((3, 4)))
    np.save("o.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    (project / "x.pt").write_bytes(b"")
    found, out, err = cli("artifacts", *arguments)
    assert (found, out) == (code, "") and said in err and "Traceback" not in err
