"""What the package asks of a backend: of its own two, and of one that another package brings."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

import remote_mi as mi
from remote_mi.backends import registry
from remote_mi.backends.base import Backend
from remote_mi.backends.detached import DetachedBackend
from remote_mi.backends.ledger import Ledger
from remote_mi.backends.options import Footprint, Option, Question
from remote_mi.backends.settings import Limits, Settings
from remote_mi.common.errors import RunFailed, UsageError
from remote_mi.common.progress import Silent
from remote_mi.models.checkpoint import Checkpoint
from remote_mi.models.spec import ModelSpec

BOX = Path(__file__).parent / "box"
PYTHON = sys.executable
STUDY = """\
study: boxed
models: [{model}]
recipes: [logit_lens]
phenomena: [{{name: "ioi:store", n: 1}}]
seeds: [1, 2]
backend: box:two
"""


@pytest.fixture
def box(monkeypatch, project, warm_children):
    """A project in which the package of `box/` is installed, for other processes, too."""
    monkeypatch.syspath_prepend(str(BOX))
    paths = [str(BOX), os.environ.get("PYTHONPATH", "")]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(p for p in paths if p))
    return project


def until(done, seconds=60.0):
    ends = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < ends, "it takes too long"
        time.sleep(0.05)


def lens(model, prompt="Hello world", **more):
    return mi.job("logit_lens", model=model, prompt=prompt, **more)


# --- every kind -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["local", "ndif", "ndif:here", "ndif:http://127.0.0.1:9", "box", "crate"]
)
def test_a_kind_answers_what_the_package_asks(box, name, monkeypatch, tiny_llama):
    monkeypatch.setattr("remote_mi.backends.checking.QUICK_S", 0.5)
    kind, _ = registry.parse_backend(name)
    assert registry.backend_name(name) == name and kind.name == name.partition(":")[0]
    assert kind.name in kind.option_values and set(kind.option_values) <= set(
        registry.option_values()
    )
    assert all(registry.is_backend(word) for word in kind.option_values)
    listed = kind.auto_candidates(Settings(hosts=("here",)))
    assert all(registry.is_backend(word) for word in listed)
    backend = registry.open_backend(name, box, rows_bytes=1 << 20)
    assert backend.name.partition(" ")[0] == kind.name
    assert registry.parse_backend(registry.option_value(backend.name))[0] is kind
    assert isinstance(backend, DetachedBackend) == kind.detaches
    spec = ModelSpec(str(tiny_llama))
    environments = backend.environments(spec)
    assert environments[:1] == [e for e in [backend.environment(spec)] if e is not None]
    assert all(e.kind.startswith(kind.name) for e in environments)
    option = backend.consider(_question(spec))
    assert isinstance(option, Option) and option.why and option.model.name == spec.name
    assert registry.is_backend(option.backend) and "Traceback" not in option.why
    assert kind.spec_for_rerun(spec, None, None, "a run") == spec


def _question(spec):
    described = Checkpoint(True, 1000, 500, "float32", 0, {})
    return Question(
        spec,
        ("gradients",),
        Limits(),
        explicit=False,
        survey=True,
        describe=lambda: described,
        estimate=lambda checkpoint: Footprint(1000, 10, 10, 10),
        measure=lambda need, rows: need,
    )


def test_a_backend_that_only_runs_needs_four_methods():
    """All else of the protocol has a sense of its own."""

    class Least(Backend):
        name = "least"

    least, spec = Least(), ModelSpec("org/model")
    assert least.resume("key", Silent()) is None and least.environments(spec) == []
    assert least.actual_environment(spec, {}).kind == "least"
    assert least.consider(_question(spec)).can


def test_a_name_that_is_no_backend_is_told_with_those_that_are(box):
    with pytest.raises(UsageError) as refused:
        registry.parse_backend("bx")
    assert "did you mean 'box'" in str(refused.value)
    assert "auto, local, ndif, ndif:here, ndif:URL, box, box:NAME, crate" in str(refused.value)
    for wrong, said in (("local:2", "there is one local"), ("box:a b", "the name of no box")):
        with pytest.raises(UsageError, match=said):
            registry.backend_name(wrong)


@pytest.mark.parametrize(
    "value, said",
    [
        ("remote_mi_nowhere:Kind", "cannot be imported: ModuleNotFoundError"),
        ("remote_mi_box:Box", "cannot be imported: TypeError"),
        ("remote_mi_box:main", "is not a backend named 'other'"),
        ("remote_mi_box:BoxKind", "is not a backend named 'other'"),
    ],
)
def test_a_plug_in_that_is_none_is_told_by_name_and_harms_nobody(
    box, tmp_path, monkeypatch, value, said, cli
):
    # Entry points are read once per `sys.path`, and pytest may use a folder's name again.
    site = tmp_path / value.replace(":", "-")
    information = site / "other-1.0.dist-info"
    information.mkdir(parents=True)
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: other\nVersion: 1.0\n")
    (information / "entry_points.txt").write_text(f"[remote_mi.backends]\nother = {value}\n")
    monkeypatch.syspath_prepend(str(site))
    with pytest.raises(UsageError, match="other") as refused:
        registry.parse_backend("other")
    assert said in str(refused.value)
    assert "box" in registry.option_values() and "other" not in registry.option_values()
    assert cli("run", "logit_lens", "--help")[0] == 0
    assert cli("doctor", "--backend", "box")[0] == 0


# --- a kind of another package --------------------------------------------------------------------


def test_a_plug_in_runs_jobs_and_gives_the_numbers_of_this_machine(box, tiny_llama, cli):
    job = lens(tiny_llama)
    plan = job.plan("box")
    assert plan.chosen.backend == "box" and plan.reason == "it accepts any job"
    result = job.run("box", timeout=360)
    assert result.provenance["backend"] == "box"
    assert result.provenance["environment"]["kind"] == "box"
    assert [status for status, _ in result.provenance["record"]["timeline"]][-1] == "COMPLETED"
    here = job.run("local")
    assert here.run_id != result.run_id and here.provenance["cache"] == "miss"
    for name in result.names():
        assert result[name].values == pytest.approx(here[name].values, abs=1e-6, nan_ok=True)
    again = job.run("box")
    assert again.provenance["cache"] == "hit" and again.run_id == result.run_id
    assert job.plan("box").reason == f"already computed there: run {result.run_id}"
    code, out, _ = cli("compare", here.run_id, "box", "--tolerance", "1e-5")
    assert code == 0 and "box" in out
    code, out, err = cli("reproduce", result.run_id, "--json")
    assert code == 0, err
    assert json.loads(out)["runs"][0]["matches"]
    code, out, err = cli("report", result.run_id, "-o", "r.md")
    assert code == 0 and "--backend box" in Path("r.md").read_text()


def test_a_job_that_is_left_is_collected_and_listed(box, tiny_llama, cli, monkeypatch):
    from remote_mi.report.viewer.lists import job_listing, read_jobs

    monkeypatch.setenv("BOX_PASSWORD", "secret")
    job = lens(tiny_llama, "The city of")
    handed = job.submit("box")
    assert job.submit("box").id == handed.id, "the same job is under way already"
    code, out, err = cli("jobs", "ls")
    assert code == 0 and handed.id[:8] in out and "box" in out and "jobs wait" in err
    shown = job_listing(read_jobs(box), box)
    assert handed.id[:8] in str(shown.line(0)) and "logit_lens" in str(shown.line(0))
    # Nobody waits: the collector makes the run.
    until(lambda: Ledger(box).get(handed.id).state == "done")
    code, out, _ = cli("jobs", "show", handed.id[:8])
    assert code == 0 and "COMPLETED" in out and "done" in out
    assert handed.wait().provenance["backend"] == "box"
    assert cli("jobs", "wait", handed.id[:8], "-q")[1].strip() == handed.wait().run_id
    assert cli("jobs", "ls", "-q")[1] == ""


def test_a_job_that_fails_or_is_given_up_says_so(box, tiny_llama, cli):
    handed = lens(tiny_llama, "a").submit("box")
    folder = Ledger(box).folder / "box" / handed.id
    pid = int((folder / "pid").read_text())
    assert cli("jobs", "forget", handed.id[:8])[0] == 0
    until(lambda: not _alive(pid))
    assert handed.state == "forgotten"
    again = lens(tiny_llama, "a").submit("box")
    assert again.id != handed.id
    (box / "failing.py").write_text(
        "from remote_mi import recipe\n\n\n"
        "@recipe(over='none', returns={'x': ()})\n"
        "def failing(lm):\n"
        '    """Fails."""\n'
        "    raise ValueError('on purpose')\n"
    )
    with pytest.raises(RunFailed, match="on purpose"):
        mi.run("failing.py", model=tiny_llama, backend="box", timeout=360)
    code, out, _ = cli("jobs", "ls")
    assert code == 0 and "failed" in out


def _alive(pid):
    import psutil

    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


def test_a_study_an_order_of_auto_and_the_commands_take_it(box, tiny_llama, cli):
    (box / "boxed.yaml").write_text(STUDY.format(model=tiny_llama))
    code, out, err = cli("study", "plan", "boxed.yaml", "--json")
    assert code == 0, err
    assert {p["where"]["backend"] for p in json.loads(out)["points"]} == {"box:two"}
    code, out, err = cli("study", "run", "boxed.yaml", "-q")
    assert code == 0, err
    runs = [mi.load_run(name) for name in out.split()]
    assert [run.provenance["backend"] for run in runs] == ["box two", "box two"]
    assert all(entry.state == "done" for entry in Ledger(box).all())
    code, out, err = cli("doctor", "--backend", "box:two")
    assert code == 0 and "run beside the box two" in out and "embedded model" in out
    code, out, err = cli("models", "ls", "--backend", "box")
    assert code == 0 and "any" in out and "next: remote-mi demo" in err
    code, _, err = cli("login", "--backend", "box")
    assert code == 2 and "box takes no key" in err
    (box / "remote-mi.yaml").write_text("prefer: [box, local]\n")
    plan = lens(tiny_llama, "Rome").plan()
    assert [option.backend for option in plan.options] == ["box", "local"]
    assert plan.chosen.backend == "box"
    assert "box:NAME" in cli("run", "logit_lens", "--help")[1]


def test_a_kind_that_runs_while_it_is_waited_for_has_lanes_of_a_study(box, tiny_llama, cli):
    (box / "boxed.yaml").write_text(STUDY.format(model=tiny_llama).replace("box:two", "crate"))
    code, out, err = cli("study", "run", "boxed.yaml", "-q")
    assert code == 0, err
    runs = [mi.load_run(name).provenance for name in out.split()]
    assert [run["backend"] for run in runs] == ["crate", "crate"]
    assert {run["environment"]["kind"] for run in runs} == {"crate"}
    code, out, err = cli("run", "logit_lens", "-p", "prompt=a", "--backend", "crate", "--detach")
    assert code == 2 and "crate cannot run a job in the background" in err
    code, out, _ = cli("study", "plan", "boxed.yaml", "--json")
    assert {point["run"] is not None for point in json.loads(out)["points"]} == {True}


def test_the_help_of_the_program_and_a_hit_import_no_plug_in(box, tiny_llama, monkeypatch):
    monkeypatch.setattr(sys, "executable", PYTHON)  # in which nothing is imported
    lens(tiny_llama).run("local")
    words = ["run", "logit_lens", "-p", "prompt=Hello world", "--model", str(tiny_llama), "-q"]
    for arguments in (["--help"], [*words, "--backend", "local"]):
        code = (
            "import sys; from remote_mi.cli.main import run_command; "
            "assert run_command(sys.argv[1:]) == 0; assert 'torch' not in sys.modules"
        )
        subprocess.run(
            [sys.executable, "-c", code, *arguments], check=True, timeout=240, capture_output=True
        )
