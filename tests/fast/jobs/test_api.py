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
