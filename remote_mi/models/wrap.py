"""nnsight's model of a specification: its module with or without weights, the portable names bound."""

from __future__ import annotations

from typing import Any

from remote_mi.common.errors import RemoteMIError, UsageError, first_line
from remote_mi.models import tasks
from remote_mi.models.adapter import merge_adapter
from remote_mi.models.configuration import config_of
from remote_mi.models.in_hand import object_of
from remote_mi.models.load_errors import explain_load_error, out_of_memory
from remote_mi.models.object_copy import shared_copy, task_of_object
from remote_mi.models.quantized import check_quantization, check_readable, forget_quantization
from remote_mi.models.spec import ModelSpec
from remote_mi.models.tokenizers import tokenizer_of
from remote_mi.models.weights import load_weights


def nnsight_model(
    spec: ModelSpec, source: str, with_weights: bool, device: str, attached: str | None = None
) -> Any:
    """nnsight's model with the portable names bound.

    Args:
        source: the folder or the hub id that its files are read from.
        with_weights: False for a model on the device "meta", which only describes jobs.
        attached: an adapter that nnsight attaches to a model without weights.

    Raises:
        RemoteMIError: of the kind that says what to do, for whatever keeps it from being loaded.
    """
    from nnsight.modeling.transformers import TransformersModel

    from remote_mi.interventions.model_info import NoUnembedding
    from remote_mi.models.names import check_names
    from remote_mi.models.structure.binding import bind
    from remote_mi.models.structure.known import structure_of

    try:
        config = config_of(spec, source)
        tasks.check_return_type(config, spec.name)
        method = check_quantization(config, spec.name, spec.adapter is not None)
        of_object = task_of_object(object_of(spec.name)) if spec.is_object else None
        task, auto = of_object or tasks.task_of(config)
        prefix = tasks.answer_prefix(config, source, spec)
        structure = None if spec.names else structure_of(auto, config)
        options = _options(spec, method, with_weights, device)
        weights: Any = source
        if with_weights:
            weights = _module(spec, source, auto, options)
            options = {} if "device_map" in options else {"device": device}
        elif spec.is_object or spec.file is not None or not tasks.by_nnsight(auto):
            # No library builds these from a name.
            weights, options = _without_weights(spec, auto, config), {"device": device}
        elif attached is not None:
            options["peft"] = attached
        with tasks.unsaid_tasks():
            lm: Any = TransformersModel(
                weights,
                task=task,
                tokenizer=tokenizer_of(spec, source, config),
                revision=spec.revision,
                rename=check_names(auto, config, spec.names) if spec.names else None,
                **options,
            )
    except ImportError as error:
        raise UsageError(
            f"the model {spec.name!r} needs a package that is not installed: {first_line(error)}",
            "install it, or leave out the option that needs it",
        ) from error
    except RemoteMIError:
        raise
    except Exception as error:  # of many kinds: safetensors', pickle's, torch's, transformers'
        raise out_of_memory(error) or explain_load_error(spec, error) from error
    lm.sendable = tasks.by_nnsight(auto)
    lm._module.eval()
    if structure is not None:
        bind(lm, structure, prefix)
    if task == "feature-extraction":
        lm.lm_head = NoUnembedding()
    elif method and with_weights:
        check_readable(lm, method, spec.name)
    if not hasattr(lm, "backbone"):  # more than the unembedding follows the layers
        lm.backbone = lm
    if not with_weights and hasattr(lm._module, "set_experts_implementation"):
        # The only implementation whose shapes depend neither on values nor on weights.
        lm._module.set_experts_implementation("batched_mm")
    return lm


def _options(spec: ModelSpec, method: str, with_weights: bool, device: str) -> dict[str, Any]:
    """What `from_pretrained` is given, besides where the files are."""
    import torch

    options: dict[str, Any] = {}
    if spec.attention != "auto":
        options["attn_implementation"] = spec.attention
    dtype = spec.quantization or spec.dtype
    options["dtype"] = dtype if dtype == "auto" or spec.quantization else getattr(torch, dtype)
    if with_weights and spec.device_map is not None:
        options["device_map"] = spec.device_map
    elif with_weights and (method or spec.quantization is not None):
        options["device_map"] = {"": device}
    return options


def _module(spec: ModelSpec, source: str, auto: Any, options: dict[str, Any]) -> Any:
    """The transformers model with its weights, an adapter merged into them."""
    if spec.is_object:
        return _object_module(spec)
    if spec.file is not None:
        options = {**options, "gguf_file": spec.file.name}
    module = load_weights(auto, source, spec.revision, options, spec.name)
    if spec.file is not None:
        forget_quantization(module)  # its weights are dequantized now
    return module if spec.adapter is None else merge_adapter(module, spec.adapter, spec.name)


def _without_weights(spec: ModelSpec, auto: Any, config: Any) -> Any:
    """The transformers model on the device "meta"."""
    import torch

    if spec.is_object:
        return _object_module(spec).to("meta")
    chosen = {} if spec.attention == "auto" else {"attn_implementation": spec.attention}
    with torch.device("meta"):
        return auto.from_config(config, **chosen)


def _object_module(spec: ModelSpec) -> Any:
    """A copy of a model in memory, in the dtype and with the attention requested."""
    import torch

    module = shared_copy(object_of(spec.name))
    if spec.dtype != "auto":
        module.to(getattr(torch, spec.dtype))
    if spec.attention != "auto":
        module.set_attn_implementation(spec.attention)
    return module
