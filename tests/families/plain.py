"""Reading, editing and differentiating a model's activations with plain hooks, laid out by hand."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch

from .by_hand import Hand

Change = Callable[[torch.Tensor], torch.Tensor]
SITES = (
    "resid_pre",
    "resid_mid",
    "resid_post",
    "q",
    "k",
    "v",
    "head_z",
    "attn_out",
    "mlp_hidden",
    "mlp_out",
    "mixer_out",
    "other_out",
    "attn_pattern",
)


class Plain:
    """A model and where its activations are.

    Attributes:
        model: with eager attention. width: of its unembedding's input.
    """

    def __init__(self, model: Any, hand: Hand) -> None:
        self.model, self.hand, self.config = model, hand, model.config
        self.blocks = model.get_submodule(hand.layers)
        self.norm = model.get_submodule(hand.norm)
        heads = [path for path in hand.head.split("|") if _has(model, path)]
        self.head = model.get_submodule(heads[0])
        self.width = self.head.weight.shape[1]

    def has(self, site: str, layer: int) -> bool:
        """Whether there is such a site in a layer."""
        return (site == "attn_pattern" and self._attends(layer)) or bool(self._place(site, layer))

    def _attends(self, layer: int) -> bool:
        hand = self.hand
        attention = hand.attn and self._module(layer, hand.attn)
        if hand.mixer and not hand.beside and hand.attends(self.config, layer):
            # Of two kinds of layers, the one whose projections it has.
            return attention is not None and (
                self._module(layer, hand.o) is not None or type(hand).attends is not hand.attends
            )
        return attention is not None and hand.attends(self.config, layer)

    def _module(self, layer: int, paths: str) -> Any:
        block = self.blocks[layer]
        return next(
            (block.get_submodule(p) for p in paths.split("|") if p and _has(block, p)), None
        )

    def _place(self, site: str, layer: int) -> tuple[Any, str, float, torch.Tensor | None] | None:
        """A module, its side, what its activation is times, and its columns (None for all)."""
        hand, config = self.hand, self.config
        factor = hand.factor(config)
        if site in ("resid_pre", "resid_post"):
            return self.blocks[layer], "input" if site == "resid_pre" else "output", 1.0, None
        attends = self._attends(layer)
        middle, mlp, mixer = (
            part(config, layer) if callable(part) else part
            for part in (hand.middle, hand.mlp, hand.mixer)
        )
        paths = {
            "resid_mid": (middle, "input", 1.0),
            "head_z": (hand.o if attends else "", "input", 1.0),
            "attn_out": (hand.attn if attends else "", "output", factor),
            "mlp_hidden": (hand.down, "input", 1.0),
            "mlp_out": (mlp if mlp != hand.attn or not attends else "", "output", factor),
            "mixer_out": (
                hand.attn if attends and not hand.beside else mixer,
                "output",
                factor,
            ),
        }
        if hand.others:
            paths["other_out"] = (hand.others[0], "output", factor)
        if site == "mixer_out" and hand.mixer_factor is not None:
            paths[site] = (mixer, "output", hand.mixer_factor(config))
        if site == "mlp_out" and hand.mlp_factor is not None:
            paths[site] = (mlp, "output", hand.mlp_factor(config))
        if site in "qkv":
            path = hand.fused or getattr(hand, site)
            paths[site] = (path if attends else "", "output", 1.0)
        if site not in paths:
            return None
        path, side, times = paths[site]
        module = self._module(layer, path)
        if module is None:
            return None
        return module, side, times, self._columns(site, module) if site in "qkv" else None

    def _columns(self, which: str, module: Any) -> torch.Tensor | None:
        """The columns of queries, keys or values in a projection that gives all three."""
        if not self.hand.fused:
            return None
        width = module.weight.shape[1 if type(module).__name__ == "Conv1D" else 0]
        heads, d_head = 4, 8
        keys = (width // d_head - heads) // 2
        index = torch.arange(width)
        if self.hand.packing == "thirds":
            return index.split([heads * d_head, keys * d_head, keys * d_head])["qkv".index(which)]
        if self.hand.packing == "four_cores":  # each: its queries, its values, its keys
            return index.reshape(4, 3, -1)[:, "qvk".index(which)].flatten()
        groups = index.reshape(keys, -1, d_head)  # each: its queries, its key, its value
        part = {"q": slice(None, -2), "k": slice(-2, -1), "v": slice(-1, None)}[which]
        return groups[:, part].flatten()

    @contextmanager
    def changed(self, site: str, layer: int, change: Change):
        """A context in which `change(activation)` takes the place of an activation."""
        if site == "attn_pattern":
            with _Softmax(self.blocks[layer], change):
                yield
            return
        place = self._place(site, layer)
        assert place is not None
        module, side, times, columns = place

        def new(tensor: torch.Tensor) -> torch.Tensor:
            rows = tensor.reshape(1, -1, tensor.shape[-1])
            if columns is None:
                return (change(rows * times) / times if times != 1 else change(rows)).reshape(
                    tensor.shape
                )
            whole = rows.clone()
            whole[..., columns] = change(rows[..., columns])
            return whole.reshape(tensor.shape)

        def on_input(_m: Any, args: Any, kwargs: Any) -> Any:
            if args:
                return (new(args[0]), *args[1:]), kwargs
            return args, {**kwargs, "hidden_states": new(kwargs["hidden_states"])}

        def on_output(_m: Any, _a: Any, output: Any) -> Any:
            if isinstance(output, (tuple, list)):
                return (new(output[0]), *output[1:])
            return new(output)

        if side == "input":
            hook = module.register_forward_pre_hook(on_input, with_kwargs=True)
        else:
            hook = module.register_forward_hook(on_output)
        try:
            yield
        finally:
            hook.remove()

    def edited(self, ids: list[int], site: str, layer: int, added: torch.Tensor) -> torch.Tensor:
        """The final norm's output if a tensor is added to an activation.

        The stream between two sub-layers is what the first adds to it: so this gets it instead.
        """
        with self.changed(self.changed_at(site, layer), layer, lambda x: x + added):
            return self.final(ids)

    def final(self, ids: list[int]) -> torch.Tensor:
        """The final norm's output, [1, position, width]."""
        found: list[torch.Tensor] = []
        hook = self.norm.register_forward_hook(lambda _m, _a, output: found.append(output))
        try:
            with torch.no_grad():
                self.model(input_ids=torch.tensor([ids]), use_cache=False)
        finally:
            hook.remove()
        return found[0]

    def captured(self, ids: list[int], site: str, layer: int) -> torch.Tensor:
        """An activation, [1, position, width]; of the pattern [1, head, query, key]."""
        return self.captured_all(ids, [(site, layer)])[site, layer]

    def captured_all(
        self, ids: list[int], places: Sequence[tuple[str, int]]
    ) -> dict[tuple[str, int], torch.Tensor]:
        """The activations of several sites of layers in one run."""
        found: dict[tuple[str, int], torch.Tensor] = {}

        def keep(x: torch.Tensor, place: tuple[str, int]) -> torch.Tensor:
            found[place] = x.clone()
            return x

        with ExitStack() as hooks, torch.no_grad():
            for place in places:
                hooks.enter_context(self.changed(*place, partial(keep, place=place)))
            self.model(input_ids=torch.tensor([ids]), use_cache=False)
        return found

    def gradients(self, ids: list[int], site: str, score: Change) -> list[torch.Tensor]:
        """The gradients of a score of the final norm's output at a site, in each layer."""
        zeros: dict[int, torch.Tensor] = {}

        def add(x: torch.Tensor, layer: int) -> torch.Tensor:
            zeros[layer] = torch.zeros_like(x, requires_grad=True)
            return x + zeros[layer]

        found: list[torch.Tensor] = []
        with ExitStack() as hooks, torch.enable_grad():
            for layer in range(len(self.blocks)):
                place = self.changed_at(site, layer)
                hooks.enter_context(self.changed(place, layer, partial(add, layer=layer)))
            hook = self.norm.register_forward_hook(lambda _m, _a, output: found.append(output))
            hooks.callback(hook.remove)
            self.model(input_ids=torch.tensor([ids]), use_cache=False)
            leaves = [zeros[layer] for layer in range(len(self.blocks))]
            return list(torch.autograd.grad(score(found[0])[0], leaves))

    def changed_at(self, site: str, layer: int) -> str:
        """Where hooks change a site: the stream between two sub-layers by what the first adds."""
        if site != "resid_mid":
            return site
        return "attn_out" if self.has("attn_out", layer) else "mixer_out"

    def added(self, layer: int) -> list[Callable[[list[int]], torch.Tensor]]:
        """What reads each contribution of a layer, as functions of token ids."""
        sites = [s for s in ("attn_out", "mixer_out", "mlp_out") if self._place(s, layer)]
        if "attn_out" in sites and not self.hand.beside:
            sites.remove("mixer_out")
        found: list[Callable[[list[int]], torch.Tensor]] = [
            partial(self.captured, site=site, layer=layer) for site in sites
        ]
        for path in self.hand.others:
            module = self._module(layer, path)
            found.append(partial(self._output, module))
        return found

    def _output(self, module: Any, ids: list[int]) -> torch.Tensor:
        found: list[torch.Tensor] = []
        hook = module.register_forward_hook(lambda _m, _a, output: found.append(output))
        with torch.no_grad():
            self.model(input_ids=torch.tensor([ids]), use_cache=False)
        hook.remove()
        return found[0].reshape(1, len(ids), -1) * self.hand.factor(self.config)

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """What the model makes of the final norm's output."""
        raw = self.head(hidden * self.hand.hidden_scale(self.config)) * self.hand.scale(self.config)
        cap = self.hand.cap(self.config)
        return raw if cap is None else cap * torch.tanh(raw / cap)


