"""What editors, keyboards and scripts give by mistake: said in one message, with its place."""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import yaml

import remote_mi
from remote_mi.common.errors import UsageError
from remote_mi.prompts.reading import read_prompts

from ...hostile import ACTING, EVIL
from ..test_docs import ROOT

DEEP = '{"prompt": ' + "[" * 100_000


@pytest.mark.parametrize(
    "line, said",
    [
        (DEEP, "nested too deeply"),
        ('{"prompt": "Mary", "prompt": "John"}', "the key 'prompt' appears twice"),
        ('{"prompt": "a", "labels": {"x": "a", "x": "a"}}', "the key 'x' appears twice"),
        ('{"prompt": "Mary \\ud800 John"}', "field 'prompt' holds U+D800 at character 6"),
        ('{"prompt": "a", "labels": {"\\ud800": "a"}}', "field 'labels' holds U+D800"),
        (
            '{"clean": "a", "corrupt": "b", "answers": ["\\udfff"], "wrong": " c"}',
            "'answers' holds",
        ),
    ],
)
def test_a_line_of_a_prompt_file_is_refused_with_its_number(tmp_path, line, said):
    path = tmp_path / "prompts.jsonl"
    path.write_text('{"prompt": "Mary"}\n' + line + "\n")
    with pytest.raises(UsageError) as refused:
        read_prompts(path)
    assert refused.value.message.startswith(f"{path}:2: ") and said in refused.value.message


@pytest.mark.parametrize(
    "given", [{"prompt": "a \ud800"}, {"prompt": "a", "inspection": "b \udcff"}]
)
def test_a_lone_surrogate_is_refused_in_python(project, tiny_llama, given):
    with pytest.raises(UsageError, match=r"holds U\+D[8C].. at character 3"):
        remote_mi.job("patchscopes", model=tiny_llama, **given)


def test_a_lone_surrogate_is_refused_on_the_command_line(project, tiny_llama, cli):
    code, _, err = cli("run", "logit_lens", "--model", tiny_llama, "-p", "prompt=a\udcff")
    assert code == 2 and "'prompt=a\\udcff' is not text in" in err


@pytest.mark.parametrize(
    "command, name, text",
    [
        (("study", "plan"), "s.yaml", "study: s\n2024-01-01: x\n"),
        (("study", "plan"), "s.yaml", "study: s\nparameters:\n  2024-01-01: x\n"),
        (("config", "show"), "remote-mi.yaml", "2024-01-01: x\n"),
        (("config", "show"), "remote-mi.yaml", "limits:\n  2024-01-01: x\n"),
        (("phenomena", "show"), "p.yaml", "name: p\nlists: {2024-01-01: [a]}\n"),
        (("phenomena", "show"), "p.yaml", "name: p\n1: [a]\n"),
        (("phenomena", "show"), "p.yaml", "name: p\n? [a]\n: b\n"),
    ],
)
def test_a_key_that_is_no_text_is_said_with_its_place(project, cli, command, name, text):
    path = project / name
    path.write_text(text)
    code, _, err = cli(*command, *([] if command[0] == "config" else [path]))
    assert code == 2 and f"{name}:" in err and "is not a text" in err and "in quotes" in err


def test_half_a_character_in_a_yaml_file_is_refused(project, cli):
    (project / "p.yaml").write_text('name: p\ntitle: "a\\uD800b"\n')
    code, _, err = cli("phenomena", "show", project / "p.yaml")
    assert code == 2 and "p.yaml:2:" in err and "bug in" not in err


LONG = "x" * 300


@pytest.mark.parametrize(
    "command",
    [
        ("view", LONG),
        ("compare", LONG, LONG),
        ("reproduce", LONG),
        ("export", LONG),
        ("report", LONG),
        ("runs", "show", LONG),
        ("runs", "rm", "--yes", LONG),
        ("jobs", "show", LONG),
        ("study", "show", LONG),
        ("phenomena", "show", LONG),
        ("phenomena", "show", f"{LONG}.yaml"),
        ("recipes", "show", LONG),
        ("recipes", "show", f"{LONG}.py"),
        ("run", "logit_lens", "-p", "prompt=a", "--model", f"./{LONG}"),
    ],
)
def test_a_name_longer_than_any_file_has_is_not_found(project, cli, command):
    code, _, err = cli(*command)
    assert code in (2, 3) and "bug in" not in err


def test_the_width_has_a_bound(cli):
    code, _, err = cli("view", "demo", "--width", 10**49)
    assert code == 2 and "not in the range 40<=x<=1000" in err


def test_run_documents_nested_too_deeply_are_damaged(project, cli):
    folder = project / "runs" / "20260101T000000Z-logit_lens-0123abcd"
    folder.mkdir(parents=True)
    (folder / "run.json").write_text("[" * 100_000)
    (folder / "tags.json").write_text("[" * 100_000)
    code, out, err = cli("runs", "ls", "--json")
    assert code == 0 and json.loads(out) and "bug in" not in err
    study = project / "runs" / "study-s"
    study.mkdir()
    (study / "study.json").write_text("[" * 100_000)
    code, _, err = cli("view", "0123")
    assert code == 7 and "bug in" not in err
    code, _, err = cli("study", "show", "s")
    assert code in (3, 7) and "bug in" not in err


def test_from_a_zip_file_it_says_that_it_must_be_unpacked(tmp_path):
    package, archive = Path(remote_mi.__file__).parent, tmp_path / "remote_mi.zip"
    with zipfile.ZipFile(archive, "w") as packed:
        for path in package.rglob("*.py"):
            if "_builtin" not in path.parts:
                packed.write(path, path.relative_to(package.parent))
    code = (
        f"import sys; sys.path.insert(0, {str(archive)!r})\n"
        "from remote_mi.cli.main import run_command, __file__\n"
        "assert '.zip' in __file__\n"
        "codes = [run_command([*c.split()]) for c in ('recipes ls', 'phenomena ls', 'view demo')]\n"
        "sys.exit(codes != [3, 3, 3])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("install it unpacked") == 3 and "bug in" not in done.stderr


def test_the_texts_of_a_phenomenon_move_no_cursor(project, cli):
    data = yaml.safe_load((ROOT / "recipes" / "phenomena" / "ioi.yaml").read_text())
    evil = EVIL["ansi"] + EVIL["bidi"]
    data.update(name="odd", title=evil, description=evil, source=evil)
    data["baseline"] = {"model": evil, evil: evil}
    (project / "phenomena").mkdir()
    (project / "phenomena" / "odd.yaml").write_text(json.dumps(data))
    for words in (("show", "odd"), ("show", "odd", "--json"), ("ls",), ("ls", "--json")):
        code, out, err = cli("phenomena", *words)
        assert code == 0 and "odd" in out and not ACTING.search(out + err), (words, out)
