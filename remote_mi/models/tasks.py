"""What a checkpoint is for, from its configuration: the class that loads it, and its task."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from remote_mi.common.errors import UsageError
from remote_mi.models.in_hand import object_of
from remote_mi.models.spec import ModelSpec


def task_of(config: Any) -> tuple[str, Any]:
    """The task of a checkpoint as nnsight names it, and the class that loads it for that.

    A model is never loaded with a head that the checkpoint lacks, because transformers would make
    up the missing weights.

    Raises:
        UsageError: if the checkpoint has no unembedding, and none that is its embedding.
    """
    import transformers as t
    from transformers.models.auto import modeling_auto as auto

    kind: Any = getattr(config, "model_type", None)
    made_as = (getattr(config, "architectures", None) or [""])[0]
    bodies = auto.MODEL_MAPPING_NAMES.get(kind, ())
    is_body = made_as in ([bodies] if isinstance(bodies, str) else bodies)
    masked = auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES.get(kind)
    causal = auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.get(kind)
    paired = auto.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES.get(kind)
    if paired and getattr(config, "is_encoder_decoder", False):
        if made_as in ("", paired):
            return "text-generation", t.AutoModelForSeq2SeqLM
        raise UsageError(
            f"this checkpoint is a {made_as}, not the encoder–decoder with its unembedding",
            f"take a checkpoint of {paired}",
        )
    if masked and made_as != causal and not getattr(config, "is_decoder", False):
        with_head = ("", masked, auto.MODEL_FOR_PRETRAINING_MAPPING_NAMES.get(kind))
        if made_as in with_head:
            return "fill-mask", t.AutoModelForMaskedLM
        return "feature-extraction", t.AutoModel
    pictured = auto.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES.get(kind)
    if pictured and made_as != causal and (made_as == pictured or not causal):
        if made_as not in ("", pictured):
            raise UsageError(
                f"this checkpoint is a {made_as}, which gives no text",
                f"take a checkpoint of {pictured}",
            )
        return "text-generation", t.AutoModelForImageTextToText  # for its text alone
    if is_body and not getattr(config, "tie_word_embeddings", False):
        raise UsageError(
            f"this checkpoint is a {made_as}, which has no unembedding",
            "take the checkpoint of the language model",
        )
    return "text-generation", t.AutoModelForCausalLM


def check_return_type(config: Any, named: str) -> None:
    """Refuse a configuration with which the model's parts return tuples without names."""
    if getattr(config, "return_dict", True) is False or getattr(config, "torchscript", False):
        raise UsageError(
            f"the configuration of {named} has return_dict: false (or torchscript: true), so that "
            "its modules return tuples without names",
            "remove that line from its config.json: it changes no number",
        )


def by_nnsight(auto: Any) -> bool:
    """Whether nnsight itself can make a model of this class without weights, from its task."""
    return auto.__name__ in ("AutoModelForCausalLM", "AutoModelForMaskedLM", "AutoModel")


@contextmanager
def unsaid_tasks() -> Iterator[None]:
    """A context in which transformers does not list the classes that it has a pipeline for."""
    logger = logging.getLogger("transformers.pipelines.base")
    was, logger.disabled = logger.disabled, True
    try:
        yield
    finally:
        logger.disabled = was


def answer_prefix(config: Any, source: str, spec: ModelSpec) -> list[int]:
    """The tokens with which the decoder of an encoder–decoder begins every answer; [] without one.

    Its start token, and the first token if the checkpoint forces one.

    Raises:
        UsageError: if the checkpoint names no start token, or its modules were named by hand.
    """
    from transformers import GenerationConfig

    if not getattr(config, "is_encoder_decoder", False):
        return []
    if spec.names:
        raise UsageError(
            f"{spec.name} is an encoder–decoder, whose modules cannot be named by hand",
            "leave --names out: they are found by the model's structure",
        )
    stated: Any = None
    if spec.is_object:
        stated = getattr(object_of(spec.name), "generation_config", None)
    else:
        with suppress(OSError):  # it has no such file
            stated = GenerationConfig.from_pretrained(source, revision=spec.revision or "main")

    def told(name: str) -> Any:
        values = [getattr(owner, name, None) for owner in (stated, config)]
        return next((value for value in values if value is not None), None)

    start, forced = told("decoder_start_token_id"), told("forced_bos_token_id")
    if not isinstance(start, int):
        raise UsageError(
            "this encoder–decoder names no token to begin an answer with",
            "set decoder_start_token_id in its generation_config"
            f"{'' if spec.is_object else '.json'}, e.g. to that of the language",
        )
    return [start] if forced is None else [start, int(forced)]
