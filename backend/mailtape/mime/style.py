r"""What of a `style` attribute may stay: declarations that only colour, size and space.

A property is allowed by name, then its value is looked at: nothing that loads, nothing that
computes from elsewhere, no escapes (`u\72l(` is `url(`). `position`, `z-index` and all properties
that place an element over others are not on the list, and `!important` is taken off.
"""

import re
from functools import lru_cache

import tinycss2  # type: ignore[import-untyped]  # it has no types of its own
from tinycss2.ast import (  # type: ignore[import-untyped]  # as above
    Declaration,
    FunctionBlock,
    Node,
)

_PROPERTIES = frozenset(
    """
    color background background-color opacity visibility display float clear direction unicode-
    bidi font font-family font-size font-style font-variant font-weight font-stretch line-height
    letter-spacing word-spacing word-break word-wrap overflow-wrap hyphens white-space tab-size
    text-align text-align-last text-decoration text-decoration-color text-decoration-line text-
    decoration-style text-indent text-transform text-overflow text-shadow vertical-align width
    height min-width min-height max-width max-height box-sizing overflow overflow-x overflow-y
    margin margin-top margin-right margin-bottom margin-left padding padding-top padding-right
    padding-bottom padding-left border border-top border-right border-bottom border-left border-
    color border-style border-width border-top-color border-top-style border-top-width border-
    right-color border-right-style border-right-width border-bottom-color border-bottom-style
    border-bottom-width border-left-color border-left-style border-left-width border-radius
    border-top-left-radius border-top-right-radius border-bottom-left-radius border-bottom-right-
    radius border-collapse border-spacing box-shadow outline outline-color outline-style outline-
    width table-layout caption-side empty-cells list-style-type list-style-position flex flex-
    basis flex-direction flex-flow flex-grow flex-shrink flex-wrap align-content align-items
    align-self justify-content gap row-gap column-gap order
    """.split()  # noqa: SIM905 - a list of words reads as one
)
_FUNCTIONS = frozenset({"rgb", "rgba", "hsl", "hsla", "calc", "min", "max", "clamp"})
_PLAIN_TOKENS = frozenset(
    {"whitespace", "ident", "string", "hash", "number", "percentage", "dimension", "literal"}
)

_SIMPLE = re.compile(
    r"""
    \s*+ ([a-zA-Z-]++) \s*+ : \s*+
    ((?: rgba?\([\d.,%\s]*+\) | [\w#%.,+\-]++ | \s++ | "[\w\s,.-]*+" | '[\w\s,.-]*+' )++)
    (?: ; \s*+ | \Z )
    """,
    re.VERBOSE | re.ASCII,
)
"""One declaration that needs no parser: most of what mail holds, at a twentieth of the time."""


@lru_cache(maxsize=2048)
def clean_simple(style: str) -> str | None:
    """Keep the allowed declarations of plain CSS; None when the CSS needs to be parsed."""
    kept: list[str] = []
    position = 0
    while position < len(style):
        match = _SIMPLE.match(style, position)
        if match is None:
            return None
        name = match[1].lower()
        value = " ".join(match[2].split())
        if name in _PROPERTIES and value:
            kept.append(f"{name}:{value}")
        position = match.end()
    return ";".join(kept)


@lru_cache(maxsize=256)
def clean_parsed(style: str) -> str:
    """Keep the allowed declarations of any CSS."""
    kept: list[str] = []
    for node in tinycss2.parse_blocks_contents(style, skip_comments=True, skip_whitespace=True):
        if not isinstance(node, Declaration) or node.lower_name not in _PROPERTIES:
            continue
        value = [token for token in node.value if token.type != "comment"]
        if not _harmless(value):
            continue
        text = " ".join(tinycss2.serialize(value).split())
        if text and not set(text) & set("\\<>{}@;\n"):
            kept.append(f"{node.lower_name}:{text}")
    return ";".join(kept)


def _harmless(tokens: list[Node]) -> bool:
    for token in tokens:
        if isinstance(token, FunctionBlock):
            # One level: calc(calc()) says nothing that calc() cannot.
            if token.lower_name not in _FUNCTIONS:
                return False
            if any(inner.type not in _PLAIN_TOKENS for inner in token.arguments):
                return False
        elif token.type not in _PLAIN_TOKENS:
            return False
    return True
