"""Testing an output against its control: which cells are told from it, corrected over the map."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from remote_mi.common.statistics import ROUNDING
from remote_mi.common.statistics.intervals import cluster_sums
from remote_mi.common.statistics.randomisation import exchange_roles
from remote_mi.store.verdict import ControlTest


@dataclass(frozen=True)
class ControlSamples:
    """An output and its control, sample by sample.

    Attributes:
        effect: [sample, ...]. control: [sample, draw, ...].
        clusters: number of each sample's unit, within which roles are exchanged; None if each is a
            unit of its own. unit: what the units are called.
    """

    effect: np.ndarray
    control: np.ndarray
    clusters: list[int] | None
    unit: str


def against_control(samples: ControlSamples, control: str) -> tuple[np.ndarray, ControlTest]:
    """The corrected level at which each cell is told from its control, and how it was tested.

    Returns:
        [...]: NaN for cells without size, which are 0 up to rounding in every sample, and for cells
        that are not finite.
    """
    effect, drawn = samples.effect, samples.control
    draws = drawn.shape[1]
    flat = effect.reshape(len(effect), -1)
    sizes = np.abs(flat).max(0, initial=0.0)
    scale = max(
        np.nanmax(sizes, initial=0.0), np.nanmax(np.abs(drawn), initial=0.0) if draws else 0.0
    )
    sums, weights = cluster_sums(flat, samples.clusters)
    of_draws = [
        cluster_sums(drawn[:, d].reshape(len(drawn), -1), samples.clusters)[0] for d in range(draws)
    ]
    empty = sizes <= ROUNDING * scale
    by_draw = np.stack(of_draws, 1) if draws else np.empty((len(sums), 0, flat.shape[1]))
    found = exchange_roles(sums, by_draw, empty)
    p = np.where(empty | ~np.isfinite(sizes), np.nan, np.where(np.isnan(found.p), 1.0, found.p))
    test = ControlTest(control, len(weights), draws, samples.unit)
    return p.reshape(effect.shape[1:]), test
