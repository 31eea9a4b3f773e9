"""A model's sites as a diagram of one block of each kind: in a terminal, and as a page."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

from rich.text import Text

from remote_mi.common.text import line

#: What each part of a block takes, holds and adds, in the order in which it is computed.
_ATTENTION = (
    "attn_in",
    "q",
    "k",
    "v",
    "q_normed",
    "k_normed",
    "q_rotated",
    "k_rotated",
    "attn_scores",
    "attn_pattern",
    "head_z",
    "head_out",
    "attn_out",
)
_MIXER = ("mixer_in", "mixer_out")
_MLP = (
    "mlp_in",
    "mlp_gate",
    "mlp_up",
    "mlp_hidden",
    "router_logits",
    "expert_weights",
    "mlp_out",
)
#: Width of a site's name, after what is drawn before it.
_NAME = 16

Line = tuple[str, str, str]  # what is drawn, the site, its shape


def block_lines(kind: Mapping[str, Any]) -> list[Line]:
    """The lines of one kind of block."""
    sites = {one["site"]: one for one in kind["sites"]}
    there = {name for name, one in sites.items() if not one["missing"]}

    def stream(name: str) -> Line:
        return ("┃      ", name, sites[name]["shape"])

    lines = [stream("resid_pre")]
    first = _ATTENTION if "attn_out" in there else _MIXER
    for names in (first, _MLP):
        lines += _branch([name for name in names if name in there], sites)
        if names is first and "resid_mid" in there:
            lines.append(stream("resid_mid"))
    lines += _branch([name for name in ("other_out",) if name in there], sites)
    return [*lines, stream("resid_post")]


def _branch(names: Sequence[str], sites: Mapping[str, Any]) -> Iterable[Line]:
    """What a part takes from the stream, what is in it, and what it adds."""
    for name in names:
        drawn = "┃   │  "
        if name.endswith("_in"):
            drawn = "┣━━▶┐  "
        elif name.endswith("_out") and name != "head_out":
            drawn = "┣◀━━┘  "
        yield drawn, name, sites[name]["shape"]


def missing_lines(kind: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What a block lacks and why: sites with one reason together."""
    by_reason: dict[str, list[str]] = {}
    for one in kind["sites"]:
        if one["missing"]:
            by_reason.setdefault(one["missing"], []).append(one["site"])
    return [(", ".join(names), reason) for reason, names in by_reason.items()]


def notes(kind: Mapping[str, Any]) -> list[str]:
    """What the diagram of a block does not show."""
    there = {one["site"] for one in kind["sites"] if not one["missing"]}
    found = []
    if "other2_add" in kind["adds"]:
        found.append("More parts add to the stream, which have no sites of their own.")
    middle = next((one["missing"] for one in kind["sites"] if one["site"] == "resid_mid"), "")
    if middle:
        reason = line(middle.partition(";")[0])
        found.append(f"{reason[:1].upper()}{reason[1:]}.")
    if "attn_pattern" in there:
        found.append("attn_scores and attn_pattern need eager attention.")
    if {"attn_in", "mixer_in"} <= there:
        found.append("mixer_in and mixer_out are attn_in and attn_out here.")
    return found


def terminal_lines(found: Mapping[str, Any], named: str, width: int) -> list[Text]:
    """The whole diagram as lines no longer than `width`."""
    lines = [Text(line(f"{named}: {found['architecture']}, {found['layer_count']} layers"), "bold")]
    before = [one for one in found["once"] if one["site"] == "embed"]
    after = [one for one in found["once"] if one["site"] != "embed"]
    lines += [Text(), *(_once(one, width) for one in before)]
    for kind in found["kinds"]:
        lines += [Text(), *_folded(kind["named"], width, 0, "bold")]
        for drawn, name, shape in block_lines(kind):
            text = Text("  ").append(drawn, "cyan").append(f"{name:{_NAME}}").append(shape, "dim")
            text.truncate(width)
            lines.append(text)
        for note in notes(kind):
            lines += _folded(note, width, 2, "dim")
        missing = missing_lines(kind)
        if missing:
            lines.append(Text("  not here:", "bold"))
        for names, reason in missing:
            lines += _folded(f"{names}: {reason}", width, 4, "")
    lines += [Text(), *(_once(one, width) for one in after)]
    return lines


def _once(one: Mapping[str, Any], width: int) -> Text:
    shape = one["shape"] or f"not here: {one['missing']}"
    text = Text("  ").append(f"{one['site']:{_NAME + 7}}").append(line(shape), "dim")
    text.truncate(width)
    return text


def _folded(text: str, width: int, indent: int, style: str) -> list[Text]:
    """A text in lines of at most `width`, the first indented."""
    import textwrap

    space = " " * indent
    folded = textwrap.wrap(line(text), width, initial_indent=space, subsequent_indent=space + "  ")
    return [Text(one, style) for one in folded]


_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<title>{title}</title>
<style>
:root {{ color-scheme: light dark; }}
body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }}
h2 {{ font-size: 1.1rem; margin-top: 2rem; }}
pre {{ font: 14px/1.35 ui-monospace, monospace; overflow-x: auto; }}
.drawn {{ color: #0b7a8f; }} .shape {{ opacity: .7; }}
@media (prefers-color-scheme: dark) {{ .drawn {{ color: #5cc8dc; }} }}
dt {{ font: 14px ui-monospace, monospace; }} dd {{ margin: 0 0 .5rem 1.5rem; }}
</style>
</head>
<body>
<h1>{title}</h1>
<p>{about}</p>
{body}
</body>
</html>
"""


def page(found: Mapping[str, Any], named: str) -> str:
    """The diagram as one self-contained HTML page."""
    embed = [one for one in found["once"] if one["site"] == "embed"]
    rest = [one for one in found["once"] if one["site"] != "embed"]
    parts = [_once_in_page(embed)]
    for kind in found["kinds"]:
        parts.append(f"<h2>{escape(kind['named'])}</h2>")
        drawn = "\n".join(
            f'<span class="drawn">{escape(before)}</span>{escape(f"{name:{_NAME}}")}'
            f'<span class="shape">{escape(shape)}</span>'
            for before, name, shape in block_lines(kind)
        )
        parts.append(f"<pre>{drawn}</pre>")
        parts += [f"<p>{escape(note)}</p>" for note in notes(kind)]
        missing = missing_lines(kind)
        if missing:
            rows = "".join(
                f"<dt>{escape(names)}</dt><dd>{escape(line(reason))}</dd>"
                for names, reason in missing
            )
            parts.append(f"<p>Not here:</p><dl>{rows}</dl>")
    parts.append(_once_in_page(rest))
    about = f"{found['architecture']}, {found['layer_count']} layers"
    return _PAGE.format(
        title=escape(line(f"Sites of {named}")), about=escape(about), body="\n".join(parts)
    )


def _once_in_page(sites: Sequence[Mapping[str, Any]]) -> str:
    rows = "\n".join(
        f"{escape(one['site'].ljust(_NAME + 7))}"
        f'<span class="shape">{escape(line(one["shape"] or "not here: " + one["missing"]))}</span>'
        for one in sites
    )
    return f"<pre>{rows}</pre>"
