"""The one function that a worker calls: the bytes of a mail in, everything we know of it out."""

import hashlib
from dataclasses import dataclass

from mailtape.domain.message import AttachmentFacts, Content, Mailbox, Summary
from mailtape.mime.headers import HeaderBlock, addresses, decode_words, split
from mailtape.mime.limits import DEFAULT, Limits
from mailtape.mime.parse import Leaf, parse
from mailtape.mime.preview import search_text, snippet, text_of
from mailtape.mime.sanitise import SafeHtml, sanitise_html

_NOBODY = Mailbox("", "")


@dataclass(frozen=True, slots=True)
class Understood:
    """All that is known of one mail."""

    summary: Summary
    content: Content
    attachments: tuple[bytes, ...]
    """Decoded bytes, in step with `content.attachments`."""
    parser: str
    """`fast-mail-parser`, `email`, or `none`."""


def understand(raw: bytes, limits: Limits = DEFAULT) -> Understood:
    """Read a mail. Never raises: what is wrong with a mail is in `content.defects`."""
    parsed = parse(raw, limits)
    defects = dict.fromkeys(parsed.defects)
    facts = tuple(_facts(number, leaf) for number, leaf in enumerate(parsed.attachments, 1))
    html: SafeHtml | None = None
    text = parsed.text
    if parsed.unsafe_html is not None:
        html, found = sanitise_html(
            parsed.unsafe_html, cid_to_attachment=_names(parsed.attachments, facts), limits=limits
        )
        defects |= dict.fromkeys(found)
        if text is None or not text.strip():
            text = text_of(html, limits)
    return _compose(
        parsed.header,
        text,
        html,
        facts,
        tuple(leaf.payload for leaf in parsed.attachments),
        defects,
        parsed.parser,
        limits,
    )


def unparsed(raw: bytes, limits: Limits = DEFAULT) -> Understood:
    """Read only the header of a mail whose body is not to be touched again.

    For a mail that killed the process that read it, or ran out of its time: it is listed by
    subject and sender, and its raw bytes can be fetched.
    """
    header = split(raw, limits)
    defects = dict.fromkeys((*header.defects, "unparsed"))
    return _compose(header, None, None, (), (), defects, "none", limits)


def _compose(
    header: HeaderBlock,
    text: str | None,
    html: SafeHtml | None,
    facts: tuple[AttachmentFacts, ...],
    payloads: tuple[bytes, ...],
    defects: dict[str, None],
    parser: str,
    limits: Limits,
) -> Understood:
    people: dict[str, tuple[Mailbox, ...]] = {}
    values = header.by_name()
    for name in ("from", "to", "cc", "reply-to"):
        people[name], more = addresses(", ".join(values.get(name, ())), limits)
        if more:
            defects["addresses"] = None
    subject = decode_words(values.get("subject", [""])[0]).strip()[: limits.subject_chars]
    shown = text or ""
    everybody = people["from"] + people["to"] + people["cc"]
    summary = Summary(
        sender=people["from"][0] if people["from"] else _NOBODY,
        to=people["to"],
        subject=subject,
        snippet=snippet(shown, limits),
        attachments=len(facts),
        search_text=search_text(subject, everybody, shown, limits),
    )
    content = Content(
        headers=header.fields,
        cc=people["cc"],
        reply_to=people["reply-to"],
        text=text,
        html=html,
        attachments=facts,
        defects=tuple(defects)[: limits.defects],
    )
    return Understood(summary, content, payloads, parser)


def _facts(number: int, leaf: Leaf) -> AttachmentFacts:
    return AttachmentFacts(
        id=str(number),
        filename=leaf.filename,
        content_type=leaf.content_type,
        size=len(leaf.payload),
        sha256=hashlib.sha256(leaf.payload).hexdigest(),
        content_id=leaf.content_id,
    )


def _names(leaves: tuple[Leaf, ...], facts: tuple[AttachmentFacts, ...]) -> dict[str, str]:
    """Give each attachment every name by which HTML may call it; a Content-ID goes first."""
    names: dict[str, str] = {}
    for called in ("content_id", "location", "filename"):
        for leaf, fact in zip(leaves, facts, strict=True):
            if name := getattr(leaf, called):
                names.setdefault(name.lower(), fact.id)
    return names
