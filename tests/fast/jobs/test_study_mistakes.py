"""Mistakes in study files are named with file, line and column."""

from __future__ import annotations

import re

import pytest

from remote_mi.common.errors import RemoteMIError, UsageError
from remote_mi.jobs import studies

from .study_texts import FACTS, HEAD, IOI, read, refusal

#: (file, text, what stands there instead, what is said); the mistake is in the line of the text.
MUTATIONS = [
    # keys
    (IOI, "title:", "titel:", "did you mean 'title'"),
    (IOI, "recipes:\n", "recipies:\n", "did you mean 'recipes'"),
    (IOI, "question: >", "title: >", "the key 'title' appears twice"),
    (IOI, "  - recipe: steering", "  - recip: steering", "did you mean 'recipe'"),
    (IOI, "n: 2}", "m: 2}", "unknown key 'm'"),
    (IOI, "n: 2}", "n: 2, n: 3}", "appears twice"),
    (FACTS, "{recipe: [causal_tracing, patchscopes], ph", "{recipes: [a], ph", "unknown key"),
    (IOI, "models:", "3:", "the key 3 is not a text"),
    # types
    (IOI, "models: [smollm2-135m-q4_1]", "models: smollm2-135m-q4_1", "is not a list"),
    (IOI, "n: 2}", "n: two}", "is not a whole number"),
    (IOI, "n: 2}", "n: -2}", "is not at least 1"),
    (IOI, "n: 2}", f"n: {10**30}}}", "is not at most 100000"),
    (IOI, "n: 2}", f"n: {'9' * 5000}}}", "not YAML"),
    (IOI, "- baseline", "- 3", "neither a name nor a mapping"),
    (IOI, "- baseline", "- 2020-13-45", "not YAML"),
    (IOI, "- baseline", "- [baseline]", "neither a name nor a mapping"),
    (FACTS, "models: [smollm2-135m-q4_1]", "models: {a: b}", "is not a list"),
    # names and values
    (IOI, "- baseline", "- baselin", "did you mean 'baseline'"),
    (IOI, "ioi:store", "ioi:stroe", "did you mean 'store'"),
    (IOI, "ioi:store", "io", "did you mean 'ioi'"),
    (IOI, "smollm2-135m-q4_1", "smolm2-135m-q4_1", "did you mean 'smollm2-135m-q4_1'"),
    (IOI, "mlp_out]", "mlp_ot]", "did you mean 'mlp_out'"),
    (IOI, "{steps: 16}", "{step: 16}", "did you mean 'steps'"),
    (IOI, "{steps: 16}", "{steps: 0}", "is not a whole number from 1"),
    (IOI, "{steps: 16}", f"{{steps: 1{'0' * 400}}}", "is not a whole number"),
    (IOI, "{steps: 16}", "{steps: []}", "the list is empty"),
    (IOI, "metric: logit_diff", "metrik: logit_diff", "did you mean 'metric'"),
    (IOI, "[top token,", "[top tokn,", "did you mean 'top token'"),
    (IOI, "  logit_lens: [", "  logit_len: [", "did you mean 'logit_lens'"),
    (FACTS, "phenomenon: country_capital}", "phenomenon: country_capitol}", "excludes no point"),
    (FACTS, "{recipe: [causal_tracing, patchscopes], ", "{seed: 4, ", "excludes no point"),
    # YAML
    (IOI, "  - baseline", "\t- baseline", "indent with spaces"),
    (IOI, "{steps: 16}", "{steps: 16", "not YAML"),
    (IOI, "{steps: 16}", "*steps", "not YAML"),
    (IOI, "{steps: 16}", "!!python/name:os.system {}", "tags like"),
    (IOI, "{steps: 16}", "\0", "control character"),
    (IOI, "- baseline", "- " + "[" * 100_000, "too deep"),
    (IOI, "{steps: 16}", "&a {steps: *a}", "too deep"),
    (IOI, "{steps: 16}", "{<<: 3}", "not YAML"),
    (IOI, "{steps: 16}", "{? [a] : 3}", "the key a list is not a text"),
]


@pytest.mark.parametrize(
    "path, old, new, said",
    MUTATIONS,
    ids=[f"{i}-{new[:12]!r}" for i, (_, _, new, _) in enumerate(MUTATIONS)],
)
def test_a_mistake_in_a_study_is_located(tmp_path, path, old, new, said):
    text = path.read_text(encoding="utf-8")
    line = text[: text.index(old)].count("\n") + 1
    mutated = tmp_path / "mutated.yaml"
    mutated.write_text(text.replace(old, new, 1), encoding="utf-8")
    message = refusal(mutated, tmp_path)
    # What is not closed or not indented is noticed at the next token.
    lines = (line, line + 1) if "not YAML" in said else (line,)
    places = [
        int(found)
        for found in re.findall(rf"^{re.escape(str(mutated))}:(\d+):\d+: ", message, re.M)
    ]
    assert set(places) & set(lines), message
    assert said in message, message


