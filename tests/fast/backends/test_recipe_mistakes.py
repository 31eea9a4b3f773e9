"""nnsight's and torch's words for an author's frequent mistakes are explained, with the line."""

from __future__ import annotations

import pytest

import remote_mi as mi
from remote_mi.backends.ndif.errors import job_error
from remote_mi.common.errors import RunFailed
from remote_mi.models.tiny_models import configuration
from remote_mi.prompts.errors import PromptErrors

from ...conftest import save_tokenizer

HEAD = """from typing import Any
from remote_mi import recipe
from remote_mi.interventions import Prompt, run

@recipe(over="prompt", returns={"x": ()})
def mine(lm: Any, prompt: Prompt) -> Any:
    with lm.trace(prompt.ids):
"""
MISTAKES = [
    (
        "last = lm.layers[2].output.save()\n        first = lm.layers[0].output.save()",
        "OutOfOrderError: layers.0.output was read after the model had run past it; a trace reads",
    ),
    (
        "x = lm.layers[3].output.save()",
        "AttributeError: there is no module 3 in this list; the model has 3 layers, numbered from",
    ),
    (
        "x = [lm.layers[i].output.save() for i in range(5)]",
        "there is no module 3 in this list; the model has 3 layers, numbered from 0",
    ),
    ("x = lm.layers[-9].output.save()", "there is no module with this negative index in this list"),
]


@pytest.mark.parametrize("body, said", MISTAKES)
def test_a_frequent_mistake_is_explained_at_its_line(project, tiny_llama, body, said):
    path = project / "mine.py"
    path.write_text(f"{HEAD}        {body}\n    return {{'x': 1.0}}\n")
    with pytest.raises(RunFailed) as failed:
        mi.run(str(path), model=tiny_llama, prompt="Mary and John", backend="local")
    line = 8 + body.count("\n")
    assert failed.value.message.startswith(f"{path}:{line}: ") and said in failed.value.message


def test_a_token_id_beyond_the_embedding_is_named_in_a_recipes_own_prompt(project, tiny_llama):
    path = project / "mine.py"
    own = HEAD.rpartition("    with")[0] + "    run(lm, Prompt([99999], {}, None), 'resid_post')\n"
    path.write_text(own + "    return {'x': 1.0}\n")
    with pytest.raises(RunFailed, match=r"mine\.py:7: IndexError: a token id is beyond .*ends at"):
        mi.run(str(path), model=tiny_llama, prompt="Mary and John", backend="local")


def test_a_tokenizer_larger_than_the_model_is_refused_before_running(project, tmp_path):
    import torch
    from transformers import AutoModelForCausalLM

    folder = tmp_path / "small"
    size = save_tokenizer(folder)
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(configuration("llama", min(size, 40))).save_pretrained(folder)
    with pytest.raises(PromptErrors, match=r"'\S+' has the id \d+, and the model's embedding ends"):
        mi.run("logit_lens", model=folder, prompt="When Mary and John went to the store")


@pytest.mark.parametrize(
    "last, said",
    [
        (
            "nnsight.intervention.interleaver.OutOfOrderError: 'model.model.layers.0.output.i0' "
            "was requested but the model already ran past it",
            "OutOfOrderError: layers.0.output was read after the model had run past it; a trace",
        ),
        (
            "AttributeError: 'Envoy' object (nor its module) has attribute '40'",
            "AttributeError: there is no module 40 in this list; len(lm.layers) is the number of",
        ),
        (
            "AttributeError: 'Envoy' object has no attribute '4'",
            "AttributeError: there is no module 4 in this list",
        ),
        ("IndexError: index 12 is out of range", "IndexError: there is no module 12 in this list"),
        ("IndexError: index out of range in self", "a token id is beyond the model's embedding"),
        ("ValueError: meant", "mine.py:15: ValueError: meant"),
    ],
)
def test_a_servers_traceback_is_explained_in_the_same_way(last, said):
    trace = (
        f'Traceback (most recent call last):\n  File "[mine:8] mine.py", line 15, in mine\n{last}'
    )
    error = job_error("abcdefgh", "http://a", {"description": trace}, "mine.py")
    assert error.message.startswith("mine.py:15: ") and said in error.message
    assert last in error.server_text  # type: ignore[attr-defined]
