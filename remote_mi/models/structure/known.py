"""The structure of a model by its configuration: found once, then remembered.

It depends on the configuration, the versions of the libraries and the code here, so these name the
file in the cache folder that keeps it.
"""

from __future__ import annotations

import functools
import json
import math
from importlib.metadata import version
from pathlib import Path
from typing import Any

from remote_mi.common.atomic_files import write_atomically
from remote_mi.common.digests import digest
from remote_mi.common.errors import UsageError, first_line
from remote_mi.common.paths import cache_root
from remote_mi.models.structure.portable import Structure, describe
from remote_mi.models.structure.twin import make_twin
from remote_mi.models.structure.whole import Unfit

#: What to do about a model whose structure is not found.
NAMES_HINT = "map its modules with --names FILE (docs/models.md shows a mapping)"
#: Members of a configuration that say nothing about its model's code.
_UNRELATED = ("_name_or_path", "transformers_version", "dtype", "torch_dtype", "architectures")

_found: dict[str, Structure] = {}


def structure_of(auto: Any, config: Any) -> Structure:
    """The structure of a model, from its configuration alone.

    Args:
        auto: the class that makes the model. config: its configuration.

    Raises:
        UsageError: if the model has no structure that interventions can follow, with the reason.
    """
    key = _key(auto, config)
    if key not in _found:
        file = cache_root() / "structures" / f"{key}.json"
        kept = _read(file)
        if kept is None:
            kept = _find(auto, config)
            _keep(file, kept)
        _found[key] = kept
    return _found[key]


def _key(auto: Any, config: Any) -> str:
    members = {k: v for k, v in config.to_dict().items() if k not in _UNRELATED}
    versions = [version(name) for name in ("torch", "transformers", "remote_mi")]
    text = json.dumps(members, sort_keys=True, default=str)
    return digest([_own_code(), type(config).__name__, auto.__name__, text, versions])[:32]


@functools.cache
def _own_code() -> str:
    """The digest of the code that finds structures."""
    files = sorted(Path(__file__).parent.glob("*.py"))
    return digest([file.read_text(encoding="utf-8") for file in files])


def _find(auto: Any, config: Any) -> Structure:
    made_as = (getattr(config, "architectures", None) or [type(config).__name__])[0]
    try:
        found = describe(make_twin(auto, config))
        if _has_factors(found) and not _alike(
            _facts(describe(make_twin(auto, config, seed=1))), _facts(found)
        ):
            raise Unfit("what its modules add is multiplied by weights of its own")
        return found
    except Unfit as why:
        raise UsageError(f"the architecture {made_as} cannot be used: {why}", NAMES_HINT) from None
    except ImportError:
        raise
    except Exception as error:  # the model's own code, which may fail in any way
        raise UsageError(
            f"the architecture {made_as} cannot be used: a small run of it fails: "
            f"{type(error).__name__}: {first_line(error)}",
            NAMES_HINT,
        ) from error


def _facts(structure: Structure) -> list[Any]:
    return [structure["facts"], *(layer["facts"] for layer in structure["layers"])]


def _alike(one: Any, other: Any) -> bool:
    """Whether two structures' facts are the same, but for rounding in what was measured."""
    if isinstance(one, float) and isinstance(other, float):
        return math.isclose(one, other, rel_tol=1e-5)
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_alike(one[k], other[k]) for k in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(_alike, one, other))
    return one == other


def _has_factors(structure: Structure) -> bool:
    measured = [name for facts in _facts(structure) for name in facts]
    return any(name.endswith(("_factor", "_scale", "_cap")) for name in measured)


def _read(file: Path) -> Structure | None:
    """A structure that was kept; None if there is none, or not as it was written."""
    try:
        kept = json.loads(file.read_text(encoding="utf-8"))
        return kept["structure"] if kept["digest"] == digest(kept["structure"]) else None
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return None


def _keep(file: Path, structure: Structure) -> None:
    """Keep a structure; a folder that may not be written costs time at the next run only."""
    try:
        content = {"structure": structure, "digest": digest(structure)}
        write_atomically(file, json.dumps(content).encode(), cache_root() / "tmp")
    except OSError:
        return
