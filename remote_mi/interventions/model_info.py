"""Properties of a model that interventions depend on: sizes, attention, read-out, positions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


class Info:
    """Sizes and kind of a model.

    Attributes:
        layers: number of blocks. heads: query heads per layer. d_model: width of the stream.
        vocabulary: size of the vocabulary.
        causal: whether positions attend only to themselves and earlier ones; encoders: to all.
        context: the longest text that it takes, in tokens; see `context_length`.
        begin: id of the token that begins every text; [] for none.
    """

    def __init__(self, lm: Any) -> None:
        config = text_config(lm)
        begin = getattr(config, "bos_token_id", None)
        begin = begin[0] if isinstance(begin, list) else begin
        self.layers = len(lm.layers)
        self.heads = head_count(lm)
        self.d_model = int(fact(lm, "d_model", 0) or config.hidden_size)
        table = lm.lm_head if has_unembedding(lm) else lm.embed_tokens
        self.vocabulary = int(table.weight.shape[0])
        self.causal = is_causal(lm)
        self.context = context_length(lm)
        self.begin = [] if begin is None else [int(begin)]

    def chosen(self, layers: Sequence[int] | None) -> list[int]:
        """The layers named by a parameter, or all of them for None.

        Raises:
            ValueError: if a layer does not exist.
        """
        for layer in layers or ():
            if not 0 <= layer < self.layers:
                raise ValueError(
                    f"there is no layer {layer}: the model has layers 0 to {self.layers - 1}"
                )
        return list(range(self.layers)) if layers is None else list(layers)


def info(lm: Any) -> Info:
    """Sizes and kind of the model."""
    return Info(lm)


def text_config(lm: Any) -> Any:
    """The configuration of the language model proper."""
    return lm.config.get_text_config() if hasattr(lm.config, "get_text_config") else lm.config


def fact(module: Any, name: str, default: Any) -> Any:
    """What was measured of the model or of one of its layers; see `models.structure`."""
    return module.__dict__.get(name, default)


def head_count(lm: Any) -> int:
    """Number of query heads per layer; 0 if no layer has attention."""
    measured = max(fact(layer, "heads", 0) for layer in lm.layers)
    if measured:
        return measured
    try:
        return int(getattr(text_config(lm), "num_attention_heads", None) or 0)
    except Exception:  # a configuration may refuse to tell, if its layers differ
        return 0


def key_head_count(lm: Any) -> int:
    """Number of key and value heads per layer; query heads may share them."""
    measured = max(fact(layer, "key_heads", 0) for layer in lm.layers)
    if measured:
        return measured
    stated = getattr(text_config(lm), "num_key_value_heads", None)
    return (stated if isinstance(stated, int) else 0) or head_count(lm)


def is_causal(lm: Any) -> bool:
    """Whether positions attend only to earlier ones and themselves. Encoders attend to all."""
    measured = fact(lm, "causal", None)
    if measured is not None:
        return measured
    for module in lm.layers[0]._module.modules():
        causal = getattr(module, "is_causal", None)
        if causal is not None:
            return bool(causal)
    return True


class NoUnembedding:
    """Replaces `lm.lm_head` in a model without logits; any use of it raises an error.

    An encoder may come without a language-model head.
    """

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # asked by Python, not by a recipe
            raise AttributeError(name)
        raise ValueError(
            "this model has no unembedding: it gives representations and no logits, so nothing "
            "can be read from it as tokens; take a model with a language-model head"
        )

    def __call__(self, *_: Any) -> Any:
        return self.forward


def has_unembedding(lm: Any) -> bool:
    """Whether the model gives logits."""
    return not isinstance(lm.lm_head, NoUnembedding)


#: Rotary embeddings whose angles do not depend on the length of the text.
_STEADY_ROPES = ("default", "linear", "yarn", "llama3", "proportional")


def context_length(lm: Any) -> int:
    """The longest text that a model takes, in tokens.

    If the angles of its rotary embedding change with the longest text so far ("dynamic"), this is
    the length up to which they do not: beyond it, a text's numbers depend on earlier texts.
    """
    config = text_config(lm)
    given = getattr(config, "max_position_embeddings", None) or getattr(config, "n_positions", None)
    limits = [limit for kind, limit in _ropes(config) if "dynamic" in kind]
    return min([int(given or 1 << 20), *limits])


def steady_length(lm: Any) -> int:
    """The number of tokens up to which a text's keys and values do not depend on its length.

    Longer texts may have other rotary angles, from the first token on: "longrope" has two sets of
    them. It is 0 for a model that failed the test on loading.
    """
    limits = [limit for kind, limit in _ropes(text_config(lm)) if kind not in _STEADY_ROPES]
    return min([1 << 30, *limits]) if getattr(lm, "prefix_proved", True) else 0


def _ropes(config: Any) -> list[tuple[str, int]]:
    """Kind of each rotary embedding, and the length up to which its angles stay the same."""
    given = getattr(config, "rope_parameters", None) or {}
    tables = [table for table in given.values() if isinstance(table, dict)] or [given]
    ropes = []
    for table in tables:
        kind = str(table.get("rope_type") or "default")
        limit = (
            table.get("original_max_position_embeddings")
            or getattr(config, "original_max_position_embeddings", None)
            or getattr(config, "max_position_embeddings", None)
        )
        known = kind in ("longrope", "dynamic", *_STEADY_ROPES)
        ropes.append((kind, int(limit or 1 << 30) if known else 0))
    return ropes


def reuses_prefix(lm: Any) -> bool:
    """Whether keys and values of a shared prefix can be computed once and used by every row.

    They must come from a run of the complete text, or of one within `steady_length`. This holds for
    causal models in which every layer attends to the full context, and is tested when a model is
    loaded. In an encoder the prefix depends on what follows it; models with sliding-window or
    hybrid caches are run in full instead (same numbers, more work).
    """
    if not is_causal(lm) or not getattr(lm, "prefix_proved", True):
        return False
    config = text_config(lm)
    kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
    sliding = getattr(config, "sliding_window", None) if not hasattr(config, "layer_types") else 0
    return kinds == {"full_attention"} and not sliding


def hides_padding(lm: Any) -> bool:
    """Whether padding before a text can be hidden from it by an attention mask, exactly.

    It can where every layer attends, to all or to the last positions. A state space or a
    convolution would run through the padding.
    """
    if not is_causal(lm) or not all(fact(layer, "heads", 0) for layer in lm.layers):
        return False
    kinds = set(getattr(text_config(lm), "layer_types", None) or ["full_attention"])
    return kinds <= {"full_attention", "sliding_attention"}
