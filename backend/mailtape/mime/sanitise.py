"""HTML from strangers made safe to show: an allowlist, applied by an HTML5 parser, last of all.

What comes out

* holds only elements and attributes named here: no svg, math, style, form, frame, meta, base, link;
* loads nothing from the network when it is rendered. A picture from elsewhere is held back: its
  `src` or `background` is `HELD_BACK` (a transparent pixel) with the address behind the `#`, which
  keeps the layout and can be put back in place by whoever is allowed to. A picture that came with
  the mail is `attachments/{id}`, relative to the page;
* links only to http, https, mailto and tel, in a new window, without a referrer;
* is a fixed point: sanitising it again gives the same text.

`SafeHtml` is made here and nowhere else, and is never edited as text afterwards: edits of
sanitised HTML are how sanitisers are defeated (mutation XSS). It is still to be rendered in a
sandboxed frame under a content security policy; each of the two must hold without the other.
"""

import re
from collections.abc import Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from html import unescape
from typing import NewType
from urllib.parse import unquote

import nh3

from mailtape.mime.limits import Limits
from mailtape.mime.style import clean_parsed, clean_simple

SafeHtml = NewType("SafeHtml", str)
"""HTML that went through `sanitise_html`."""

HELD_BACK = "data:image/gif;base64,R0lGODlhAQABAIAAAAAAAP///yH5BAEAAAAALAAAAAABAAEAAAIBRAA7#"
"""A transparent pixel; the address of the picture it stands for follows."""

TAGS = frozenset(
    """
    a abbr acronym address article aside b bdi bdo big blockquote br caption center cite code col
    colgroup dd del dfn div dl dt em figcaption figure font footer h1 h2 h3 h4 h5 h6 header hr i
    img ins kbd li main mark nav ol p pre q rp rt ruby s samp section small span strike strong sub
    sup table tbody td tfoot th thead time tr tt u ul var wbr
    """.split()  # noqa: SIM905 - a list of words reads as one
)
_GONE_WITH_CONTENT = frozenset(
    """
    embed frameset iframe math noembed noframes noscript plaintext script select style svg template
    textarea title xmp
    """.split()  # noqa: SIM905 - a list of words reads as one
)
"""Not object, applet, video, audio and canvas: what they hold is shown where they cannot be, and an
`<object>` that is never closed would take the rest of the mail with it. The text of iframe,
noscript and the like is raw to the parser: to a reader it would be markup."""
_CELL = frozenset({"width", "height", "bgcolor", "background", "valign", "nowrap"})
ATTRIBUTES: Mapping[str, frozenset[str]] = {
    "*": frozenset({"style", "align", "dir", "lang", "title"}),
    "a": frozenset({"href"}),
    "img": frozenset({"src", "alt", "width", "height", "border", "hspace", "vspace"}),
    "table": _CELL | {"border", "cellpadding", "cellspacing", "summary"},
    "thead": _CELL,
    "tbody": _CELL,
    "tfoot": _CELL,
    "tr": _CELL,
    "td": _CELL | {"colspan", "rowspan"},
    "th": _CELL | {"colspan", "rowspan", "scope"},
    "col": frozenset({"span", "width"}),
    "colgroup": frozenset({"span", "width"}),
    "font": frozenset({"color", "face", "size"}),
    "hr": frozenset({"color", "noshade", "size", "width"}),
    "br": frozenset({"clear"}),
    "li": frozenset({"type", "value"}),
    "ol": frozenset({"reversed", "start", "type"}),
    "ul": frozenset({"type"}),
    "time": frozenset({"datetime"}),
}
_SCHEMES = frozenset({"http", "https", "mailto", "tel", "cid", "data"})

_SPACES_AND_CONTROLS = "".join(map(chr, range(0x21)))
_IGNORED_IN_URLS = str.maketrans("", "", "\t\n\r")
_REMOTE = re.compile(r"https?://[^\s/?#\\]", re.IGNORECASE)
_LINK = re.compile(r"https?://[^\s/?#\\]|mailto:.|tel:.", re.IGNORECASE)
_COMMON_LINK = re.compile(r"https?://[0-9A-Za-z][!-~]*")
"""A link that is plain already, as nearly all are."""
_SHORT_URL = 1_000
_DATA_IMAGE = re.compile(
    r"data:image/(?:png|gif|jpe?g|webp);base64,[A-Za-z0-9+/]+=*", re.IGNORECASE
)


