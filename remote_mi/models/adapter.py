"""Merging a PEFT adapter into the weights of the model that it was made for.

Merged, the model has the modules, names and sites of its base, and the numbers of base and adapter
together up to rounding, which is proven on a few tokens. An adapter that adds no matrices (prompts,
prefixes) cannot be merged, and one whose weights do not all find their place is refused: peft
would leave those at their initial values, with which an adapter changes nothing.
"""

from __future__ import annotations

import copy
from typing import Any

from remote_mi.common.errors import RemoteMIError, UsageError, first_line
from remote_mi.models.adapter_files import named_adapter
from remote_mi.models.folders import ADAPTER
from remote_mi.models.hub import need_hub

_IDS = (5, 11, 2, 7)
#: Allowed difference between merged and attached, relative to the largest logit.
_ROUNDING = {"torch.float32": 1e-4, "torch.float64": 1e-6}
_HALF = 5e-2
#: Kinds of adapters that work beside the modules instead of in them.
_TASKS = ("SEQ_CLS", "TOKEN_CLS", "QUESTION_ANS")


def need_peft() -> Any:
    """The package peft.

    Raises:
        UsageError: if it is not installed.
    """
    try:
        import peft
    except ImportError:
        raise UsageError(
            "adapters need the package peft, which is not installed",
            "pip install 'remote_mi[peft]'",
        ) from None
    return peft


def adapter_record(name: str) -> dict[str, Any]:
    """What a record says of an adapter that was merged: its kind, and for which model it was made.

    Raises:
        UsageError: if it cannot be read.
    """
    config = _configuration(need_peft(), name)
    found = {"name": name, "kind": _kind(config), "merged": True}
    made_for = str(config.base_model_name_or_path or "")
    return {**found, "made_for": made_for} if made_for else found


def merge_adapter(module: Any, name: str, named: str) -> Any:
    """Merge an adapter into a transformers model.

    Args:
        module: the model with its weights; it is used up. name: the adapter's, as for
            `--adapter`. named: the model's name in messages.

    Returns:
        The merged model.

    Raises:
        UsageError: if the adapter is not one for this model, or cannot be merged.
    """
    peft = need_peft()
    found = named_adapter(name)
    config = _configuration(peft, name)
    made_for = str(getattr(config, "base_model_name_or_path", None) or "")
    hint = f"it was made for {made_for}" if made_for else "name the model that it was made for"
    if made_for:
        hint += ": --model takes an id or folder"
    try:
        _untie(module, config)
        wrapped = peft.PeftModel(module, config)
        _place(peft, wrapped, found, name, named, hint)
        wrapped.eval()
        before = _logits(wrapped)
        merged = wrapped.merge_and_unload(safe_merge=True)
    except RemoteMIError:
        raise
    except Exception as error:  # peft's checks raise whatever they like
        raise UsageError(
            f"the adapter {name} does not fit {named}: {_shortened(error)}", hint
        ) from error
    _compare(_logits(merged), before, name, str(next(merged.parameters()).dtype))
    return merged


def _kind(config: Any) -> str:
    return str(getattr(config.peft_type, "value", config.peft_type))


def _configuration(peft: Any, name: str) -> Any:
    found = named_adapter(name)
    if found.folder is None:
        hint = "name a folder written by peft's save_pretrained"
        need_hub(found.source, ADAPTER, found.revision, f"the adapter {name}", hint)
    try:
        config = peft.PeftConfig.from_pretrained(found.source, revision=found.revision)
    except Exception as error:  # damaged JSON, unknown kinds, the hub's errors
        raise UsageError(
            f"the adapter {name} cannot be read: {_shortened(error)}",
            "name a folder written by peft's save_pretrained, or a hub id",
        ) from error
    if config.is_prompt_learning or getattr(config, "is_adaption_prompt", False):
        raise UsageError(
            f"the adapter {name} is of the kind {_kind(config)}, which adds positions instead of changing "
            "weights, and cannot be merged",
            "LoRA and its relatives can",
        )
    if str(config.task_type) in _TASKS:
        raise UsageError(
            f"the adapter {name} was made for {config.task_type}, not for a language model",
            "take an adapter of the task CAUSAL_LM",
        )
    return config


