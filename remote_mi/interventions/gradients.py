"""Gradients of a scalar metric at activations and at the input, for attribution.

The weights are frozen; what is differentiated is an activation. A pass keeps its graph only from
a leaf on: the stream before layer 0, or the rows that stand in for the token embeddings. Metrics
are functions of the final norm's output, [row, d_model], to [row] in float32. A recipe that uses
these declares `needs=("gradients",)`.

The input is the output of the token embedding `lm.embed_tokens`: before position embeddings are
added (GPT-2, OPT, BERT), after the scale that Gemma's embedding applies.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from remote_mi.interventions.metrics import all_logits, answer_logits, answer_metric
from remote_mi.interventions.prompts import Pair
from remote_mi.interventions.sites import edit_stream, read_site, read_stream, skip_unembedding
from remote_mi.interventions.sweeps import first_changed

#: What the graph of one pass may take, in bytes; further rows go into further passes.
GRAPH_BUDGET = 2 << 30
#: Numbers that the graph keeps of a token in a layer, in widths of the stream: about.
WIDTHS_KEPT = 34

#: From the final norm's output, [row, d_model], to one number a row.
Score = Callable[[torch.Tensor], torch.Tensor]


def run_site(
    lm: Any, ids: list[int], site: str, end: int, graph: bool = False
) -> tuple[list[torch.Tensor], torch.Tensor]:
    """One forward pass of one prompt.

    Args:
        site: a `Site`, or "head_z".
        end: where the final norm's output is taken.
        graph: whether the stream before layer 0 is a leaf from which a graph is kept.

    Returns:
        The activation at the site of each layer, [1, position, width] or, where the model runs
        rows and positions in one dimension, [position, width];
        the final norm's output, [1, d_model].

    Raises:
        ValueError: for an unknown site, or resid_mid where blocks are parallel.
    """

    def leaf(stream: torch.Tensor) -> torch.Tensor:
        return stream.detach().requires_grad_(True) if graph else stream

    with lm.trace(input_ids=torch.tensor([ids]), use_cache=False):
        start = edit_stream(lm, 0, leaf)
        found = []
        for index, layer in enumerate(lm.layers):
            if site == "resid_pre":
                found.append(read_stream(lm, index) if index else start)
            else:
                found.append(_in_graph(layer, site))
        hidden = lm.ln_final.output[:, end]
        skip_unembedding(lm)
    return found, hidden


def _in_graph(layer: Any, site: str) -> torch.Tensor:
    """The activation itself, as the model goes on with it: of another shape it would be a view,
    which the metric does not depend on."""
    if hasattr(layer, "mlp_flat") and site == "mlp_out":
        return layer.mlp_add.output
    if hasattr(layer, "mlp_flat") and site == "resid_mid" and hasattr(layer, "ln_mlp"):
        return layer.ln_mlp.input
    return read_site(layer, site)


def _of_one_row(act: torch.Tensor) -> torch.Tensor:
    return act.detach().reshape(-1, act.shape[-1]).float()


def site_gradients(
    lm: Any, ids: list[int], site: str, end: int, score: Score
) -> tuple[list[torch.Tensor], list[torch.Tensor], torch.Tensor]:
    """Activations of a site and the metric's gradient there, at every layer and position.

    One forward and one backward pass.

    Returns:
        Activation and gradient of each layer, [position, width] in float32; the metric, [].
    """
    acts, hidden = run_site(lm, ids, site, end, graph=True)
    value = score(hidden)[0]
    gradients = torch.autograd.grad(value, acts)
    found = [_of_one_row(act) for act in acts]
    return found, [_of_one_row(gradient) for gradient in gradients], value.detach()


def pair_gradients(
    lm: Any, pair: Pair, site: str, direction: str, metric: str
) -> tuple[list[torch.Tensor], list[torch.Tensor], dict[str, torch.Tensor]]:
    """What attribution patching multiplies: how the runs differ, and the base run's gradient.

    Args:
        direction: "denoise": the base is the corrupt run; "noise": the clean run.
        metric: see `answer_metric`; always of the clean prompt's answer.

    Returns:
        difference: other run − base run, of each layer, [position, width], float32; exactly 0
            before the first position that the prompts' difference can reach;
        gradient: of the metric in the base run, of each layer, [position, width], float32;
        the metric of both runs: clean [], corrupt [].
    """
    base, other = pair.corrupt.ids, pair.clean.ids
    if direction == "noise":
        base, other = other, base

    def score(hidden: torch.Tensor) -> torch.Tensor:
        return answer_metric(lm, hidden, metric, pair.answers, pair.wrongs)

    acts, gradients, of_base = site_gradients(lm, base, site, pair.end, score)
    others, hidden = run_site(lm, other, site, pair.end)
    of_other = score(hidden)[0]
    same = first_changed(lm, pair)
    differences = []
    for act, found in zip(acts, others, strict=True):
        difference = _of_one_row(found) - act
        difference[:same] = 0
        differences.append(difference)
    runs = (of_other, of_base) if direction == "denoise" else (of_base, of_other)
    return differences, gradients, {"clean": runs[0], "corrupt": runs[1]}


def random_directions(
    difference: torch.Tensor, draws: int, generator: torch.Generator
) -> torch.Tensor:
    """Random directions of the lengths that vectors have.

    Args:
        difference: [..., width]. generator: on the CPU.

    Returns:
        [draw, ..., width].
    """
    noise = torch.randn(draws, *difference.shape, generator=generator).to(difference.device)
    return noise / noise.norm(dim=-1, keepdim=True) * difference.norm(dim=-1, keepdim=True)


def pearson(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """Pearson's correlation of two maps of one shape, over all their cells; NaN if one is flat."""
    rows = torch.stack([one.flatten(), other.to(one.device).flatten()]).double()
    rows = rows - rows.mean(-1, keepdim=True)
    return (rows[0] * rows[1]).sum() / rows.norm(dim=-1).prod()


