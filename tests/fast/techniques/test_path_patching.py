"""Path patching against three plain runs with hooks for each sender."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import remote_mi as mi
from remote_mi.common.errors import RemoteMIError

from ...conftest import MARY
from ..reference import Reference

FAMILIES = ("llama", "gpt2", "neox", "neox-parallel", "gemma2", "qwen3")


class Paths:
    """One pair on a model, with the heads' outputs and the MLPs' of both prompts."""

    def __init__(self, folder, family):
        self.model = Reference(folder, family)
        self.folder, self.config = folder, self.model.model.config
        self.clean, self.corrupt = (self.model.ids(MARY[k]) for k in ("clean", "corrupt"))
        self.tokens = [int(self.model.ids(MARY[k])[0, -1]) for k in ("answer", "wrong")]
        self.z = {k: self.model.capture(getattr(self, k), "head_z") for k in ("clean", "corrupt")}
        self.added = {
            k: self.model.capture(getattr(self, k), "mlp_out") for k in ("clean", "corrupt")
        }
        self.heads, self.layers = self.config.num_attention_heads, len(self.model.blocks)

    def columns(self, site, head):
        keys = getattr(self.config, "num_key_value_heads", None) or self.heads
        width = self.z["clean"][0].shape[-1] // self.heads
        assert site != "q" or head < self.heads
        assert site == "q" or head < keys
        return slice(head * width, (head + 1) * width)

    def effect(self, layer, head, to, mlps, direction):
        """Of one sender, by hooks: first what the receivers read, then what that does."""
        base, other = ("clean", "corrupt") if direction == "noise" else ("corrupt", "clean")
        ids, model = getattr(self, base), self.model
        sender = self.columns("q", head)
        hooks, seen = [], {}

        def held(at):
            def change(z):
                new = self.z[base][at].clone()
                if at == layer:
                    new[..., sender] = self.z[other][at][..., sender]
                return new

            return change

        for at in range(self.layers):
            hooks.append(model.hook("head_z", at, held(at)))
            if mlps == "frozen":
                hooks.append(model.hook("mlp_out", at, lambda x, at=at: self.added[base][at]))
        for at, site, which in to:

            def keep(x, key=(at, site, which)):
                seen[key] = x[..., self.columns(*key[1:])].clone()

            hooks.append(model.hook(site, at, keep))
        try:
            direct = model.score(ids, *self.tokens)
        finally:
            for hook in hooks:
                hook.remove()
        plain = model.score(ids, *self.tokens)
        if not to:
            return direct - plain
        hooks = []
        for key in to:

            def put(x, key=key):
                new = x.clone()
                new[..., self.columns(key[1], key[2])] = seen[key]
                return new

            hooks.append(model.hook(key[1], key[0], put))
        try:
            return model.score(ids, *self.tokens) - plain
        finally:
            for hook in hooks:
                hook.remove()


@pytest.fixture(scope="module", params=FAMILIES)
def paths(request, tiny):
    return Paths(tiny(request.param), request.param)


CASES = [
    ((), "recomputed", "noise"),
    ((), "frozen", "denoise"),
    (((1, "q", 1), (1, "k", 0), (1, "v", 0)), "recomputed", "noise"),
    (((2, "v", 1), (1, "q", 0)), "frozen", "denoise"),
]


@pytest.mark.parametrize("to, mlps, direction", CASES)
def test_every_sender_equals_three_runs_with_hooks(paths, project, to, mlps, direction):
    names = [f"{layer}.{head}.{site}" for layer, site, head in to] or ["logits"]
    found = mi.run(
        "path_patching",
        model=paths.folder,
        to=names,
        mlps=mlps,
        direction=direction,
        control_draws=2,
        **MARY,
    )
    effect = found["effect"].values
    assert effect.shape == (paths.layers, paths.heads)
    last = max((layer for layer, *_ in to), default=paths.layers)
    assert (effect[last:] == 0).all() and np.abs(effect[:last]).max() > 1e-5
    expected = [
        [paths.effect(layer, head, to, mlps, direction) for head in range(paths.heads)]
        for layer in range(last)
    ]
    np.testing.assert_allclose(effect[:last], expected, atol=2e-5)
    control = found.each("control")[0].values
    assert control.shape == (2, *effect.shape) and np.abs(control[:, :last]).max() > 0


def test_to_the_logits_a_last_layers_head_is_patched_as_by_head_patching(paths, project):
    """Nothing lies between it and the end but its own layer's MLP, which is recomputed in both."""
    given = {"model": paths.folder, "direction": "noise", "control_draws": 0, **MARY}
    direct, whole = (
        mi.run(r, **given)["effect"].values for r in ("path_patching", "head_patching")
    )
    np.testing.assert_allclose(direct[-1], whole[-1], atol=1e-5)
    assert np.abs(direct[:-1] - whole[:-1]).max() > 1e-5


