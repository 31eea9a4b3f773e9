"""A recipe that ends the process is a failed run, and what it prints is not a command's data."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import remote_mi
from remote_mi.common.errors import RunFailed
from remote_mi.store.runs import Runs

_RECIPE = '''"""One recipe."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import torch

from remote_mi import recipe
from remote_mi.interventions import Prompt


class Odd(BaseException):
    """What no handler is meant to catch."""

TOP

def before(lm: Any, prompts: list[Prompt]) -> Any:
    """Shared by all calls."""
    SETUP
    return 1


def total(examples: list[Any]) -> dict[str, Any]:
    """One number."""
    ANALYSIS
    return {"total": 1.0}


@recipe(over="prompt", returns={"first": ("position",)}, summaries={"total": ()},
        setup="before", analysis="total")
def odd(lm: Any, prompt: Prompt, one: Any) -> dict[str, Any]:
    """The first number of the stream after layer 0."""
    BODY
    with lm.trace(input_ids=torch.tensor([prompt.ids])):
        TRACE
        first = lm.layers[0].output[0, :, 0].save()
    return {"first": first}
'''
_PLACES = ("TOP", "SETUP", "ANALYSIS", "BODY", "TRACE")
_SENTENCE = "prompt=The Eiffel Tower is in the city of"


def write_recipe(project: Path, **code: str) -> tuple[Path, int]:
    """A recipe with these lines in its places; the file, and the first of these lines."""
    text, number = _RECIPE, 0
    for place in _PLACES:
        if place in code:
            number = number or text[: text.index(place)].count("\n") + 1
        text = text.replace(place, code.get(place, "pass" if place != "TOP" else ""))
    path = project / "recipes" / "odd.py"
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    return path, number


@pytest.mark.parametrize("place", _PLACES)
@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("sys.exit(0)", "sys.exit(0) would end the whole process"),
        ("os._exit(0)", "os._exit(0) would end the whole process"),
        ("raise GeneratorExit", "GeneratorExit is not an Exception"),
        ("raise Odd('hm')", "Odd is not an Exception"),
    ],
)
def test_a_recipe_that_ends_the_process_has_failed(project, cli, tiny_llama, place, code, said):
    _, line = write_recipe(project, **{place: code})
    status, out, err = cli("run", "odd", "--model", tiny_llama, "-p", _SENTENCE, "--json")
    assert (status, out) == (2 if place == "TOP" else 1, "")
    assert f"odd.py:{line}: " in err and said in err
    assert "Traceback" not in err and "unexpected" not in err and "ProcessEnded" not in err
    failed = [row.status for row in Runs(project).rows()]
    assert failed == ([] if place == "TOP" else ["failed"])


def test_a_program_gets_an_exception(project, tiny_llama):
    path, line = write_recipe(project, BODY="os._exit(0)")
    with pytest.raises(RunFailed, match=rf"odd\.py:{line}: os\._exit\(0\)"):
        remote_mi.run(str(path), model=str(tiny_llama), prompt="Hello world!")


def test_the_rest_of_a_study_goes_on(warm_children, project, cli, tiny_llama):
    recipes = {}
    for name, code in (("leaves", "os._exit(0)"), ("exits", "sys.exit()"), ("stays", "pass")):
        path, _ = write_recipe(project, TRACE=code)
        recipes[name] = path.read_text().replace("def odd(", f"def {name}(")
    path.unlink()
    for name, text in recipes.items():
        (project / "recipes" / f"{name}.py").write_text(text)
    content = {
        "study": "three",
        "recipes": list(recipes),
        "models": [str(tiny_llama)],
        "phenomena": [{"prompt": "Hello world!"}],
    }
    (project / "studies").mkdir()
    (project / "studies" / "three.yaml").write_text(yaml.safe_dump(content))
    status, out, err = cli("study", "run", "three", "--json")
    points = {point["recipe"]: point for point in json.loads(out)["points"]}
    assert status == 1, err
    states = {name: point["state"] for name, point in points.items()}
    assert states == {"leaves": "failed", "exits": "failed", "stays": "done"}
    assert "os._exit(0) would end the whole process" in points["leaves"]["error"]


_PRINTS = (
    "print('TO PYTHON'); os.write(1, b'TO THE DESCRIPTOR'); "
    "subprocess.run([sys.executable, '-S', '-c', 'print(\"FROM A PROCESS\")'], check=True)"
)


def test_what_a_recipe_prints_is_not_in_the_data(project, tiny_llama):
    write_recipe(
        project,
        TOP=_PRINTS,
        SETUP=_PRINTS,
        ANALYSIS=_PRINTS,
        BODY=f"{_PRINTS}; os.fork() or print('FROM A CHILD', flush=True)",
    )
    command = ["run", "odd", "--model", str(tiny_llama), "-p", _SENTENCE, "--json"]
    done = subprocess.run(  # with the interpreter's own streams
        [sys.executable, "-m", "remote_mi", *command],
        capture_output=True,
        text=True,
        timeout=480,
        # OpenMP's threads are not those of a forked child, which would wait for them for ever.
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["recipe"] == "odd"
    for said in ("TO PYTHON", "TO THE DESCRIPTOR", "FROM A PROCESS"):
        assert done.stderr.count(said) >= 4, (said, done.stderr)
    assert done.stderr.count("FROM A CHILD") == 1
    assert len(Runs(project).rows()) == 1  # the child ended with the recipe


def test_in_a_program_prints_stay_where_they_are(project, tiny_llama, capfd):
    path, _ = write_recipe(project, BODY="print('TO PYTHON'); os.write(1, b'DESCRIPTOR\\n')")
    remote_mi.run(str(path), model=str(tiny_llama), prompt="Hello world!")
    out, _ = capfd.readouterr()
    assert "TO PYTHON" in out and "DESCRIPTOR" in out


_FIGURE = '''"""A figure of the project."""

