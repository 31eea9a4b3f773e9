"""The documentation is true: its snippets run, its commands parse, its names and links exist.

A comment directly above a fenced block of docs/*.md says what is done with it:

    <!-- test: file PATH -->    the block is written to PATH in the page's project
    <!-- test: run -->          Python: run as a cell; sh: its commands run and succeed
    <!-- test: error TEXT -->   sh: its last command fails and says TEXT

The blocks of a page share one project and one namespace, in order. Models are replaced by tiny
random ones.
"""

from __future__ import annotations

import ast
import importlib
import json
import linecache
import os
import re
import shlex
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "remote_mi"
PAGES = sorted((ROOT / "docs").glob("*.md"))
#: Whose example needs a model that does its task; the others run on tiny ones.
WITH_MODEL = [ROOT / "docs" / "studies.md"]
WITH_README = [*PAGES, ROOT / "README.md"]
EMBEDDED, GPT_NEO = "smollm2-135m-q4_1", "EleutherAI/gpt-neo-125m"

_BLOCK = re.compile(
    r"(?:^<!-- test: (?P<kind>\w+)(?: (?P<argument>[^\n]*?))? -->\n)?"
    r"^```(?P<language>\w*)\n(?P<text>.*?)^```$",
    re.S | re.M,
)
#: Paths in the user's project, a run folder or the cache, which no file of ours stands for.
ELSEWHERE = {
    "phenomena/",
    "runs/",
    "studies/",
    "artifacts/result.safetensors",
    "artifacts/",
    "artifacts/inputs/",
    "ancestors/",
    "quarantine/",
    ".remote_mi/jobs.sqlite",
    ".remote_mi/runs.sqlite",
    f"v1/models/{EMBEDDED}-c1",
}


@dataclass(frozen=True)
class Block:
    """A fenced block of a page, with what its marker says."""

    language: str
    text: str
    line: int
    kind: str | None
    argument: str


def by_name(path: Path) -> str:
    return path.name


def blocks(page: Path) -> list[Block]:
    content = page.read_text(encoding="utf-8")
    return [
        Block(
            m["language"],
            m["text"],
            content[: m.start()].count("\n") + 1,
            m["kind"],
            m["argument"] or "",
        )
        for m in _BLOCK.finditer(content)
    ]


def prose(page: Path) -> str:
    """The page without its fenced blocks."""
    return _BLOCK.sub("", page.read_text(encoding="utf-8"))


def spans(page: Path) -> list[str]:
    """The inline code of a page."""
    return re.findall(r"`([^`\n]+)`", prose(page))


def first_cells(page: str, header: str) -> list[str]:
    """The names in the first column of every table with this first heading, without markup."""
    found: list[str] = []
    inside = False
    for line in (ROOT / "docs" / page).read_text(encoding="utf-8").splitlines():
        if not line.startswith("|"):
            inside = False
            continue
        cell = line.split("|")[1].strip()
        if cell == header:
            inside = True
        elif inside and not cell.startswith("---"):
            found += re.findall(r"`([^`]+)`", cell) or [cell]
    assert found, f"{page} has no table {header!r}"
    return found


def write_files(page: Path, project: Path) -> None:
    for block in blocks(page):
        if block.kind == "file":
            path = project / block.argument
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(block.text, encoding="utf-8")


def commands(block: Block) -> Iterator[str]:
    """The commands of a sh block, continued lines joined, without comments."""
    for line in block.text.replace("\\\n", " ").splitlines():
        if not line.strip().startswith("#"):
            yield from (part.strip() for part in line.split(" && ") if part.strip())


def words_of(command: str) -> tuple[list[str], str | None]:
    """The arguments of a `remote-mi` command, and the file its stdout goes to."""
    words = shlex.split(command, comments=True)[1:]
    if "|" in words:
        words = words[: words.index("|")]
    if ">" in words:
        at = words.index(">")
        return words[:at], words[at + 1]
    return words, None


