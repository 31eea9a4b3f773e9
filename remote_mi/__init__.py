"""remote_mi: run interpretability experiments on language models, locally or on a server.

    import remote_mi as mi

    result = mi.run("logit_lens", prompt="The Eiffel Tower is in the city of")
    result["top_prob"]          # an array with named dimensions
    result.to_pandas()

Names are imported on first use, so that `import remote_mi` is fast and does not load torch.
"""

from __future__ import annotations

import importlib
import sys
from typing import TYPE_CHECKING, Any

from remote_mi.common.display import RENDERERS
from remote_mi.common.version import __version__

if TYPE_CHECKING:
    from remote_mi.jobs.api import job, plan, run, submit
    from remote_mi.jobs.api import list_jobs as jobs
    from remote_mi.jobs.recipe_check.check import check_recipe
    from remote_mi.jobs.remote import RemoteJob
    from remote_mi.jobs.reproduction.reproduce import reproduce
    from remote_mi.models.spec import ModelSpec
    from remote_mi.recipes.declaration import recipe
    from remote_mi.recipes.figures import Bars, Heatmap, Lines, Table, Text, TokenGrid
    from remote_mi.recipes.outputs import Json, Judged, Ratio, Share, Texts, Tokens
    from remote_mi.recipes.own_metrics import metric
    from remote_mi.recipes.parameters import Range
    from remote_mi.report.run_list import RunList, runs
    from remote_mi.store.comparison import compare
    from remote_mi.store.loaded_study import LoadedStudy, load_study
    from remote_mi.store.opening import load_run
    from remote_mi.store.result import Result


if "ipykernel" in sys.modules:
    from remote_mi.report.kernel import import_bars

    import_bars()

RENDERERS |= {
    "Comparison": ("remote_mi.report.comparison:plain_text", "remote_mi.report.comparison:html"),
    "Contrast": ("remote_mi.report.contrast:plain_text", "remote_mi.report.contrast:html"),
    "LoadedStudy": (
        "remote_mi.report.study.terminal:plain_text",
        "remote_mi.report.study.terminal:html",
    ),
    "NamedArray": (None, "remote_mi.report.notebook:array_html"),
    "Plan": (None, "remote_mi.report.notebook:plan_html"),
    "RemoteJob": (None, "remote_mi.report.notebook:job_html"),
    "Result": ("remote_mi.report.terminal:plain_text", "remote_mi.report.notebook:html"),
}

#: Public name → the module that defines it, below `remote_mi`.
_MODULES = {
    "Bars": "recipes.figures",
    "Heatmap": "recipes.figures",
    "Lines": "recipes.figures",
    "Table": "recipes.figures",
    "Text": "recipes.figures",
    "TokenGrid": "recipes.figures",
    "Json": "recipes.outputs",
    "Judged": "recipes.outputs",
    "Ratio": "recipes.outputs",
    "Share": "recipes.outputs",
    "Texts": "recipes.outputs",
    "Tokens": "recipes.outputs",
    "Range": "recipes.parameters",
    "recipe": "recipes.declaration",
    "metric": "recipes.own_metrics",
    "ModelSpec": "models.spec",
    "RemoteJob": "jobs.remote",
    "Result": "store.result",
    "RunList": "report.run_list",
    "check_recipe": "jobs.recipe_check.check",
    "compare": "store.comparison",
    "job": "jobs.api",
    "LoadedStudy": "store.loaded_study",
    "load_run": "store.opening",
    "load_study": "store.loaded_study",
    "plan": "jobs.api",
    "reproduce": "jobs.reproduction.reproduce",
    "run": "jobs.api",
    "runs": "report.run_list",
    "submit": "jobs.api",
}


__all__ = [
    "Bars",
    "Heatmap",
    "Json",
    "Judged",
    "Lines",
    "LoadedStudy",
    "ModelSpec",
    "Range",
    "Ratio",
    "RemoteJob",
    "Result",
    "RunList",
    "Share",
    "Table",
    "Text",
    "Texts",
    "TokenGrid",
    "Tokens",
    "__version__",
    "check_recipe",
    "compare",
    "job",
    "jobs",
    "load_run",
    "load_study",
    "metric",
    "plan",
    "recipe",
    "reproduce",
    "run",
    "runs",
    "submit",
]


def __getattr__(name: str) -> Any:
    if name == "jobs":
        return importlib.import_module("remote_mi.jobs")
    if name in _MODULES:
        value = getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
