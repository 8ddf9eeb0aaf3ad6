"""From bytes and the charset that a mail claims to text: an allowlist, never an unchecked codec.

Labels mean what browsers take them to mean (WHATWG Encoding). Python's codec registry must not see
a label from a mail: `zlib_codec`, `idna`, `undefined` and `unicode_escape` are codecs to it.
"""

import codecs
from functools import lru_cache

import webencodings  # type: ignore[import-untyped]  # it has no types of its own

_LONGEST_LABEL = 40
_NOT_FOR_MAIL = frozenset({"replacement", "x-user-defined"})
"""WHATWG's two encodings that exist for browsers only."""
_UNLABELLED = frozenset({"us-ascii", "ascii", "ansi_x3.4-1968", "", "unknown-8bit", "8bit"})
"""Labels that promise less than the bytes keep: what follows is found out as without a label."""


@lru_cache(maxsize=256)
def _codec(label: str) -> str | None:
    """Give the Python codec for a label, None when it is not allowed."""
    if len(label) > _LONGEST_LABEL:
        return None
    encoding = webencodings.lookup(label)
    if encoding is None or encoding.name in _NOT_FOR_MAIL:
        return None
    if encoding.name.startswith("utf-16"):
        return "utf-16"
    return str(encoding.codec_info.name)


def decode(data: bytes, label: str) -> tuple[str, bool]:
    """Decode bytes; never fails.

    An unknown label, or none, is read as UTF-8 when the bytes allow it, else as windows-1252.

    Returns:
        The text, with U+FFFD where a byte had no meaning, and whether the label was known (an
        absent one counts as known).
    """
    label = label.strip().lower()
    unlabelled = label in _UNLABELLED
    codec = None if unlabelled else _codec(label)
    if codec == "utf-16" and not data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        codec = None  # without its mark any bytes are "UTF-16"
    if codec is not None:
        return data.decode(codec, "replace"), True
    data = data.removeprefix(codecs.BOM_UTF8)
    try:
        return data.decode(), unlabelled
    except UnicodeDecodeError:
        return data.decode("cp1252", "replace"), unlabelled
