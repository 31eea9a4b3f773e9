"""Checking, before anything is computed, that a model has what a recipe needs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from remote_mi.common.errors import UsageError

_ENCODER = "it is an encoder, which fills masks and does not continue text"
_NO_UNEMBEDDING = (
    "this model has no unembedding: it gives representations and no logits, so nothing can be read "
    "from it as tokens"
)
_NORMALISED = (
    "it normalises its stream in every layer, so its final state is not the sum of what the "
    "components added"
)
_PROJECTED = (
    "more than a norm is between its stream and its unembedding, which direct attribution does not "
    "follow"
)
_TWO_SIDES = (
    "it is an encoder–decoder: its streams are the encoder's, which reads the whole prompt at once, "
    "and its decoder stands between them and the logits"
)
#: Need → what to do instead.
_HINTS = {
    "causal": "take a model that continues text",
    "unembedding": "take a model with a language-model head",
    "lens": "patch or ablate its stream instead (activation_patching, ablation)",
    "plain_stream": "patch the components instead (head_patching)",
}


def check_needs_by_config(
    recipe: str, needs: Sequence[str], model: str, config: Mapping[str, Any]
) -> None:
    """Check a recipe's needs as far as the model's configuration allows; {} passes every check.

    Raises:
        UsageError: naming the unmet need and the reason.
    """
    _check_needs(
        recipe, needs, model, lambda need: _missing_by_config(need, config) if config else ""
    )


def check_needs_by_model(recipe: str, needs: Sequence[str], model: str, lm: Any) -> None:
    """Check a recipe's needs against the model's modules, which may be without weights.

    Raises:
        UsageError: naming the unmet need and the reason.
    """
    _check_needs(recipe, needs, model, lambda need: _missing_by_model(need, lm))


def _check_needs(recipe: str, needs: Sequence[str], model: str, lack: Callable[[str], str]) -> None:
    for need in needs:
        why = lack(need) if need in _HINTS else ""
        if why:
            raise UsageError(f"{recipe} cannot run on {model}: {why}", _HINTS[need])


def _missing_by_config(need: str, config: Mapping[str, Any]) -> str:
    """What the configuration tells by itself, and of a model that may be an encoder its structure.

    The latter imports torch, and downloads nothing.
    """
    if config.get("is_encoder_decoder") and need != "unembedding":
        return _TWO_SIDES
    made_as = str((config.get("architectures") or [""])[0])
    width = config.get("hidden_size")
    if need == "plain_stream" and config.get("do_layer_norm_before") is False:
        return _NORMALISED
    if need == "plain_stream" and config.get("word_embed_proj_dim", width) != width:
        return _PROJECTED
    if need == "causal" and made_as.endswith("ForMaskedLM"):
        return _ENCODER
    bare = made_as.endswith("Model") and not made_as.endswith("LMHeadModel")
    if bare or (need == "plain_stream" and made_as.endswith("ForMaskedLM")):
        return _missing_by_structure(need, config)
    return ""


def _missing_by_structure(need: str, config: Mapping[str, Any]) -> str:
    from transformers import AutoConfig

    from remote_mi.models.structure.known import structure_of
    from remote_mi.models.tasks import task_of

    try:
        made = AutoConfig.for_model(**config)
        task, auto = task_of(made)
        if task == "text-generation":
            return ""
        structure = structure_of(auto, made)
    except Exception:  # loading it says what is wrong with it
        return ""
    if need == "causal" and not structure["facts"]["causal"]:
        return _ENCODER
    if need == "unembedding" and task == "feature-extraction":
        return _NO_UNEMBEDDING
    if need == "plain_stream" and "ln_after_attn" in structure["layers"][0]["names"]:
        return _NORMALISED
    if need == "plain_stream" and not structure["facts"].get("final_norm", True):
        return _PROJECTED
    return ""


def _missing_by_model(need: str, lm: Any) -> str:
    from remote_mi.interventions.encoder_decoder import has_decoder
    from remote_mi.interventions.model_info import fact, has_unembedding, is_causal, text_config

    if has_decoder(lm) and need != "unembedding":
        return _TWO_SIDES
    if need == "causal" and not is_causal(lm):
        return _ENCODER
    if need == "unembedding" and not has_unembedding(lm):
        return _NO_UNEMBEDDING
    if need == "plain_stream" and hasattr(lm.layers[0], "ln_after_attn"):
        return _NORMALISED
    config = text_config(lm)
    width = getattr(config, "word_embed_proj_dim", None)  # of a model whose names were given
    projected = width is not None and width != config.hidden_size
    if need == "plain_stream" and (projected or not fact(lm, "final_norm", True)):
        return _PROJECTED
    return ""
