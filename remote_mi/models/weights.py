"""Loading weights and checking that they match the model: missing ones are never made up.

transformers fills weights that a checkpoint lacks with random numbers and prints a report. A model
with made-up weights differs in each process, so here missing weights are an error that lists them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from remote_mi.common.errors import UsageError

#: How many weights a message names.
_MOST = 6
#: Constants that earlier versions of transformers saved along with the weights.
_CONSTANTS = ("masked_bias", "rotary_emb.inv_freq", "position_ids")
_WITH_ADAPTER = "they were saved with an adapter: merge it (`merge_and_unload`), then save"
#: What other programs add to the names of weights, and how to remove it.
_PREFIXES = {
    "_orig_mod.": "they were saved from a compiled model: save its `_orig_mod`",
    "module.": "they were saved from a wrapper for several devices: save its `module`",
    "base_model.model.": _WITH_ADAPTER,
    ".base_layer.": _WITH_ADAPTER,
    ".lora_": "they include an adapter's weights: merge it (`merge_and_unload`), then save",
}


def load_weights(
    auto: Any, source: str, revision: str | None, options: Mapping[str, Any], named: str
) -> Any:
    """Load a transformers model with its weights.

    Args:
        auto: the class that loads it. source: folder or hub id. options: for `from_pretrained`.
        named: the model's name in messages.

    Raises:
        UsageError: if weights are missing, have other shapes, or belong to no part of the model.
    """
    from nnsight.modeling.quantization import resolve_load_kwargs

    module, info = auto.from_pretrained(
        source,
        revision=revision,
        output_loading_info=True,
        ignore_mismatched_sizes=True,  # they are listed below instead
        **resolve_load_kwargs(dict(options)),
    )
    _check_shapes(info["mismatched_keys"], named)
    unexpected = [name for name in info["unexpected_keys"] if not _is_constant(module, name)]
    missing = sorted(info["missing_keys"])
    if missing or unexpected:
        unexpected = sorted(_exclude_other_heads(module, unexpected))
    if missing or unexpected:
        raise UsageError(_message(missing, unexpected, named), _hint(missing, unexpected))
    return module


def _check_shapes(mismatched: Iterable[tuple[str, Any, Any]], named: str) -> None:
    mismatches = sorted(mismatched)
    if not mismatches:
        return
    name, actual, expected = mismatches[0]
    raise UsageError(
        f"the weights of {named} do not match its configuration: {name} has the shape "
        f"{tuple(actual)} and should have {tuple(expected)}"
        + (f", and {len(mismatches) - 1} more have the wrong shape" if len(mismatches) > 1 else ""),
        "use config.json and weights from the same `save_pretrained`",
    )


def _is_constant(module: Any, name: str) -> bool:
    """Whether a name refers to a constant that the model computes itself and never reads."""
    if name.endswith(_CONSTANTS):
        return True
    return any(
        buffer == name or buffer.endswith(f".{name}") for buffer, _ in module.named_buffers()
    )


def _exclude_other_heads(module: Any, names: list[str]) -> Iterator[str]:
    """The names that do not belong to a part of another class of the model's family.

    A checkpoint may contain heads that are not used here: BERT's pooler and next-sentence head.
    """
    known = _family_names(module)
    prefix = f"{module.base_model_prefix}."
    for name in names:
        if name.removeprefix(prefix) not in known:
            yield name


def _family_names(module: Any) -> set[str]:
    """Names of the weights of the classes that the family's checkpoints are saved from."""
    import torch
    import transformers
    from transformers.models.auto import modeling_auto as auto

    config = module.config
    kind = getattr(config, "model_type", None)
    classes = set(getattr(config, "architectures", None) or [])
    for mapping in (auto.MODEL_MAPPING_NAMES, auto.MODEL_FOR_PRETRAINING_MAPPING_NAMES):
        found = mapping.get(kind, ())
        classes |= {found} if isinstance(found, str) else set(found)
    names: set[str] = set()
    for name in classes - {type(module).__name__}:
        made = getattr(transformers, name, None)
        if made is None:
            continue
        try:
            with torch.device("meta"):
                other = made(config)
        except Exception:  # a class for another part of the configuration
            continue
        prefix = f"{other.base_model_prefix}."
        names |= {key.removeprefix(prefix) for key in other.state_dict()}
    return names


def _message(missing: list[str], unexpected: list[str], named: str) -> str:
    lines = [f"the weights of {named} do not match its configuration"]
    if missing:
        lines.append(f"  {len(missing)} missing: {_join_names(missing)}")
    if unexpected:
        lines.append(f"  {len(unexpected)} unused by the model: {_join_names(unexpected)}")
    return "\n".join(lines)


def _join_names(names: list[str]) -> str:
    more = f", and {len(names) - _MOST} more" if len(names) > _MOST else ""
    return ", ".join(names[:_MOST]) + more


def _hint(missing: list[str], unexpected: list[str]) -> str:
    for sign, advice in _PREFIXES.items():
        if any(sign in name if sign[0] == "." else name.startswith(sign) for name in unexpected):
            return advice
    if missing:
        return "transformers would make up the missing weights; use a complete checkpoint"
    return "use a checkpoint and a configuration of the same model"
