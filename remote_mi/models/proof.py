"""Proving that a model's portable names are right: by shape, by sums, and by effect.

Sums must hold in the residual stream, and a patch must have exactly the intended effect.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import nnsight
import torch

from remote_mi.common.errors import UsageError, first_line
from remote_mi.interventions.encoder_decoder import has_decoder, model_inputs
from remote_mi.interventions.model_info import (
    fact,
    has_unembedding,
    head_count,
    key_head_count,
)
from remote_mi.interventions.ports import (
    added_times,
    adds,
    edit_stream,
    first_of,
    has_name,
    own_output,
    read_stream,
    times,
)
from remote_mi.interventions.readout import logits as read_logits
from remote_mi.interventions.readout import skip_unembedding
from remote_mi.interventions.sites import read
from remote_mi.models.structure.known import NAMES_HINT

_ROOT = ("layers", "ln_final", "embed_tokens")


def prove(lm: Any) -> None:
    """Check a loaded model's portable names by shape and by effect, on four tokens.

    - all numbers are finite;
    - head_z divides into the heads; of the first position it is its value, in models in which a
      position sees itself and earlier ones only;
    - the output projection gives what attention adds, and the down-projection what the MLP adds;
    - resid_pre + attn_out = resid_mid, and + mlp_out = the next layer's resid_pre, times the number
      that a layer's stream ends with, if there is one; where the stream is normalised after each
      addition, the norms take these sums and give the streams;
    - unembedding the final norm's output gives the model's own logits, if it has any;
    - patching the first layer's input at the only token that differs turns one run into the other,
      unless tokens reach later layers in other ways, too.

    Raises:
        UsageError: naming the first layer and the sum that does not hold.
    """
    for name in _ROOT:
        if not hasattr(lm, name):
            raise UsageError(f"the names mapping gives no {name!r}", NAMES_HINT)
    table = lm.embed_tokens.weight
    size = int(table.shape[0])
    clean = [token % size for token in (17, 5, 11, 7)]
    corrupt = [*clean[:3], 13 % size]
    half = table.dtype in (torch.float16, torch.bfloat16)
    tolerance = 0.05 if half else 1e-3
    try:
        with torch.no_grad():
            embedded, after = _prove_sums(lm, clean, tolerance)
            if fact(lm, "tokens_enter_once", True):
                _prove_effect(lm, corrupt, embedded, after)
    except UsageError:
        raise
    except Exception as error:  # a wrong name may fail in any way
        raise UsageError(
            f"the portable names do not hold for {type(lm._module).__name__}: {first_line(error)}",
            NAMES_HINT,
        ) from error


def _require_equal(
    lm: Any, what: str, got: torch.Tensor, expected: torch.Tensor, allowed: float
) -> None:
    got, expected = got.float(), expected.float().to(got.device)
    # Not the other way round: nothing is greater than NaN.
    if got.shape != expected.shape or not (got - expected).norm() <= allowed:
        raise UsageError(
            f"the portable names do not hold for {type(lm._module).__name__}: {what}", NAMES_HINT
        )


def _require_finite(what: str, values: torch.Tensor) -> None:
    """Refuse a model with NaN or infinite values, which some comparisons would let pass."""
    count = int((~torch.isfinite(values)).sum())
    if count:
        raise UsageError(
            f"{what}: {count} of {values.numel()} numbers are NaN or infinite",
            "its weights may be damaged, or its dtype too narrow for them: try --dtype float32",
        )


def _prove_effect(
    lm: Any, ids: list[int], embedded: torch.Tensor, other_after: torch.Tensor
) -> None:
    """Patch the embedding of the last token, the only one that differs from another prompt's.

    Args:
        embedded, other_after: of the other prompt, the stream before the first layer and after
            the last.
    """

    def put_in(stream: torch.Tensor) -> torch.Tensor:
        """The second row with the other prompt's last token."""
        changed = stream.clone()
        changed[1, -1] = embedded[0, -1].to(stream.device)
        return changed

    # In one pass: of a large model each one takes as long as reading its weights.
    with lm.trace(**model_inputs(lm, [ids, ids]), use_cache=False):
        edit_stream(lm, 0, put_in)
        after = nnsight.save(read_stream(lm, len(lm.layers)))
        skip_unembedding(lm)
    # Only where the token differs: the norm of the first position may dwarf all others.
    last, patched, expected = (x[:, -1].float() for x in (after[:1], after[1:], other_after))
    gap = float((last - expected.to(last.device)).norm())
    if gap == 0:
        raise UsageError(
            f"the portable names do not hold for {type(lm._module).__name__}: two "
            "prompts of different tokens have the same stream",
            NAMES_HINT,
        )
    _require_equal(
        lm,
        "patching the first layer's input at the only token that differs does not turn one "
        "run into the other",
        patched,
        expected,
        0.05 * gap,
    )


