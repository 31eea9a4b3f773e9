"""Files as people have them: every form gives the same prompts, published records their own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import remote_mi as mi
from remote_mi.common.errors import UsageError
from remote_mi.prompts.examples import Example
from remote_mi.prompts.published import FORMATS, detect_format
from remote_mi.prompts.reading import read_prompts

from ...conftest import MARY

#: A pair with a quoted newline, a quote, a comma and letters of several bytes.
ODD = {
    "clean": 'Zoë said "yes",\nand went to',
    "corrupt": 'Zoë said "no",\nand went to',
    "answer": " Paris",
    "wrong": " Rome",
}
ROWS = [MARY, ODD]
CLEAN = [row["clean"] for row in ROWS]


def as_examples(rows: list[dict[str, str]]) -> list[dict[str, Any]]:
    return [Example(**row).to_json() for row in rows]


def written(path: Path, rows: list[dict[str, str]]) -> Path:
    """The rows in the form that the file's ending names, as the usual tools write them."""
    import pandas

    frame = pandas.DataFrame(rows)
    kind = path.suffix
    if kind == ".jsonl":
        frame.to_json(path, orient="records", lines=True)
    elif kind == ".json":
        frame.to_json(path, orient="records", indent=2)
    elif kind in (".csv", ".tsv"):
        frame.to_csv(path, sep="\t" if kind == ".tsv" else ",")  # with its index
    elif kind == ".parquet":
        frame.set_index("answer", drop=False).to_parquet(path)
    else:
        frame.to_excel(path, index=False)
    return path


@pytest.mark.parametrize("ending", ["jsonl", "json", "csv", "tsv", "parquet", "xlsx"])
def test_every_form_of_file_gives_the_same_prompts(tmp_path, ending):
    path = written(tmp_path / f"pairs.{ending}", ROWS)
    found = read_prompts(path)
    assert [e.to_json() for e in found.examples] == as_examples(ROWS)
    assert found.origin == f"pairs.{ending}" and found.details == {}


@pytest.mark.parametrize(
    "content",
    [
        "\ufeffclean,corrupt,answer,wrong\na b,c b, x, y\n",
        "clean;corrupt;answer;wrong\r\na b;c b; x; y\r\n\r\n",
        "sep=;\nclean;corrupt;answer;wrong\na b;c b; x; y\n",
        "clean\tcorrupt\tanswer\twrong\na b\tc b\t x\t y",
        'Unnamed: 0,clean,corrupt,id,answer,wrong\n0,"a b","c b",7," x"," y"\n,,,,,\n',
        " clean , corrupt , answer , wrong \na b,c b, x, y\n",
        "clean,corrupt,answer,wrong\ra b,c b, x, y\r",
    ],
    ids=["mark", "semicolons", "sep", "tabs", "index", "spaces", "old line ends"],
)
def test_tables_are_read_as_programs_write_them(tmp_path, content):
    path = tmp_path / "pairs.csv"
    path.write_bytes(content.encode())
    (example,) = read_prompts(path).examples
    expected = Example("a b", "c b", " x", " y")
    assert example.to_json() == expected.to_json()


@pytest.mark.parametrize(
    "name, content",
    [
        ("p.json", '[\n  {"prompt": "a"},\n  {"prompt": "b"}\n]\n'),
        ("p.json", '{"prompt": "a"}\n{"prompt": "b"}\n'),
        ("p.json", '{"version": 1, "data": [{"prompt": "a"}, {"prompt": "b"}]}'),
        ("p.json", '{"train": [{"prompt": "a"}],\n "test": [{"prompt": "b"}]}'),
        ("p.jsonl", '\ufeff[{"prompt": "a"}, {"prompt": "b"}]'),
        ("p.txt", '{"prompt": "a"}\r\n\r\n{"prompt": "b"}\r\n'),
    ],
)
def test_json_is_read_in_every_form(tmp_path, name, content):
    (tmp_path / name).write_text(content, encoding="utf-8")
    assert [e.clean for e in read_prompts(tmp_path / name).examples] == ["a", "b"]


def test_lists_and_labels_stand_in_cells_as_json_or_as_pandas_writes_them(tmp_path):
    rows = "clean,corrupt,answers,wrongs,labels,label\n" + (
        """a b,c b,"[' x', ' z']","["" y""]","{""first"": ""a""}",3\n"""
    )
    (tmp_path / "p.csv").write_text(rows)
    (example,) = read_prompts(tmp_path / "p.csv").examples
    assert example.answers == (" x", " z") and example.wrongs == (" y",)
    assert example.labels == {"first": (0, 1)} and example.label == "3"


