"""How often generated texts show a behaviour."""

from __future__ import annotations

from typing import Annotated, Any

import torch

from remote_mi import Bars, Judged, Range, Share, Table, Text, Tokens, recipe
from remote_mi.interventions import (
    Prompt,
    generate,
    prompt_losses,
    row_seeds,
    shuffled_classes,
    yes_probs,
)


@recipe(
    over="prompts",
    returns={
        "shows": Judged("text", asked="yes_prob"),
        "text": Tokens("prompt", "draw", "step"),
        "yes_prob": ("prompt", "question", "draw"),
        "loss": ("prompt",),
    },
    analysis="by_class",
    summaries={
        "class_rate": Share("class"),
        "difference": ("class",),
        "shuffled_difference": ("draw", "class"),
    },
    controls={"difference": "shuffled_difference"},
    evidence="observational",
    figures=[
        Bars("shows", title="rate"),
        Bars("class_rate", title="rate by class"),
        Bars("difference", title="rate of a class against the others"),
        Table("shows", title="texts", columns=("loss", "text")),
        Text("text"),
    ],
    needs=("generation", "causal", "unembedding"),
    references=["arditi2024refusal"],
)
def behaviour(
    lm: Any,
    prompts: list[Prompt],
    *,
    steps: Annotated[int, Range(1, 512)] = 32,
    temperature: Annotated[float, Range(0, 10)] = 0.0,
    draws: Annotated[int, Range(1, 64)] = 1,
    control_draws: Annotated[int, Range(1, 999)] = 99,
    seed: int = 0,
) -> dict[str, Any]:
    """How often the model's own continuations show the behaviour that the prompts ask for.

    Each prompt is continued by `steps` tokens, or until the model ends its text; the text is judged
    by the behaviour of its prompt:

        shows         = 1 if the text shows the behaviour, else 0
        rate          = mean of shows over the prompts, and over the draws of each
        class_rate[c] = the same over the prompts of class c
        difference[c] = class_rate[c] − the rate of all other prompts
        loss          = mean next-token cross-entropy of the prompt, in nats: what the model makes
                        of the prompt itself

    At temperature 0 each token is the most probable one; else it is drawn from
    softmax(logits / temperature), `draws` times for each prompt, with a generator seeded by `seed`
    and the prompt's tokens: a text does not depend on the other prompts.
    A behaviour `yes_no` is judged by the model itself: after the text it is asked the question, and
    yes_prob = p(yes) / (p(yes) + p(no)); the text shows the behaviour if it is above one half.
    All other behaviours are judged from the text here, so that another one runs no forward pass.
    That words in the text tell whether a request was refused follows Arditi et al. 2024.
    Of clean/corrupt pairs both prompts are continued, and are the classes.
    Intervals: 95%, of a share (Wilson), over prompts, or groups of them; draws of a prompt are no
    samples of their own where there are several prompts.
    Control: shuffled_difference, with the classes shuffled between the prompts; within a group
    (a pair) that has several classes; between groups of one size that have one.
    Cost: `steps` passes of as many texts as fit into memory at a time, 1 pass of the prompts, and
    1 of the questions if any are asked.
    What this does not show: why the model does it, nor what it would do at greater length. A word
    that occurs, or a pattern that is found, need not mean what it was taken for: read the texts.
    What a small model answers about its own text may be a habit of answering.
    Not implemented: beams, top-k and top-p; a second model as the judge.

    Args:
        steps: tokens of each text at most.
        temperature: 0 for the most probable tokens.
        draws: texts of each prompt, for a temperature above 0.
        control_draws: shuffles of the classes.
        seed: of the draws and the shuffles.
    """
    if draws > 1 and not temperature:
        raise ValueError(
            f"{draws} draws at temperature 0 are the same text: give a temperature, or draws 1"
        )
    rows = [prompt.ids for prompt in prompts for _ in range(draws)]
    seeds = row_seeds(prompts, draws, seed)
    texts = generate(lm, rows, steps, temperature=temperature, seeds=seeds)
    questions = [prompt.question for prompt in prompts for _ in range(draws)]
    asked = [row for row, question in enumerate(questions) if question]
    yes = torch.full((len(rows),), torch.nan)
    if asked:
        yes[asked] = yes_probs(lm, [questions[row] for row in asked], texts[asked])
    by_prompt = yes.unflatten(0, (len(prompts), draws))[:, None]  # [prompt, question, draw]
    return {
        "text": list(texts.unflatten(0, (len(prompts), draws))),
        "yes_prob": list(by_prompt if asked else by_prompt[:, :0]),
        "loss": list(prompt_losses(lm, prompts)),
    }


def by_class(
    examples: list[dict[str, Any]], *, control_draws: int, seed: int, **_: Any
) -> dict[str, Any]:
    """Rates of the classes, and how they differ; see `behaviour`."""
    import numpy as np

    shows = np.array([e["arrays"]["shows"].mean() for e in examples])
    names, y = np.unique([str(e["label"] or "") for e in examples], return_inverse=True)
    groups = [e["group"] or ("", index) for index, e in enumerate(examples)]
    group = np.array([groups.index(name) for name in groups])
    rng = np.random.default_rng(seed)
    shuffles = [shuffled_classes(y, group, rng) for _ in range(control_draws)]
    several = range(len(names) if len(names) > 1 else 0)

    def differences(of: Any) -> Any:
        return np.array([shows[of == c].mean() - shows[of != c].mean() for c in several])

    return {
        "class": [name or "all" for name in names],
        "class_rate": np.stack([np.where(y == c, shows, np.nan) for c in range(len(names))]),
        "difference": differences(y),
        "shuffled_difference": np.stack([differences(s) for s in shuffles]),
    }
