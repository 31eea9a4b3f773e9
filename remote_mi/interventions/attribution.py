"""Gradients of a measure at activations and at the input, for attribution.

The weights are frozen; gradients are taken with respect to activations. A pass keeps its graph only
from a leaf on: the stream before layer 0, or the rows that replace the token embeddings. A recipe
that uses these functions declares `needs=("gradients",)`.

The input is the output of the token embedding `lm.embed_tokens`: before position embeddings are
added (GPT-2, OPT, BERT), after the scale that Gemma's embedding applies.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from remote_mi.interventions.encoder_decoder import model_inputs
from remote_mi.interventions.forward import Run, run
from remote_mi.interventions.measures import Measure
from remote_mi.interventions.memory import rows_that_fit
from remote_mi.interventions.model_info import info
from remote_mi.interventions.ports import Stream, edit_output, edit_stream
from remote_mi.interventions.prompts import Prompt
from remote_mi.interventions.readout import logits, skip_unembedding
from remote_mi.interventions.sites import chosen_layers, row_of

#: Approximate numbers that the graph keeps per token and layer, in widths of the stream.
WIDTHS_KEPT = 34

#: From the final norm's output, [row, position, d_model], to one number per row.
Score = Callable[[torch.Tensor], torch.Tensor]


def gradients(
    lm: Any,
    prompt: Prompt,
    site: str | Stream,
    measure: Score,
    *,
    layers: Sequence[int] | None = None,
) -> Run:
    """One forward and one backward pass: activations at a site, and the measure's gradient there.

    Args:
        site: one of `SITES`, or a `Port`. measure: made by `measure`.
        layers: whose; None for all that have the site. `values` and `gradients` of the others are
            empty.

    Returns:
        The run, with `values` and `gradients` for each layer, in the shapes of `read`, float32.

    Raises:
        ValueError: for an unknown site, or one that does not exist in the chosen layers, and for
            logits, which no measure reads.
    """
    row, chosen = row_of(site), sorted(chosen_layers(lm, site, layers, "measured"))

    def leaf(stream: torch.Tensor) -> torch.Tensor:
        return stream.detach().requires_grad_(True)

    with lm.trace(**model_inputs(lm, [prompt.ids]), use_cache=False):
        start = edit_output(lm.embed_tokens, leaf) if site == "embed" else edit_stream(lm, 0, leaf)
        # The tensors that the model itself uses: a measure does not depend on views of them.
        pairs = {}
        for index in chosen:
            first = site == "embed" or (site == "resid_pre" and not index)
            pairs[index] = (start, start) if first else row.differentiated(lm, index)
        hidden = pairs[0][0] if site == "final_norm" else lm.ln_final.output
        skip_unembedding(lm)
    tensors = [tensor for tensor, _ in pairs.values()]
    slopes = dict(zip(chosen, torch.autograd.grad(measure(hidden)[0], tensors), strict=True))
    found = Run([list(prompt.ids)], site, hidden.detach(), prompt.matches)
    for index in range(1 if row.once else len(lm.layers)):
        if index not in pairs:
            found.values.append(torch.empty(0))
            found.gradients.append(torch.empty(0))
            continue
        factor, own = row.factor(lm, index), pairs[index][1].detach()
        found.values.append(row.view(own, lm, 1).float() * factor)
        found.gradients.append(row.view(slopes[index], lm, 1).float() / factor)
    return found


def random_like(x: torch.Tensor, draws: int, generator: torch.Generator) -> torch.Tensor:
    """Random vectors with the lengths of the given vectors: the same size without the content.

    Args:
        x: [..., width]. generator: on the CPU.

    Returns:
        [draw, ..., width], float32.
    """
    noise = torch.randn(draws, *x.shape, generator=generator).to(x.device)
    return noise / noise.norm(dim=-1, keepdim=True) * x.float().norm(dim=-1, keepdim=True)


def correlation(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """Pearson's correlation of two maps of the same shape over all cells that are numbers; NaN if
    one of the maps is flat.
    """
    rows = torch.stack([one.flatten(), other.to(one.device).flatten()]).double()
    known = rows.isfinite().all(0)  # as a factor: what is selected has no size beforehand
    rows = torch.where(known, rows, 0.0)
    rows = torch.where(known, rows - rows.sum(1, keepdim=True) / known.sum(), 0.0)
    products = rows @ rows.T
    return (products[0, 1] / (products[0, 0] * products[1, 1]).sqrt()).clamp(-1, 1)


def embeddings(lm: Any, prompt: Prompt) -> torch.Tensor:
    """The input of a prompt: the token embedding's output, [row, position, d_model], float32."""
    with torch.no_grad():
        ids = torch.tensor([prompt.ids], device=lm.embed_tokens.weight.device)
        return lm.embed_tokens(ids).float()


