"""Comparing what interventions read, edit and differentiate with plain hooks, class by class."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import nnsight
import torch

from remote_mi.common.progress import Silent
from remote_mi.interventions import Prompt, gradients, sweep
from remote_mi.interventions.model_info import fact
from remote_mi.interventions.readout import logits, skip_unembedding
from remote_mi.interventions.sites import SITES as TABLE
from remote_mi.interventions.sites import part_count
from remote_mi.models import tiny_models
from remote_mi.models.load import load
from remote_mi.models.spec import ModelSpec

from .by_hand import hand_of
from .configurations import configuration
from .plain import SITES, Plain

IDS, OTHER = [5, 17, 9, 30, 12, 44, 8], [5, 17, 11, 30, 12, 44, 8]
TEXTS = ["one two three four five six seven eight nine ten " * 2]
CLOSE = 1e-5


def save(name: str, folder: Path) -> None:
    """Save a tiny model of a class, with a tokenizer; biases and norms are moved."""
    from transformers import AutoModelForCausalLM

    words = " ".join(f"w{number}" for number in range(60))
    size = max(64, tiny_models.save_tokenizer(folder, [*TEXTS, words]))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        auto: Any = AutoModelForCausalLM
        model = auto.from_config(configuration(name, size))
        tiny_models.set_biases(model)
        with torch.no_grad():
            for parameter in model.parameters():
                if not parameter.any():  # some begin with matrices of zeros (xLSTM)
                    parameter.add_(0.3 * torch.randn_like(parameter))
            for buffer_name, buffer in model.named_buffers():
                if buffer_name.endswith("layer_scalar"):  # of Gemma 4, which begins with ones
                    buffer.copy_(0.4 + torch.rand(1))
    model.eval().save_pretrained(folder)


class Loaded:
    """A class's tiny model, as it is loaded for interventions, and beside it with plain hooks."""

    def __init__(self, name: str, folder: Path) -> None:
        from transformers import AutoModelForCausalLM

        self.name = name
        self.lm = load(ModelSpec(str(folder), attention="eager"), Silent()).lm
        auto: Any = AutoModelForCausalLM
        model = auto.from_pretrained(folder, attn_implementation="eager").eval()
        model.requires_grad_(False)
        self.plain = Plain(model, hand_of(name))
        self.layers = len(self.plain.blocks)
        self.refused: dict[str, str] = {}
        generator = torch.Generator().manual_seed(1)
        self.weights = torch.randn(self.plain.width, generator=generator)
        self.given: dict[str, dict[int, torch.Tensor]] = {}

    def score(self, hidden: torch.Tensor) -> torch.Tensor:
        """A number per row from the final norm's output."""
        return hidden[:, -1].float() @ self.weights

    def read(self, site: str) -> dict[int, torch.Tensor]:
        """The activations of the layers that have the site; why others lack it is noted."""
        if site not in self.given:
            found, row, lm = {}, TABLE[site], self.lm
            with torch.no_grad(), lm.trace(input_ids=torch.tensor([IDS]), use_cache=False):
                for layer in range(self.layers):
                    try:
                        found[layer] = row.read(lm, layer).save()
                    except ValueError as why:
                        self.refused.setdefault(site, str(why))
                skip_unembedding(lm)
            self.given[site] = found
        return self.given[site]

    def row(self) -> dict[str, str]:
        """For each site "works", in how many layers, or why it is refused."""
        found: dict[str, str] = {}
        for site in SITES:
            count = len(self.read(site))
            some = f"in {count} of {self.layers} layers"
            found[site] = "works" if count == self.layers else some if count else self.refused[site]
        patterns = self.read("attn_pattern")
        found["attn_pattern, edited"] = found["attn_pattern"]
        if patterns:
            layer, pattern = next(iter(patterns.items()))
            try:
                self.edited("attn_pattern", layer, torch.zeros_like(pattern))
            except ValueError as why:
                found["attn_pattern, edited"] = str(why)
        return found

    def edited(self, site: str, layer: int, added: torch.Tensor) -> torch.Tensor:
        """The final norm's output if a tensor is added at a site."""
        lm = self.lm
        with torch.no_grad(), lm.trace(input_ids=torch.tensor([IDS]), use_cache=False):
            TABLE[site].edit(lm, layer, lambda x: x + added)
            found = lm.ln_final.output.save()
            skip_unembedding(lm)
        return found


def near(what: str, got: torch.Tensor, expected: torch.Tensor, least: float = 0.0) -> None:
    """Require two tensors to be equal but for rounding."""
    assert got.shape == expected.shape, f"{what}: {tuple(got.shape)}, not {tuple(expected.shape)}"
    off = float((got.float() - expected.float()).norm())
    size = max(float(expected.float().norm()), least)
    assert off <= CLOSE * size, f"{what}: off by {off:.2e} of {size:.2e}"