@dataclass(slots=True)
class _Mail:
    """What the attribute filter must know of the mail whose HTML it sees."""

    pictures: Mapping[str, str]
    own: frozenset[str]
    limits: Limits
    styles_left: int
    unsettled: bool = False
    """Whether the order of a link's attributes is not yet the one it will keep."""
    defects: dict[str, None] = field(default_factory=dict)


_current: ContextVar[_Mail] = ContextVar("mail_being_sanitised")
"""The cleaner is built once (27 us) and calls back without an argument of ours."""


def sanitise_html(
    html: str, *, cid_to_attachment: Mapping[str, str], limits: Limits
) -> tuple[SafeHtml, tuple[str, ...]]:
    """Make the HTML of a mail safe.

    Args:
        html: Anything; what is beyond the limits is cut off.
        cid_to_attachment: Attachment ids by what HTML may call them: Content-ID without its angle
            brackets, Content-Location, file name; keys in lower case.
        limits: The bounds.

    Returns:
        The safe HTML and the defects that were found.
    """
    mail = _Mail(
        cid_to_attachment, frozenset(cid_to_attachment.values()), limits, limits.styles_chars
    )
    html = _bounded(html, limits, mail.defects)
    token = _current.set(mail)
    try:
        safe = _CLEANER.clean(html)
        if mail.unsettled or _MAY_MOVE.search(html.lower()):
            safe = _settled(safe, mail)
        if _EMPTY.fullmatch(safe) and unescape(_NOT_TO_READ.sub("", html)).strip():
            mail.defects["html_empty"] = None
    finally:
        _current.reset(token)
    return SafeHtml(safe), tuple(mail.defects)


_EMPTY = re.compile(r"""(?:\s++|&nbsp;|<(?!img|hr)/?[a-z0-9]++(?:[^>"]++|"[^"]*+")*+>)*+""")
"""A page that shows nothing; one that does shows it early, so this is cheap."""
_NOT_TO_READ = re.compile(
    r"<!--.*?(?:-->|\Z)|<(script|style|title)\b.*?(?:</\1[^>]*+>?|\Z)|<[^>]*+(?:>|\Z)",
    re.IGNORECASE | re.DOTALL,
)
"""Good enough to tell whether there was any text; too loose to take anything out by."""
_MAY_MOVE = re.compile(
    r"<(?:table|pre|h[1-6]|ruby|button|details|dir|fieldset|form|hgroup|listing|marquee|menu|search"
    r"|summary|object|applet)"
)
"""Elements around which a tree does not always survive being written and read again: links and
blocks moved out of tables, headings and blocks told apart by an element that is gone now. For text
in lower case, which is four times as fast as ignoring case."""
_MOST_ROUNDS = 8


def _settled(safe: str, mail: _Mail) -> str:
    """Clean until nothing changes: what browsers read must be what was judged."""
    for _ in range(_MOST_ROUNDS):
        again = _CLEANER.clean(safe)
        if again == safe:
            return safe
        safe = again
    mail.defects["html_too_complex"] = None
    return ""


# Attributes


def _style(value: str) -> str | None:
    mail = _current.get()
    if len(value) > mail.limits.style_chars:
        mail.defects["style"] = None
        return None
    kept = clean_simple(value)
    if kept is None:
        mail.styles_left -= len(value)
        if mail.styles_left < 0:
            mail.defects["style"] = None
            return None
        kept = clean_parsed(value)
    return kept


def _plain_url(value: str) -> str:
    """Read a URL as browsers do: controls around it and line ends within do not count."""
    if value.isprintable() and " " not in value:
        return value
    url = value.strip(_SPACES_AND_CONTROLS)
    return url if url.isprintable() else url.translate(_IGNORED_IN_URLS)


def _link(value: str) -> str | None:
    if len(value) < _SHORT_URL and _COMMON_LINK.fullmatch(value):
        return value
    url = _plain_url(value)
    if len(url) > _current.get().limits.url_chars:
        return None
    return url if _LINK.match(url) else None


