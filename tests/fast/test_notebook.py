"""A recipe defined in a notebook cell runs, is keyed by its meaning, and its result shows itself."""

from __future__ import annotations

import json
import os
import subprocess
import sys

CELLS = [
    """
import torch
import remote_mi as mi
from remote_mi.interventions import run_residuals

SCALE = 2.0

@mi.recipe(over="prompt", returns={"norm": ("layer", "position")}, figures=[mi.Heatmap("norm")])
def norms(lm, prompt, *, power: float = 1.0):
    "Norms of the stream."
    stream = run_residuals(lm, prompt.ids)[1:]
    return {"norm": SCALE * torch.stack([s.norm(dim=-1) for s in stream]) ** power}
""",
    "result = mi.run(norms, model=MODEL, prompt='Mary and John')",
    "again = mi.run(norms, model=MODEL, prompt='Mary and John')",
    "SCALE = 4.0",
    "other = mi.run(norms, model=MODEL, prompt='Mary and John')",
]

SCRIPT = """
import json, sys
from IPython.core.interactiveshell import InteractiveShell
shell = InteractiveShell.instance()
shell.user_ns["MODEL"] = sys.argv[1]
for cell in json.loads(sys.argv[2]):
    done = shell.run_cell(cell)
    done.raise_error()
ns = shell.user_ns
formats, _ = shell.display_formatter.format(ns["result"])
print("\\n" + json.dumps({
    "shape": list(ns["result"]["norm"].shape),
    "cache": [ns[n].provenance["cache"] for n in ("result", "again", "other")],
    "ratio": float((ns["other"]["norm"].values / ns["result"]["norm"].values).mean()),
    "html": formats["text/html"], "text": formats["text/plain"],
    "source": [p.read_text() for p in (ns["result"].path / "source").iterdir()],
}))
"""


def test_a_recipe_in_a_cell_runs_and_its_result_displays_itself(project, tiny_llama):
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(tiny_llama), json.dumps(CELLS)],
        capture_output=True, text=True, timeout=120,
        env={**os.environ, "IPYTHONDIR": str(project / "ipython")},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["shape"] == [3, 3]
    assert found["cache"] == ["miss", "hit", "miss"], "a changed global is a changed meaning"
    assert abs(found["ratio"] - 2.0) < 1e-5
    assert 'role="grid"' in found["html"] and "norm" in found["html"]
    assert "largest: layer" in found["text"]
    assert any("def norms" in text for text in found["source"])
