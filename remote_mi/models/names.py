"""One vocabulary of module names for every architecture, and the proof that it is right.

A layout maps a family's own module paths to the portable names that recipes use:

    lm.backbone      the model without its unembedding
    lm.layers[i]     the blocks            lm.ln_final   the norm before the unembedding
    lm.embed_tokens  the token embedding   lm.lm_head    the unembedding
    layer.self_attn, layer.self_attn.o_proj, layer.mlp
    layer.ln_mlp     the norm whose input is resid_mid; absent in parallel blocks
    layer.attn_add, layer.mlp_add   the modules whose outputs are added to the stream

The layout is chosen by which modules exist, never by a model's name, and then proved: by shape,
by the sums that must hold in the residual stream, and by the effect of a patch.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import nnsight
import torch

from remote_mi.errors import UsageError, first_line
from remote_mi.interventions import Pair, Prompt, head_count, patch_positions
from remote_mi.interventions.metrics import answer_logits
from remote_mi.interventions.sites import read_site

Names = dict[str, str | list[str]]

_LLAMA: Names = {
    "model": "backbone",
    "model.layers": "layers",
    "model.norm": "ln_final",
    "model.embed_tokens": "embed_tokens",
}
_NEOX: Names = {
    "gpt_neox": "backbone",
    "gpt_neox.layers": "layers",
    "gpt_neox.final_layer_norm": "ln_final",
    "gpt_neox.embed_in": "embed_tokens",
    "attention": ["self_attn", "attn_add"],
    "attention.dense": "attention.o_proj",
    "mlp": "mlp_add",
}
#: Layout name → module path (relative, as nnsight's `rename` takes it) → portable name(s).
#: Order matters: the first whose paths all exist is taken.
LAYOUTS: dict[str, Names] = {
    "gemma2": {
        **_LLAMA,
        "post_attention_layernorm": "attn_add",
        "pre_feedforward_layernorm": "ln_mlp",
        "post_feedforward_layernorm": "mlp_add",
    },
    "llama": {
        **_LLAMA,
        "self_attn": "attn_add",
        "post_attention_layernorm": "ln_mlp",
        "mlp": "mlp_add",
    },
    "gpt2": {
        "transformer": "backbone",
        "transformer.h": "layers",
        "transformer.ln_f": "ln_final",
        "transformer.wte": "embed_tokens",
        "attn": ["self_attn", "attn_add"],
        "attn.c_proj": "attn.o_proj",
        "ln_2": "ln_mlp",
        "mlp": "mlp_add",
    },
    "neox": {**_NEOX, "post_attention_layernorm": "ln_mlp"},
    "neox-parallel": _NEOX,
}
_ROOT = ("backbone", "layers", "ln_final", "embed_tokens")
_HOW = "map its modules with --names FILE (docs/models.md shows a mapping)"


def names_for(module: torch.nn.Module, given: Mapping[str, str] | None = None) -> Names:
    """The `rename` mapping of a model, from its module tree.

    Args:
        module: the transformers model, with or without weights.
        given: the user's own mapping, module path → portable name; taken as it is.

    Raises:
        UsageError: if no layout fits, or the user's mapping names a module that does not exist.
    """
    paths = [name for name, _ in module.named_modules()]
    if given:
        missing = [path for path in given if not _exists(path, paths)]
        if missing:
            raise UsageError(f"the names mapping names {missing[0]!r}, which is no module of "
                             f"{type(module).__name__}", _HOW)  # fmt: skip
        return {path: name.split(",") if "," in name else name for path, name in given.items()}
    parallel = bool(getattr(module.config, "use_parallel_residual", False))
    for layout, names in LAYOUTS.items():
        if layout == "neox" and parallel:
            continue
        if all(_exists(path, paths) for path in names):
            return names
    raise UsageError(
        f"the architecture {type(module).__name__} is not known: its modules match none of "
        f"{', '.join(LAYOUTS)}",
        _HOW,
    )


def _exists(key: str, paths: list[str]) -> bool:
    return any(path == key or path.endswith("." + key) for path in paths)


def prove(lm: Any) -> None:
    """Check a loaded model's portable names by shape and by effect, on four tokens.

    - head_z divides into the heads;
    - resid_pre + attn_out = resid_mid, and + mlp_out = the next layer's resid_pre;
    - unembedding the final norm's output gives the model's own logits;
    - patching the embedding of the only token that differs turns one run into the other.

    Raises:
        UsageError: naming the first layer and the sum that does not hold.
    """
    for name in _ROOT:
        if not hasattr(lm, name):
            raise UsageError(f"the names mapping gives no {name!r}", _HOW)
    size = int(lm.lm_head.weight.shape[0])
    ids = [token % size for token in (17, 5, 11, 7)]
    half = lm.lm_head.weight.dtype in (torch.float16, torch.bfloat16)
    tolerance = 0.05 if half else 1e-3
    try:
        gap, got = _measure(lm, ids, tolerance)
    except UsageError:
        raise
    except Exception as error:  # a name that points elsewhere fails in any way it likes
        raise UsageError(
            f"the portable names do not hold for {type(lm._module).__name__}: {first_line(error)}",
            _HOW,
        ) from error
    if abs(got - gap) > 0.02 * abs(gap) + tolerance:
        raise UsageError(
            f"the portable names do not hold for {type(lm._module).__name__}: patching the first "
            f"layer's input changes the logit difference by {got:.4g}, it must be {gap:.4g}",
            _HOW,
        )


def _measure(lm: Any, ids: list[int], tolerance: float) -> tuple[float, float]:
    """Check the sums; then the gap between two runs, and how much of it one patch restores."""
    size = int(lm.lm_head.weight.shape[0])
    pair = Pair(Prompt(ids, {}, None), Prompt([*ids[:3], 13 % size], {}, None), 3, 4)
    with torch.no_grad():
        _prove_sums(lm, ids, tolerance)
        with lm.session():
            swept = nnsight.save(patch_positions(lm, pair, "resid_pre", "denoise", "logit_diff"))
    return float(swept["clean"] - swept["corrupt"]), float(swept["effect"][0, -1])


def _prove_sums(lm: Any, ids: list[int], tolerance: float) -> None:
    heads = head_count(lm)
    with lm.trace(input_ids=torch.tensor([ids]), use_cache=False):
        seen = []
        for layer in lm.layers:
            found = {"resid_pre": read_site(layer, "resid_pre")}
            found["head_z"] = read_site(layer, "head_z")
            found["attn_out"] = read_site(layer, "attn_out")
            if hasattr(layer, "ln_mlp"):
                found["resid_mid"] = read_site(layer, "resid_mid")
            found["mlp_out"] = read_site(layer, "mlp_out")
            seen.append(found)
        seen.append({"resid_pre": lm.ln_final.input})
        hidden = lm.ln_final.output[0]
        logits = lm.output.logits[0]
        sums = nnsight.save((seen, hidden, logits))
    seen, hidden, logits = sums

    def check(what: str, got: torch.Tensor, expected: torch.Tensor) -> None:
        got, expected = got.float(), expected.float().to(got.device)
        if got.shape != expected.shape or (got - expected).norm() > tolerance * expected.norm():
            raise UsageError(
                f"the portable names do not hold for {type(lm._module).__name__}: {what}", _HOW
            )

    for index, found in enumerate(seen[:-1]):
        if found["head_z"].shape[-1] % heads:
            raise UsageError(f"layer {index}: head_z has {found['head_z'].shape[-1]} numbers, "
                             f"which {heads} heads do not divide", _HOW)  # fmt: skip
        after = found["resid_pre"] + found["attn_out"].to(found["resid_pre"].device)
        if "resid_mid" in found:
            check(
                f"layer {index}: resid_pre + attn_out is not resid_mid", found["resid_mid"], after
            )
        after = after + found["mlp_out"].to(after.device)
        check(f"layer {index}: the stream before it, attn_out and mlp_out do not add up to the "
              "stream after it", seen[index + 1]["resid_pre"], after)  # fmt: skip
    few = [0, 1, 2]
    check("the final norm and the unembedding do not give the model's logits",
          logits[:, few], answer_logits(lm, hidden, few))  # fmt: skip