def check_read_out(model: Loaded) -> None:
    """The stream's end gives the model's own logits, here and by hand."""
    plain = model.plain
    assert fact(model.lm, "causal", None) is True
    hidden = plain.final(IDS)
    with torch.no_grad():
        own = plain.model(input_ids=torch.tensor([IDS]), use_cache=False).logits[0]
    near("logits by hand", plain.logits(hidden)[0], own)
    near("logits", logits(model.lm, hidden[0]), own)


def check_read(model: Loaded) -> None:
    """Every site that there is, is read as a hook reads it; and what is added, adds up."""
    places = [(site, layer) for site in SITES for layer in model.read(site)]
    for site, layer in places:
        assert model.plain.has(site, layer), f"{site} of layer {layer}: by hand there is none"
    for (site, layer), expected in model.plain.captured_all(IDS, places).items():
        what = f"{site} of layer {layer}"
        near(what, model.read(site)[layer], expected)
        assert float(expected.abs().max()) > 1e-7, f"{what} is nothing"
    for layer in range(model.layers):
        block = model.lm.layers[layer]
        total = model.plain.captured(IDS, "resid_pre", layer)
        end = model.plain.hand.end(model.plain.blocks[layer])
        if hasattr(block, "ln_after_attn"):
            continue  # the stream is normalised in the layer
        for path in model.plain.added(layer):
            total = total + path(IDS)
        near(f"sum of layer {layer}", total * end, model.plain.captured(IDS, "resid_post", layer))
        assert len(fact(block, "adds", [])) == len(model.plain.added(layer))


def check_edits(model: Loaded) -> None:
    """A tensor added at a site changes the end of the run as it does by a hook."""
    before = model.plain.final(IDS)
    for site in SITES:
        values = model.read(site)
        for layer in sorted({*list(values)[:1], *list(values)[-1:]}):
            value = values[layer]
            added = 0.3 * torch.sin(torch.arange(value.numel()).float()).reshape(value.shape)
            if site == "attn_pattern":
                added = added * (value > 0)
            try:
                got = model.edited(site, layer, added)
            except ValueError as why:
                assert site == "attn_pattern" and not model.plain.hand.edits_patterns(), why
                continue
            expected = model.plain.edited(IDS, site, layer, added)
            near(f"edit of {site} of layer {layer}", got, expected)
            moved = float((expected - before).norm())
            last_stream = site != "resid_post" or layer < model.layers - 1
            assert moved > 1e-4 or not last_stream, f"{site} of layer {layer} does nothing"


def check_gradients(model: Loaded) -> None:
    """The gradient at a site is that of a hook that adds to it."""
    for site in SITES:
        found = model.read(site)
        if len(found) < model.layers:
            continue  # gradients are taken in every layer
        with torch.enable_grad(), model.lm.session():
            prompt = Prompt(list(IDS), {}, None)
            got = nnsight.save(gradients(model.lm, prompt, site, model.score))
        expected = model.plain.gradients(IDS, site, model.score)
        least = max(float(one.norm()) for one in expected)
        for layer, slope in enumerate(expected):
            near(f"gradient at {site} of layer {layer}", got.gradients[layer], slope, least)


def check_sweeps(model: Loaded) -> None:
    """Every cell of a sweep is a run with a hook: by position, layer and head."""
    plain, prompt = model.plain, Prompt(list(IDS), {}, None)
    own = float(model.score(plain.final(IDS))[0])
    kinds: Any = (("resid_pre", "position"), ("mlp_out", "layer"), ("head_z", "head"))
    for site, by in kinds:
        layers = sorted(model.read(site))
        if not layers:
            continue
        found = plain.captured_all(OTHER, [(site, layer) for layer in layers])
        donor = {layer: found[site, layer] for layer in layers}
        parts = part_count(model.lm, site)
        with torch.no_grad(), model.lm.session():
            swept = nnsight.save(
                sweep(model.lm, prompt, site, donor.__getitem__, model.score, by=by, layers=layers)
            )
        cells = {"position": range(len(IDS)), "layer": [0], "head": range(parts)}[by]
        expected = torch.zeros(len(layers), len(cells))
        for row, layer in enumerate(layers):
            for column, cell in enumerate(cells):
                change = _put(donor[layer], by, cell, parts)
                with plain.changed(site, layer, change):
                    expected[row, column] = float(model.score(plain.final(IDS))[0]) - own
        got = swept.effect.reshape(expected.shape)
        near(f"sweep of {site} by {by}", got, expected, abs(own))


def _put(donor: torch.Tensor, by: str, cell: int, parts: int) -> Callable[..., torch.Tensor]:
    def change(x: torch.Tensor) -> torch.Tensor:
        if by == "layer":
            return donor
        new, size = x.clone(), x.shape[-1] // parts
        place = (
            (slice(None), cell)
            if by == "position"
            else (..., slice(cell * size, (cell + 1) * size))
        )
        new[place] = donor[place]
        return new

    return change
