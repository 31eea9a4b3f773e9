"""Jobs in a program: made once, planned, run and submitted; the verbs take what `job` takes."""

from __future__ import annotations

import inspect
import subprocess
import sys

import pytest

import remote_mi as mi
from remote_mi.common.errors import NotFound, UsageError

from ...conftest import MARY


def test_a_job_is_made_once_planned_and_run(project, tiny_llama):
    job = mi.job("activation_patching", model=tiny_llama, site="mlp_out", **MARY)
    assert job.parameters["site"] == "mlp_out" and len(job.key) == 64
    assert job.key[:16] in repr(job) and "1 prompt," in repr(job)
    assert job.plan("local").chosen.backend == "local"
    result = job.run("local")
    again = mi.run("activation_patching", model=tiny_llama, site="mlp_out", **MARY)
    assert again.run_id == result.run_id and result.provenance["key"] == job.key
    assert mi.run(job, backend="local").run_id == result.run_id
    with pytest.raises(AttributeError):
        job.seed = 1  # type: ignore[attr-defined]


def test_a_job_is_submitted_where_it_can_be(project, tiny_llama):
    job = mi.job("logit_lens", model=tiny_llama, prompt="Mary and John")
    with pytest.raises(UsageError, match="cannot run a job in the background"):
        job.submit("local")
    found = job.run("local")
    assert job.submit("local").wait().run_id == found.run_id, "it is there already"


def test_arguments_beside_a_job_are_refused(project, tiny_llama):
    job = mi.job("logit_lens", model=tiny_llama, prompt="Mary and John")
    with pytest.raises(UsageError, match="also given: top, model"):
        mi.run(job, top=3, model="another")
    with pytest.raises(NotFound, match="no recipe named"):
        mi.job("logit_lense", prompt="Mary")


def test_help_names_every_argument_of_a_job_and_of_the_verb():
    asked = list(inspect.signature(mi.job).parameters)[1:]
    for verb, own in ((mi.run, ["backend", "timeout", "fetch"]), (mi.plan, ["backend"])):
        names = list(inspect.signature(verb).parameters)
        assert set(asked) | set(own) <= set(names) and names[0] == "recipe", verb


@pytest.mark.parametrize(
    "first",
    [
        "",
        "import remote_mi.jobs.runner; ",
        "mi.run; ",
        "mi.jobs(); from remote_mi.jobs import lookup; ",
    ],
)
def test_jobs_is_a_function_and_a_package_in_any_order(project, first):
    code = f"import remote_mi as mi; {first}print(mi.jobs()); import remote_mi.jobs.api as api; api.job"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=240)
    assert (done.returncode, done.stdout.strip()) == (0, "[]"), done.stderr


WRONG = (5.5, b"x", ["a"], {"a": 1}, object())


@pytest.mark.parametrize(
    "name, wrong",
    [
        ("model", WRONG),
        ("phenomenon", WRONG),
        ("n", ("1", *WRONG, True)),
        ("seed", ("1", *WRONG, True)),
        ("drop_invalid", (1, None, *WRONG)),
        ("project", (*WRONG, "\0", "x" * 300, "a\ud800")),
        ("parameters", (5, "x", ["a"], {1: 2})),
        ("pairs", (5, b"x", {"a": 1}, object(), ["a"], [None])),
        ("prompt", (*WRONG, "a\ud800")),
        ("backend", (*WRONG, None)),
        ("timeout", (-1, float("nan"), "5", [1], object())),
        ("watch", (*WRONG, "x")),
        ("fetch", (1, None, *WRONG)),
        ("reuse_any", (1, None, *WRONG)),
    ],
)
def test_arguments_of_the_wrong_type_are_refused(project, tiny_llama, name, wrong):
    given = {} if name in ("phenomenon", "pairs") else {"prompt": "Mary and John"}
    for value in wrong:
        arguments = {"model": tiny_llama, **given, name: value}
        with pytest.raises(UsageError) as refused:
            mi.run("logit_lens", **arguments)
        assert name in refused.value.message and len(refused.value.message) < 200


def test_verbs_refuse_arguments_of_the_wrong_type(project, tiny_llama):
    for verb in (mi.plan, mi.submit):
        with pytest.raises(UsageError, match="backend is 5, not a text"):
            verb("logit_lens", model=tiny_llama, prompt="Mary", backend=5)  # type: ignore[arg-type]
    for recipe in (5, ["logit_lens"], object()):
        with pytest.raises(UsageError, match="is not a recipe"):
            mi.job(recipe, model=tiny_llama, prompt="Mary")  # type: ignore[arg-type]


def test_a_module_that_is_no_model_of_transformers_is_refused(project):
    import torch

    with pytest.raises(UsageError, match="model is a Linear, not a transformers model") as refused:
        mi.job("logit_lens", model=torch.nn.Linear(2, 2), prompt="Mary")
    assert "PreTrainedModel" in str(refused.value)
    with pytest.raises(UsageError, match="model is an object of type object, not a text"):
        mi.job("logit_lens", model=object(), prompt="Mary")


def test_pairs_are_a_list_a_tuple_or_a_generator_of_dicts(project, tiny_llama):
    import pandas as pd

    keys = {
        mi.job("activation_patching", model=tiny_llama, pairs=pairs).key
        for pairs in ([MARY], (MARY,), (pair for pair in [MARY]))
    }
    assert len(keys) == 1
    with pytest.raises(
        UsageError, match=r'DataFrame, not a file or a list of dicts[\s\S]*to_dict\("records"\)'
    ):
        mi.job("activation_patching", model=tiny_llama, pairs=pd.DataFrame([MARY]))  # type: ignore[arg-type]
    for empty in ([], (), iter(())):
        with pytest.raises(UsageError, match="there are no pairs"):
            mi.job("activation_patching", model=tiny_llama, pairs=empty)
