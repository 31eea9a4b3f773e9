"""Bad and unusual files of prompts: one clear line each with its place, and exit code 2."""

from __future__ import annotations

import gzip
import io
import json
import zipfile
from collections.abc import Callable

import pytest

PAIR = "clean,corrupt,answer,wrong\n"
ROW = "a b,c b, x, y\n"
ZOE = "prompt\nZoë went to the café\n"


def zipped(name: str) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        archive.writestr(name, "x")
    return content.getvalue()


def workbook(*rows: list) -> Callable[[], bytes]:
    def make() -> bytes:
        openpyxl = pytest.importorskip("openpyxl")
        book = openpyxl.Workbook()
        for row in rows:
            book.active.append(row)
        content = io.BytesIO()
        book.save(content)
        return content.getvalue()

    return make


def parquet(**columns: list) -> Callable[[], bytes]:
    def make() -> bytes:
        pyarrow, written = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
        content = io.BytesIO()
        written.write_table(pyarrow.table(columns), content)
        return content.getvalue()

    return make


def a_date():
    import datetime

    return datetime.date(2026, 1, 2)


#: Name of the file, its content, options, what is said.
BAD = [
    # encodings, and files that are no text
    ("p.csv", ZOE.encode("cp1252"), [], "p.csv:2: not UTF-8"),
    ("p.csv", ZOE.encode("cp1252"), [], "looks like ISO-8859-1"),
    ("p.csv", ZOE.replace("the", "“the”").encode("cp1252"), [], "looks like Windows-1252"),
    ("p.csv", ZOE.encode("utf-16"), [], "iconv -f UTF-16 -t UTF-8"),
    ("p.csv", ZOE.encode("utf-16-le"), [], "looks like UTF-16LE"),
    ("p.tsv", ZOE.encode("utf-16-be"), [], "looks like UTF-16BE"),
    ("p.jsonl", '{"prompt": "Zoë"}'.encode("utf-32"), [], "looks like UTF-32"),
    ("p.csv", "prompt\nЗоя пошла в магазин\n".encode("cp1251"), [], "save the file as UTF-8"),
    ("p.csv", zipped("xl/workbook.xml") + b"\xff", [], "a zip archive or an Office file"),
    ("p.jsonl", gzip.compress(b'{"prompt": "a"}'), [], "this is a gzip archive"),
    ("p.csv", b"PAR1\x15\xff\x00", [], "this is a Parquet file"),
    ("p.xlsx", b"prompt\na\n", [], "cannot be read as an Excel file"),
    ("p.xlsx", zipped("nothing.xml"), [], "cannot be read as an Excel file"),
    ("p.parquet", b"prompt\na\n", [], "cannot be read as a Parquet file"),
    # forms that are not read
    ("p.xls", b"x", [], "save it as .xlsx or CSV"),
    ("p.pkl", b"x", [], "pickles run code when read"),
    ("p.jsonl.gz", b"x", [], "unpack it first"),
    ("p.yaml", b"name: x", [], "given as --phenomenon FILE"),
    # JSON
    ("p.json", b"", [], "p.json has no prompts"),
    ("p.json", b"[]", [], "p.json has no prompts"),
    ("p.json", b'[\n{"prompt": "a"},\n{"prompt": "b"', [], "p.json:3: not JSON"),
    ("p.json", b'[\n{"prompt": "a"}\n{"prompt": "b"}]', [], "p.json:3: not JSON: ',' or ']'"),
    ("p.json", b'[{"prompt": "a"}\n', [], "p.json:2: not JSON: the array does not end"),
    ("p.json", b'[{"prompt": "a"}]\nx', [], "p.json:2: not JSON: something follows"),
    ("p.json", b'[{"prompt": "a"},\n"b"]', [], "p.json:2: b is not an object"),
    ("p.json", b'[{"prompt": "a",\n"prompt": "b"}]', [], "the key 'prompt' appears twice"),
    ("p.json", b'{"prompt": {"0": "a"}, "target": {"0": "b"}}', [], "'prompt' is not a text"),
    ("p.json", b'{"q": {"0": "a"}, "t": {"0": "b"}}', [], 'orient="records"'),
    ("p.jsonl", b"{'prompt': 'a'}", [], "p.jsonl:1: not JSON"),
    ("p.jsonl", b'{"prompt": NaN}', [], "'prompt' is not a text: nan"),
    # tables
    ("p.csv", b"", [], "p.csv is empty"),
    ("p.csv", b"prompt\n", [], "a header and no rows"),
    ("p.csv", b"text\na\n", [], "--columns prompt=text"),
    ("p.csv", b"Prompt\na\n", [], "name the right one: --columns prompt=Prompt"),
    ("p.csv", b"prompt,lable\na,b\n", [], "is its column 'lable' the field 'label'"),
    ("p.csv", b"prompt,prompt\na,b\n", [], "p.csv:1: two columns are called 'prompt'"),
    ("p.csv", b"prompt,target\na,b,c\n", [], "p.csv:2: 3 cells, and the header has 2"),
    ("p.csv", b"prompt,target\na\n", [], "p.csv:2: 1 cells, and the header has 2"),
    ("p.csv", b'prompt,target\n"a,b\nc,d\n', [], 'p.csv:2: not a row: a text in "quotes"'),
    ("p.csv", b'prompt\n"a" b\n', [], "p.csv:2: not a row"),
    ("p.csv", b"prompt,,target\na,b,c\n", [], "p.csv:2: column 2 has no name"),
    ("p.csv", (PAIR + ROW + "a b,,x,y\n").encode(), [], "p.csv:3: a pair needs 'corrupt'"),
    ("p.csv", b"prompt,answer\na, b\n", [], "'answer' belongs to a pair"),
    ("p.csv", b"clean,corrupt,answers,wrong\na,b,x y,z\n", [], "'answers' is not a list of texts"),
    ("p.csv", b'prompt,labels\na b,"{""x"": ""c""}"\n', [], "label 'x': 'c' occurs 0 times"),
    ("p.xlsx", workbook(), [], "is empty"),
    ("p.xlsx", workbook(["prompt"]), [], "columns and no rows"),
    ("p.xlsx", workbook(["prompt"], [a_date()]), [], "p.xlsx: row 2: field 'prompt' is not a text"),
    ("p.xlsx", workbook(["prompt"], ["a", "b"]), [], "p.xlsx: row 2: column 2 has no name"),
    ("p.xlsx", workbook(["prompt"], [True]), [], "is not a text: True"),
    ("p.parquet", parquet(prompt=[1.5]), [], "p.parquet: row 1: field 'prompt' is not a text: 1.5"),
    ("p.parquet", parquet(text=["a"]), [], "no column is called 'prompt' or 'clean'"),
    # columns and formats
    ("p.csv", b"q\na\n", ["--columns", "prompt"], "'prompt' is not FIELD=COLUMN"),
    ("p.csv", b"q\na\n", ["--columns", "promt=q"], "there is no field 'promt'"),
    ("p.csv", b"q\na\n", ["--columns", "q=prompt"], "did you mean prompt=q?"),
    ("p.csv", b"q\na\n", ["--columns", "prompt=r"], "there is no column 'r'"),
    ("p.csv", b"q\na\n", ["--columns", "prompt=q,prompt=q"], "'prompt' is given twice"),
    ("p.csv", b"q\na\n", ["--columns", "prompt=q", "--format", "blimp"], "give one of them"),
    ("p.csv", b"prompt\na\n", ["--format", "blmp"], "did you mean 'blimp'?"),
    ("p.csv", b"prompt\na\n", ["--format", "blimp"], "is not in the format 'blimp'"),
    ("p.csv", b"prompt\na\n", ["--format", "ravel:x"], "format 'ravel' has no variant 'x'"),
    ("p.csv", b"prompt\na\n", ["--format", "blimp:x"], "variants: blimp:sentences"),
    (
        "p.jsonl",
        b'{"sentence_good": "Mary sleeps.", "sentence_bad": "Sleeps Mary."}',
        [],
        "differ from the first word on",
    ),
    (
        "p.jsonl",
        b'{"sentence_good": "a b c", "sentence_bad": "a c b", "one_prefix_method": false}',
        [],
        "blimp:sentences takes them whole",
    ),
    ("p.csv", b"sentid,sentence\na.b.1.male.txt,He went\n", [], "lacks its male or its female"),
    ("p.csv", b"sentid,sentence\nx,He went\n", [], "'sentid' is not OCCUPATION"),
    ("p.json", b'[{"requested_rewrite": "x"}]', [], "'requested_rewrite' is not an object"),
    (
        "p.json",
        json.dumps(
            [{"input": "a", "label": "x", "source_input": "b", "source_label": "x"}]
        ).encode(),
        [],
        "base and source have the same answer",
    ),
    (
        "p.json",
        b'[{"prompt": "a", "choices": ["x"], "answerKey": 3, "o_counterfactual": {}}]',
        [],
        "'answerKey' 3 is not the number of one",
    ),
]


