"""Using a model that is an object of the caller's, without a trace on it.

What runs is a copy of its modules that shares the numbers, so that neither mode, gradients, hooks,
device nor attributes of the caller's model change, and no memory is taken twice.
"""

from __future__ import annotations

import copy
from typing import Any

from remote_mi.common.errors import UsageError, first_line
from remote_mi.models.in_hand import own_code


def shared_copy(model: Any) -> Any:
    """A copy of a model, in evaluation mode, whose frozen weights share memory with its own.

    Raises:
        UsageError: if the model holds something that cannot be copied.
    """
    import torch

    memo: dict[int, Any] = {}
    for parameter in model.parameters():
        memo[id(parameter)] = torch.nn.Parameter(parameter.detach(), requires_grad=False)
    for buffer in model.buffers():
        memo[id(buffer)] = buffer.detach()
    try:
        found = copy.deepcopy(model, memo)
    except Exception as error:  # whatever the caller put on the model
        raise UsageError(
            f"the {type(model).__name__} in memory cannot be copied: {first_line(error)}",
            "remove what was set on it besides its modules, or save it and name the folder",
        ) from error
    for module in found.modules():
        # What nnsight leaves on a module that the caller has traced.
        for name, value in list(vars(module).items()):
            if type(value).__module__.split(".")[0] == "nnsight":
                del vars(module)[name]
    return found.eval()


class OwnClass:
    """Makes models of a class that transformers' automatic classes do not know.

    Attributes:
        __name__: tells the class from others, also after its code has changed.
    """

    def __init__(self, model: Any) -> None:
        self.made_as = type(model)
        name = f"{self.made_as.__module__}.{self.made_as.__qualname__}"
        self.__name__ = f"{name}-{own_code(model)}"

    def from_config(self, config: Any, **options: Any) -> Any:
        """A model with weights of no meaning."""
        return self.made_as._from_config(config, **options)


def task_of_object(model: Any) -> tuple[str, Any]:
    """The task of a model in memory, and what makes others of its class, by its class alone.

    Raises:
        UsageError: if it is made for something else than language modelling.
    """
    import transformers as t
    from transformers.models.auto import modeling_auto as auto

    made_as = type(model)
    for names, task, automatic in (
        (auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES, "text-generation", t.AutoModelForCausalLM),
        # Before masked models, among which transformers lists some encoder–decoders (BART).
        (
            auto.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES,
            "text-generation",
            t.AutoModelForSeq2SeqLM,
        ),
        (auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES, "fill-mask", t.AutoModelForMaskedLM),
        (
            auto.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES,
            "text-generation",
            t.AutoModelForImageTextToText,
        ),
        (auto.MODEL_MAPPING_NAMES, "feature-extraction", t.AutoModel),
    ):
        found = names.get(model.config.model_type, ())
        if made_as.__name__ not in ([found] if isinstance(found, str) else found):
            continue
        if getattr(t, made_as.__name__, None) is not made_as:
            continue
        if task == "feature-extraction" and _is_body(model):
            raise _no_head(made_as)
        return task, automatic
    if made_as.__module__.startswith("transformers.") or model.get_output_embeddings() is None:
        raise _no_head(made_as)
    return "text-generation", OwnClass(model)


def _is_body(model: Any) -> bool:
    """Whether a model without a head is that of a language model, which is made to have one."""
    from transformers.models.auto import modeling_auto as auto

    kind = model.config.model_type
    if getattr(model.config, "is_encoder_decoder", False):
        return True
    with_head = (
        auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
        auto.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES,
    )
    masked = kind in auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES
    return not masked and any(kind in names for names in with_head)


def _no_head(made_as: type) -> UsageError:
    return UsageError(
        f"the model in memory is a {made_as.__name__}, which has no unembedding",
        "pass the language model (…ForCausalLM, …ForMaskedLM, …ForConditionalGeneration), whose "
        "get_output_embeddings() returns its head",
    )
