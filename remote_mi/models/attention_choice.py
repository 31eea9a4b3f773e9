"""Whether the attention implementation that transformers chose gives the model's own numbers.

Eager attention is the model's definition, written out. Another implementation may leave parts of it
out without a word: sdpa the soft-cap of Gemma 2 in some versions, flash attention sinks. So what
was chosen automatically is compared with it on a few tokens, and given up if they differ.
"""

from __future__ import annotations

from typing import Any

from remote_mi.common.errors import first_line

#: Enough tokens for a window or mask of a few positions to matter.
_LENGTH = 12
#: Allowed difference of a position's state, relative to its norm.
_ROUNDING = {"torch.float64": 1e-6, "torch.float32": 1e-4}
_HALF = 5e-2


def choose_attention(module: Any) -> str:
    """Keep a model's attention implementation, or switch it to eager if its numbers differ.

    Args:
        module: a transformers model with its weights, in evaluation mode.

    Returns:
        Why it was switched, in words; "" if it was not.
    """
    chosen = getattr(module.config, "_attn_implementation", None)
    if chosen in (None, "eager") or not hasattr(module, "set_attn_implementation"):
        return ""
    try:
        before, failure = _numbers(module), ""
    except Exception as error:  # an implementation may refuse what the model asks of it
        before, failure = None, first_line(error)
    try:
        module.set_attn_implementation("eager")
    except Exception:  # a model that has no eager attention has nothing to compare with
        return ""
    if getattr(module.config, "_attn_implementation", None) != "eager":
        return ""
    try:
        eager = _numbers(module)
    except Exception:  # it takes more than token ids, so that nothing is known
        module.set_attn_implementation(chosen)
        return ""
    if before is None:
        return f"attention {chosen!r}, transformers' choice, fails ({failure}); eager is used"
    gap = float(((before - eager).norm(dim=-1) / eager.norm(dim=-1)).max())
    if gap <= _ROUNDING.get(str(module.dtype), _HALF):
        module.set_attn_implementation(chosen)
        return ""
    return (
        f"attention {chosen!r}, transformers' choice, changes the model's last states by {gap:.1%} "
        "from those of its own definition; eager attention is used"
    )


def _numbers(module: Any) -> Any:
    """The last states of a few tokens, [row, position, d_model], in float32."""
    import torch

    table = module.get_input_embeddings().weight
    size = int(table.shape[0])
    ids = torch.tensor([[(7 * i + 3) % size for i in range(_LENGTH)]], device=table.device)
    with torch.no_grad():
        return module.base_model(input_ids=ids)[0].float()