@pytest.mark.parametrize("name, content, options, said", BAD, ids=range(len(BAD)))
def test_a_bad_file_gets_one_clear_line(project, cli, name, content, options, said):
    (project / name).write_bytes(content() if callable(content) else content)
    code, out, err = cli("run", "logit_lens", "--pairs", name, *options, "--dry-run")
    assert code == 2 and out == "", (code, out, err)
    assert options or name in err, err
    assert said in " ".join(err.split()), err
    assert err.count("error:") == 1 and "Traceback" not in err


@pytest.mark.parametrize(
    "options, said",
    [
        (["--pairs", "nowhere.csv"], "cannot read nowhere.csv"),
        (["--pairs", "nowhere.parquet"], "cannot read nowhere.parquet"),
        (["--pairs", "nowhere.xlsx#Sheet"], "cannot read nowhere.xlsx"),
        (["--pairs", "."], "cannot read"),
        (["-p", "prompt=a", "--columns", "prompt=q"], "--columns belongs to a file"),
        (["--phenomenon", "ioi", "--format", "blimp"], "--format belongs to a file"),
    ],
)
def test_a_file_that_is_not_there_or_not_meant(project, cli, options, said):
    code, out, err = cli("run", "logit_lens", *options, "--dry-run")
    assert code == 2 and said in err and err.count("error:") == 1 and out == "", err
