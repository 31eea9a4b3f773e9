"""Phenomena make the prompts they say; mistakes in files are located; prompts from files and datasets."""

from __future__ import annotations

import hashlib
import json
import os
import sys
from pathlib import Path

import pytest

from remote_mi.common.errors import RemoteMIError, UsageError
from remote_mi.prompts import phenomena
from remote_mi.prompts.examples import Example, PromptSet, parse_example
from remote_mi.prompts.reading import read_prompts

ROOT = Path(__file__).resolve().parents[3]
FOLDER = ROOT / "recipes" / "phenomena"
NAMES = sorted(path.stem for path in FOLDER.glob("*.yaml"))


def found(name: str) -> phenomena.Phenomenon:
    return phenomena.load(FOLDER / f"{name}.yaml")


# -- the built-in ones ---------------------------------------------------------------------------


def test_all_phenomena_are_there():
    assert set(NAMES) >= {
        "ioi",
        "ioi_abc",
        "country_capital",
        "landmark_city",
        "gendered_pronoun",
        "docstring",
        "successor",
        "capital_icl",
        "subject_verb_agreement",
        "greater_than",
        "sentiment",
    }


@pytest.mark.parametrize("name", NAMES)
def test_a_built_in_phenomenon_is_complete_and_deterministic(name):
    item = found(name)
    assert item.name == name and item.description and item.source
    assert item.baseline["model"] == "smollm2-135m-q4_1" and item.baseline["n"] >= 6
    prompts = item.prompts()
    assert prompts == phenomena.load(item.path).prompts()
    assert len(prompts.examples) == item.size >= 16
    for example in prompts.examples:
        assert example.corrupt != example.clean
        assert not set(example.answers) & set(example.wrongs)
        for start, end in example.labels.values():
            assert example.clean[start:end].strip()
        assert "{" not in example.clean + example.corrupt + "".join(example.answers)


def test_the_documentation_lists_each_with_what_the_embedded_model_does():
    """REMOTE_MI_WRITE_DOCS=1 writes the table anew."""
    page = ROOT / "docs" / "phenomena.md"
    text, start = page.read_text(encoding="utf-8"), "\n## The built-in ones\n"
    assert text.count(start) == 1
    rows = [
        "Accuracy and logit difference are those of the embedded model on the number of pairs given.",
        "",
        "| Name | What is asked | Pairs | Accuracy | Logit difference |",
        "|---|---|---|---|---|",
    ]
    for name in NAMES:
        item = found(name)
        figures: dict = {"accuracy": "", "logit_diff": "", **item.baseline}
        chance = " (not told from chance)" if figures.get("at_chance") else ""
        if item.behaviour:
            figures["accuracy"] = f"rate {figures['rate']}, corrupt {figures['corrupt_rate']}"
        rows.append(
            f"| `{name}` | {item.title} | {figures['n']} | {figures['accuracy']}{chance} | "
            f"{figures['logit_diff']} |"
        )
    table = text.partition(start)[0] + start + "\n" + "\n".join(rows) + "\n"
    if os.environ.get("REMOTE_MI_WRITE_DOCS"):
        page.write_text(table, encoding="utf-8")
        return
    assert text == table


@pytest.mark.parametrize("name", NAMES)
def test_more_pairs_begin_with_the_same_pairs(name):
    item = found(name)
    assert item.prompts(16).examples[:7] == item.prompts(7).examples


@pytest.mark.parametrize("name", NAMES)
def test_a_seed_changes_what_is_drawn_and_only_that(name):
    item = found(name)
    changed = item.prompts(12, seed=1).examples != item.prompts(12).examples
    assert changed == (item.order == "random")


@pytest.mark.parametrize(
    "name, digest", [("ioi", "5511e5d04b2c"), ("country_capital", "1552d1ab380b")]
)
def test_the_prompts_that_results_are_keyed_by_do_not_change(name, digest):
    prompts = json.dumps([example.to_json() for example in found(name).prompts(16).examples])
    assert hashlib.sha256(prompts.encode()).hexdigest()[:12] == digest


