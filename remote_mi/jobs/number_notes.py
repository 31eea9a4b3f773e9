"""Notes on the numbers of a result: those that are none, and gaps of the other sign."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def non_finite_notes(name: str, arrays: Sequence[np.ndarray]) -> list[str]:
    """How many numbers of an output or summary are not finite, or not in float32; [] if all are."""
    total = sum(array.size for array in arrays)
    lost = sum(int((~np.isfinite(array)).sum()) for array in arrays)
    with np.errstate(over="ignore"):
        bad = sum(int((~np.isfinite(array.astype(np.float32))).sum()) for array in arrays)
    if not bad:
        return []
    what = "NaN or infinite" if lost == bad else "NaN, infinite or too large for float32"
    return [f"{bad} of {total} numbers of {name} are {what}"]


def gap_notes(name: str, gap: np.ndarray, rises: int) -> list[str]:
    """The examples whose gap has the other sign than the behaviour gives it; [] without one."""
    bad = [i for i, value in enumerate(gap) if rises and not value * rises > 0]
    if not bad:
        return []
    shown = ", ".join(f"{i + 1} ({gap[i]:+.2f})" for i in bad[:10])
    more = f" and {len(bad) - 10} more" if len(bad) > 10 else ""
    return [
        f"{len(bad)} of {len(gap)} pairs have a {name} that is not "
        f"{'positive' if rises > 0 else 'negative'}: {shown}{more}; "
        "they are included in the means"
    ]
