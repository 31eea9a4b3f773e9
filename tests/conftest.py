"""Shared by all groups: tiny random models of several architectures, a project, a cache."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
if "PYTEST_XDIST_WORKER" in os.environ:  # several at a time: threads would only wait for each other
    os.environ.setdefault("OMP_NUM_THREADS", "1")
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # Started in the background, by a shell that has Ctrl-C ignored there; commands would inherit it.
    signal.signal(signal.SIGINT, signal.default_int_handler)

GROUPS = ("fast", "slow", "ndif", "gpu")
MARY = {
    "clean": "When Mary and John went to the store, John gave a drink to",
    "corrupt": "When Mary and John went to the store, Mary gave a drink to",
    "answer": " Mary",
    "wrong": " John",
}


#: Families whose tests in tests/fast run with the quick group; those of the others are slow.
QUICK = ("llama", "gpt2", "bert")


def _group(item: pytest.Item) -> str:
    """The group of a test: its folder, or slow if it is marked so or is one more family's."""
    group = item.path.relative_to(ROOT / "tests").parts[0]
    if group == "fast" and item.get_closest_marker("slow"):
        return "slow"
    callspec = getattr(item, "callspec", None)
    given = [v for v in callspec.params.values() if isinstance(v, str)] if callspec else []
    wider = any(value in FAMILIES and value not in QUICK for value in given)
    return "slow" if group == "fast" and wider else group


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark every test by its group, and run the quick ones first."""
    for item in items:
        group = _group(item)
        if group in ("slow", "ndif", "gpu"):
            item.add_marker(getattr(pytest.mark, group))
    items.sort(key=lambda item: GROUPS.index(_group(item)))


def _words() -> list[str]:
    """Every word, with its leading space, that the built-in phenomena and the tests use."""
    from remote_mi.prompts import phenomena

    texts = []
    for path in sorted((ROOT / "recipes" / "phenomena").glob("*.yaml")):
        found = phenomena.load(path)
        for example in found.prompts(16).examples:
            texts += [example.clean, example.corrupt or "", example.answer or ""]
        for entries in found.lists.values():
            for entry in entries:
                parts = entry.values() if isinstance(entry, dict) else [entry]
                texts += [f" {part}" for part in parts] + [str(part) for part in parts]
    texts.append("The Eiffel Tower is in the city of Paris Rome. Hello world!")
    return sorted({w for text in texts for w in re.findall(r" ?\w+| ?[^\w\s]+|\s+", text)})


def save_tokenizer(folder: Path, masked: bool = False) -> int:
    """Save a fast tokenizer with one token a word; returns the size of its vocabulary.

    Args:
        masked: with a mask token, and texts put between [CLS] and [SEP], as BERT has it.
    """
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    level = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    words = [piece for word in _words() for piece, _ in level.pre_tokenize_str(word)]
    vocabulary = {"<unk>": 0, "<s>": 1, "</s>": 2}
    for word in words:
        vocabulary.setdefault(word, len(vocabulary))
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = level
    tokenizer.decoder = decoders.ByteLevel()
    named: dict[str, Any] = {"bos_token": "<s>", "eos_token": "</s>"}
    if masked:
        for special in ("[CLS]", "[SEP]", "[MASK]"):
            vocabulary[special] = len(vocabulary)
        tokenizer.model = models.WordLevel(vocabulary, unk_token="<unk>")
        tokenizer.post_processor = processors.TemplateProcessing(
            single="[CLS] $A [SEP]",
            special_tokens=[(name, vocabulary[name]) for name in ("[CLS]", "[SEP]")],
        )
        # The mask takes the space before it along, as a word does.
        mask = AddedToken("[MASK]", lstrip=True)
        named = {"cls_token": "[CLS]", "sep_token": "[SEP]", "mask_token": mask}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", **named).save_pretrained(
        folder
    )
    return len(vocabulary)


def _configuration(family: str, vocabulary: int):
    import transformers as t

    common = {
        "hidden_size": 32,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "intermediate_size": 48,
        "vocab_size": vocabulary,
        "max_position_embeddings": 64,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 2,
        "initializer_range": 0.4,
    }
    grouped = {**common, "num_key_value_heads": 2}
    gemma = {**grouped, "head_dim": 8, "sliding_window": 6, "query_pre_attn_scalar": 8}
    alternating = ["sliding_attention", "full_attention", "sliding_attention"]
    opt = {k: v for k, v in common.items() if k not in ("intermediate_size", "initializer_range")}
    opt.update(ffn_dim=48, init_std=0.4)
    made = {
        "llama": lambda: t.LlamaConfig(**grouped),
        "qwen3": lambda: t.Qwen3Config(**grouped, head_dim=8),
        "qwen3-moe": lambda: t.Qwen3MoeConfig(
            **grouped,
            head_dim=8,
            moe_intermediate_size=24,
            num_experts=4,
            num_experts_per_tok=2,
            mlp_only_layers=[1],
        ),
        "mixtral": lambda: t.MixtralConfig(**grouped, num_local_experts=4, num_experts_per_tok=2),
        "mistral": lambda: t.MistralConfig(**grouped, head_dim=8, sliding_window=6),
        "gemma2": lambda: t.Gemma2Config(**gemma),
        "gemma3": lambda: t.Gemma3TextConfig(**gemma, layer_types=alternating),
        "phi": lambda: t.PhiConfig(**grouped),
        "opt": lambda: t.OPTConfig(**opt, word_embed_proj_dim=32),
        "opt-post-norm": lambda: t.OPTConfig(
            **opt, word_embed_proj_dim=16, do_layer_norm_before=False
        ),
        "bert": lambda: t.BertConfig(**common),
        "neox-parallel": lambda: t.GPTNeoXConfig(**common, use_parallel_residual=True),
        "neox": lambda: t.GPTNeoXConfig(**common, use_parallel_residual=False),
        "gpt2": lambda: t.GPT2Config(
            n_embd=32,
            n_layer=3,
            n_head=4,
            n_inner=48,
            n_positions=64,
            vocab_size=vocabulary,
            bos_token_id=1,
            eos_token_id=2,
            initializer_range=0.4,
        ),
    }
    return made[family]()


def _set_biases(model: Any) -> None:
    """Biases and norms start as 0 and 1, and what reads or forgets them would not be noticed."""
    import torch

    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.add_(0.1 * torch.randn_like(parameter))


#: Causal language models. Where a family has sliding windows, they are shorter than the prompts.
FAMILIES = (
    "llama",
    "gpt2",
    "neox",
    "neox-parallel",
    "qwen3",
    "gemma2",
    "gemma3",
    "mistral",
    "opt",
    "phi",
    "mixtral",
    "qwen3-moe",
)
#: Attention and MLP run side by side: no resid_mid.
PARALLEL = ("neox-parallel", "phi")
#: Models that read a text in both directions and fill a mask.
ENCODERS = ("bert",)
#: Made by `tiny` too, but not among the families that every technique is tried on.
OTHERS = ("opt-post-norm", "bert-headless")


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Folder of a tiny random model of a family, made once."""
    import torch
    from transformers import AutoModel, AutoModelForCausalLM, AutoModelForMaskedLM

    made: dict[str, Path] = {}

    def make(family: str) -> Path:
        if family not in made:
            folder = tmp_path_factory.mktemp("models") / f"tiny-{family}"
            masked = family.startswith("bert")
            size = save_tokenizer(folder, masked)
            torch.manual_seed(0)
            auto = AutoModelForMaskedLM if masked else AutoModelForCausalLM
            if family == "bert-headless":
                auto = AutoModel
            model = auto.from_config(_configuration(family.removesuffix("-headless"), size))
            _set_biases(model)
            model.eval().save_pretrained(folder)
            made[family] = folder
        return made[family]

    return make


