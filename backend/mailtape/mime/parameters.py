r"""The parameters of Content-Type and Content-Disposition: what a part and its file are called.

Read here and not by a MIME parser, because those split at every semicolon: a file that the sender
called `Report; Q1.pdf` is `"Report` to them. One pass, bounded in length and count, never raising.
Values are decoded text that a stranger chose; nothing in them is safe to use as a path or a header.
"""

import re
from urllib.parse import unquote_to_bytes

from mailtape.mime.charsets import decode
from mailtape.mime.headers import decode_words
from mailtape.mime.limits import Limits

_PARAMETER = re.compile(
    r"""
      ;\s*+ (?P<name>[^\s;="*]{1,64}+)
        (?P<piece>\*[0-9]{1,4}+)? (?P<extended>\*)? \s*+ = \s*+
        (?: "(?P<quoted>(?:[^"\\]++|\\.)*+)" | "?+(?P<bare>[^;]*+) )
    | "(?:[^"\\]++|\\.)*+"?
    | [^;"]++ | .
    """,
    re.VERBOSE | re.DOTALL,
)
"""A parameter, or what is passed over to find the next: a stray quoted string hides no semicolon.
A value's quote that is never closed counts as none. Linear: only the last can be that, for the next
would be the end of any other."""
_ONLY = re.compile(r'[^;"]*+;\s*+([A-Za-z-]{1,64}+)=("?)([\w./:+=@()-]++)\2\s*+', re.ASCII)
"""A single plain parameter, as most fields have: told apart in a third of the time."""


def parameters(value: str, limits: Limits) -> dict[str, str]:
    """Read the parameters of a field.

    Values are quoted strings (RFC 2045, section 5.1) or reach to the next semicolon, as mailers do
    send names with spaces; pieces are joined and then decoded (RFC 2231); encoded words are decoded
    although RFC 2047, section 5 forbids them here, for most mailers write them.

    Args:
        value: The unfolded value with what precedes the first semicolon.
        limits: The bounds: `mime_value_bytes` characters and `parameters` pieces are read.

    Returns:
        Values by name in lower case. Of two with one name the first holds; of two ways to write
        one, `name*` goes before `name*0` and that before `name` (RFC 6266, section 4.3).
    """
    start = value.find(";")
    if start < 0:
        return {}
    if len(value) <= limits.mime_value_bytes and (only := _ONLY.fullmatch(value)) is not None:
        return {only[1].lower(): only[3]}
    plain: dict[str, str] = {}
    extended: dict[str, str] = {}
    pieces: dict[str, dict[int, tuple[str, bool]]] = {}
    left = limits.parameters
    for match in _PARAMETER.finditer(value, start, limits.mime_value_bytes):
        name, piece, is_extended, quoted, bare = match.groups()
        if name is None:
            continue
        if not left:
            break
        left -= 1
        name = name.lower()
        text = bare.rstrip() if quoted is None else _without_escapes(quoted)
        if piece is not None:
            of_name = pieces.setdefault(name, {})
            of_name.setdefault(int(piece[1:]), (text, is_extended is not None))
        elif is_extended is not None:
            extended.setdefault(name, text)
        else:
            plain.setdefault(name, text)
    found = {name: decode_words(text) for name, text in plain.items()}
    for name, of_name in pieces.items():
        if 0 in of_name:
            found[name] = _joined(of_name)
    for name, text in extended.items():
        found[name] = _joined({0: (text, True)})
    return found


def _without_escapes(quoted: str) -> str:
    r"""Undo `\"` and `\\`, and no other escape that RFC 2045 allows.

    Of those who send `C:\new.pdf` none means `C:new.pdf`.
    """
    if "\\" not in quoted:
        return quoted
    return "\\".join(piece.replace('\\"', '"') for piece in quoted.split("\\\\"))


def _joined(pieces: dict[int, tuple[str, bool]]) -> str:
    """Join the pieces of one value up to the first that is missing; a character may be cut."""
    ordered: list[tuple[str, bool]] = []
    while (piece := pieces.get(len(ordered))) is not None:
        ordered.append(piece)
    if not any(is_extended for _, is_extended in ordered):
        return decode_words("".join(text for text, _ in ordered))
    charset = ""
    first, is_extended = ordered[0]
    if is_extended and first.count("'") > 1:
        charset, _, first = first.split("'", 2)
        ordered[0] = (first, True)
    return decode(
        b"".join(
            unquote_to_bytes(text) if is_extended else text.encode("utf-8", "replace")
            for text, is_extended in ordered
        ),
        charset,
    )[0]