def test_the_corrupt_prompt_of_ioi_abc_names_a_third_person_and_keeps_the_wrong_answer():
    for example in found("ioi_abc").prompts(48).examples:
        start, end = example.labels["s2"]
        subject, third = example.clean[start:end], example.corrupt[start:].split(" ")[0]
        assert example.clean.count(subject) == 2 and example.wrong == f" {subject}"
        assert third not in (subject, example.answer.strip())
        assert example.corrupt.count(third) == 1 and third not in example.clean


def test_capital_icl_shows_the_same_capitals_in_another_order():
    for example in found("capital_icl").prompts().examples:
        shown = [line.split(": ") for line in example.clean.split("\n")]
        changed = [line.split(": ") for line in example.corrupt.split("\n")]
        assert [row[0] for row in shown] == [row[0] for row in changed]
        assert sorted(row[1] for row in shown[:-1]) == sorted(row[1] for row in changed[:-1])
        assert all(a[1] != b[1] for a, b in zip(shown[:-1], changed[:-1], strict=True))
        assert example.answer.strip() not in example.clean


def test_greater_than_has_every_later_digit_right_and_every_earlier_one_wrong():
    for example in found("greater_than").prompts().examples:
        start, end = example.labels["tens"]
        tens = int(example.clean[start:end])
        assert list(example.answers) == [str(d) for d in range(tens + 1, 10)]
        assert list(example.wrongs) == [str(d) for d in range(tens)]
        assert example.label == str(tens)


def test_sentiment_has_both_classes_equally_often_and_a_group_a_word():
    examples = found("sentiment").prompts().examples
    assert len(examples) >= 80
    assert len({e.template for e in examples}) >= 3
    classes = [e.label for e in examples]
    assert classes.count("positive") == classes.count("negative") == len(classes) / 2
    sentiment: dict[str, str] = {}
    for example in examples:
        start, end = example.labels["adjective"]
        assert example.group == example.clean[start:end]
        assert sentiment.setdefault(example.group, example.label) == example.label
        assert example.answer == f" {example.label}"
    for example in examples:
        start = example.labels["adjective"][0]
        other = example.corrupt[start:].split(".")[0]
        assert sentiment[other] == example.wrong.strip() != example.label
    assert len({e.clean for e in examples}) == len(examples)
    words = [e.group for e in examples]
    assert max(words.count(word) for word in words) == 2, "each word comes again, regrouped"


def test_agreement_pairs_each_subject_with_each_attractor_once():
    examples = found("subject_verb_agreement").prompts().examples
    assert len(examples) == len({e.clean for e in examples}) == 42
    for example in examples:
        noun, attractor = (example.clean[a:b] for a, b in sorted(example.labels.values()))
        assert noun.endswith("s") != attractor.endswith("s")
        right = (" are", " were") if noun.endswith("s") else (" is", " was")
        assert example.answers == right


def test_gendered_pronoun_and_landmark_pairs_have_other_answers():
    for name in ("gendered_pronoun", "landmark_city", "successor", "country_capital"):
        answers = {e.clean: e.answer for e in found(name).prompts().examples}
        for example in found(name).prompts().examples:
            assert answers.get(example.corrupt, example.wrong) == example.wrong != example.answer


# -- the format ----------------------------------------------------------------------------------

BASE = """\
name: p
title: t
source: s
order: list
size: 6
lists:
  facts:
    - {x: A, good: [a, b], bad: c}
    - {x: B, good: [d], bad: [e, f]}
    - {x: C, good: g, bad: h}
draw:
  one: facts
  two: facts
templates:
  first:
    clean: "{one.x:here} is"
    corrupt: "{two.x} is"
  second:
    clean: "so {one.x:here} is"
    corrupt: "so {two.x} is"
answer: " {one.good}"
wrong: " {one.bad}"
label: "class {one.x}"
group: "{one.x}{two.x}"
"""


def written(folder: Path, text: str) -> Path:
    path = folder / "p.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_a_field_that_is_a_list_gives_several_answers(tmp_path):
    examples = phenomena.load(written(tmp_path, BASE)).prompts().examples
    assert [e.answers for e in examples[:3]] == [(" a", " b"), (" d",), (" g",)]
    assert [e.wrongs for e in examples[:3]] == [(" c",), (" e", " f"), (" h",)]
    assert examples[0].answer == " a" and examples[1].wrong == " e"
    assert [e.label for e in examples[:2]] == ["class A", "class B"]
    assert [e.group for e in examples[:3]] == ["AB", "BC", "CA"]
    assert examples[0].to_json()["answers"] == [" a", " b"]
    assert "wrongs" not in examples[0].to_json(), "a single answer is keyed as it always was"