def test_a_mapped_column_is_not_taken_by_its_own_name(tmp_path):
    path = tmp_path / "p.csv"
    path.write_text("prompt,label,corrupted,other,note\na b, x,c b, y,n\n")
    columns = {"clean": "prompt", "answer": "label", "corrupt": "corrupted", "wrong": "other"}
    found = read_prompts(path, columns=columns)
    assert found.examples[0].to_json() == Example("a b", "c b", " x", " y").to_json()
    assert found.details == {"columns": columns}
    (tmp_path / "p.json").write_text('[{"question": "a", "id": 3}]')
    assert (
        read_prompts(tmp_path / "p.json", columns={"prompt": "question"}).examples[0].clean == "a"
    )


def test_a_workbook_of_several_sheets_is_asked_for_one(tmp_path):
    openpyxl = pytest.importorskip("openpyxl")
    book = openpyxl.Workbook()
    book.active.append(["prompt", "group"])
    book.active.append(["a", 7])
    book.create_sheet("notes").append(["prompt"])
    book["notes"].append(["b"])
    path = tmp_path / "p.xlsx"
    book.save(path)
    with pytest.raises(UsageError, match="it has the sheets Sheet, notes") as refused:
        read_prompts(path)
    assert refused.value.hint == f"name one: {path}#Sheet"
    assert read_prompts(f"{path}#notes").examples[0].clean == "b"
    assert read_prompts(f"{path}#Sheet").examples[0].group == "7"


@pytest.mark.parametrize("ending, package", [("parquet", "pyarrow"), ("xlsx", "openpyxl")])
def test_without_the_extra_one_line_says_what_to_install(tmp_path, monkeypatch, ending, package):
    import sys

    path = written(tmp_path / f"p.{ending}", ROWS)
    for name in [name for name in sys.modules if name.partition(".")[0] == package]:
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(UsageError, match=f"need the package `{package}`") as refused:
        read_prompts(path)
    assert "remote_mi[tables]" in (refused.value.hint or "")


def test_records_that_give_no_prompt_are_left_out_only_on_request(tmp_path):
    path = tmp_path / "p.csv"
    path.write_text("prompt,target\na, x\n, y\nb, z\n,\n, w\n")
    with pytest.raises(UsageError, match=r"2 of 4 records of .*p\.csv give no prompt") as refused:
        read_prompts(path)
    assert (
        f"{path}:3: " in refused.value.message and "(and 1 more like it)" in refused.value.message
    )
    assert "--drop-invalid" in (refused.value.hint or "")
    found = read_prompts(path, drop=True)
    assert [e.clean for e in found.examples] == ["a", "b"]
    assert [where.partition(": ")[0] for where in found.left_out] == [f"{path}:3", f"{path}:6"]


def test_a_run_says_which_records_were_left_out_and_can_be_reproduced(project, tiny_llama, cli):
    (project / "p.csv").write_text(
        "question,other\nMary went to the store,1\n,2\nJohn went to the store,3\n"
    )
    given = ("run", "logit_lens", "--model", tiny_llama, "--pairs", "p.csv")
    code, _, err = cli(*given, "--columns", "prompt=question")
    assert code == 2 and "p.csv:3: " in err and err.count("error:") == 1
    code, out, err = cli(*given, "--columns", "prompt=question", "--drop-invalid", "-q")
    assert code == 0, err
    result = mi.load_run(out.strip())
    assert len(result.prompts) == 2
    assert any("left out: p.csv:3: " in note for note in result.notes)
    code, out, err = cli("reproduce", out.strip())
    assert code == 0, out + err


def test_a_list_from_python_takes_columns_too(project, tiny_llama):
    job = mi.job(
        "logit_lens", model=tiny_llama, pairs=[{"q": "Mary", "n": 1}], columns={"prompt": "q"}
    )
    assert job.prompts.examples[0].clean == "Mary"


def test_a_study_maps_columns_and_names_a_format(project, tiny_llama):
    (project / "p.csv").write_text("question\nMary went\n")
    (project / "b.jsonl").write_text(json.dumps(GOOD_BLIMP) + "\n")
    study = project / "s.yaml"
    study.write_text(
        f"study: s\nmodels: [{tiny_llama}]\nrecipes: [logit_lens]\nphenomena:\n"
        "  - {pairs: p.csv, columns: {prompt: question}}\n"
        "  - {pairs: b.jsonl, format: 'blimp:sentences'}\n"
    )
    from remote_mi.jobs import studies

    points = studies.read(study, project).points
    found = [[e.clean for e in p.choice.resolve(project).examples] for p in points]
    assert found == [
        ["Mary went"],
        ["The cats near the door sleep.", "The cats near the door sleeps."],
    ]