@pytest.mark.parametrize("path", [IOI, FACTS], ids=lambda path: path.stem)
def test_no_dropped_cut_or_moved_line_gives_anything_but_a_message(tmp_path, path):
    lines = path.read_text(encoding="utf-8").splitlines()
    mutated, refusals = tmp_path / "mutated.yaml", 0
    changes = [
        (index, changed)
        for index, line in enumerate(lines)
        for changed in ("", line[: len(line) // 2], "  " + line, line.replace(":", "", 1))
    ]
    for index, changed in changes[:: 1 if path == FACTS else 3]:
        mutated.write_text("\n".join([*lines[:index], changed, *lines[index + 1 :]]))
        try:
            studies.read(mutated, tmp_path)
        except RemoteMIError as error:
            refusals += 1
            assert error.exit_code in (2, 3)
            assert str(mutated) in str(error)
    assert refusals > 20


@pytest.mark.parametrize(
    "content, said",
    [
        (b"", "the key 'study' is missing"),
        (b"- a\n- b\n", "is a mapping of keys, not a list"),
        (b"just words", "is a mapping of keys, not 'just words'"),
        (b"study: s\nquestion: \xff\xfe", ":2:11: not UTF-8 text"),
        (b"study: s\n---\nstudy: t", ":2:1: not YAML"),
        (b"study: s\n", "has no recipes"),
        (b"study: s\nrecipes: [logit_lens]\n", ":2:11: recipe 'logit_lens' needs prompts"),
        (
            b"study: s\nseeds: [1]\nphenomena: [landmark_city]\nrecipes: [baseline]",
            ":2:8: no phenomenon here uses a seed",
        ),
        (b"a" * 2_000_001, "larger than 2 MB"),
        (
            b"study: s\nquestion: &a [" + b"x, " * 999 + b"x]\ntitle: [" + b"*a, " * 999 + b"]",
            "counting each use of an alias",
        ),
    ],
    ids=range(10),
)
def test_a_file_that_is_no_study_is_refused(tmp_path, content, said):
    path = tmp_path / "s.yaml"
    path.write_bytes(content)
    assert said in refusal(path, tmp_path)


def test_a_missing_or_unreadable_file_is_refused(tmp_path):
    for path in (tmp_path / "s.yaml", tmp_path, tmp_path / "a\0b"):
        assert "cannot read" in refusal(path, tmp_path)


def test_all_mistakes_of_a_file_are_reported_at_once_in_their_order(tmp_path):
    path = tmp_path / "s.yaml"
    path.write_text("""titel: t
models: [{name: a/b, dtype: float31}]
phenomena: [oi, {name: ioi, n: 0}]
recipes:
  - logit_lns
  - activation_patching: {site: [attn_ot, mlp_ot], direcion: noise}
  - activation_patching:
    site: mlp_out
parameters: {metrc: prob}
backend: ndiff
exclude: [{}]
include: [{recipe: steerng}, {phenomenon: ioi}]
""")
    message = refusal(path, tmp_path)
    places = [
        (int(line), int(column)) for line, column in re.findall(r"s\.yaml:(\d+):(\d+): ", message)
    ]
    assert places == [
        (1, 1),
        (2, 29),
        (3, 13),
        (3, 32),
        (5, 5),
        (6, 34),
        (6, 43),
        (6, 52),
        (7, 5),
        (9, 14),
        (10, 10),
        (11, 11),
        (12, 20),
        (12, 30),
    ], message
    assert message.startswith(f"15 mistakes in {path}\n{path}: the key 'study' is missing")


def test_a_recipe_over_pairs_is_told_which_prompts_are_none(tmp_path):
    with pytest.raises(UsageError) as refused:
        read(
            tmp_path,
            """
study: s
phenomena: [ioi, {prompt: "The city: of"}]
recipes: [logit_lens, head_patching]
""",
        )
    message = str(refused.value)
    assert "s.yaml:4:23: recipe 'head_patching' works on clean/corrupt pairs" in message
    advice = re.search(r"add to 'exclude': - (.*)", message)
    study = read(
        tmp_path,
        f"""
study: s
phenomena: [ioi, {{prompt: "The city: of"}}]
recipes: [logit_lens, head_patching]
exclude: [{advice[1]}]
""",
    )
    assert [p.recipe for p in study.points] == ["logit_lens"] * 2 + ["head_patching"]


def test_a_recipe_that_reads_attention_weights_does_not_go_with_every_model(tmp_path):
    with pytest.raises(UsageError, match=r":4:11: .*reads attention weights.* 'sdpa' of 'a/b'"):
        read(
            tmp_path,
            HEAD
            + """models: [{name: a/b, attention: sdpa}]
recipes: [attention_patterns]
""",
        )


def test_control_characters_of_a_file_are_shown_and_not_obeyed(tmp_path):
    path = tmp_path / "s.yaml"
    path.write_text('study: s\nphenomena: [ioi]\nrecipes: ["\\e[31mred\\u202e"]\n')
    message = refusal(path, tmp_path)
    assert "\x1b" not in message and "\u202e" not in message


def test_a_broken_recipe_file_matters_only_to_a_study_that_names_it(tmp_path):
    (tmp_path / "recipes").mkdir()
    (tmp_path / "recipes" / "broken.py").write_text("def (:\n")
    study = read(tmp_path, HEAD + "recipes: [logit_lens]\n")
    assert len(study.points) == 1
    with pytest.raises(UsageError, match=r"s\.yaml:3:11: .*broken\.py:1: syntax error"):
        read(tmp_path, HEAD + "recipes: [broken]\n")