@pytest.fixture(scope="session")
def tiny_gpt_neo(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of an architecture that needs a names mapping."""
    import torch
    import transformers

    folder = tmp_path_factory.mktemp("docs") / "tiny-gpt-neo"
    tokenizer = transformers.AutoTokenizer.from_pretrained(tiny_llama)
    tokenizer.save_pretrained(folder)
    config = transformers.GPTNeoConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=48,
        num_layers=2,
        num_heads=4,
        max_position_embeddings=64,
        attention_types=[[["global", "local"], 1]],
        window_size=32,
        bos_token_id=1,
        eos_token_id=2,
        initializer_range=0.4,
    )
    torch.manual_seed(0)
    transformers.GPTNeoForCausalLM(config).eval().save_pretrained(folder)
    return folder


@pytest.fixture
def substituted(tiny_llama: Path, tiny_gpt_neo: Path) -> Callable[[str], str]:
    """Text with the models of the docs replaced by tiny ones."""
    return lambda text: text.replace(EMBEDDED, str(tiny_llama)).replace(GPT_NEO, str(tiny_gpt_neo))


def run_cell(text: str, name: str, namespace: dict[str, Any]) -> None:
    """Run Python as a notebook does: source at hand, and the last expression displayed."""
    linecache.cache[name] = (len(text), None, text.splitlines(keepends=True), name)
    tree = ast.parse(text)
    shown = tree.body.pop().value if isinstance(tree.body[-1], ast.Expr) else None
    exec(compile(tree, name, "exec"), namespace)
    if shown is not None:
        value = eval(compile(ast.Expression(shown), name, "eval"), namespace)
        repr(value)
        if hasattr(value, "_repr_html_"):
            assert "<" in value._repr_html_()


def run_command_line(
    command: str, substituted: Callable[[str], str], capsys: pytest.CaptureFixture[str]
) -> tuple[int, str]:
    """Run one command; its exit code and what it said on stderr."""
    from remote_mi.cli.main import run_command

    if not command.startswith("remote-mi "):
        done = subprocess.run(command, shell=True, capture_output=True, text=True, check=False)
        return done.returncode, done.stderr
    words, target = words_of(command)
    if words[0] == "run" and "--model" not in words:
        words += ["--model", EMBEDDED]
    capsys.readouterr()
    code = run_command([substituted(word) for word in words])
    said = capsys.readouterr()
    if "--json" in words and code == 0:
        json.loads(said.out)
    if target is not None:
        Path(target).write_text(said.out, encoding="utf-8")
    return code, said.err


@pytest.mark.parametrize("page", [p for p in PAGES if p not in WITH_MODEL], ids=by_name)
def test_the_snippets_of_a_page_work(page, project, substituted, capsys, monkeypatch):
    run_page(page, project, substituted, capsys, monkeypatch)


@pytest.mark.slow
@pytest.mark.parametrize("page", WITH_MODEL, ids=by_name)
def test_the_snippets_on_the_embedded_model_work(
    embedded_cache, page, project, substituted, capsys, monkeypatch
):
    from remote_mi.models.embedded import embedded_folder

    here = embedded_folder()  # in the test's own cache
    here.parent.mkdir(parents=True, exist_ok=True)
    here.symlink_to(embedded_cache / here.relative_to(os.environ["REMOTE_MI_CACHE"]))
    run_page(page, project, substituted, capsys, monkeypatch)
    assert here.is_symlink(), "it was fetched again"


def run_page(page, project, substituted, capsys, monkeypatch):
    """Write the files of a page and run its commands and its Python, in its order."""
    from remote_mi.backends import registry

    monkeypatch.setattr(registry, "BACKENDS", dict(registry.BACKENDS))
    monkeypatch.syspath_prepend(str(project))  # as in a notebook
    namespace: dict[str, Any] = {"__name__": "__main__"}
    for block in blocks(page):
        where = f"<{page.name}:{block.line}>"
        if block.kind == "file":
            path = project / block.argument
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(block.text, encoding="utf-8")
        elif block.kind == "run" and block.language == "python":
            run_cell(substituted(block.text), where, namespace)
        elif block.kind in ("run", "error"):
            assert block.language == "sh", f"{where}: cannot run {block.language!r}"
            lines = list(commands(block))
            for command in lines:
                code, said = run_command_line(command, substituted, capsys)
                fails = block.kind == "error" and command == lines[-1]
                assert (code != 0) == fails, f"{where}: {command}\nexit code {code}\n{said}"
                assert not fails or block.argument in said, f"{where}: {command}\n{said}"
        else:  # those of a server run where there is one: tests/ndif/test_docs_examples.py
            assert block.kind in (None, "server"), f"{where}: unknown marker {block.kind!r}"


@pytest.mark.parametrize("page", PAGES, ids=by_name)
def test_no_snippet_that_could_run_goes_untested(page):
    for block in blocks(page):
        assert block.language, f"{page.name}:{block.line}: the block names no language"
        if block.language in ("python", "yaml", "json"):
            assert block.kind, f"{page.name}:{block.line}: the block has no test marker"
    markers = prose(page).count("<!-- test:")
    assert not markers, f"{page.name}: {markers} markers stand above no block"


@pytest.mark.parametrize("page", WITH_README, ids=by_name)
def test_every_quoted_command_exists_with_its_options(page, project):
    write_files(page, project)
    for block in blocks(page):
        if block.language not in ("sh", "bash", "console"):
            continue
        for command in commands(block):
            if not command.startswith("remote-mi "):
                continue
            try:
                parse(words_of(command)[0], project)
            except click.ClickException as error:
                pytest.fail(f"{page.name}:{block.line}: {command}\n{error.format_message()}")


def parse(words: list[str], project: Path) -> None:
    """Parse a command's words without running it.

    Raises:
        click.ClickException: for an unknown command or option.
    """
    from remote_mi.cli.main import cli

    for word in words:
        if word.endswith(".whl"):
            (project / word).touch()  # the option wants a file that exists
    command: click.Command = cli
    try:
        while isinstance(command, click.Group) and words and not words[0].startswith("-"):
            found = command.get_command(click.Context(command), words[0])
            if found is None:
                raise click.UsageError(f"there is no command {words[0]!r}")
            command, words = found, words[1:]
        command.make_context(command.name, list(words))
    except click.exceptions.Exit:
        pass  # --help and --version


@pytest.mark.parametrize("page", WITH_README, ids=by_name)
def test_every_internal_link_leads_somewhere(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if re.match(r"[a-z]+:", target):
            continue
        file, _, anchor = target.partition("#")
        path = (page.parent / file).resolve() if file else page
        assert path.exists(), f"{page.name}: {target}"
        assert not anchor or anchor in anchors(path), f"{page.name}: {target}"


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", prose(page), re.M)
    return {re.sub(r"[^\w\- ]", "", h.lower()).strip().replace(" ", "-") for h in headings}


@pytest.mark.parametrize("page", PAGES, ids=by_name)
def test_every_named_file_exists(page):
    written = {block.argument for block in blocks(page)}
    for span in spans(page):
        looks_like_a_path = re.fullmatch(r"[\w.-]+(/[\w.-]+)*/?", span) and (
            "/" in span or span.endswith((".py", ".bib", ".toml"))
        )
        if looks_like_a_path and span not in ELSEWHERE | written and "/name" not in span:
            found = any((base / span).exists() for base in (ROOT, PACKAGE))
            assert found or span in ("org/model", "FILE.py"), f"{page.name}: {span}"


@pytest.mark.parametrize("page", PAGES, ids=by_name)
def test_every_named_attribute_exists(page):
    from remote_mi.backends.base import Backend
    from remote_mi.models.spec import ModelSpec
    from remote_mi.store.named_array import NamedArray
    from remote_mi.store.result import Result

    known = {kind.__name__: kind for kind in (Backend, ModelSpec, NamedArray, Result)}
    for span in spans(page):
        owner, _, name = span.partition(".")
        if owner in known and re.fullmatch(r"\w+", name):
            kind = known[owner]
            assert hasattr(kind, name) or name in kind.__annotations__, f"{page.name}: {span}"
        if re.fullmatch(r"remote_mi(\.\w+)+", span):
            assert resolves(span), f"{page.name}: {span}"


def resolves(dotted: str) -> bool:
    """Whether a dotted name is a module, or an attribute of one."""
    try:
        importlib.import_module(dotted)
    except ImportError:
        module, _, name = dotted.rpartition(".")
        return hasattr(importlib.import_module(module), name)
    return True


def test_tables_of_the_recipe_contract_are_complete():
    import inspect

    from remote_mi import interventions, recipe
    from remote_mi.interventions import vocabulary
    from remote_mi.recipes import figures

    page = "writing-recipes.md"
    assert first_cells(page, "Argument")[0] == "over"
    declared = [
        c for c in first_cells(page, "Argument") if c in inspect.signature(recipe).parameters
    ]
    assert declared == list(inspect.signature(recipe).parameters)
    assert sorted(first_cells(page, "Name")) == sorted(interventions.__all__)
    kinds = [re.match(r"\w+", cell)[0] for cell in first_cells(page, "Figure")]
    own = [kind for kind in figures.KINDS.values() if kind.__module__ == figures.__name__]
    assert sorted(kinds) == sorted(kind.__name__ for kind in own)
    prompt = interventions.Prompt([1], {"end": 0}, None)
    pair = interventions.Pair(prompt, prompt, 1, 2)
    assert sorted(first_cells(page, "`Prompt`")) == sorted(vars(prompt))
    assert sorted(first_cells(page, "`Pair`")) == sorted(vars(pair))
    assert sorted(first_cells(page, "Metric")) == sorted(vocabulary.METRICS)


def test_table_of_phenomenon_keys_is_complete():
    from remote_mi.prompts import phenomena

    known = [*phenomena._REQUIRED, *phenomena._OPTIONAL]
    assert sorted(first_cells("phenomena.md", "Key")) == sorted(known)


def test_table_of_model_fields_is_complete_and_its_options_exist(project):
    from dataclasses import fields

    from remote_mi.cli.recipe_group import job_options
    from remote_mi.cli.run import run_options
    from remote_mi.models.spec import ModelSpec

    assert first_cells("models.md", "Field") == [f.name for f in fields(ModelSpec)]
    options = {name for option in (*job_options(), *run_options()) for name in option.opts}
    text = (ROOT / "docs" / "models.md").read_text(encoding="utf-8")
    assert set(re.findall(r"^\| `\w+` \| `(--[\w-]+)`", text, re.M)) <= options


def test_table_of_portable_names_holds_for_a_loaded_model(tiny_llama, cache):
    from remote_mi.common.progress import Silent
    from remote_mi.models.load import load
    from remote_mi.models.spec import ModelSpec

    lm = load(ModelSpec(str(tiny_llama)), Silent()).lm
    for name in first_cells("models.md", "Name"):
        assert eval(name, {"lm": lm, "layer": lm.layers[0], "i": 0}) is not None, name


def test_table_of_exit_codes_is_complete():
    from remote_mi.common import errors

    kinds = [k for k in vars(errors).values() if isinstance(k, type)]
    codes = {k.exit_code for k in kinds if issubclass(k, errors.RemoteMIError)}
    assert {int(code) for code in first_cells("results.md", "Code")} == codes | {0, 130}


def test_tables_of_json_and_provenance_are_complete(project, tiny_llama, cli):
    code, out, err = cli(
        "run", "logit_lens", "--model", tiny_llama, "-p", "prompt=The city of", "--json"
    )
    assert code == 0, err
    document = json.loads(out)
    named = set(first_cells("results.md", "Key"))
    assert set(document) | set(document["provenance"]) <= named
