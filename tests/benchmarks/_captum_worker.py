"""Input attribution with captum, in a process of its own: answers as `_techniques_worker.py`.

    {"do": "load", "folder": F, "threads": 2}
    {"do": "technique", "name": N, "to": FILE, …}   the arguments of the function named N below

The model is plain transformers, its weights frozen, and gives the last position's logits only.
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import torch
from _serving import serve
from captum.attr import LayerIntegratedGradients, Saliency
from transformers import AutoModelForCausalLM

Arrays = dict[str, torch.Tensor]


def integrated_gradients(
    model: Any, clean: list[int], corrupt: list[int], answer: int, wrong: int, steps: int
) -> Arrays:
    """From the corrupt to the clean prompt's embeddings, with the error of completeness."""

    def metric(ids: torch.Tensor) -> torch.Tensor:
        logits = model(input_ids=ids, use_cache=False, logits_to_keep=1).logits[:, -1]
        return logits[:, answer] - logits[:, wrong]

    method = LayerIntegratedGradients(metric, model.model.embed_tokens)
    found, delta = method.attribute(
        torch.tensor([clean]),
        baselines=torch.tensor([corrupt]),
        n_steps=steps,
        method="gausslegendre",
        return_convergence_delta=True,
    )
    return {"attribution": found[0].sum(-1), "completeness_error": delta[0]}


def saliency(model: Any, ids: list[int], target: int) -> Arrays:
    """Gradient norm, and gradient × input, of the target's logit."""

    def score(embedded: torch.Tensor) -> torch.Tensor:
        given = model(inputs_embeds=embedded, use_cache=False, logits_to_keep=1)
        return given.logits[:, -1, target]

    x = model.model.embed_tokens(torch.tensor([ids])).detach().requires_grad_(True)
    gradient = Saliency(score).attribute(x, abs=False)[0]
    return {
        "gradient_norm": gradient.norm(dim=-1),
        "gradient_x_input": (gradient * x[0].detach()).sum(-1),
    }


TECHNIQUES = {"integrated_gradients": integrated_gradients, "saliency": saliency}


class Worker:
    """Holds the model between requests."""

    model: Any

    def load(self, folder: str, threads: int) -> dict[str, Any]:
        """The weights of a folder; the same files the other side has loaded."""
        torch.set_num_threads(threads)
        self.model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        self.model.requires_grad_(False)
        return {"attention": self.model.config._attn_implementation}

    def technique(self, name: str, to: str, **request: Any) -> dict[str, Any]:
        """One technique: its seconds, its arrays in a file."""
        begun = time.perf_counter()
        found = TECHNIQUES[name](self.model, **request)
        taken = time.perf_counter() - begun
        np.savez(to, **{key: value.detach().numpy() for key, value in found.items()})
        return {"seconds": taken}


if __name__ == "__main__":
    worker = Worker()
    serve({"load": worker.load, "technique": worker.technique})
