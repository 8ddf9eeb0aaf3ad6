"""Every bound on what is read out of a mail, in one place, each with its unit and its precedent.

What lies beyond a bound is not shown and leaves a defect; the raw bytes are kept whole, always.
"""

from dataclasses import dataclass

DEADLINE_SECONDS = 30
"""For one batch of mails; about a thousand times what an ordinary one takes."""


@dataclass(frozen=True, slots=True)
class Limits:
    """How much of a mail is looked at, and how much of it is kept in decoded form."""

    header_bytes: int = 512 * 1024
    """Bytes of the whole header block. Without a limit one mail took all memory of Dovecot
    (CVE-2024-23185), which now reads 50 MB of it; real headers stay below 64 KiB."""
    header_count: int = 1_000
    """Fields of the header. Well above real mail, which after many hops has some 200."""
    header_value_bytes: int = 64 * 1024
    """Bytes of one unfolded value. Postfix: header_size_limit = 102400."""
    header_name_bytes: int = 256
    """Bytes of one field name. RFC 5322, section 2.1.1 gives a line 998."""
    mime_value_bytes: int = 8 * 1024
    """Bytes of a field that the MIME parser is given. 350 kB of RFC 2231 parameters cost the
    standard library 10 s, Dovecot the same (CVE-2026-27859)."""
    parameters: int = 200
    """Parameters, or pieces of them, of one field. Real mail has below 10; a name of 255
    characters in four bytes each, written in lines of 76, comes in 45 pieces."""
    encoded_words: int = 4_000
    """`=?` in one body before the fast parser, whose decoding is quadratic, is passed over."""
    addresses: int = 1_000
    """Mailboxes of one field. Postfix: smtpd_recipient_limit = 1000."""
    address_chars: int = 320
    """Characters of one address: 64 + `@` + 255 (RFC 5321, section 4.5.3.1)."""
    name_chars: int = 256
    """Characters of one display name."""
    subject_chars: int = 998
    """Characters of the decoded subject: one line of RFC 5322, section 2.1.1."""
    document_bytes: int = 64 * 1024 * 1024
    """Bytes given to any parser. Twice the message size that SMTP accepts by default."""
    fallback_bytes: int = 8 * 1024 * 1024
    """Bytes given to the standard library's parser, which takes twelve times as many in memory."""
    fallback_parts: int = 2_000
    """Boundary lines given to the standard library's parser: 20,000 cost it a second."""
    boundary_lines: int = 20_000
    """Boundary lines given to the fast parser: 2,000,000 cost it 1.5 GB. Dovecot caps parts at
    10,000 (CVE-2020-12100)."""
    nested_copies_bytes: int = 32 * 1024 * 1024
    """Size times number of messages inside: the fast parser copies each level it walks into."""
    depth: int = 50
    """Levels of multipart. Postfix: mime_nesting_limit = 100; Dovecot: 100; real mail: below 10."""
    parts: int = 1_000
    """Leaves that are read. Below Dovecot's 10,000; raw keeps what is beyond."""
    attachments: int = 500
    """Leaves that are kept as attachments."""
    decoded_bytes: int = 64 * 1024 * 1024
    """Bytes of all decoded leaves together. No transfer encoding of RFC 2045 expands."""
    filename_chars: int = 255
    """Characters of a file name: NAME_MAX of every common file system."""
    content_id_chars: int = 255
    """Characters of a Content-ID."""
    text_chars: int = 2 * 1024 * 1024
    """Characters of text that are kept. Gmail clips a message at 102 kB."""
    html_chars: int = 2 * 1024 * 1024
    """Characters of HTML that are sanitised: a fifth of a second of the HTML parser at worst."""
    html_tags: int = 100_000
    """`<` in one HTML body; each may cost an element in memory."""
    html_depth: int = 512
    """Open elements. Browsers stop at 512 (Chromium's maximum DOM depth)."""
    html_reopened: int = 200_000
    """Elements that unclosed `<b>`s and the like may force the tree builder to open again: 8 kB of
    them made 500,000 elements and 140 MB (HTML, section 13.2.4.3, "reconstruct")."""
    style_chars: int = 4 * 1024
    """Characters of one `style` attribute."""
    styles_chars: int = 256 * 1024
    """Characters of all distinct `style` attributes of a body that need the CSS parser."""
    url_chars: int = 8 * 1024
    """Characters of one URL. RFC 9110, section 4.1 asks for 8,000 at least."""
    data_url_chars: int = 512 * 1024
    """Characters of one `data:` image."""
    snippet_chars: int = 200
    """Characters of the snippet: two lines of a list."""
    search_chars: int = 64 * 1024
    """Characters of subject, people and text that can be searched."""
    defects: int = 20
    """Distinct codes on one message."""


DEFAULT = Limits()
"""What the platform runs with where an operator has set nothing else."""