def _prove_sums(lm: Any, ids: list[int], tolerance: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Check what must hold within one run; returns its stream before the first and after the
    last layer."""
    seen, after, final, hidden, again, logits = _run_sites(lm, ids)

    def check(what: str, got: torch.Tensor, expected: torch.Tensor) -> None:
        if got.numel() == expected.numel():  # rows and positions may be in one dimension
            expected = expected.reshape(got.shape)
        _require_equal(lm, what, got, expected, float(tolerance * expected.float().norm()))

    for index, found in enumerate(seen):
        _require_finite(f"the model's stream before layer {index}", found["resid_pre"])
    _require_finite("the model's stream after the last layer", after)
    if logits is not None:
        _require_finite("the model's logits", logits)
    for index, found in enumerate(seen):
        follows = seen[index + 1]["resid_pre"] if index + 1 < len(seen) else after
        found["times"] = _end_of(lm.layers[index])
        _check_layer(f"layer {index}", found, follows, head_count(lm), check)
        _check_projections(lm, index, found, check)
    check("the final norm does not read the stream after the last layer", final, after)
    if logits is not None:
        check("what reads the stream gives another output when called by itself", again, hidden)
        largest = logits[-1].float().abs().topk(min(8, logits.shape[-1])).indices
        tokens = [0, 1, 2, *largest.tolist()]  # a bound shows in the largest
        check(
            "the final norm and the unembedding do not give the model's logits",
            logits[:, tokens],
            read_logits(lm, hidden, tokens),
        )
    return seen[0]["resid_pre"], after


def _run_sites(lm: Any, ids: list[int]) -> Any:
    """Run once and save the sites of each layer, the stream after the last, and what reads it."""
    with lm.trace(**model_inputs(lm, [ids]), use_cache=False):
        seen = []
        for index, layer in enumerate(lm.layers):
            found = {"resid_pre": layer.input}
            for name in adds(layer):
                if name == "attn_add" and has_name(layer, "self_attn.o_proj"):
                    if fact(layer, "first_is_value", False):
                        found["v"] = read(lm, index, "v")
                    found["head_z"] = read(lm, index, "head_z")
                for projection in _projections(layer, name):
                    found[projection] = first_of(_part(layer, projection).output)
                # Unreshaped: its shape is known only once the layer has run.
                found[name] = times(
                    own_output(layer, name, getattr(layer, name)), added_times(layer, name)
                )
                if name != adds(layer)[0]:
                    continue
                if has_name(layer, "ln_after_attn"):
                    found["before_norm"] = layer.ln_after_attn.input
                    found["resid_mid"] = layer.ln_after_attn.output
                elif has_name(layer, "ln_mlp"):
                    found["resid_mid"] = layer.ln_mlp.input
            if has_name(layer, "ln_after_mlp"):
                found["before_last_norm"] = layer.ln_after_mlp.input
                found["after"] = layer.ln_after_mlp.output
            seen.append(found)
        after = read_stream(lm, len(lm.layers))
        hidden = again = logits = None
        if has_unembedding(lm):
            decoded = has_decoder(lm)
            final = after if decoded else lm.ln_final.input
            hidden = lm.ln_final.output[0]
            again = hidden if decoded else lm.ln_final(after)[0]
            logits = lm.output.logits[0]
            if decoded:  # those of the answer, at each of the prompt's positions
                logits = logits[-1:].expand(len(hidden), -1)
        else:
            final = after
        proof = nnsight.save((seen, after, final, hidden, again, logits))
    return proof


def _projections(layer: Any, name: str) -> list[str]:
    """The last matrix of a sub-layer, if its output times a number is what the sub-layer adds."""
    of_each = {"attn_add": "self_attn.o_proj", "mlp_add": "down_proj"}
    last = of_each.get(name, "")
    gives = fact(layer, f"{last.split('.')[-1]}_gives", None)
    if gives is None or not has_name(layer, last) or _part(layer, last) is getattr(layer, name):
        return []
    return [last]


def _part(layer: Any, path: str) -> Any:
    for step in path.split("."):
        layer = getattr(layer, step)
    return layer


def _check_projections(
    lm: Any, index: int, found: dict[str, torch.Tensor], check: Callable[..., None]
) -> None:
    """Check that the last matrices give what is added, and that values reach head_z.

    Where a position sees itself and earlier ones only, head_z of the first is its value.
    """
    for name in ("attn_add", "mlp_add"):
        for last in _projections(lm.layers[index], name) if name in found else ():
            factor = fact(lm.layers[index], f"{last.split('.')[-1]}_gives", 1.0)
            what = f"layer {index}: the output of {last} is not what {name} adds"
            check(what, times(found[last], factor), found[name])
    if "v" in found:
        values = found["v"][:, 0].unflatten(-1, (key_head_count(lm), -1))
        shared = values.repeat_interleave(head_count(lm) // values.shape[1], 1).flatten(1)
        what = f"layer {index}: head_z of the first position is not its value"
        check(what, found["head_z"][:, 0], shared)


def _end_of(layer: Any) -> Any:
    """The number that a layer multiplies its stream by at its end."""
    name = fact(layer, "stream_times", "")
    return getattr(layer._module, name).detach() if name else torch.ones(1)


def _check_layer(
    name: str,
    found: dict[str, torch.Tensor],
    follows: torch.Tensor,
    heads: int,
    check: Callable[[str, torch.Tensor, torch.Tensor], None],
) -> None:
    """Check that a layer's sites add up to the stream after it."""
    z = found.get("head_z")
    if z is not None and (not heads or z.shape[-1] % heads):
        raise UsageError(
            f"{name}: head_z has {z.shape[-1]} numbers, which {heads} heads do not divide",
            NAMES_HINT,
        )
    total = found["resid_pre"]
    added = {key: part for key, part in found.items() if key.endswith("_add")}
    for index, (key, part) in enumerate(added.items()):
        total = total + part.to(total.device).reshape(total.shape)
        if index:
            continue
        if "before_norm" in found:
            what = f"{name}: resid_pre + {key} is not what the norm after it takes"
            check(what, found["before_norm"], total)
            total = found["resid_mid"].reshape(total.shape)
        elif "resid_mid" in found:
            check(f"{name}: resid_pre + {key} is not resid_mid", found["resid_mid"], total)
    total = total * found["times"].to(total.device)
    what = (
        f"{name}: the stream before it and what its modules add ({', '.join(added)}) do not add "
        "up to the stream after it"
    )
    if "before_last_norm" in found:
        check(what, found["before_last_norm"], total)
        what = f"{name}: the norm after mlp_add does not give the next stream"
        check(what, found["after"], follows)
    else:
        check(what, follows, total)
