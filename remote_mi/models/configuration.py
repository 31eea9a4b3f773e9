"""A model's configuration, and what it says of the class that makes the model."""

from __future__ import annotations

from typing import Any

from remote_mi.common.errors import UsageError
from remote_mi.models.folders import ADAPTER, check_no_adapter
from remote_mi.models.in_hand import object_of
from remote_mi.models.spec import ModelSpec


def config_of(spec: ModelSpec, source: str) -> Any:
    """A model's configuration, which is refused if there is an adapter beside it."""
    from huggingface_hub import try_to_load_from_cache
    from transformers import AutoConfig
    from transformers.utils.peft_utils import find_adapter_config_file

    if spec.is_object:
        return object_of(spec.name).config
    if spec.file is not None:
        return AutoConfig.from_pretrained(source, gguf_file=spec.file.name)
    if not spec.is_local and find_adapter_config_file(source, revision=spec.revision):
        found = try_to_load_from_cache(source, "config.json", revision=spec.revision)
        both = ["config.json"] if isinstance(found, str) else []
        check_no_adapter(f"the repository {source}", [ADAPTER, *both])
    return AutoConfig.from_pretrained(source, revision=spec.revision)


def check_return_type(config: Any, named: str) -> None:
    """Refuse a configuration with which the model's parts return tuples without names."""
    if getattr(config, "return_dict", True) is False or getattr(config, "torchscript", False):
        raise UsageError(
            f"the configuration of {named} has return_dict: false (or torchscript: true), so that "
            "its modules return tuples without names",
            "remove that line from its config.json: it changes no number",
        )


def task_of_config(config: Any) -> tuple[str, Any]:
    """The task of a checkpoint, from its configuration, and the class that loads it for that.

    A model is never loaded with a head that the checkpoint lacks, because transformers would make
    up the missing weights.
    """
    import transformers as t
    from transformers.models.auto import modeling_auto as auto

    kind: Any = getattr(config, "model_type", None)
    made_as = (getattr(config, "architectures", None) or [""])[0]
    bodies = auto.MODEL_MAPPING_NAMES.get(kind, ())
    is_body = made_as in ([bodies] if isinstance(bodies, str) else bodies)
    masked = auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES.get(kind)
    causal = auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.get(kind)
    if masked and made_as != causal and not getattr(config, "is_decoder", False):
        with_head = ("", masked, auto.MODEL_FOR_PRETRAINING_MAPPING_NAMES.get(kind))
        if made_as in with_head:
            return "fill-mask", t.AutoModelForMaskedLM
        return "feature-extraction", t.AutoModel
    if is_body and not getattr(config, "tie_word_embeddings", False):
        raise UsageError(
            f"this checkpoint is a {made_as}, which has no unembedding",
            "take the checkpoint of the language model",
        )
    return "text-generation", t.AutoModelForCausalLM
