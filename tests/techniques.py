"""Every built-in technique with work small enough for a tiny model: what the suites run alike."""

from __future__ import annotations

from typing import Any

from .conftest import MARY

#: Pairs of three templates and several lengths, of two classes.
PAIRS = [
    {**MARY, "label": "a", "group": "1"},
    {
        "clean": "Then, Tom and John had a long argument, and afterwards John said to",
        "corrupt": "Then, Tom and John had a long argument, and afterwards Tom said to",
        "answer": " Tom",
        "wrong": " John",
        "label": "b",
        "group": "2",
    },
    {
        "clean": "When Anna and Paul went to the store, Paul gave a drink to",
        "corrupt": "When Anna and Paul went to the store, Anna gave a drink to",
        "answer": " Anna",
        "wrong": " Paul",
        "label": "a",
        "group": "3",
    },
    {
        "clean": "After Mark and Lucy went to the park, Lucy handed a book to",
        "corrupt": "After Mark and Lucy went to the park, Mark handed a book to",
        "answer": " Mark",
        "wrong": " Lucy",
        "label": "b",
        "group": "4",
    },
]
SUBJECT = {"subject_start": 1, "subject_end": 3}
#: Recipe → its variants, each as keyword arguments of `remote_mi.run` beside model and prompts.
TECHNIQUES: dict[str, list[dict[str, Any]]] = {
    "ablation": [{"kind": "mean"}, {"kind": "zero", "site": "mlp_out"}, {"kind": "resample"}],
    "activation_patching": [{}, {"site": "mlp_out"}, {"site": "attn_out", "direction": "noise"}],
    "attention_patterns": [{}],
    "attribution_patching": [{}, {"site": "mlp_out", "compare": "exact"}],
    "baseline": [{}],
    "causal_tracing": [{**SUBJECT, "draws": 2}, {**SUBJECT, "site": "mlp_out", "window": 2}],
    "direct_logit_attribution": [{}],
    "head_ablation": [{}],
    "head_attribution": [{}],
    "head_detectors": [{"sequences": 3, "length": 6}],
    "head_patching": [{}, {"direction": "noise"}],
    "integrated_gradients": [{"steps": 8}],
    "linear_probe": [{"folds": 2}],
    "logit_lens": [{}],
    "patchscopes": [{"inspection": "When Mary and John went to", "steps": 2}],
    "saliency": [{}],
    "steering": [{"steps": 2, "coefficients": [1.0, 2.0]}],
}


def examples_for(over: str, count: int = 4) -> list[dict[str, str]]:
    """Examples as a recipe takes them: pairs, prompts with a target, or none."""
    if over == "none":
        return []
    if over in ("pair", "pairs"):
        return PAIRS[:count]
    return [
        {"prompt": p["clean"], "target": p["answer"], "label": p["label"], "group": p["group"]}
        for p in PAIRS[:count]
    ]