def token_embeddings(lm: Any, ids: list[int]) -> torch.Tensor:
    """The input of a prompt: the token embedding's output, [position, d_model], float32."""
    with torch.no_grad():
        return lm.embed_tokens(torch.tensor(ids, device=lm.embed_tokens.weight.device)).float()


def run_embeddings(lm: Any, ids: list[int], rows: torch.Tensor, end: int) -> torch.Tensor:
    """One forward pass with other vectors in the place of the token embeddings.

    Args:
        ids: the prompt whose length, positions and mask are used.
        rows: [row, position, d_model], float32.

    Returns:
        The final norm's output at `end`, [row, d_model], in the graph of `rows`.
    """
    with lm.trace(input_ids=torch.tensor([ids] * len(rows)), use_cache=False):
        own = lm.embed_tokens.output
        lm.embed_tokens.output = rows.to(own.device, own.dtype)
        hidden = lm.ln_final.output[:, end]
        skip_unembedding(lm)
    return hidden


def top_token(lm: Any, hidden: torch.Tensor) -> int:
    """Id of the most probable token.

    Args:
        hidden: the final norm's output, [1, d_model].
    """
    with torch.no_grad():
        return int(all_logits(lm, hidden)[0].argmax())


def input_gradients(
    scores: Sequence[Score], hidden: torch.Tensor, rows: torch.Tensor
) -> torch.Tensor:
    """Gradients of several metrics at the input: one backward pass each.

    Args:
        hidden: of `run_embeddings`. rows: the leaf it was given.

    Returns:
        [score, row, position, d_model], float32.
    """
    found = []
    for score in scores:  # rows do not mix, so the gradient of the sum is that of each row
        found.append(torch.autograd.grad(score(hidden).sum(), rows, retain_graph=True)[0])
    return torch.stack(found)


def path_gradients(
    lm: Any,
    ids: list[int],
    start: torch.Tensor,
    stop: torch.Tensor,
    end: int,
    scores: Sequence[Score],
    steps: int,
) -> torch.Tensor:
    """The mean gradient of metrics on the straight line between two inputs.

    ∫ ∂m/∂x (start + α (stop − start)) dα over α from 0 to 1, by the Gauss–Legendre rule with
    `steps` points: for smooth integrands its error falls faster than any power of the step.
    Points are rows of a batch.

    Args:
        start, stop: [position, d_model], float32.

    Returns:
        [score, position, d_model], float32.
    """
    points, weights = gauss_legendre(steps)
    points, weights = points.to(start), weights.to(start)
    total = torch.zeros(len(scores), *start.shape, device=start.device)
    token = len(lm.layers) * start.shape[-1] * WIDTHS_KEPT * lm.lm_head.weight.element_size()
    size = max(1, GRAPH_BUDGET // (token * len(ids)))
    for first in range(0, steps, size):
        part = slice(first, first + size)
        rows = start + points[part, None, None] * (stop - start)
        rows = rows.detach().requires_grad_(True)
        hidden = run_embeddings(lm, ids, rows, end)
        gradients = input_gradients(scores, hidden, rows)
        total += (weights[part, None, None] * gradients).sum(1)
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
    lm: Any, hidden: torch.Tensor, score: Score, draws: int, seed: int
) -> list[Score]:
    """Metrics of random tokens, as sensitive to the final state as a metric.

    Each is c · (logit of one random token − logit of another), with c such that its gradient at
    `hidden` has the length of the metric's own.

    Args:
        hidden: the final norm's output where the lengths are made equal, [1, d_model].
    """
    generator = torch.Generator().manual_seed(seed)
    size = int(lm.lm_head.weight.shape[0])
    at = hidden.detach().float().requires_grad_(True)
    length = _slope(score, at)
    found: list[Score] = []
    for _ in range(draws):
        tokens = torch.randint(size, (2,), generator=generator).tolist()
        plain = _difference_of(lm, tokens, 1.0)
        slope = _slope(plain, at)
        found.append(_difference_of(lm, tokens, length / slope if slope else 0.0))
    return found


def _slope(score: Score, at: torch.Tensor) -> float:
    """Length of a metric's gradient at a final state."""
    return float(torch.autograd.grad(score(at).sum(), at)[0].norm())


def _difference_of(lm: Any, tokens: list[int], factor: float) -> Score:
    def score(hidden: torch.Tensor) -> torch.Tensor:
        logits = answer_logits(lm, hidden, tokens)
        return factor * (logits[:, 0] - logits[:, 1])

    return score