def test_a_list_goes_on_with_further_templates(tmp_path):
    item = phenomena.load(written(tmp_path, BASE))
    examples = item.prompts(6).examples
    cells = [(e.clean.split()[-2], e.template) for e in examples]
    assert [word for word, _ in cells] == ["A", "B", "C"] * 2
    assert [template for _, template in cells[:3]] == ["first", "second", "first"]
    assert len(set(cells)) == 6, "each entry meets each template once"
    with pytest.raises(UsageError, match="has 6 pairs, not 7"):
        item.prompts(7)
    with pytest.raises(UsageError, match="has 3 pairs, not 4"):
        item.prompts(4, template="second")
    assert len(item.prompts(template="second").examples) == 3


def test_label_and_group_do_not_enter_the_key(tmp_path):
    plain = BASE.replace('label: "class {one.x}"\n', "").replace('group: "{one.x}{two.x}"\n', "")
    with_them = phenomena.load(written(tmp_path, BASE)).prompts().examples
    without = phenomena.load(written(tmp_path, plain)).prompts().examples
    assert [e.to_json() for e in with_them] == [e.to_json() for e in without]
    assert [e.label for e in without] == [e.answer for e in without]
    assert [e.group for e in without] == ["0", "1", "2", "3", "4", "5"]


@pytest.mark.parametrize(
    "old, new, line, said",
    [
        ("draw:\n  one: facts", "draw:\n  one: fact", 12, "draws from 'fact'"),
        ("  two: facts\n", "  two: [facts]\n", 13, "not a list's name"),
        ("    - {x: B, good: [d]", "    - {y: B, good: [d]", 9, "no field 'x'"),
        ("good: [d]", "good: []", 9, "field 'good' of 'facts' is not a text"),
        ("{x: C, good: g", "{x: No, good: g", 10, "put it in quotes"),
        ("{x: C, good: g", "{x: 1.50, good: g", 10, "put it in quotes"),
        ("{x: C, good: g", "{x: 2020-13-45, good: g", 10, "not YAML"),
        ('"so {one.x:here} is"', '"so {one.x:here is"', 19, "is not closed"),
        ('"so {one.x:here} is"', '"so { one.x} is"', 19, "is not closed"),
        ('"so {one.x:here} is"', '"so {one:here} is"', 19, "needs a field"),
        ('"so {one.x:here} is"', '"so {three.x} is"', 19, "the slot 'three'"),
        ('"so {one.x:here} is"', '"so {one.good} is"', 19, "one.good holds lists"),
        ('"so {one.x:here} is"', "[so]", 19, "is not a text"),
        ('    corrupt: "{two.x} is"\n', "", 15, "exactly 'clean' and 'corrupt'"),
        ('answer: " {one.good}"', 'answer: " {one.good}{two.good}"', 21, "holds lists"),
        ('answer: " {one.good}"', 'answer: ""', 21, "must be a text"),
        ('label: "class {one.x}"', "label: 3", 23, "must be a text"),
        ('label: "class {one.x}"', 'label: "{one.good}"', 23, "holds lists"),
        ('group: "{one.x}{two.x}"', 'group: "{nobody}"', 24, "the slot 'nobody'"),
        ("size: 6", "size: 7", 5, "more than the 6 pairs"),
        ("size: 6", "size: 0", 5, "not at least 1"),
        ("size: 6", "size: true", 5, "whole number"),
        ("order: list", "order: any", 4, "'random' or 'list'"),
        ("order: list", "metric: prob_dif", 4, "'metric'"),
        ("order: list", "ordr: list", 4, "did you mean 'order'"),
        ("title: t", "title: t\ntitle: u", 3, "twice"),
        ("source: s\n", "", None, "'source' is missing"),
        ("title: t", "title: [t", 3, "not YAML"),
        ("  facts:\n", "  facts: &all\n    - *all\n", 7, "too deep"),
    ],
)
def test_a_mistake_in_a_file_is_located(tmp_path, old, new, line, said):
    assert old in BASE
    path = written(tmp_path, BASE.replace(old, new, 1))
    with pytest.raises(UsageError, match=r"[^\n]*") as refused:
        phenomena.load(path)
    text = str(refused.value)
    assert said in text
    assert text.startswith(f"{path}:{line}:" if line else f"{path}: "), text


