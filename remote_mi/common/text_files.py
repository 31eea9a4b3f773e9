"""Reading text files that users wrote: UTF-8, or what a Python file declares."""

from __future__ import annotations

import importlib.util
import io
import re
import tokenize
from pathlib import Path

from remote_mi.common.errors import UsageError, first_line

_DECLARATION = re.compile(r"(coding[:=][ \t]*)[-\w.]+")
#: What to do about a text file in another encoding.
SAVE_AS_UTF8 = "save the file as UTF-8: in an editor, or with `iconv -t UTF-8`"


def read_text(path: Path) -> str:
    """The content of a text file in UTF-8, with or without a byte-order mark.

    Raises:
        UsageError: if it cannot be read or is not UTF-8, naming the line and the byte.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror or first_line(error)}") from None
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UsageError(f"{path}{describe_wrong_byte(error)}", encoding_advice(content)) from None


#: First bytes of files that hold no text → what they are.
_BINARY = {
    b"PK\x03\x04": "a zip archive or an Office file, such as .xlsx",
    b"PAR1": "a Parquet file",
    b"\x1f\x8b": "a gzip archive",
    b"\x28\xb5\x2f\xfd": "a zstd archive",
    b"\xd0\xcf\x11\xe0": "an Office file of before 2007, such as .xls",
    b"%PDF": "a PDF",
    b"SQLite format 3": "a SQLite database",
    b"ARROW1": "an Arrow file",
    b"\x80\x04": "a pickle",
    b"\x89PNG": "an image",
}
_MARKS = {
    b"\xff\xfe\x00\x00": "UTF-32",
    b"\x00\x00\xfe\xff": "UTF-32",
    b"\xff\xfe": "UTF-16",
    b"\xfe\xff": "UTF-16",
}


def encoding_advice(content: bytes) -> str:
    """What to do about a file that is not UTF-8, with the encoding it looks like if that is clear."""
    for start, what in _BINARY.items():
        if content.startswith(start):
            return f"this is {what}, not a text file: give it the ending of its kind, or export it"
    encoding = _likely_encoding(content)
    if not encoding:
        return SAVE_AS_UTF8
    return (
        f"it looks like {encoding}; save it as UTF-8: in an editor, or with "
        f"`iconv -f {encoding.upper()} -t UTF-8 FILE > NEW`"
    )


def _likely_encoding(content: bytes) -> str:
    """The encoding that a text seems to have; "" if several are as likely.

    Zero bytes stand beside every letter of UTF-16 that Latin scripts use. In a text of such a
    script few bytes are above 127: those from 0x80 to 0x9f are letters and quotes in Windows-1252
    and control characters in ISO-8859-1.
    """
    for mark, encoding in _MARKS.items():
        if content.startswith(mark):
            return encoding
    sample = content[:10_000]
    if sample.count(0) > len(sample) / 5:
        return "UTF-16LE" if sample[1::2].count(0) > sample[::2].count(0) else "UTF-16BE"
    high = [byte for byte in content if byte > 0x7F]
    if 0 in content or len(high) > 0.2 * len(content):
        return ""
    if not any(byte < 0xA0 for byte in high):
        return "ISO-8859-1"
    return "" if set(high) & {0x81, 0x8D, 0x8F, 0x90, 0x9D} else "Windows-1252"


def read_python(path: Path) -> str:
    """The source in a Python file, in the encoding in which Python reads it.

    Raises:
        UsageError: if it cannot be read, naming the line and the byte, or declares an encoding
            that Python does not know.
    """
    hint = "save the file as UTF-8, or declare its encoding in the first line: # coding: latin-1"
    try:
        content = path.read_bytes()
        try:
            return importlib.util.decode_source(content)
        except SyntaxError as error:  # in the first two lines: the declaration, or a wrong byte
            content.decode("utf-8-sig")
            raise UsageError(f"{path}:1: {error.msg}", hint) from None
    except OSError as error:
        raise UsageError(
            f"cannot read recipe file {path}: {error.strerror or first_line(error)}"
        ) from None
    except UnicodeDecodeError as error:
        raise UsageError(f"{path}{describe_wrong_byte(error)}", hint) from None


def python_in_utf8(content: bytes) -> bytes:
    """A Python file's content for a copy in UTF-8, which declares no other encoding."""
    encoding, _ = tokenize.detect_encoding(io.BytesIO(content).readline)
    if encoding == "utf-8":
        return content
    lines = importlib.util.decode_source(content).splitlines(keepends=True)
    head = [_DECLARATION.sub(r"\1utf-8", line, count=1) for line in lines[:2]]
    return "".join([*head, *lines[2:]]).encode()


def describe_wrong_byte(error: UnicodeDecodeError) -> str:
    """The place and value of the byte that is not in the encoding, to follow a file's name."""
    line = error.object[: error.start].count(b"\n") + 1
    byte = error.object[error.start]
    return f":{line}: not {error.encoding.upper()} text: byte 0x{byte:02x} at {error.start}"


def syntax_hint(message: str, text: str, place: tuple[int, int]) -> str:
    """What to change where a parser of YAML gives up; "" if that is not clear.

    Args:
        message: the parser's. text: of the file. place: line and column, from 1.
    """
    if "comment or line break" in message:  # after >, which begins a text of several lines
        return 'put a text that begins with > in quotes, e.g. "> 0.8"'
    if "cannot start any token" not in message:
        return ""
    lines = text.splitlines()[place[0] - 1 : place[0]]
    character = lines[0][place[1] - 1 : place[1]] if lines else ""
    if character in (">", "|", "%", "@", "`"):
        return f"put a text that begins with {character} in quotes"
    return "indent with spaces"
