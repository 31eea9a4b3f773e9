"""remote_mi: run interpretability experiments on language models, near or far.

    import remote_mi as mi

    result = mi.run("logit_lens", prompt="The Eiffel Tower is in the city of")
    result["top_prob"]          # an array with named dimensions
    result.to_pandas()

Names are imported on first use, so that `import remote_mi` is quick and needs no torch.
"""

from __future__ import annotations

import importlib
import sys
from typing import TYPE_CHECKING, Any

# At once: the decorator has its module's name, and a later import would put the module there.
from remote_mi.recipe import Range, Ratio, Tokens, recipe

if TYPE_CHECKING:
    from remote_mi.comparison import compare
    from remote_mi.figures import Bars, Heatmap, Lines, Table, Text, TokenGrid
    from remote_mi.models.spec import ModelSpec
    from remote_mi.opening import load_run
    from remote_mi.remote_jobs import RemoteJob, jobs, submit
    from remote_mi.report.run_list import RunList, runs
    from remote_mi.reproduction import reproduce
    from remote_mi.results import Result
    from remote_mi.runner import plan, run

__version__ = "0.1.0"

if "ipykernel" in sys.modules:
    from remote_mi.report.kernel import import_bars

    import_bars()

_HOMES = {
    "Bars": "figures",
    "Heatmap": "figures",
    "Lines": "figures",
    "Table": "figures",
    "Text": "figures",
    "TokenGrid": "figures",
    "ModelSpec": "models.spec",
    "RemoteJob": "remote_jobs",
    "Result": "results",
    "RunList": "report.run_list",
    "compare": "comparison",
    "jobs": "remote_jobs",
    "load_run": "opening",
    "plan": "runner",
    "reproduce": "reproduction",
    "run": "runner",
    "runs": "report.run_list",
    "submit": "remote_jobs",
}


__all__ = [
    "Bars",
    "Heatmap",
    "Lines",
    "ModelSpec",
    "Range",
    "Ratio",
    "RemoteJob",
    "Result",
    "RunList",
    "Table",
    "Text",
    "TokenGrid",
    "Tokens",
    "compare",
    "jobs",
    "load_run",
    "plan",
    "recipe",
    "reproduce",
    "run",
    "runs",
    "submit",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        value = getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
