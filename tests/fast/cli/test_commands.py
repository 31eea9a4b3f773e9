"""The command line: bad input, exit codes, JSON, and torch staying out of quick commands."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys

import pytest

from ...conftest import MARY
from ...warm import python

PAIR = [x for k, v in MARY.items() for x in ("-p", f"{k}={v}")]

GOOD_RECIPE = """
from remote_mi.interventions import run
from remote_mi import recipe
import torch

@recipe(over="prompt", returns={"norm": ("layer", "position")})
def norms(lm, prompt):
    "Norms of the stream."
    stream = [s[0] for s in run(lm, prompt, "resid_post").values]
    BODY
    return {"norm": torch.stack([s.norm(dim=-1) for s in stream])}
"""


def recipe_file(project, body="pass", text=GOOD_RECIPE):
    path = project / "mine.py"
    path.write_text(text.replace("BODY", body))
    return path


def one_clear_message(code, out, err, expected_code, said):
    assert code == expected_code, err
    assert said.lower() in err.lower(), err
    assert "Traceback" not in err and "Traceback" not in out
    assert err.count("error:") == 1
    assert out == ""


@pytest.mark.parametrize(
    "arguments, code, said",
    [
        (["rnu"], 2, "did you mean 'run'"),
        (["run", "logit_len", "-p", "prompt=x"], 3, "did you mean 'logit_lens'"),
        (["run", "logit_lens"], 2, "there are no prompts"),
        (["run", "logit_lens", "-p", "promt=x"], 2, "did you mean 'prompt'?"),
        (["run", "logit_lens", "-p", "prompt="], 2, "prompt text is empty"),
        (["run", "logit_lens", "-p", "prompt"], 2, "not NAME=VALUE"),
        (["run", "logit_lens", "-p", "prompt=a", "-p", "tpo=3"], 2, "did you mean 'top'"),
        (["run", "logit_lens", "-p", "prompt=a", "--top", "0"], 2, "from 1 to 50"),
        (["run", "logit_lens", "-p", "prompt=a", "--top", "many"], 2, "a whole number"),
        (["run", "logit_lens", "-p", "prompt=a", "--tpo", "3"], 2, "--top"),
        (["run", "logit_lens", "-p", "prompt=a", "-p", "top=3", "--top", "3"], 2, "given twice"),
        (["run", "logit_lens", "-p", "prompt=a", "--phenomenon", "ioi"], 2, "one way"),
        (["run", "activation_patching", "-p", "prompt=a"], 2, "works on clean/corrupt pairs"),
        (["run", "activation_patching", "-p", "clean=a"], 2, "a pair needs 'corrupt'"),
        (["run", "activation_patching", "--phenomenon", "ioii"], 3, "did you mean 'ioi'"),
        (["run", "activation_patching", "--phenomenon", "ioi:shop"], 3, "template"),
        (
            ["run", "activation_patching", "--phenomenon", "country_capital", "-n", "99"],
            2,
            "has 16 pairs",
        ),
        (["run", "activation_patching", "--phenomenon", "ioi", "-n", "0"], 2, "at least 1"),
        (
            ["run", "activation_patching", "--phenomenon", "ioi", "--site", "atn_out"],
            2,
            "did you mean 'attn_out'",
        ),
        (
            ["run", "activation_patching", "--phenomenon", "ioi", "--backend", "locale"],
            2,
            "did you mean 'local'",
        ),
        (
            ["run", "activation_patching", "--phenomenon", "ioi", "--model", "./nowhere"],
            2,
            "no folder",
        ),
        (["run", "activation_patching", "--phenomenon", "ioi", "--model", "."], 2, "config.json"),
        (
            ["run", "activation_patching", "--phenomenon", "ioi", "--model", "smollm2-135m"],
            3,
            "smollm2-135m-q4_1",
        ),
        (
            ["run", "activation_patching", "--phenomenon", "ioi", "--dtype", "int3"],
            2,
            "is not one of",
        ),
        (["run", "activation_patching", "--pairs", "missing.jsonl"], 2, "cannot read"),
        (["run", "missing.py", "-p", "prompt=a"], 2, "cannot read recipe file"),
        (["view"], 3, "there are no runs"),
        (["recipes", "show", "lens"], 3, "logit_lens"),
        (["phenomena", "show", "x"], 3, "no phenomenon"),
    ],
)
def test_bad_input_gets_one_clear_message_and_its_code(project, cli, arguments, code, said):
    one_clear_message(*cli(*arguments), code, said)


@pytest.mark.parametrize(
    "change, code, said",
    [
        (
            {"corrupt": "When Mary went to the store, Mary gave a drink to"},
            2,
            "14 tokens and the corrupt one 12",
        ),
        ({"corrupt": MARY["clean"]}, 2, "identical"),
        ({"answer": " Mary John", "wrong": " Mary"}, 2, "nothing tells right and wrong apart"),
        ({"clean": "store " * 70, "corrupt": "park " * 70}, 2, "the model takes 64"),
    ],
)
def test_prompts_that_do_not_fit_are_refused(project, cli, tiny_llama, change, code, said):
    given = [x for k, v in {**MARY, **change}.items() for x in ("-p", f"{k}={v}")]
    found = cli("run", "activation_patching", "--model", tiny_llama, "-q", *given)
    one_clear_message(*found, code, said)
    assert not (project / "runs").exists(), "a mistake before anything ran leaves no run"


@pytest.mark.parametrize(
    "body, code, said",
    [
        ("raise KeyError('mine')", 1, "mine.py:10: KeyError"),
        ("return {}", 1, "did not return 'norm'"),
        ("return {'norm': torch.zeros(3, 14), 'more': 1}", 1, "'more', which it does not declare"),
        ("return {'norm': torch.zeros(3)}", 1, "declared as (layer, position) and has shape (3,)"),
        ("return 3", 1, "returned int"),
        ("lm.layers[99]", 1, "mine.py:10: AttributeError"),
        ("raise MemoryError", 1, "reduce what it needs"),
        ("torch.empty(1 << 48)", 1, "out of memory"),
    ],
)
def test_a_failing_recipe_names_its_own_line(project, cli, tiny_llama, body, code, said):
    path = recipe_file(project, body)
    found = cli("run", path, "--model", tiny_llama, "-p", "prompt=Mary and John", "-q")
    one_clear_message(*found, code, said)


def test_a_failed_run_can_be_looked_at_and_is_no_hit(project, cli, tiny_llama):
    path = recipe_file(project, "raise KeyError('mine')")
    cli("run", path, "--model", tiny_llama, "-p", "prompt=Mary and John", "-q")
    code, _, err = cli("view")
    assert code == 1 and "KeyError" in err
    path = recipe_file(project)
    code, out, _ = cli("run", path, "--model", tiny_llama, "-p", "prompt=Mary and John", "-q")
    assert code == 0 and out.strip()


def test_an_edited_recipe_runs_as_edited_and_a_comment_is_a_hit(project, cli, tiny_llama):
    def values(body):
        path = recipe_file(project, body)
        code, out, err = cli("run", path, "--model", tiny_llama, "-p", "prompt=Mary", "--json")
        assert code == 0, err
        found = json.loads(out)
        return found["outputs"]["norm"]["values"], found["provenance"]["cache"]

    first, state = values("pass")
    assert state == "miss"
    assert values("pass  # nothing") == (first, "hit")
    doubled, state = values("stream = [2 * s for s in stream]")
    assert state == "miss"
    assert doubled[0][0] == pytest.approx(2 * first[0][0], rel=1e-5)


def test_a_local_module_of_a_recipe_counts(project, cli, tiny_llama):
    recipes = project / "recipes"
    recipes.mkdir()
    (recipes / "norms.py").write_text(
        GOOD_RECIPE.replace("import torch", "import torch\nfrom scale import scaled").replace(
            "BODY", "stream = [scaled(s) for s in stream]"
        )
    )
    library = recipes / "scale.py"

    def run():
        code, out, err = cli("run", "norms", "--model", tiny_llama, "-p", "prompt=Mary", "--json")
        assert code == 0, err
        found = json.loads(out)
        return found["outputs"]["norm"]["values"][0][0], found["provenance"]["cache"]

    library.write_text("def scaled(x):\n    return x\n")
    plain, state = run()
    assert state == "miss"
    library.write_text("def scaled(x):\n    # the same\n    return x\n")
    assert run()[1] == "hit"
    library.write_text("def scaled(x):\n    return 3 * x\n")
    tripled, state = run()
    assert state == "miss" and tripled == pytest.approx(3 * plain, rel=1e-5)


def test_json_is_one_document_with_a_schema(project, cli, tiny_llama):
    code, out, _ = cli("run", "activation_patching", "--model", tiny_llama, *PAIR, "--json")
    data = json.loads(out)
    assert code == 0 and data["schema"] == 1
    recovery = data["outputs"]["recovery"]
    assert recovery["dims"] == ["layer", "position"] and len(recovery["values"]) == 3
    assert recovery["coords"]["position"][9] == " John"
    for command in (
        ["recipes", "ls"],
        ["phenomena", "ls"],
        ["models", "ls"],
        ["runs", "ls"],
        ["recipes", "show", "logit_lens"],
        ["phenomena", "show", "ioi"],
    ):
        code, out, _ = cli(*command, "--json")
        assert code == 0 and json.loads(out)["schema"] == 1


def test_quiet_prints_the_id_only_and_dry_run_runs_nothing(project, cli, tiny_llama):
    arguments = ["run", "activation_patching", "--model", tiny_llama, *PAIR]
    code, out, err = cli(*arguments, "--dry-run")
    assert code == 0 and "not computed yet" in out
    assert not (project / "runs").exists()
    code, out, err = cli(*arguments, "-q")
    assert code == 0 and out.strip().count("\n") == 0 and err == ""
    code, said, _ = cli(*arguments, "--dry-run")
    assert f"already exists: run {out.strip()}" in said


def test_a_run_ends_with_what_to_type_next(project, cli, tiny_llama):
    _, out, err = cli("run", "logit_lens", "--model", tiny_llama, "-p", "prompt=Mary and John")
    assert "top token" in out and "next: remote-mi view" in err
    code, out, err = cli("view", "--plain", "--only", "kl")
    assert code == 0 and "KL to the final layer" in out and "top token" not in out
    assert cli("view", "--only", "nothing")[0] == 3


def test_pairs_come_from_a_file_and_a_wrong_line_is_named(project, cli, tiny_llama):
    file = project / "pairs.jsonl"
    file.write_text(json.dumps(MARY) + "\n" + json.dumps(MARY) + "\n")
    code, out, err = cli("run", "head_patching", "--model", tiny_llama, "--pairs", file, "--json")
    assert code == 0 and len(json.loads(out)["prompts"]) == 2, err
    file.write_text(json.dumps(MARY) + "\n{'clean': 1}\n")
    one_clear_message(*cli("run", "head_patching", "--pairs", file), 2, "pairs.jsonl:2")


@pytest.mark.parametrize(
    "command",
    [
        ["--help"],
        ["recipes", "ls"],
        ["recipes", "show", "logit_lens"],
        ["run", "--help"],
        ["run", "logit_lens", "--help"],
        ["phenomena", "ls"],
        ["models", "ls"],
        ["runs", "ls"],
    ],
)
def test_quick_commands_do_not_import_torch(project, command):
    assert_torch_free(command)


def test_a_hit_and_view_do_not_import_torch(project, cli, tiny_llama):
    arguments = ["run", "activation_patching", "--model", str(tiny_llama), *PAIR]
    assert cli(*arguments, "-q")[0] == 0
    for command in (arguments, ["view", "--plain"], ["runs", "ls"], [*arguments, "--dry-run"]):
        assert_torch_free(command)


def test_help_and_a_quiet_hit_import_only_what_they_need(project, cli, tiny_llama):
    assert_torch_free(["--help"], "remote_mi.recipes", "rich", "dataclasses", "importlib.metadata")
    arguments = ["run", "logit_lens", "--model", str(tiny_llama), "-p", "prompt=Mary", "-q"]
    assert cli(*arguments)[0] == 0
    of_a_miss = ("remote_mi.jobs.execution", "remote_mi.models.load", "remote_mi.backends.ledger")
    assert_torch_free(arguments, *of_a_miss, "rich", "psutil")


def assert_torch_free(command, *others):
    """The command succeeds and imports neither torch and the like nor the other modules."""
    heavy = ["torch", "transformers", "nnsight", "scipy", "pandas", *others]
    script = (
        "import sys\nfrom remote_mi.cli.main import run_command\n"
        "code = run_command(sys.argv[1:])\n"
        f"heavy = [m for m in {heavy} if m in sys.modules]\n"
        "assert code == 0, code\nassert not heavy, heavy\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, *command],
        capture_output=True,
        text=True,
        timeout=240,
        env=os.environ,
    )
    assert done.returncode == 0, done.stderr


def test_output_has_no_colour_when_piped(project, process, tiny_llama):
    done = process("run", "logit_lens", "--model", tiny_llama, "-p", "prompt=Mary and John")
    assert done.returncode == 0, done.stderr
    assert "\x1b" not in done.stdout and "\x1b" not in done.stderr
    assert max(map(len, done.stdout.splitlines())) <= 80


def test_a_full_disk_does_not_lose_the_result(project, tiny_llama):
    """Files may not grow beyond a few hundred bytes: every write of a result fails."""
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "remote_mi",
            "run",
            "activation_patching",
            "--model",
            str(tiny_llama),
            *PAIR,
        ],
        capture_output=True,
        text=True,
        timeout=360,
        env=os.environ,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (300, 300)),
    )
    assert done.returncode == 1, done.stderr
    assert "recovery" in done.stdout, "the figures are shown all the same"
    assert "no space left" in done.stderr and "Traceback" not in done.stderr
    assert not list((project / "runs").glob("*"))


def test_a_read_only_cache_costs_the_cache_and_nothing_else(project, process, tiny_llama):
    done = process(
        "run", "activation_patching", "--model", tiny_llama, *PAIR, REMOTE_MI_CACHE="/proc/nowhere"
    )
    assert done.returncode == 0, done.stderr
    assert "not cached" in done.stderr and "recovery" in done.stdout
    assert len(list((project / "runs").glob("*-activation_patching-*"))) == 1


def test_ctrl_c_exits_with_130(project, tiny_llama):
    import signal
    import time

    process = subprocess.Popen(
        [
            *python(),
            "-m",
            "remote_mi",
            "run",
            "head_patching",
            "--model",
            str(tiny_llama),
            "--phenomenon",
            "ioi",
            "-n",
            "1800",
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ,
    )
    deadline = time.monotonic() + 240
    while time.monotonic() < deadline and not list((project.parent / "cache").rglob("cas/*/*")):
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=240)
    assert process.returncode == 130, err
    assert "interrupted" in err and "Traceback" not in err