def input_gradients(
    lm: Any, prompt: Prompt, start: torch.Tensor, measures: Sequence[Score], steps: int
) -> torch.Tensor:
    """The mean gradient of measures on the straight line from an input to the prompt's own.

    ∫ ∂m/∂x (start + α (x − start)) dα over α from 0 to 1, by the Gauss–Legendre rule with `steps`
    points: for smooth integrands its error falls faster than any power of the step. Points are
    rows of a batch.

    Args:
        start: the input to start from instead of `embeddings`, [1, position, d_model].
        measures: made by `measure` or `random_scores`.

    Returns:
        [measure, position, d_model], float32.
    """
    stop = embeddings(lm, prompt)
    points, weights = gauss_legendre(steps)
    points, weights = points.to(start)[:, None, None], weights.to(start)[:, None, None]
    total = torch.zeros(len(measures), *start.shape[1:], device=start.device)
    table = lm.embed_tokens.weight
    token = len(lm.layers) * start.shape[-1] * WIDTHS_KEPT * table.element_size()
    size = rows_that_fit(table.device, token * len(prompt.ids))
    for first in range(0, steps, size):
        part = slice(first, first + size)
        x = (start + points[part] * (stop - start)).detach().requires_grad_(True)
        hidden = run(lm, prompt, inputs=x).hidden
        for index, measure in enumerate(measures):
            # Rows do not mix, so the gradient of the sum is that of each row.
            slope = torch.autograd.grad(measure(hidden).sum(), x, retain_graph=True)[0]
            total[index] += (weights[part] * slope).sum(0)
    return total


def gauss_legendre(count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Points and weights of the Gauss–Legendre rule on [0, 1], ascending, float64.

    The points are the eigenvalues of the Jacobi matrix of the Legendre polynomials, the weights
    the squared first components of its eigenvectors (Golub and Welsch).
    """
    k = torch.arange(1, count, dtype=torch.float64)
    beside = k / (4 * k * k - 1).sqrt()
    points, vectors = torch.linalg.eigh(torch.diag(beside, 1) + torch.diag(beside, -1))
    return (points + 1) / 2, vectors[0] ** 2


def random_scores(
    lm: Any, measure: Measure, hidden: torch.Tensor, draws: int, seed: int
) -> list[Score]:
    """Measures of random tokens that are as sensitive to the final state as a given measure.

    Each is c · (logit of one random token − logit of another), with c such that its gradient at
    `hidden` is as long as the measure's own.

    Args:
        hidden: the final norm's output at which the lengths are equal, [1, position, d_model].
    """
    generator = torch.Generator().manual_seed(seed)
    at = hidden.detach().float().requires_grad_(True)
    length = _slope(measure, at)
    found: list[Score] = []
    for _ in range(draws):
        tokens = torch.randint(info(lm).vocabulary, (2,), generator=generator).tolist()
        slope = _slope(_difference_of(lm, tokens, 1.0, measure.end), at)
        factor = length / slope if slope else 0.0
        found.append(_difference_of(lm, tokens, factor, measure.end))
    return found


def _slope(measure: Score, at: torch.Tensor) -> float:
    """Length of a measure's gradient at a final state."""
    return float(torch.autograd.grad(measure(at).sum(), at)[0].norm())


def _difference_of(lm: Any, tokens: list[int], factor: float, end: int) -> Score:
    def measure(hidden: torch.Tensor) -> torch.Tensor:
        of_tokens = logits(lm, hidden[:, end], tokens)
        return factor * (of_tokens[:, 0] - of_tokens[:, 1])

    return measure
