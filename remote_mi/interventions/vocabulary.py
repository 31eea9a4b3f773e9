"""The terms recipes share: sites in a model, directions, metrics. Does not import torch.

A site is a place in a layer, the same in every architecture; `sites.SITES` has a row for each:

    embed          the token embedding's output                         [position, width]
    resid_pre      the stream before a block                            [position, d_model]
    attn_in        what attention takes                                 [position, d_model]
    mixer_in       what the part that mixes the positions takes         [position, d_model]
    q              the output of the query projection                   [position, head × d_head]
    k, v           the outputs of the key and value projections         [position, key head × d_head]
    q_normed       queries after a norm of each head                    [position, head × d_head]
    k_normed       keys after a norm of each head                       [position, key head × d_head]
    q_rotated      queries after their rotation: those that score       [position, head × d_head]
    k_rotated      keys after their rotation: those that are scored     [position, key head × d_head]
    attn_scores    what the softmax takes: after scale, cap and mask    [head, query, key]
    attn_pattern   how much each query attends to each key              [head, query, key]
    head_z         the input of attention's output projection           [position, head × d_head]
    head_out       what each head gives through that projection         [position, head × d_model]
    attn_out       what attention adds to the stream                    [position, d_model]
    mixer_out      what mixes the positions adds to the stream          [position, d_model]
    resid_mid      the stream between attention and MLP                 [position, d_model]
    mlp_in         what the MLP takes                                   [position, d_model]
    mlp_gate       the gate of the MLP's neurons, before its activation [position, neuron]
    mlp_up         what the gate is multiplied by; without a gate, the
                   neurons before their activation                      [position, neuron]
    mlp_hidden     the MLP's neurons: the input of its last matrix      [position, neuron]
    router_logits  the logits that experts are chosen by                [position, expert]
    expert_weights what each expert is multiplied by; 0 if not chosen   [position, expert]
    mlp_out        what the MLP adds to the stream                      [position, d_model]
    other_out      what a further part adds to the stream               [position, d_model]
    resid_post     the stream after a block                             [position, d_model]
    final_norm     the final norm's output                              [position, d_model]
    logits         the model's logits, after scale and cap              [position, vocabulary]

`embed`, `final_norm` and `logits` exist once: their only layer is 0. Every other site exists in the
layers that have it, and is refused, with the reason and with these layers, where a chosen layer
does not.

`attn_out`, `mixer_out`, `mlp_out` and `other_out` are taken where they are added, so after Gemma 2's
post-norms, times Granite's multiplier, and before the number that a layer of Gemma 4 multiplies its
stream by at its end; `head_out` is before both. `mixer_out` is `attn_out` in a layer with
attention, and exists in layers with a state space, a convolution or linear attention in its place,
too. `other_out` is that of a part beside attention and MLP: a shared expert (Granite), the embedding of
a token for each layer (Gemma 4). An edit of an input (`attn_in`, `mlp_in`) reaches that part alone, even if others read the same
tensor. `attn_pattern` and `attn_scores` need eager attention (`needs=("attention_weights",)`), and
nothing is measured after `logits`: these three are no valid values of a recipe's parameter `site`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args

Site = Literal[
    "resid_pre",
    "resid_mid",
    "resid_post",
    "q",
    "k",
    "v",
    "head_z",
    "attn_out",
    "mixer_out",
    "mlp_hidden",
    "mlp_out",
    "embed",
    "attn_in",
    "mixer_in",
    "q_normed",
    "k_normed",
    "q_rotated",
    "k_rotated",
    "head_out",
    "mlp_in",
    "mlp_gate",
    "mlp_up",
    "router_logits",
    "expert_weights",
    "other_out",
    "final_norm",
]

#: denoise: clean activations are patched into the corrupt run; noise: the other way round.
Direction = Literal["denoise", "noise"]

#: How one forward pass becomes one number, where the answer is read, in float32; `metrics` has a
#: row for each. Of the answers A and the wrong ones B:
#: logit_diff: mean logit(A) − mean logit(B); logit_diff_max: mean logit(A) − max logit(B);
#: prob_diff: Σ p(A) − Σ p(B); logit: mean logit(A); prob: Σ p(A); log_prob: log Σ p(A);
#: rank: how many tokens are more probable than the best of A; top1: 1 if none is, else 0.
#: Of the whole distribution p, against that of the clean run, p₀:
#: kl: KL(p₀ ‖ p); js: Jensen–Shannon divergence; entropy: −Σ p log p.
#: Of the prompt: loss: mean next-token cross-entropy (of the answer in an encoder).
#: Of answers of several tokens, prob and log_prob are those of the whole answer (Π p, Σ log p), and
#: the others those of the first token in which right and wrong answers differ.
#: A metric of the project's own is `FILE.py:FUNCTION`; see `remote_mi.metric`.
Metric = Annotated[
    Literal[
        "logit_diff",
        "logit",
        "prob",
        "log_prob",
        "prob_diff",
        "logit_diff_max",
        "kl",
        "js",
        "entropy",
        "rank",
        "top1",
        "loss",
    ],
    "metric",
]


class MetricFacts:
    """What is known of a metric beforehand.

    Attributes:
        unit: "nats", "tokens", or "" for probabilities and shares.
        rises: 1 if a larger number is more of the clean behaviour, −1 if a smaller one is, 0 if
            neither.
        differentiable: whether it has a gradient.
        against_clean: whether it compares with the clean run, of which it is 0.
    """

    def __init__(
        self, unit: str, rises: int = 1, differentiable: bool = True, against_clean: bool = False
    ) -> None:
        self.unit, self.rises = unit, rises
        self.differentiable, self.against_clean = differentiable, against_clean


METRICS: dict[str, MetricFacts] = {
    "logit_diff": MetricFacts("nats"),
    "logit": MetricFacts("nats"),
    "prob": MetricFacts(""),
    "log_prob": MetricFacts("nats"),
    "prob_diff": MetricFacts(""),
    "logit_diff_max": MetricFacts("nats"),
    "kl": MetricFacts("nats", -1, against_clean=True),
    "js": MetricFacts("nats", -1, against_clean=True),
    "entropy": MetricFacts("nats", 0),
    "rank": MetricFacts("tokens", -1, differentiable=False),
    "top1": MetricFacts("", differentiable=False),
    "loss": MetricFacts("nats", -1),
}

#: Over which positions of the prompts a mean is taken: all; all but the first (the attention sink,
#: where activations are often very large); or at each position its own, over prompts of the same
#: length with their labels in the same places.
Average = Literal["all", "after_first", "each"]

#: A parameter that is a text to the user and a tokenized `Prompt` to the recipe's body.
PromptText = Annotated[Any, "prompt"]

#: A parameter that names prompts (a phenomenon, a file, a list) and is a list of tokenized `Prompt`s
#: to the recipe's body.
Prompts = Annotated[Any, "prompts"]


class ArtifactForm:
    """What the tensor of an artifact must be to be the value of a parameter.

    Attributes:
        dims: names of its dimensions, outermost first.
        site: the site that it must be made at; "" for that of the recipe's parameter `site`.
    """

    def __init__(self, dims: tuple[str, ...], site: str = "") -> None:
        self.dims, self.site = dims, site


class Artifact:
    """A parameter that is a tensor which another run made, or a file holds.

        direction: Artifact["layer", "d_model"]
        direction: Artifact["layer", "d_model", "resid_pre"] | None = None

    The names are those of its dimensions; the name of a site among them says where it must be made.
    The user names a run and an output (`RUN:output`) or a file; the recipe's body gets a float32
    tensor with these dimensions on the model's device. One without the dimension `layer` stands for
    every layer: it comes with a single entry there, as `expand` takes it.
    """

    if TYPE_CHECKING:  # what a recipe's body gets is a tensor

        def __getattr__(self, name: str) -> Any: ...

    def __class_getitem__(cls, names: str | tuple[str, ...]) -> Any:
        given = names if isinstance(names, tuple) else (names,)
        sites = [name for name in given if name in get_args(Site)]
        if len(sites) > 1 or not all(isinstance(name, str) for name in given):
            raise TypeError(f"Artifact takes names of dimensions and at most one site, not {names}")
        dims = tuple(name for name in given if name not in sites)
        return Annotated[Any, ArtifactForm(dims, *sites)]
