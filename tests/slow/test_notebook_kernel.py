"""A notebook in a genuine kernel: one cell, one output, and nothing beside it."""

from __future__ import annotations

import json
import os
import sys
from typing import Any

import pytest

PROMPT = "When Mary and John went to the store, John gave a drink to"
CELLS = {
    "result": f"import remote_mi as mi\nmi.run('logit_lens', model=MODEL, prompt={PROMPT!r})",
    "hit": f"mi.run('logit_lens', model=MODEL, prompt={PROMPT!r})",
    "array": f"mi.run('logit_lens', model=MODEL, prompt={PROMPT!r})['entropy']",
    "number": "mi.run('baseline', model=MODEL, pairs=[PAIR])['accuracy']",
    "runs": "mi.runs()",
    "plan": f"mi.plan('logit_lens', model=MODEL, prompt={PROMPT!r})",
    "comparison": "mi.compare(mi.runs()[0].id8, mi.runs()[0].id8)",
    "nothing": "kept = mi.load_run(mi.runs()[0].id8)",
    "kept": "kept",
    "text": "print(kept)",
    "no pandas": "kept.to_pandas()",
}
BEFORE = """
import sys
sys.modules['pandas'] = None  # as where it is not installed
MODEL = {model!r}
PAIR = {pair!r}
import os
os.environ['REMOTE_MI_PROJECT'] = {project!r}
"""


@pytest.fixture(scope="module")
def outputs(tmp_path_factory: pytest.TempPathFactory, tiny_llama) -> dict[str, list[Any]]:
    """Cell → its outputs."""
    import nbformat
    from nbclient import NotebookClient

    from ..conftest import MARY

    folder = tmp_path_factory.mktemp("notebook")
    before = BEFORE.format(model=str(tiny_llama), pair=MARY, project=str(folder))
    cells = [nbformat.v4.new_code_cell(source) for source in (before, *CELLS.values())]
    for cell in cells:
        cell.metadata["tags"] = ["raises-exception"]
    book = nbformat.v4.new_notebook(cells=cells)
    kernel = folder / "kernels" / "here"
    kernel.mkdir(parents=True)
    start = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    described = {"argv": start, "display_name": "here", "language": "python"}
    (kernel / "kernel.json").write_text(json.dumps(described))
    held = {
        "JUPYTER_PATH": str(folder),
        "REMOTE_MI_CACHE": str(folder / "cache"),
        "IPYTHONDIR": str(folder / "ipython"),
    }
    before_env = {name: os.environ.get(name) for name in held}
    os.environ.update(held)
    try:
        NotebookClient(book, timeout=600, kernel_name="here", resources={}).execute(cwd=str(folder))
    finally:
        for name, value in before_env.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})
    assert book.cells[0].outputs == [], "the test's own beginning shows nothing"
    return {name: cell.outputs for name, cell in zip(CELLS, book.cells[1:], strict=True)}


@pytest.mark.parametrize(
    "cell", ["result", "hit", "array", "number", "runs", "plan", "comparison", "kept"]
)
def test_a_cell_that_ends_in_something_of_ours_has_one_output(outputs, cell):
    found = outputs[cell]
    kinds = [(o.output_type, o.get("name", "")) for o in found]
    assert kinds == [("execute_result", "")], found
    assert {"text/html", "text/plain"} <= set(found[0].data)


def test_a_cell_that_ends_in_nothing_has_none(outputs):
    assert outputs["nothing"] == []


def test_what_is_printed_is_printed_once_as_text(outputs):
    (only,) = outputs["text"]
    assert (only.output_type, only.name) == ("stream", "stdout")
    assert only.text.count("remote-mi  ") == 1 and "\x1b" not in only.text


def test_arrays_show_their_numbers_and_coordinates(outputs):
    html = outputs["array"][0].data["text/html"]
    assert "entropy (layer: 3, position: 14)" in html and "␠Mary" in html
    assert "accuracy" in outputs["number"][0].data["text/html"]


def test_a_missing_pandas_is_said_with_what_to_install(outputs):
    (only,) = outputs["no pandas"]
    assert only.output_type == "error" and only.ename == "UsageError"
    assert "pip install 'remote_mi[pandas]'" in only.evalue
