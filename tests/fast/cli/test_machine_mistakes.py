"""Damaged model files, other encodings, a clock set back: mistakes of a machine, said as such."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest

import remote_mi as mi
from remote_mi.common.errors import first_line
from remote_mi.common.text_files import python_in_utf8
from remote_mi.recipes.card_source import cards_in
from remote_mi.recipes.code_identity import code_digest
from remote_mi.store.environment import Environment

_RECIPE = '''"""Über."""
import torch

from remote_mi import recipe
from remote_mi.interventions import run

SIGN = "ü"


@recipe(over="prompt", returns={"norm": ("layer",)})
def umlaut(lm, prompt):
    """Größe des Stroms."""
    norms = [stream[0, -1].norm() for stream in run(lm, prompt, "resid_post").values]
    return {"norm": torch.stack(norms) * len(SIGN)}
'''


def _truncated(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes()[:-100])


def _linked(name: str, target: str) -> Callable[[Path], None]:
    def link(folder: Path) -> None:
        (folder / name).unlink(missing_ok=True)
        (folder / name).symlink_to(target)

    return link


def _configured(**more: object) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        file = folder / "config.json"
        file.write_text(json.dumps({**json.loads(file.read_text()), **more}))

    return change


def _pickled(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(b"abc")


@pytest.mark.parametrize(
    ("alter", "code", "said"),
    [
        (_truncated("model.safetensors"), 5, "model.safetensors is incomplete: "),
        (_linked("model.safetensors", "model.safetensors"), 5, "levels of symbolic links"),
        # Reading this file fails, whoever tries.
        (_linked("more.json", "/proc/self/mem"), 2, "Input/output error"),
        (_truncated("tokenizer.json"), 2, "its files may be incomplete or damaged"),
        (_pickled, 2, "its files may be incomplete or damaged"),
        (_configured(return_dict=False), 2, "return_dict: false"),
        (lambda folder: (folder / "adapter_config.json").write_text("{}"), 2, "--adapter FOLDER"),
    ],
)
def test_files_of_a_model_that_cannot_be_used(
    cli,
    project: Path,
    tiny_llama: Path,
    tmp_path: Path,
    alter: Callable[[Path], None],
    code: int,
    said: str,
):
    model = tmp_path / "model"
    shutil.copytree(tiny_llama, model)
    alter(model)
    found, _, err = cli("run", "logit_lens", "-p", "prompt=Hello world", "--model", model, "-q")
    assert found == code and said in err and "bug" not in err and "--names" not in err, err


def test_a_message_that_announces_others_is_not_cut_there():
    error = OSError("cannot load it. See the original errors:\n\nTraceback:\nKeyError: 'llama'")
    assert first_line(error) == "cannot load it. See the original errors: KeyError: 'llama'"


@pytest.mark.parametrize(
    "encoded",
    [
        _RECIPE.encode("utf-8-sig"),
        b"# -*- coding: latin-1 -*-\n" + _RECIPE.encode("latin-1"),
        b"#!/usr/bin/python\n# vim: set fileencoding=cp1252 :\n" + _RECIPE.encode("cp1252"),
    ],
)
def test_a_recipe_in_any_encoding_that_python_reads(
    cli, project: Path, tiny_llama: Path, encoded: bytes
):
    plain, other = project / "plain.py", project / "umlaut.py"
    plain.write_text(_RECIPE, encoding="utf-8")
    other.write_bytes(encoded)
    assert cards_in(other)[0].doc == "Größe des Stroms."
    assert code_digest(other, "umlaut", project) == code_digest(plain, "umlaut", project)
    result = mi.run(str(other), prompt="Hello world", model=str(tiny_llama))
    assert result.path is not None
    kept = (result.path / "source" / "umlaut.py").read_text(encoding="utf-8")
    assert "Größe" in kept and not kept.startswith("\ufeff")
    assert cli("reproduce", "--verify-only", result.path)[0] == 0


def test_a_copy_in_utf_8_is_unchanged():
    content = b"x = 1\r\n" + _RECIPE.encode()
    assert python_in_utf8(content) is content


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("wrong.py", ["run", "wrong.py"]),
        ("wrong.jsonl", ["run", "logit_lens", "--pairs", "wrong.jsonl"]),
        ("remote-mi.yaml", ["config", "show"]),
    ],
)
def test_a_file_in_another_encoding_says_where_and_what_to_do(
    cli, project: Path, name: str, arguments: list[str]
):
    (project / name).write_bytes(b"# a\n# \xfc\n")
    code, _, said = cli(*arguments)
    assert code == 2 and f"{name}:2" in said and "UTF-8 text" in said, said
    assert "save the file as UTF-8" in said or "save it as UTF-8" in said


def test_the_newest_run_after_the_clock_was_set_back(
    project: Path, tiny_llama: Path, monkeypatch: pytest.MonkeyPatch
):
    mi.run("logit_lens", prompt="Hello world", model=str(tiny_llama))
    now = time.time
    monkeypatch.setattr(time, "time", lambda: now() - 86400)
    second = mi.run("logit_lens", prompt="Mary and John", model=str(tiny_llama))
    assert mi.load_run().run_id == second.run_id


def test_a_quiet_run_says_why_it_was_not_saved(cli, project: Path, tiny_llama: Path):
    (project / "runs").write_text("a file in the folder's place")
    given = ("run", "logit_lens", "-p", "prompt=Hello world", "--model", tiny_llama, "-q")
    for _ in range(2):  # computed, then from the cache
        code, _, said = cli(*given)
        assert code == 1 and "Not a directory" in said and "space" not in said, said


def test_an_environment_of_another_version():
    known = {"kind": "local-cpu", "nnsight": "0.8", "transformers": "5.1", "torch": "2.9"}
    assert Environment.from_json({**known, "jax": "1"}) == Environment(**known)


def test_the_text_of_a_special_token_in_a_prompt_is_noted(project: Path, tiny_llama: Path):
    result = mi.run("logit_lens", prompt="Hello</s> world", model=str(tiny_llama))
    assert any("</s> in a prompt is that one special token" in note for note in result.notes)
    vocabulary = {**result.vocabulary, "0": "", "1": ""}
    result.document = {**result.document, "vocabulary": vocabulary}
    assert (result.text(0), result.text(1), result.text(-1)) == ("<0>", "<1>", "")
    plain = mi.run("logit_lens", prompt="Hello world", model=str(tiny_llama))
    assert not any("special token" in note for note in plain.notes)
