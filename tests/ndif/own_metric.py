"""A project's own metrics, for jobs on a server."""

from __future__ import annotations

from typing import Any

import torch

from remote_mi import metric


@metric(unit="nats")
def margin(logits: torch.Tensor, pair: Any) -> torch.Tensor:
    """The logit of the answer minus the largest other one."""
    own = torch.tensor([pair.answer], device=logits.device)
    return logits[:, pair.answer] - logits.index_fill(1, own, -torch.inf).amax(-1)


@metric(unit="nats", rises=False, against_clean=True)
def reverse_kl(logits: torch.Tensor, pair: Any, clean: torch.Tensor) -> torch.Tensor:
    """KL(run ‖ clean run)."""
    log_p = logits.log_softmax(-1)
    return (log_p.exp() * (log_p - clean.log_softmax(-1))).sum(-1)
