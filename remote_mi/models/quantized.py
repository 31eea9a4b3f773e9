"""Checkpoints whose weights are quantized: which run here, and why others do not.

They run as they are, proven like any model; what reads matrices (the embedding, the unembedding)
needs those unquantized, as quantizers leave them unless told otherwise.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from typing import Any

from remote_mi.common.errors import UsageError

#: Method of quantization, as config.json names it → the packages that it needs.
_NEEDS: Mapping[str, tuple[str, ...]] = {
    "bitsandbytes": ("bitsandbytes",),
    "bitsandbytes_4bit": ("bitsandbytes",),
    "bitsandbytes_8bit": ("bitsandbytes",),
    "torchao": ("torchao",),
    "gptq": ("optimum", "gptqmodel"),
    "awq": ("gptqmodel",),
    "compressed-tensors": ("compressed_tensors",),
    "hqq": ("hqq",),
    "quanto": ("optimum.quanto",),
    "aqlm": ("aqlm",),
    "eetq": ("eetq",),
    "higgs": ("flute",),
    "spqr": ("spqr_quant",),
    "vptq": ("vptq",),
    "quark": ("quark",),
    "auto-round": ("auto_round",),
}
_INSTEAD = "take the checkpoint that is not quantized"


def quantization_of(config: Any) -> str:
    """How the weights of a checkpoint are quantized, as its configuration says; "" if they are not.

    Raises:
        UsageError: if what it says cannot be read.
    """
    found = getattr(config, "quantization_config", None)
    if found is None:
        return ""
    if not isinstance(found, Mapping):
        found = found.to_dict() if hasattr(found, "to_dict") else {}
    method = found.get("quant_method")
    if method is None:
        raise UsageError(
            "the quantization_config in its config.json has no quant_method",
            "copy the checkpoint's config.json again",
        )
    return str(getattr(method, "value", method))


def check_quantization(config: Any, named: str, has_adapter: bool) -> str:
    """Refuse a quantized checkpoint that cannot run here; returns how it is quantized.

    Args:
        named: the model's name in messages. has_adapter: whether one is to be merged into it.

    Raises:
        UsageError: saying which package is missing, or that nothing reads this kind.
    """
    from transformers.quantizers.auto import AUTO_QUANTIZATION_CONFIG_MAPPING

    try:
        method = quantization_of(config)
    except UsageError as error:
        raise UsageError(f"{named} cannot be loaded: {error.message}", error.hint) from None
    if not method:
        return ""
    if method not in {*AUTO_QUANTIZATION_CONFIG_MAPPING, *_NEEDS}:
        raise UsageError(
            f"{named} is quantized by {method!r:.60}, which transformers does not know", _INSTEAD
        )
    missing = [package for package in _NEEDS.get(method, ()) if not _is_installed(package)]
    if missing:
        names = " and ".join(missing)
        raise UsageError(
            f"{named} is quantized by {method}, which needs {names}, not installed here",
            f"pip install {' '.join(p.replace('_', '-') for p in missing)}; or {_INSTEAD}",
        )
    if has_adapter:
        raise UsageError(
            f"{named} is quantized by {method}, and an adapter is merged into weights that are not",
            f"{_INSTEAD}: it is the adapter's base, too",
        )
    return method


def check_readable(lm: Any, method: str, named: str) -> None:
    """Refuse quantized matrices that techniques read.

    Args:
        lm: nnsight's model with the portable names. method: from `check_quantization`.

    Raises:
        UsageError: if the embedding or the unembedding is quantized.
    """
    import torch

    for part in ("embed_tokens", "lm_head"):
        weight = getattr(getattr(lm, part), "weight", None)
        if weight is None:
            continue
        if type(weight) not in (torch.nn.Parameter, torch.Tensor) or not weight.is_floating_point():
            raise UsageError(
                f"{part} of {named} is quantized by {method}, and techniques read its numbers",
                f"quantize it without that part (modules_to_not_convert), or {_INSTEAD}",
            )


def forget_quantization(module: Any) -> None:
    """Make an ordinary model of one whose weights were dequantized when they were loaded."""
    module.hf_quantizer = None
    module.is_quantized = False
    if hasattr(module.config, "quantization_config"):
        del module.config.quantization_config


def _is_installed(package: str) -> bool:
    try:
        return find_spec(package) is not None
    except ModuleNotFoundError:  # the package around it
        return False