@pytest.fixture(scope="session")
def tiny_llama(tiny: Callable[[str], Path]) -> Path:
    return tiny("llama")


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of the test's own."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("REMOTE_MI_CACHE", str(folder))
    return folder


@pytest.fixture
def project(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty project of the test's own, and its cache; the working folder is in it."""
    folder = tmp_path / "project"
    folder.mkdir()
    monkeypatch.setenv("REMOTE_MI_PROJECT", str(folder))
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Run a command in this process: (exit code, stdout, stderr)."""
    from remote_mi.cli.main import run_command

    def run(*arguments: object) -> tuple[int, str, str]:
        capsys.readouterr()
        code = run_command([str(a) for a in arguments])
        said = capsys.readouterr()
        return code, said.out, said.err

    return run


@pytest.fixture
def process() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run a command in a process of its own."""

    def run(*arguments: object, timeout: float = 480, **environment: str):
        return subprocess.run(
            [sys.executable, "-m", "remote_mi", *(str(a) for a in arguments)],
            capture_output=True,
            text=True,
            timeout=timeout,
            env={**os.environ, **environment},
        )

    return run


@pytest.fixture(scope="session")
def embedded_cache() -> Path:
    """The cache that keeps the embedded model between sessions; fetched when it is not there."""
    from remote_mi.common.progress import Silent
    from remote_mi.models.embedded import ensure_embedded

    folder = os.environ.get("REMOTE_MI_CACHE")
    ensure_embedded(Silent())
    from remote_mi.common.paths import cache_root

    assert folder is None or str(cache_root()).startswith(folder)
    return cache_root().parent