def test_no_cut_or_removed_line_of_a_file_gives_anything_but_a_located_message(tmp_path):
    lines = BASE.splitlines()
    for index, line in enumerate(lines):
        for changed in ("", line[: len(line) // 2], line.replace(":", "", 1), "  " + line):
            path = written(tmp_path, "\n".join([*lines[:index], changed, *lines[index + 1 :]]))
            try:
                phenomena.load(path).prompts(1)
            except UsageError as error:
                assert str(path) in str(error)


# -- examples ------------------------------------------------------------------------------------


def test_an_example_without_a_group_gets_its_own():
    prompts = PromptSet((Example("a", group="g"), Example("b"), Example("c")), "test")
    assert [e.group for e in prompts.examples] == ["g", "1", "2"]


def test_answer_is_the_first_of_answers():
    assert Example("a", answer=" x").answers == (" x",)
    assert Example("a", answers=(" x", " y")).answer == " x"
    with pytest.raises(ValueError, match="not the first"):
        Example("a", answer=" y", answers=(" x", " y"))


PAIR = {"clean": "a b", "corrupt": "c b", "answer": " x", "wrong": " y"}


def test_a_line_of_a_file_has_label_group_and_several_answers(tmp_path):
    several = {
        "clean": "a b",
        "corrupt": "c b",
        "answers": [" x", " z"],
        "wrongs": [" y"],
        "label": 1,
        "group": "g",
        "template": "t",
    }
    prompt = {"prompt": "a", "target": " x", "label": "first"}
    path = tmp_path / "pairs.jsonl"
    path.write_text("\n".join(json.dumps(line) for line in (PAIR, several, prompt)) + "\n\n")
    one, two, three = read_prompts(path).examples
    assert (one.answers, one.wrongs, one.label, one.group) == ((" x",), (" y",), " x", "0")
    assert (two.answers, two.answer, two.wrongs) == ((" x", " z"), " x", (" y",))
    assert (two.label, two.group, two.template) == ("1", "g", "t")
    assert (three.clean, three.answer, three.label, three.group) == ("a", " x", "first", "2")
    assert read_prompts(str(path)) == read_prompts(path)


@pytest.mark.parametrize(
    "change, said",
    [
        ({"answers": [" x"]}, "not both"),
        ({"answer": None}, "not a text"),
        ({"label": [1]}, "'label' is not a text"),
        ({"wrong": " "}, "wrong text is empty"),
        ({"target": " x"}, "belongs to a prompt"),
        ({"lable": "a"}, "unknown field 'lable'"),
    ],
)
def test_a_wrong_line_is_located(tmp_path, change, said):
    path = tmp_path / "pairs.jsonl"
    path.write_text(json.dumps(PAIR) + "\n" + json.dumps({**PAIR, **change}) + "\n")
    with pytest.raises(UsageError, match=said) as refused:
        read_prompts(path)
    assert str(refused.value).startswith(f"{path}:2:")


@pytest.mark.parametrize("answers", ["x", [], [" "], [1, " a"]])
def test_several_answers_are_a_list_of_texts(answers):
    fields = {k: v for k, v in PAIR.items() if k != "answer"}
    with pytest.raises(UsageError, match="not a list of texts"):
        parse_example({**fields, "answers": answers})


# -- datasets ------------------------------------------------------------------------------------


@pytest.fixture
def datasets(tmp_path, monkeypatch):
    """The package, with a cache of the test's own and no hub."""
    package = pytest.importorskip("datasets")
    monkeypatch.setattr(package.config, "HF_DATASETS_CACHE", tmp_path / "hf")
    monkeypatch.setattr(package.config, "HF_HUB_OFFLINE", True)
    package.disable_progress_bars()
    monkeypatch.chdir(tmp_path)
    return package


ROWS = {"sentence": ["good", "bad", "fine"], "class": [1, 0, 1], "target": [" x", None, " z"]}


def table(datasets):
    features = datasets.Features(
        {
            "sentence": datasets.Value("string"),
            "target": datasets.Value("string"),
            "class": datasets.ClassLabel(names=["negative", "positive"]),
        }
    )
    return datasets.Dataset.from_dict(ROWS, features=features)


def test_a_saved_dataset_is_read_with_its_columns_named(datasets, tmp_path):
    table(datasets).save_to_disk(str(tmp_path / "saved"))
    source = "hf:./saved,prompt=sentence,label=class"
    prompts = read_prompts(source)
    assert prompts.origin == source
    assert [e.clean for e in prompts.examples] == ["good", "bad", "fine"]
    assert [e.label for e in prompts.examples] == ["positive", "negative", "positive"]
    assert [e.answer for e in prompts.examples] == [" x", None, " z"]
    assert len(read_prompts(source, most=2).examples) == 2


def test_splits_are_named_where_there_are_several(datasets, tmp_path):
    both = datasets.DatasetDict({"train": table(datasets), "test": table(datasets).select([0])})
    both.save_to_disk(str(tmp_path / "saved"))
    with pytest.raises(UsageError, match="splits train, test") as refused:
        read_prompts("hf:./saved,prompt=sentence")
    assert "hf:./saved#train" in refused.value.hint
    assert len(read_prompts("hf:./saved#test,prompt=sentence").examples) == 1
    with pytest.raises(UsageError, match="no split 'dev'"):
        read_prompts("hf:./saved#dev,prompt=sentence")


@pytest.mark.parametrize("kind", ["csv", "json", "parquet"])
def test_files_of_a_table_are_read(datasets, tmp_path, kind):
    pairs = datasets.Dataset.from_list([{**PAIR, "id": 1}, {**PAIR, "clean": "d b", "id": 2}])
    getattr(pairs, f"to_{kind}")(str(tmp_path / f"pairs.{kind}"))
    examples = read_prompts(f"hf:./pairs.{kind}").examples
    assert [e.clean for e in examples] == ["a b", "d b"]
    assert examples[0].to_json() == Example(**PAIR).to_json()


def test_a_dataset_that_does_not_fit_says_what_to_type(datasets, tmp_path):
    table(datasets).save_to_disk(str(tmp_path / "saved"))
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes.txt").write_text("a")
    for source, said in (
        ("hf:./saved", "hf:./saved,prompt=sentence"),
        ("hf:./saved,prompt=text", "no column 'text'"),
        ("hf:./saved,prompt", "not FIELD=COLUMN"),
        ("hf:./saved,promt=sentence", "not FIELD=COLUMN"),
        ("hf:./saved#train,prompt=sentence", "no splits"),
        ("hf:./saved,clean=sentence", "row 1: "),
        ("hf:./missing", "no such file or folder"),
        ("hf:./empty", "cannot be read as a dataset"),
        ("hf:./notes.txt", "not one of .csv"),
    ):
        with pytest.raises(UsageError) as refused:
            read_prompts(source)
        assert said in str(refused.value) and source in str(refused.value)


def test_a_hub_that_cannot_be_reached_says_what_to_type(datasets):
    with pytest.raises(RemoteMIError) as refused:
        read_prompts("hf:nobody/nothing:config#train")
    assert "hf:./FOLDER" in str(refused.value) and "nobody/nothing" in str(refused.value)


def test_without_the_extra_the_message_says_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(UsageError, match=r'pip install "remote_mi\[datasets\]"'):
        read_prompts("hf:org/name")


def test_words_of_a_line_can_be_named_in_both_prompts():
    line = {
        "clean": "The city of San Francisco lies in",
        "corrupt": "The big city of Rome lies in",
        "answer": " Italy",
        "wrong": " France",
        "labels": {"city": "city of", "san": "San Francisco"},
    }
    example = parse_example(line)
    assert example.labels == {"city": (4, 11), "san": (12, 25)}
    assert example.corrupt_labels == {"city": (8, 15)}
    for labels, said in (
        ({"city": "Paris"}, "occurs 0 times in the clean text"),
        ({"city": "a"}, "occurs 2 times"),
        ({"city": ""}, "does not name words"),
        ("city", "does not name words"),
    ):
        with pytest.raises(UsageError, match=said):
            parse_example({**line, "labels": labels})