# -- published formats ---------------------------------------------------------------------------

GOOD_BLIMP = {
    "sentence_good": "The cats near the door sleep.",
    "sentence_bad": "The cats near the door sleeps.",
    "field": "morphology",
    "UID": "agreement_of_our_own",
    "one_prefix_method": True,
    "two_prefix_method": False,
    "pair_id": 4,
}
STEREO = {
    "id": "1",
    "bias_type": "profession",
    "target": "baker",
    "context": "The baker next door is BLANK today.",
    "sentences": [
        {"sentence": "The baker next door is early today.", "gold_label": "stereotype", "id": "a"},
        {"sentence": "The baker next door is late today.", "gold_label": "anti-stereotype"},
        {"sentence": "The baker next door is round today.", "gold_label": "unrelated"},
    ],
}
ACROSS = {
    **STEREO,
    "id": "2",
    "context": "The baker opened the door.",
    "sentences": [
        {"sentence": f"It was {word}.", "gold_label": label}
        for word, label in (
            ("early", "stereotype"),
            ("late", "anti-stereotype"),
            ("round", "unrelated"),
        )
    ],
}


def fact(subject: str, true: str, wording: str = "{} lies in", relation: str = "P1") -> dict:
    return {
        "case_id": 1,
        "requested_rewrite": {
            "prompt": wording,
            "relation_id": relation,
            "target_new": {"str": "Nowhere", "id": "Q0"},
            "target_true": {"str": true, "id": "Q1"},
            "subject": subject,
        },
        "paraphrase_prompts": [],
    }


RAVEL_RECORD = {
    "input": "Oslo is in Norway. Rome is in",
    "label": " Italy",
    "source_input": "Oslo is in Norway. Paris is in",
    "source_label": " France",
    "inv_label": " France",
    "entity": "Rome",
    "source_entity": "Paris",
    "split": "city",
}
MIB_RECORD = {
    "prompt": "The door is red. What colour is the door?\nA. blue\nB. red\nAnswer:",
    "choices": {"label": ["A", "B"], "text": ["blue", "red"]},
    "answerKey": 1,
    "same_counterfactual": {
        "prompt": "The book is red. What colour is the book?\nA. blue\nB. red\nAnswer:",
        "choices": {"label": ["A", "B"], "text": ["blue", "red"]},
        "answerKey": 1,
    },
    "answerPosition_counterfactual": {
        "prompt": "The door is red. What colour is the door?\nA. red\nB. blue\nAnswer:",
        "choices": {"label": ["A", "B"], "text": ["red", "blue"]},
        "answerKey": 0,
    },
}
PUBLISHED = {
    "blimp": [GOOD_BLIMP],
    "stereoset": [STEREO],
    "counterfact": [
        fact("Rome", "Italy"),
        fact("Paris", "France"),
        fact("Oslo", "Norway", "I see {} in"),
    ],
    "ravel": [RAVEL_RECORD],
    "mib": [MIB_RECORD],
    "winogender": [
        {
            "sentid": f"baker.guest.1.{gender}.txt",
            "sentence": f"The baker told the guest that {word} was late.",
        }
        for gender, word in (("male", "he"), ("female", "she"), ("neutral", "they"))
    ],
}


def read_as(
    tmp_path: Path, records: list[Any], form: str = "", name: str = "p.json"
) -> list[Example]:
    (tmp_path / name).write_text(json.dumps(records), encoding="utf-8")
    return list(read_prompts(tmp_path / name, form=form).examples)


@pytest.mark.parametrize("name", FORMATS)
def test_a_published_format_is_recognised_by_its_columns(tmp_path, name):
    known = detect_format(PUBLISHED[name][0])
    assert known is FORMATS[name]
    assert read_as(tmp_path, PUBLISHED[name]) == read_as(tmp_path, PUBLISHED[name], name)
    found = read_prompts(tmp_path / "p.json")
    assert found.details == {"format": name}