def test_an_mlp_receives_what_all_of_its_layer_and_earlier_ones_send(project, tiny, tiny_llama):
    found = mi.run("path_patching", model=tiny_llama, to=["1.mlp"], control_draws=0, **MARY)
    model = Paths(tiny_llama, "llama")
    effect = found["effect"].values
    assert (effect[2:] == 0).all() and (np.abs(effect[:2]) > 1e-7).any(1).all()
    # By hand, for one sender: the MLP's input where everything but the sender's output is held.
    reference, sender = model.model, model.columns("q", 1)
    kept = {}

    def held(at):
        def change(z):
            new = model.z["clean"][at].clone()
            if at == 1:
                new[..., sender] = model.z["corrupt"][at][..., sender]
            return new

        return change

    mlp = reference.blocks[1].mlp
    hooks = [reference.hook("head_z", at, held(at)) for at in range(model.layers)]
    hooks.append(mlp.register_forward_pre_hook(lambda _m, a: kept.update(x=a[0].clone())))
    reference.score(model.clean, *model.tokens)
    for hook in hooks:
        hook.remove()
    hook = mlp.register_forward_pre_hook(lambda _m, a: (kept["x"],))
    changed = reference.score(model.clean, *model.tokens)
    hook.remove()
    expected = changed - reference.score(model.clean, *model.tokens)
    assert effect[1, 1] == pytest.approx(expected, abs=1e-5)


def test_passes_of_any_size_give_the_same(project, tiny_llama, monkeypatch):
    from remote_mi.interventions import paths as engine

    given = {"model": tiny_llama, "to": ["2.1.k", "2.mlp"], **MARY}
    plain = mi.run("path_patching", **given)
    monkeypatch.setattr(engine, "rows_of_a_pass", lambda *_: 14)
    monkeypatch.setenv("REMOTE_MI_CACHE", str(project / "another"))
    small = mi.run("path_patching", **given)
    np.testing.assert_allclose(small["effect"].values, plain["effect"].values, atol=1e-5)
    np.testing.assert_allclose(
        small.each("control")[0].values, plain.each("control")[0].values, atol=1e-5
    )


@pytest.mark.parametrize(
    "to, said",
    [
        (["9.6"], "'9.6' is not of the form 9.6.q"),
        (["1.1.z"], "is not of the form"),
        (["q"], "is not of the form"),
        (["1.-1.q"], "is not of the form"),
        (["77.0.q"], "layers are 0 to 2"),
        (["1.4.q"], "heads are 0 to 3"),
        (["1.2.k"], "key heads are 0 to 1"),
        (["logits", "1.1.q"], "give logits alone"),
        (["1.1.q", "1.1.q"], "each once"),
        ([], "give logits alone"),
    ],
)
def test_receivers_that_do_not_exist_are_refused(project, tiny_llama, to, said):
    with pytest.raises(RemoteMIError) as refused:
        mi.run("path_patching", model=tiny_llama, to=to, **MARY)
    assert said in str(refused.value)


def test_the_rows_are_torch_tensors_of_the_models_dtype(project, tiny_llama):
    spec = mi.ModelSpec(str(tiny_llama), dtype="bfloat16")
    found = mi.run("path_patching", model=spec, to=["2.0.q"], control_draws=0, **MARY)
    exact = mi.run("path_patching", model=tiny_llama, to=["2.0.q"], control_draws=0, **MARY)
    assert np.isfinite(found["effect"].values).all()
    scale = np.abs(exact["effect"].values).max()
    assert np.abs(found["effect"].values - exact["effect"].values).max() < max(0.05, scale)
    assert torch.get_default_dtype() == torch.float32
