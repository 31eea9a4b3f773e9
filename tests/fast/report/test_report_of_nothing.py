"""Reports of results in which there is nothing to draw: NaN, empty arrays, no prompt's position."""

from __future__ import annotations

import json
import re

import pytest

from .shown import FIGURES, kept
from .test_kinds import RESULTS


@pytest.mark.parametrize("ending", ["md", "html"])
@pytest.mark.parametrize("name", RESULTS)
def test_a_report_is_written_whatever_cannot_be_drawn(project, cli, name, ending):
    kept(project, RESULTS[name]())
    path = project / f"report.{ending}"
    code, out, err = cli("report", "aaaa1111", "-o", path, "--json")
    assert code == 0, err
    assert json.loads(out)
    text = path.read_text()
    for figure in FIGURES:
        assert figure.name in text, figure
    for picture in re.findall(r"!\[[^]]*\]\(([^):]+\.svg)\)", text):
        assert (project / picture).stat().st_size > 1000
