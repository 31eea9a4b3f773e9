"""A user's own mapping from a model's module paths to the portable names.

It is for a model whose structure is not found from its configuration (`structure`): a mapping like

    model.layers: layers
    model.norm: ln_final
    self_attn: self_attn,attn_add

whose paths may be the ends of paths, as nnsight's `rename` takes them. docs/models.md lists the names.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from remote_mi.common.errors import UsageError
from remote_mi.models.structure.known import NAMES_HINT


def check_names(auto: Any, config: Any, given: Mapping[str, str]) -> dict[str, str | list[str]]:
    """A mapping as nnsight's `rename` takes it.

    Args:
        auto: the class that makes the model. config: its configuration.
        given: module path → portable name, or several with commas.

    Raises:
        UsageError: if the mapping names a module that does not exist.
    """
    import torch

    with torch.device("meta"):
        skeleton = auto.from_config(config)
    paths = [name for name, _ in skeleton.named_modules()]
    missing = [path for path in given if not _exists(path, paths)]
    if missing:
        raise UsageError(
            f"the names mapping names {missing[0]!r}, which is not a module of "
            f"{type(skeleton).__name__}",
            NAMES_HINT,
        )
    return {path: name.split(",") if "," in name else name for path, name in given.items()}


def _exists(key: str, paths: list[str]) -> bool:
    # A submodule called `output` has the name `E_output` in nnsight's tree.
    key = key.replace("E_output", "output")
    return any(path == key or path.endswith("." + key) for path in paths)
