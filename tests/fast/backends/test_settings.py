"""`remote-mi.yaml`: settings, their defaults, and mistakes named with file, line and column."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest

from remote_mi.backends import settings
from remote_mi.common.errors import UsageError
from remote_mi.common.sizes import format_size, parse_size

ROOT = Path(__file__).resolve().parents[3]
FULL = """\
prefer: [ndif:here, local, ndif]
hosts:
  - here
  - https://ndif.example.org/
limits: {memory: 16GB, gpu_memory: 20 GiB, download: 10GB, ask_above: 0, upload: 500kB, results: 5}
studies: {max_remote: 3}
"""


def written(folder, text):
    (folder / settings.FILE).write_text(text, encoding="utf-8")
    return folder


def test_a_project_without_a_file_has_the_defaults_and_imports_no_pydantic(tmp_path):
    found = settings.load(tmp_path)
    assert found == settings.Settings()
    assert found.prefer == ("local", "ndif") and found.hosts is None
    assert found.limits.ask_above == 200_000_000 and found.limits.memory is None
    assert found.studies.max_remote == 8
    code = (
        "import sys; from pathlib import Path; from remote_mi.backends import settings; "
        "settings.load(Path('.')); assert not {'pydantic', 'torch'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path, timeout=240)


def test_a_file_sets_what_it_names_and_says_where(tmp_path):
    found = settings.load(written(tmp_path, FULL))
    assert found.prefer == ("ndif:here", "local", "ndif")
    assert found.hosts == ("here", "https://ndif.example.org")
    assert found.limits == settings.Limits(16 * 10**9, 20 * 2**30, 10**10, 0, 500_000, 5)
    assert found.studies.max_remote == 3 and found.path == tmp_path / settings.FILE
    assert found.origin("limits.upload") == "remote-mi.yaml:5"
    partly = settings.load(written(tmp_path, "limits:\n  memory: 1.5 GB\n"))
    assert partly.limits == settings.Limits(memory=1_500_000_000)
    assert partly.origin("limits.memory") == "remote-mi.yaml:2"
    assert partly.origin("limits.upload") == partly.origin("prefer") == "default"


def test_the_page_on_settings_names_every_key():
    page = (ROOT / "docs" / "settings.md").read_text(encoding="utf-8")
    named = {
        name
        for cell in re.findall(r"^\| (`[^|]*) \|", page, re.M)
        for name in re.findall(r"`([\w.]+)`", cell)
    }
    groups = {"limits": settings.Limits, "studies": settings.StudySettings}
    known = {f"{group}.{f.name}" for group, kind in groups.items() for f in fields(kind)}
    assert named == known | {"prefer", "hosts"}


@pytest.mark.parametrize("text", ["", "# nothing\n"])
def test_an_empty_file_changes_nothing(tmp_path, text):
    found = settings.load(written(tmp_path, text))
    assert (found.prefer, found.limits) == (settings.Settings().prefer, settings.Limits())


@pytest.mark.parametrize(
    "old, new, place, said",
    [
        ("prefer:", "prefr:", "1:1", "did you mean 'prefer'"),
        ("local, ", "lokal, ", "1:21", "did you mean 'local'"),
        ("local, ", "auto, ", "1:21", "'auto' is what 'prefer' decides"),
        ("local, ", "ndif:htp://x, ", "1:21", "not the address of a server"),
        ("local, ", "ndif, ", "1:9", "'ndif' is listed twice"),
        ("[ndif:here, local, ndif]", "[]", "1:9", "it is empty"),
        ("[ndif:here, local, ndif]", "local", "1:9", "is not a list"),
        ("https://ndif", "https://me:secret@ndif", "4:5", "that is not the address"),
        ("16GB", "16GX", "5:18", "'16GX' is not a size"),
        ("16GB", "-1", "5:18", "-1 is not a size"),
        ("16GB", "[1]", "5:18", "is not a size"),
        ("16GB", f"1{'0' * 300}", "5:18", "is not a size"),
        ("gpu_memory", "gpu_memry", "5:24", "did you mean 'gpu_memory'"),
        ("max_remote: 3", "max_remote: 0", "6:23", "is not at least 1"),
        ("max_remote: 3", 'max_remote: "3"', "6:23", "is not a whole number"),
        ("max_remote: 3", "max_remote: 3, max_remote: 4", "6:26", "appears twice"),
        ("{max_remote: 3}", "3", "6:10", "is not a mapping"),
        ("studies", "\tstudies", "6:1", "not YAML"),
        ("studies", "api_key", "6:1", "`remote-mi login` stores the NDIF key"),
        ("max_remote", "ndif_token", "6:11", "`remote-mi login` stores the NDIF key"),
        (FULL, "[local]", "", "is a mapping of keys"),
    ],
)
def test_a_mistake_is_located(tmp_path, old, new, place, said):
    written(tmp_path, FULL.replace(old, new, 1))
    with pytest.raises(UsageError) as refused:
        settings.load(tmp_path)
    message = str(refused.value)
    assert f"{settings.FILE}:{place}: " in message if place else said in message
    assert said in message and "secret" not in message


def test_all_mistakes_are_reported_at_once_and_no_key_is_repeated(tmp_path):
    written(tmp_path, "prefer: [locl]\ntoken: hf_abcdef\nlimits: {memory: x}\nstudies: {a: 1}\n")
    with pytest.raises(UsageError) as refused:
        settings.load(tmp_path)
    message = str(refused.value)
    assert re.findall(r"yaml:(\d+):(\d+): ", message) == [
        ("1", "10"),
        ("2", "1"),
        ("3", "18"),
        ("4", "11"),
    ]
    assert "hf_abcdef" not in message


@pytest.mark.parametrize(
    "text, size",
    [
        ("5GB", 5 * 10**9),
        ("500 MB", 5 * 10**8),
        ("2GiB", 2**31),
        ("1.5k", 1500),
        ("7", 7),
        (7, 7),
        ("3b", 3),
        ("1 TB", 10**12),
        ("1kib", 1024),
    ],
)
def test_sizes_are_read_as_people_write_them(text, size):
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "GB", "-1", "1e9", "5iB", "5 G B", "nan", True, -1, 1.5, []])
def test_what_is_no_size_is_refused(text):
    with pytest.raises(UsageError, match="is not a size"):
        parse_size(text)


def test_sizes_are_shown_in_few_digits_and_read_back_within_five_percent():
    assert [format_size(n) for n in (0, 999, 1234, 540_000_000, 999_999, 2**40, 9_960)] == [
        "0 B",
        "999 B",
        "1.2 kB",
        "540 MB",
        "1.0 MB",
        "1.1 TB",
        "10 kB",
    ]
    for power in range(16):
        size = 3 * 10**power
        assert abs(parse_size(format_size(size)) - size) <= 0.05 * size


def test_config_show_says_what_is_in_force_and_where_it_comes_from(project, cli):
    code, out, err = cli("config", "show")
    assert code == 0 and "write" in err
    assert re.search(r"limits\.ask_above +200 MB +default", out)
    written(project, FULL)
    code, out, err = cli("config", "show", "--json")
    shown = json.loads(out)
    assert code == 0 and shown["file"] == str(project / settings.FILE)
    assert shown["settings"]["limits.memory"] == {"value": 16 * 10**9, "from": "remote-mi.yaml:5"}
    assert shown["settings"]["hosts"]["value"] == ["here", "https://ndif.example.org"]
    assert shown["settings"]["project"] == {"value": str(project), "from": "REMOTE_MI_PROJECT"}
    written(project, "prefer: [locl]\n")
    code, out, err = cli("config", "show")
    assert code == 2 and not out and "did you mean 'local'" in err