import sys
from dataclasses import dataclass
from typing import ClassVar

from remote_mi.recipes.figures import Figure

CODE


@dataclass(frozen=True)
class Spots(Figure):
    kind: ClassVar[str] = "spots"
'''


@pytest.mark.parametrize("command", [("recipes", "show", "odd"), ("recipes", "ls")])
@pytest.mark.parametrize("code", ["print('PRINTED')", "sys.exit(0)"])
def test_the_file_of_a_figure_is_no_danger_either(project, cli, command, code):
    path, _ = write_recipe(project)
    text = path.read_text().replace("import torch\n", "from figures.spots import Spots\n", 1)
    path.write_text(text.replace('analysis="total"', 'analysis="total", figures=[Spots("first")]'))
    (project / "figures").mkdir()
    # Imported once per path and content in a process, and pytest may use a folder's name again.
    code_of_its_own = f"{code}  # {command}"
    (project / "figures" / "spots.py").write_text(_FIGURE.replace("CODE", code_of_its_own))
    status, out, err = cli(*command, "--json")
    if code == "sys.exit(0)":
        assert (status, out) == (2, "")
        assert "spots.py:9: importing the figure failed: sys.exit(0) would end" in err
    else:
        assert status == 0 and json.loads(out) and "PRINTED" in err


def test_messages_do_not_take_the_place_of_a_closed_stderr(project):
    command = [sys.executable, "-m", "remote_mi", "recipes", "ls", "--json"]
    done = subprocess.run(
        ["sh", "-c", 'exec "$@" 2>&-', "sh", *command], stdout=subprocess.PIPE, text=True
    )
    assert done.returncode == 0 and json.loads(done.stdout)["recipes"]


def test_numbers_that_are_none_are_counted_wherever_the_run_is_shown(
    project, cli, tiny_llama, tmp_path
):
    n = "(len(prompt.ids) - 2)"
    write_recipe(
        project,
        BODY=f"return {{'first': [float('nan'), 1e300, *[0.5] * {n}]}}",
        ANALYSIS="return {'total': float('-inf')}",
    )
    words = ("--model", tiny_llama, "-p", _SENTENCE)
    status, out, err = cli("run", "odd", *words)
    assert status == 0, err
    many = len(remote_mi.load_run().prompts[0]["tokens"])
    first = f"2 of {many} numbers of first are NaN, infinite or too large for float32, and so is"
    total = "1 of 1 numbers of total are NaN or infinite"
    assert f"note: {first}" in " ".join(out.split()) and f"note: {total}" in out
    assert "too large" not in err and "RuntimeWarning" not in err
    status, out, _ = cli("run", "odd", *words, "--json")
    data = json.loads(out)
    assert [first in data["notes"][0], total == data["notes"][1]] == [True, True]
    assert data["outputs"]["total"]["values"] is None
    assert data["outputs"]["first"]["values"][:3] == [None, None, 0.5]
    report = tmp_path / "report.md"
    assert cli("report", "-o", report)[0] == 0
    text = " ".join(report.read_text().split())
    assert total in text and first in text
    assert f"2 of {many} cells have no value." in text
