"""Tiny models that fill masks, class by class, with their modules found by hand.

What is read and changed here is done with plain hooks on transformers' model, and knows nothing of
how the package finds modules.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers

from remote_mi.models.tiny_models import save_tokenizer, set_biases

TEXTS = [
    "Mary",
    "Anna",
    "When Mary and John went to the store, Anna gave a drink to Paul. Hello world!",
]
SENTENCE = "When Mary and John went to the store, [MASK] gave a drink to John"
CLEAN, CORRUPT = SENTENCE, SENTENCE.replace("to John", "to Mary")
t: Any = transformers  # its stubs do not know every field

SIZES: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 64,
    "initializer_range": 0.4,
    "pad_token_id": 2,
}
#: BERT's own names, in many families.
BERT = {
    "attn_out": "attention.output.dense",
    "mlp_out": "output.dense",
    "head_z": "attention.output.dense",
    "mlp_hidden": "output.dense",
    "q": "attention.self.query",
    "k": "attention.self.key",
    "v": "attention.self.value",
}
PRE_NORM = {
    "attn_out": "self_attn",
    "mlp_out": "mlp",
    "head_z": "self_attn.o_proj",
    "mlp_hidden": "mlp.down_proj",
    "q": "self_attn.q_proj",
    "k": "self_attn.k_proj",
    "v": "self_attn.v_proj",
}


class Family:
    """One class of encoder.

    Attributes:
        config: its configuration's class and what it takes beside the sizes.
        blocks: path of its layers. modules: site → path below a layer.
        read_out: from the model and the stream after the last layer to logits; None if a decoder
            stands between.
        causal: whether positions see earlier ones only.
        prefix: the tokens with which a decoder's answers begin; [] without one.
    """

    causal = False
    prefix: tuple[int, ...] = ()

    def __init__(
        self,
        config: str,
        blocks: str,
        modules: dict[str, str],
        read_out: Callable[[Any, torch.Tensor], torch.Tensor] | None,
        **settings: Any,
    ) -> None:
        self.config, self.blocks, self.modules = config, blocks, modules
        self.read_out, self.settings = read_out, settings

    def configuration(self, vocabulary: int) -> Any:
        return getattr(t, self.config)(vocab_size=vocabulary, **{**SIZES, **self.settings})

    @property
    def auto(self) -> Any:
        """The class that makes it."""
        return t.AutoModelForMaskedLM

    def alter(self, model: Any) -> None:
        """Change a model before it is saved."""

    def save(self, folder: Path) -> None:
        """Save a random model, the same each time, with a tokenizer of one token per word."""
        size = save_tokenizer(folder, TEXTS, masked=True)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model = self.auto.from_config(self.configuration(size))
            set_biases(model)
            self.alter(model)
        model.eval().save_pretrained(folder)


def _roberta(model: Any, x: torch.Tensor) -> torch.Tensor:
    head = model.lm_head
    return head.decoder(head.layer_norm(torch.nn.functional.gelu(head.dense(x))))


def _distilbert(model: Any, x: torch.Tensor) -> torch.Tensor:
    hidden = torch.nn.functional.gelu(model.vocab_transform(x))
    return model.vocab_projector(model.vocab_layer_norm(hidden))


def _rembert(model: Any, x: torch.Tensor) -> torch.Tensor:
    head = model.cls.predictions
    hidden = t.activations.ACT2FN[model.config.hidden_act](head.dense(x))
    return head.decoder(head.LayerNorm(hidden))


def _without(modules: dict[str, str], *sites: str) -> dict[str, str]:
    return {site: path for site, path in modules.items() if site not in sites}


_OFFSET = {"max_position_embeddings": 80}  # positions begin after the padding's id
FAMILIES: dict[str, Family] = {
    "bert": Family("BertConfig", "bert.encoder.layer", BERT, lambda m, x: m.cls(x)),
    "roberta": Family("RobertaConfig", "roberta.encoder.layer", BERT, _roberta, **_OFFSET),
    "xlm-roberta": Family("XLMRobertaConfig", "roberta.encoder.layer", BERT, _roberta, **_OFFSET),
    "xlm-roberta-xl": Family(
        "XLMRobertaXLConfig",
        "roberta.encoder.layer",
        BERT,
        lambda m, x: _roberta(m, m.roberta.encoder.LayerNorm(x)),
        **_OFFSET,
    ),
    "roberta-prelayernorm": Family(
        "RobertaPreLayerNormConfig",
        "roberta_prelayernorm.encoder.layer",
        BERT,
        lambda m, x: _roberta(m, m.roberta_prelayernorm.LayerNorm(x)),
        **_OFFSET,
    ),
    "camembert": Family("CamembertConfig", "roberta.encoder.layer", BERT, _roberta, **_OFFSET),
    "data2vec-text": Family(
        "Data2VecTextConfig", "data2vec_text.encoder.layer", BERT, _roberta, **_OFFSET
    ),
    "distilbert": Family(
        "DistilBertConfig",
        "distilbert.transformer.layer",
        {
            "attn_out": "attention",
            "mlp_out": "ffn",
            "head_z": "attention.out_lin",
            "mlp_hidden": "ffn.lin2",
            "q": "attention.q_lin",
            "k": "attention.k_lin",
            "v": "attention.v_lin",
        },
        _distilbert,
        dim=32,
        n_layers=3,
        n_heads=4,
        hidden_dim=48,
    ),
    "modernbert": Family(
        "ModernBertConfig",
        "model.layers",
        {
            "attn_out": "attn",
            "mlp_out": "mlp",
            "head_z": "attn.Wo",
            "mlp_hidden": "mlp.Wo",
        },
        lambda m, x: m.decoder(m.head(m.model.final_norm(x))),
        local_attention=8,
        layer_types=["full_attention", "sliding_attention", "sliding_attention"],
        cls_token_id=1,
        sep_token_id=2,
        initializer_cutoff_factor=2.0,
    ),
    "electra": Family(
        "ElectraConfig",
        "electra.encoder.layer",
        BERT,
        lambda m, x: m.generator_lm_head(m.generator_predictions(x)),
        embedding_size=16,
    ),
    "deberta": Family(
        "DebertaConfig",
        "deberta.encoder.layer",
        _without(BERT, "q", "k", "v"),
        lambda m, x: m.cls(x),
        relative_attention=True,
        pos_att_type=["c2p", "p2c"],
    ),
    "deberta-v2": Family(
        "DebertaV2Config",
        "deberta.encoder.layer",
        # Its queries and keys are those of the relative positions, too: not one activation.
        {**_without(BERT, "q", "k"), "v": "attention.self.value_proj"},
        lambda m, x: m.cls(x),
        relative_attention=True,
        position_buckets=8,
        pos_att_type=["c2p", "p2c"],
        share_att_key=True,
        norm_rel_ebd="layer_norm",
    ),
    "mpnet": Family(
        "MPNetConfig",
        "mpnet.encoder.layer",
        {
            "attn_out": "attention.attn",
            "mlp_out": "output.dense",
            "head_z": "attention.attn.o",
            "mlp_hidden": "output.dense",
            "q": "attention.attn.q",
            "k": "attention.attn.k",
            "v": "attention.attn.v",
        },
        _roberta,
        **_OFFSET,
    ),
    "eurobert": Family(
        "EuroBertConfig",
        "model.layers",
        PRE_NORM,
        lambda m, x: m.lm_head(m.model.norm(x)),
        num_key_value_heads=2,
    ),
    "nomic_bert": Family("NomicBertConfig", "nomic_bert.layers", PRE_NORM, lambda m, x: m.cls(x)),
    "ernie": Family("ErnieConfig", "ernie.encoder.layer", BERT, lambda m, x: m.cls(x)),
    "rembert": Family(
        "RemBertConfig",
        "rembert.encoder.layer",
        BERT,
        _rembert,
        input_embedding_size=16,
        output_embedding_size=24,
    ),
    "megatron-bert": Family(
        "MegatronBertConfig",
        "bert.encoder.layer",
        BERT,
        lambda m, x: m.cls(m.bert.encoder.ln(x)),
    ),
    "roformer": Family(
        "RoFormerConfig",
        "roformer.encoder.layer",
        BERT,
        lambda m, x: m.cls(x),
        embedding_size=32,
    ),
    "luke": Family(
        "LukeConfig",
        "luke.encoder.layer",
        BERT,
        _roberta,
        entity_vocab_size=8,
        entity_emb_size=8,
        **_OFFSET,
    ),
    "convbert": Family(
        "ConvBertConfig",
        "convbert.encoder.layer",
        _without(BERT, "q", "k", "v", "head_z"),
        lambda m, x: m.generator_lm_head(m.generator_predictions(x)),
        embedding_size=32,
    ),
    "fnet": Family(
        "FNetConfig",
        "fnet.encoder.layer",
        {"mlp_out": "output.dense", "mlp_hidden": "output.dense"},
        lambda m, x: m.cls(x),
    ),
}
#: Those whose tests run with the quick group.
QUICK = ("roberta", "distilbert", "modernbert")


class Plain:
    """A saved model, read and changed by plain hooks."""

    def __init__(self, folder: Path, family: Family) -> None:
        self.family = family
        auto = self.family.auto
        self.model: Any = auto.from_pretrained(folder, attn_implementation="eager").eval()
        self.rows = 1
        self.blocks = list(self.model.get_submodule(self.family.blocks))

    def stream(self, ids: torch.Tensor) -> list[torch.Tensor]:
        """The stream before each layer and after the last."""
        found: list[torch.Tensor] = []

        def keep(_m: Any, args: Any, kwargs: Any) -> None:
            found.append((args[0] if args else kwargs["hidden_states"]).clone())

        hooks = [b.register_forward_pre_hook(keep, with_kwargs=True) for b in self.blocks]
        hooks.append(
            self.blocks[-1].register_forward_hook(lambda _m, _a, out: found.append(_first(out)))
        )
        self.logits(ids)
        for hook in hooks:
            hook.remove()
        return found

    def run(self, ids: torch.Tensor, **options: Any) -> Any:
        """The model's output."""
        self.rows = len(ids)
        if self.family.prefix:
            options["decoder_input_ids"] = torch.tensor([self.family.prefix] * len(ids))
        with torch.no_grad():
            return self.model(input_ids=ids, **options)

    def logits(self, ids: torch.Tensor) -> torch.Tensor:
        """At each position; a decoder's answer is the same at each of the prompt's."""
        found = self.run(ids).logits
        return found[:, -1:].expand(-1, ids.shape[1], -1) if self.family.prefix else found

    def site(self, ids: torch.Tensor, site: str, layer: int) -> torch.Tensor:
        """The activation at a site of a layer."""
        found: list[torch.Tensor] = []
        hook = self.hook(site, layer, lambda value: found.append(value.clone()))
        self.logits(ids)
        hook.remove()
        return found[0]

    def logits_with(
        self, ids: torch.Tensor, site: str, layer: int, change: Callable[[Any], Any]
    ) -> torch.Tensor:
        """The logits of a run in which one activation is changed."""
        hook = self.hook(site, layer, change)
        try:
            return self.logits(ids)
        finally:
            hook.remove()

    def hook(self, site: str, layer: int, given: Callable[[Any], Any]) -> Any:
        """Apply `given` to an activation; None as its return value leaves it as it is."""
        block = self.blocks[layer]

        def change(value: torch.Tensor) -> Any:
            new = given(value.reshape(self.rows, -1, value.shape[-1]))  # Llama 4 merges the two
            return None if new is None else new.reshape(value.shape)

        if site == "resid_post":
            return block.register_forward_hook(lambda _m, _a, out: _with_first(out, change))
        module = block if site == "resid_pre" else block.get_submodule(self.family.modules[site])
        if site in ("resid_pre", "resid_mid", "head_z", "mlp_hidden"):

            def on_input(_m: Any, args: Any, kwargs: Any) -> Any:
                if args:
                    new = change(args[0])
                    return None if new is None else ((new, *args[1:]), kwargs)
                new = change(kwargs["hidden_states"])
                return None if new is None else (args, {**kwargs, "hidden_states": new})

            return module.register_forward_pre_hook(on_input, with_kwargs=True)
        return module.register_forward_hook(lambda _m, _a, out: _with_first(out, change))


def _first(output: Any) -> torch.Tensor:
    return (output[0] if isinstance(output, tuple) else output).clone()


def _with_first(output: Any, change: Callable[[Any], Any]) -> Any:
    new = change(_first(output))
    if new is None or not isinstance(output, tuple):
        return new
    return (new, *output[1:])
