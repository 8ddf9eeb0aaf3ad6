"""Payloads against the sanitiser, judged by a parser that is not the one that made its output."""

import re
from pathlib import Path

import pytest
from bleach._vendor import html5lib

from mailtape.mime.limits import DEFAULT
from mailtape.mime.sanitise import sanitise_html

XSS = Path(__file__).parents[2] / "corpus" / "xss.txt"
CHARACTERS = {"{NL}": "\n", "{TAB}": "\t", "{FF}": "\f", "{NUL}": "\0"}
XHTML = "{http://www.w3.org/1999/xhtml}"
ELEMENTS = frozenset(
    """
    a abbr acronym address article aside b bdi bdo big blockquote br caption center cite code
    col colgroup dd del dfn div dl dt em figcaption figure font footer h1 h2 h3 h4 h5 h6 header
    hr i img ins kbd li main mark nav ol p pre q rp rt ruby s samp section small span strike
    strong sub sup table tbody td tfoot th thead time tr tt u ul var wbr
    """.split()  # noqa: SIM905 - a list of words reads as one
)
HARMLESS = frozenset(
    """
    align alt bgcolor border cellpadding cellspacing clear color colspan datetime dir face
    height hspace lang noshade nowrap reversed rowspan scope size span start summary title type
    valign value vspace width
    """.split()  # noqa: SIM905 - a list of words reads as one
)
PICTURE = re.compile(
    r"data:image/(png|gif|jpe?g|webp);base64,[A-Za-z0-9+/]+=*(#https?://.*)?|attachments/1",
    re.IGNORECASE,
)
LINK = re.compile(r"(https?://|mailto:|tel:)[^\s]", re.IGNORECASE)
BAD_STYLE = re.compile(
    r"url|image-set|var\(|attr\(|expression|position|z-index|@|\\|import|\{", re.IGNORECASE
)


def payloads() -> list[str]:
    lines = XSS.read_text(encoding="utf-8").splitlines()
    found = [line for line in lines if line and not line.startswith("# ")]
    for name, character in CHARACTERS.items():
        found = [line.replace(name, character) for line in found]
    return found


def complaints(html: str) -> list[str]:
    """Name everything in a document that no mail may show."""
    tree = html5lib.parseFragment(html, treebuilder="etree", namespaceHTMLElements=True)
    found = []
    for element in tree.iter():
        tag = element.tag
        if tag == "DOCUMENT_FRAGMENT":
            continue
        if not isinstance(tag, str) or tag.removeprefix(XHTML) not in ELEMENTS:
            found.append(f"element {tag}")
            continue
        for name, value in element.attrib.items():
            match name:
                case "href":
                    good = bool(LINK.match(value))
                case "src" | "background":
                    good = bool(PICTURE.fullmatch(value))
                case "style":
                    good = not BAD_STYLE.search(value)
                case "target":
                    good = value == "_blank"
                case "rel":
                    good = value == "noopener noreferrer nofollow"
                case _:
                    good = name in HARMLESS
            if not good:
                found.append(f"{tag} {name}={value}")
    return found


def test_the_judge_sees_most_payloads_as_they_are() -> None:
    seen = [payload for payload in payloads() if complaints(payload)]

    assert len(payloads()) > 300
    assert len(seen) > 0.85 * len(payloads())


@pytest.mark.parametrize("payload", payloads())
def test_no_payload_survives(payload: str) -> None:
    frames = (payload, f"<p>{payload}</p>", f"<table><tr><td>{payload}", f"<b title='{payload}'>x")
    for html in frames:
        safe, _ = sanitise_html(html, cid_to_attachment={"x": "1"}, limits=DEFAULT)

        assert complaints(safe) == []
        again, _ = sanitise_html(safe, cid_to_attachment={"x": "1"}, limits=DEFAULT)
        assert again == safe


@pytest.mark.parametrize("payload", payloads())
def test_another_parser_and_back_makes_nothing_new(payload: str) -> None:
    safe, _ = sanitise_html(payload, cid_to_attachment={"x": "1"}, limits=DEFAULT)

    html: str = safe
    for _ in range(3):
        tree = html5lib.parseFragment(html, treebuilder="etree")
        html = html5lib.serialize(tree, tree="etree", quote_attr_values="always")

        assert complaints(html) == []