def _picture(value: str) -> str | None:
    mail = _current.get()
    url = _plain_url(value)
    if url[:4].lower() == "cid:":
        key = url[4:].lower()
        own = mail.pictures.get(unquote(key).strip("<>") if "%" in key or "<" in key else key)
        return None if own is None else f"attachments/{own}"
    if len(url) > mail.limits.data_url_chars:
        mail.defects["picture"] = None
        return None
    if url.startswith(HELD_BACK):
        url = url[len(HELD_BACK) :]
        return HELD_BACK + url if _REMOTE.match(url) else None
    if url.startswith("attachments/") and url[12:] in mail.own:
        return url
    if (own := mail.pictures.get(url.lower())) is not None:
        return f"attachments/{own}"
    if _REMOTE.match(url):
        return HELD_BACK + url if len(url) <= mail.limits.url_chars else None
    return url if _DATA_IMAGE.fullmatch(url) else None


def _attribute(tag: str, name: str, value: str) -> str | None:
    """Give the value that an allowed attribute keeps, None when it goes. Must not raise."""
    match name:
        case "href":
            kept = _link(value)
        case "style":
            kept = _style(value)
        case "src" | "background":
            kept = _picture(value)
        case _:
            return value
    if kept is None and tag == "a":
        _current.get().unsettled = True
    return kept


_CLEANER = nh3.Cleaner(
    tags=TAGS,
    clean_content_tags=_GONE_WITH_CONTENT,
    attributes=ATTRIBUTES,
    attribute_filter=_attribute,
    url_schemes=_SCHEMES,
    url_relative="pass_through",  # the filter knows which relative ones are ours
    link_rel="noopener noreferrer nofollow",
    set_tag_attribute_values={"a": {"target": "_blank"}},
)


# What the tree builder must not be given

_FEW_TAGS = 400
_SHORT = 64 * 1024
"""Below both, the worst that can be written costs the tree builder a tenth of a second."""
_MOST_NAMES_CHARS = 8 * 1024
"""Characters of one tag outside quotes: attributes are compared each with each."""
_TAG = re.compile(
    r"""
    <(/?)([a-zA-Z][^\s/>]*+)
    ((?: [\s/]++ | [^\s/>=]++ | =\s*+(?:"[^"]*+"?|'[^']*+'?|[^\s>"'][^\s>]*+)? )*+)
    """,
    re.VERBOSE,
)
_QUOTED = re.compile(r'"[^"]*"|\'[^\']*\'')
_NEVER_OPEN = frozenset(
    """
    area base br col embed hr img input link meta param source track wbr p li dd dt td th tr thead
    tbody tfoot option optgroup colgroup rp rt html head body
    """.split()  # noqa: SIM905 - a list of words reads as one
)
"""Void elements, and those that the next of their kind closes."""
_REOPENED = frozenset(
    "a b big code em font i nobr s small strike strong tt u".split()  # noqa: SIM905
)
"""HTML, section 13.2.4.3: formatting elements, opened again in every block until closed."""


def _bounded(html: str, limits: Limits, defects: dict[str, None]) -> str:
    """Cut HTML before the tag at which its tree would outgrow the limits.

    Reads tags, not a tree: comments and scripts are read as HTML too, so hostile input can lie to
    it. It keeps the plain bombs cheap; the process around it has limits on time and memory.
    """
    if len(html) > limits.html_chars:
        defects["html_too_long"] = None
        html = html[: limits.html_chars]
    if len(html) <= _SHORT and html.count("<") <= _FEW_TAGS:
        return html
    open_by_name: dict[str, int] = {}
    depth = formatting = reopened = 0
    for count, match in enumerate(_TAG.finditer(html)):
        name = match[2].lower()
        if match[1]:
            if open_by_name.get(name):
                open_by_name[name] -= 1
                depth -= 1
                formatting -= name in _REOPENED
        elif name not in _NEVER_OPEN:
            open_by_name[name] = open_by_name.get(name, 0) + 1
            depth += 1
            formatting += name in _REOPENED
        reopened += formatting
        too_many_attributes = (
            match.end() - match.start() > _MOST_NAMES_CHARS
            and len(_QUOTED.sub("", match[3])) > _MOST_NAMES_CHARS
        )
        if (
            depth > limits.html_depth
            or reopened > limits.html_reopened
            or count >= limits.html_tags
            or too_many_attributes
        ):
            defects["html_too_complex"] = None
            return html[: match.start()]
    return html
