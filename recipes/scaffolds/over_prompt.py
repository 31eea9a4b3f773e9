"""What my_recipe is about, in one line."""

from __future__ import annotations

from typing import Any

import torch
from remote_mi import Heatmap, recipe
from remote_mi.interventions import Prompt, random_like, run, unembed


@recipe(
    # The function is called once for each prompt; of a pair it gets the clean one.
    over="prompt",
    # Each output with its dimensions, outermost first; () is a single number. "layer", "head" and
    # "position" get their coordinates by themselves; "draw" holds replicates.
    returns={"overlap": ("layer", "position")},
    # Every effect is held against what the same reading gives with nothing in it. A control is an
    # output as well, with the dimension "draw" before those of its effect.
    controls={"overlap": "control"},
    # The kind of evidence, which words about the results follow: "observational" (the run is only
    # read), "interventional" (it is changed), "counterfactual" (a variable or path is exchanged for
    # that of another prompt, and the outcome held against what it should be then).
    evidence="observational",
    figures=[Heatmap("overlap")],
    # Keys of references.bib, or any text.
    references=["Author (year). Title."],
)
def my_recipe(lm: Any, prompt: Prompt, *, seed: int = 0) -> dict[str, Any]:
    """How much of the model's prediction can be read from the stream after each layer.

    Run the prompt, read a distribution p over the next token from the residual stream after each
    layer with the final norm and the unembedding, and compare it with the last one.

        overlap[l, i] = Σ_v min(p[l, i, v], p[L, i, v])    L is the last layer, v a token
        control[l, i] = the same, with a random stream of equal length in place of that of layer l

    Sign: 1 is the same distribution, 0 one without anything in common. The last layer has 1.
    Units: probability.
    Control: what overlap a stream that says nothing has.
    Cost: 1 forward pass.
    What this does not show: that the model uses what can be read.
    Not implemented: trained lenses.

    Args:
        seed: of the random streams.
    """
    streams = [after[0] for after in run(lm, prompt, "resid_post").values]  # [position, d_model]
    final = unembed(lm, streams[-1]).exp()  # [position, vocabulary]
    generator = torch.Generator().manual_seed(seed)
    overlaps, controls = [], []
    for stream in streams:
        noise = random_like(stream, 1, generator).to(stream.dtype)  # [1, position, d_model]
        overlaps.append(torch.minimum(unembed(lm, stream).exp(), final).sum(-1))
        controls.append(torch.minimum(unembed(lm, noise).exp(), final).sum(-1))
    return {"overlap": torch.stack(overlaps), "control": torch.stack(controls, 1)}