def _has(module: Any, path: str) -> bool:
    try:
        module.get_submodule(path)
    except AttributeError:
        return False
    return True


class _Softmax:
    """Changes what the attention of a layer gets from its softmax, [1, head, query, key].

    An attention sink's column, beyond the keys, is left as it is.
    """

    def __init__(self, block: Any, change: Change) -> None:
        self.block, self.change, self.within = block, change, False
        self.plain = torch.nn.functional.softmax

    def __enter__(self) -> None:
        def set_within(value: bool) -> Callable[..., None]:
            def hook(*_: Any) -> None:
                self.within = value

            return hook

        self.hooks = [
            self.block.register_forward_pre_hook(set_within(True)),
            self.block.register_forward_hook(set_within(False)),
        ]
        torch.nn.functional.softmax = self

    def __exit__(self, *_: Any) -> None:
        torch.nn.functional.softmax = self.plain
        for hook in self.hooks:
            hook.remove()

    def __call__(self, x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        weights = self.plain(x, *args, **kwargs)
        if not self.within or weights.shape[-1] < weights.shape[-2]:
            return weights
        if weights.dim() == 3 and len(weights) == 4:  # rows and heads in one dimension (XGLM)
            return self.change(weights[None])[0]
        if weights.dim() != 4:
            return weights
        keys = weights.shape[-2]
        new = self.change(weights[..., :keys])
        return torch.cat([new, weights[..., keys:]], -1).to(weights.dtype)
