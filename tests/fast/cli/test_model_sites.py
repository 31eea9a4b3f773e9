"""`models sites`: the diagram says what reading the model shows."""

from __future__ import annotations

import json
import shutil
from html.parser import HTMLParser

import pytest
import transformers
from rich.cells import cell_len

from remote_mi.common.progress import Silent
from remote_mi.interventions import Prompt, run
from remote_mi.interventions.sites import SITES
from remote_mi.models.load import load
from remote_mi.models.spec import ModelSpec
from remote_mi.report.site_diagram import terminal_lines

from ...conftest import save_tokenizer
from ..interventions.test_sites import within

TOKENS = [5, 17, 9, 30]


@pytest.fixture(scope="module")
def mixed(tmp_path_factory):
    """The configuration and tokenizer of a model with a state space, attention and experts."""
    folder = tmp_path_factory.mktemp("mixed")
    config = transformers.JambaConfig(
        hidden_size=32,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        intermediate_size=48,
        vocab_size=save_tokenizer(folder),
        attn_layer_period=4,
        attn_layer_offset=3,
        expert_layer_period=2,
        expert_layer_offset=1,
        num_experts=4,
        use_mamba_kernels=False,
        mamba_d_state=8,
        mamba_dt_rank=4,
        architectures=["JambaForCausalLM"],
        initializer_range=0.3,
        pad_token_id=0,
    )
    config.save_pretrained(folder)
    return folder


def document(cli, model):
    code, out, err = cli("models", "sites", model, "--json")
    assert code == 0, err
    return json.loads(out)


@pytest.mark.parametrize("family", ["llama", "gpt2", "bert", "mixtral"])
def test_its_shapes_are_those_of_a_run(family, tiny, cli):
    folder = tiny(family)
    lm = load(ModelSpec(str(folder), attention="eager"), Silent()).lm
    found = document(cli, folder)
    assert [one["layers"] for one in found["kinds"]] == [[0, 1, 2]]
    listed = [*found["once"], *found["kinds"][0]["sites"]]
    assert {one["site"] for one in listed} == set(SITES)
    for one in listed:
        if one["missing"]:
            with pytest.raises(ValueError) as refused:
                within(lm, run, Prompt(TOKENS, {}, None), one["site"])
            assert one["missing"] in str(refused.value)
            continue
        values = within(lm, run, Prompt(TOKENS, {}, None), one["site"]).values[0]
        sizes = one["shape"].strip("[]").replace(",", "").split()
        if one["site"].startswith("attn_") and "query" in one["shape"]:
            assert values.shape == (1, int(sizes[0]), len(TOKENS), len(TOKENS))
            continue
        width = int(sizes[1]) * (int(sizes[3]) if "×" in sizes else 1)
        assert values.shape == (1, len(TOKENS), width), one


def test_layers_of_several_kinds_are_drawn_apart_without_weights(mixed, cli):
    assert not list(mixed.glob("*.safetensors"))
    code, out, err = cli("models", "sites", mixed)
    assert code == 0, err
    headings = [line for line in out.splitlines() if line.startswith("layer")]
    assert headings == ["layers 0, 2", "layer 1", "layer 3"]
    of_state_space, of_experts, of_attention = out.split("\nlayer")[1:]
    assert "mixer_in" in of_state_space and "without attention: use mixer_in" in of_state_space
    assert "┃   │  mlp_gate " in of_state_space and "router_logits, expert" in of_state_space
    assert "┃   │  router_logits " in of_experts and "mixture of experts" in of_experts
    assert "┃   │  k               [position, 2 × 8]" in of_attention
    assert "next: remote-mi run" in err


@pytest.mark.parametrize("width", [60, 80])
def test_no_line_is_longer_than_the_terminal(mixed, cli, width):
    found = document(cli, mixed)
    named = f"{'a-model' * 30} [red]not a style[/red]\x1b[2J"
    lines = [text.plain for text in terminal_lines(found, "a/model", width)]
    assert max(cell_len(line) for line in lines) <= width
    for kind in found["kinds"]:
        for one in kind["sites"]:
            assert any(one["site"] in line for line in lines)
    first = terminal_lines(found, named, width)[0].plain
    assert "[red]" in first and "\x1b" not in first


class Page(HTMLParser):
    """What a page is made of."""

    def __init__(self):
        super().__init__()
        self.tags, self.links, self.text = set(), [], ""

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.links += [value for name, value in attrs if name in ("href", "src")]

    def handle_data(self, data):
        self.text += data


def test_a_page_is_whole_and_shows_names_as_they_are(mixed, cli, tmp_path):
    folder = tmp_path / "x<b>&"
    shutil.copytree(mixed, folder)
    code, _, err = cli("models", "sites", folder, "--html", tmp_path / "page.html")
    assert code == 0, err
    page = Page()
    page.feed((tmp_path / "page.html").read_text(encoding="utf-8"))
    assert not page.tags & {"script", "link", "img", "iframe", "b"} and page.links == []
    assert "x<b>&" in page.text
    for site in SITES:
        assert site in page.text


def test_what_cannot_be_drawn_is_said_in_one_line(cli, tmp_path):
    code, out, err = cli("models", "sites", tmp_path / "nothing")
    assert (code, out) == (2, "") and "nothing" in err and len(err.strip().splitlines()) <= 3
    code, _, err = cli("models", "sites", tmp_path, "--html", tmp_path / "no" / "page.html")
    assert code == 3 and "there is no folder" in err