def _place(peft: Any, wrapped: Any, found: Any, name: str, named: str, hint: str) -> None:
    """Load an adapter's weights, each into its place."""
    own = {key for key, _ in wrapped.named_parameters()}
    weights = peft.utils.load_peft_weights(found.source, device="cpu", revision=found.revision)
    result = peft.set_peft_model_state_dict(wrapped, weights)
    marks = (wrapped.base_model.prefix, "modules_to_save", "trainable_tokens")
    missing = [k for k in result.missing_keys if k in own and any(m in k for m in marks)]
    unexpected = list(result.unexpected_keys)
    if unexpected or missing:
        what = "have no place in" if unexpected else "are missing for"
        first = (unexpected or missing)[0].removeprefix("base_model.model.")
        count = len(unexpected or missing)
        raise UsageError(
            f"the adapter {name} does not fit {named}: {count} of its weights {what} the model, "
            f"such as {first}",
            hint,
        )


def check_attached(lm: Any, name: str) -> None:
    """Refuse an adapter, attached to a model, that changes matrices whose numbers are read.

    Where a server attaches it, its part of a matrix stands beside the matrix.

    Args:
        lm: nnsight's model with the portable names. name: the adapter's.

    Raises:
        UsageError: if it changes the embedding, the last norm or the unembedding.
    """
    from peft.tuners.tuners_utils import BaseTunerLayer
    from peft.utils.other import AuxiliaryTrainingWrapper

    for part in ("embed_tokens", "ln_final", "lm_head"):
        module = getattr(getattr(lm, part, None), "_module", None)
        if isinstance(module, (BaseTunerLayer, AuxiliaryTrainingWrapper)):
            raise UsageError(
                f"the adapter {name} changes {part}, whose numbers recipes read, and a server "
                "keeps the change apart from them",
                "run it here (--backend local), where adapters are merged into the weights",
            )


def _untie(module: Any, config: Any) -> None:
    """Give the unembedding its own copy of a matrix shared with the embedding, if one is adapted.

    Merged into a shared matrix, an adapter of one would change the other, too.
    """
    head, table = module.get_output_embeddings(), module.get_input_embeddings()
    if head is None or table is None or head.weight is not table.weight:
        return
    targets = config.target_modules or ()
    names = [targets] if isinstance(targets, str) else list(targets)
    saved = list(getattr(config, "modules_to_save", None) or ())
    parts = {n: m for n, m in module.named_modules() if m is head or m is table}
    if "all-linear" in names:
        names = []
    if not any(part.endswith(n) for part in parts for n in [*names, *saved]):
        return
    head.weight = copy.deepcopy(head.weight)
    module.config.tie_word_embeddings = False


def _logits(module: Any) -> Any:
    """The logits of a few tokens, [position, vocabulary], in float32 on the CPU."""
    import torch

    table = module.get_input_embeddings().weight
    size = int(table.shape[0])
    ids = torch.tensor([[token % size for token in _IDS]], device=table.device)
    with torch.no_grad():
        found = module(input_ids=ids)
    return found[0][0].float().cpu()


def _compare(merged: Any, attached: Any, name: str, dtype: str) -> None:
    allowed = _ROUNDING.get(dtype, _HALF) * float(attached.abs().max())
    gap = float((merged - attached).abs().max())
    if not gap <= allowed:
        raise UsageError(
            f"merging the adapter {name} changes the model's numbers: logits differ by {gap:.2g}",
            "use another version of peft, or merge it yourself and save the result",
        )


def _shortened(error: BaseException) -> str:
    """The part of a long error that says what is wrong, in one line."""
    text = str(error)
    mark = text.find("size mismatch for ")
    if mark >= 0:
        return first_line(ValueError(text[mark:])).replace("base_model.model.", "")
    return first_line(error)