def test_blimp(tmp_path):
    (one,) = read_as(tmp_path, [GOOD_BLIMP])
    assert (one.clean, one.answer, one.wrong) == ("The cats near the door", " sleep", " sleeps")
    assert one.label == one.template == "agreement_of_our_own" and one.corrupt is None
    good, bad = read_as(tmp_path, [GOOD_BLIMP], "blimp:sentences")
    assert (good.clean, good.label, bad.label) == (GOOD_BLIMP["sentence_good"], "good", "bad")
    assert good.group == bad.group


def test_stereoset(tmp_path):
    (one,) = read_as(tmp_path, {"version": "1", "data": {"intrasentence": [STEREO]}})
    assert (one.clean, one.answer, one.wrong) == ("The baker next door is", " early", " late")
    assert one.label == "profession" and one.group == "baker"
    three = read_as(tmp_path, [ACROSS], "stereoset:sentences")
    assert three[0].clean == "The baker opened the door. It was early."
    assert [e.label for e in three] == ["stereotype", "anti-stereotype", "unrelated"]
    hub = {
        **STEREO,
        "sentences": {
            "sentence": [s["sentence"] for s in STEREO["sentences"]],
            "gold_label": [1, 0, 2],
        },
    }
    assert read_as(tmp_path, [hub]) == [one]


def test_winogender(tmp_path):
    (one,) = read_as(tmp_path, PUBLISHED["winogender"])
    assert (one.clean, one.answer, one.wrong) == ("The baker told the guest that", " he", " she")
    assert one.label == "baker"
    rows = read_as(tmp_path, PUBLISHED["winogender"], "winogender:sentences")
    assert [e.label for e in rows] == ["male", "female", "neutral"]
    (tmp_path / "templates.tsv").write_text(
        "occupation(0)\tother-participant(1)\tanswer\tsentence\n"
        "baker\tguest\t0\tThe $OCCUPATION showed the $PARTICIPANT $POSS_PRONOUN oven.\n"
    )
    (made,) = read_prompts(tmp_path / "templates.tsv").examples
    assert (made.clean, made.answer, made.wrong) == ("The baker showed the guest", " his", " her")


def test_counterfact(tmp_path):
    rome, paris, oslo = read_as(tmp_path, PUBLISHED["counterfact"])
    assert (rome.clean, rome.corrupt) == ("Rome lies in", "Paris lies in")
    assert (rome.answer, rome.wrong, paris.wrong) == (" Italy", " France", " Italy")
    assert rome.labels == {"subject": (0, 4)} and rome.corrupt_labels == {"subject": (0, 5)}
    assert oslo.corrupt is None and oslo.labels == {"subject": (6, 10)}
    flat = {
        "relation_id": "P1",
        "prompt": "Rome lies in",
        "subject": "Rome",
        "target_true": " Italy",
        "target_false": " Spain",
    }
    (single,) = read_as(tmp_path, [flat])
    assert (single.clean, single.answer, single.template) == (
        "Rome lies in",
        " Italy",
        "P1: {} lies in",
    )


def test_ravel(tmp_path):
    (one,) = read_as(tmp_path, [RAVEL_RECORD])
    assert (one.clean, one.corrupt) == (RAVEL_RECORD["input"], RAVEL_RECORD["source_input"])
    assert (one.answer, one.wrong) == (" Italy", " France")
    assert one.labels == {"entity": (19, 23)} and one.corrupt_labels == {"entity": (19, 24)}


def test_mib(tmp_path):
    (one,) = read_as(tmp_path, [MIB_RECORD])
    assert one.corrupt == MIB_RECORD["answerPosition_counterfactual"]["prompt"]
    assert (one.answer, one.wrong) == (" B", " A")
    with pytest.raises(UsageError, match="is also that of same_counterfactual"):
        read_as(tmp_path, [MIB_RECORD], "mib:same")
    names = {
        "prompt": "Mary and John went out. John thanked",
        "choices": ["John", "Mary"],
        "answerKey": 1,
        "abc_counterfactual": {
            "prompt": "Mary and John went out. Mary thanked",
            "choices": ["John", "Mary"],
            "answerKey": 0,
        },
    }
    (ioi,) = read_as(tmp_path, [names], "mib:abc")
    assert (ioi.answer, ioi.wrong) == (" Mary", " John")
    sums = {"prompt": "1+2=", "label": "3", "random_counterfactual": {"prompt": "2+2=", "label": 4}}
    (sum_,) = read_as(tmp_path, [sums])
    assert (sum_.answer, sum_.wrong, sum_.corrupt) == ("3", "4", "2+2=")
