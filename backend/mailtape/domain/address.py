"""The addresses of an SMTP envelope: strict syntax, and the form in which we compare them.

Reads the paths of MAIL and RCPT (RFC 5321, section 4.1.2) and the mailboxes in them, with the
UTF-8 of RFC 6531 only where the client asked for it. What is not an address is `Invalid` with one
of two codes: `address_syntax`, or `address_not_ascii` for UTF-8 that nobody announced. Every
check is linear in its input and every length is bounded.

Stricter than some senders are used to, on purpose: brackets must stand, source routes are refused
(section 4.1.1.3 allows it), and a `%` in a local part routes nothing.
"""

import ipaddress
import re
import unicodedata

from mailtape.domain.errors import Invalid

LOCAL_PART_OCTETS = 64
"""RFC 5321, section 4.5.3.1.1."""
DOMAIN_OCTETS = 255
"""RFC 5321, section 4.5.3.1.2."""
PATH_OCTETS = 256
"""With its brackets; RFC 5321, section 4.5.3.1.3."""
_LABEL_OCTETS = 63

_ATOM = r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+"
_LABEL = r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
_DOT_STRING = re.compile(rf"{_ATOM}(?:\.{_ATOM})*")
_DOMAIN = re.compile(rf"{_LABEL}(?:\.{_LABEL})*")
_DIGITS_OF_IPV6 = re.compile(r"[0-9A-Fa-f:.]+")


def split_path(argument: str) -> tuple[str, str]:
    """Cut what follows `FROM:` or `TO:` into the text between the brackets and the parameters.

    Raises:
        Invalid: the brackets are missing, or something clings to the closing one.
    """
    if not argument.startswith("<"):
        raise _syntax("An address must stand in angle brackets")
    end = argument.find(">")
    if '"' in argument[:end]:
        end = _closing_bracket(argument)
    if end < 0:
        raise _syntax("The angle bracket is never closed")
    path, parameters = argument[1:end], argument[end + 1 :]
    if parameters and not parameters.startswith(" "):
        raise _syntax("Parameters must be set off by a space")
    return path, parameters.strip(" ")


def reverse_path(path: str, *, smtputf8: bool = False) -> str:
    """Check the text between the brackets of MAIL FROM and return it; empty for a bounce."""
    return mailbox(path, smtputf8=smtputf8) if path else ""


def forward_path(path: str, *, postmaster_at: str, smtputf8: bool = False) -> str:
    """Check the text between the brackets of RCPT TO and return it.

    `Postmaster` may stand alone in any case (RFC 5321, section 4.1.1.3): it belongs to
    `postmaster_at`, our own domain.
    """
    if path.lower() == "postmaster":
        return f"{path}@{postmaster_at}"
    return mailbox(path, smtputf8=smtputf8)


def mailbox(text: str, *, smtputf8: bool = False) -> str:
    """Check `local-part@domain` and return it as it was written.

    Raises:
        Invalid: it is none; the message says which rule it breaks, without repeating it.
    """
    if not text.isascii():
        if not smtputf8:
            raise Invalid(
                "A non-ASCII address needs SMTPUTF8", code="address_not_ascii", field="address"
            )
        octets = len(text.encode())
    else:
        octets = len(text)
    if octets > PATH_OCTETS - len("<>"):
        raise _syntax("The address is too long")
    local, at, domain = text.rpartition("@")
    if not at:
        raise _syntax("An address needs a domain")
    _check_local_part(local)
    _check_domain(domain)
    return text


def normalise(address: str) -> str:
    """Write a valid address in the one form that is compared and kept.

    Lower case throughout: RFC 5321 lets a host tell `Alice` from `alice` (section 2.4), no
    developer expects it. Quotes that say nothing are dropped (section 4.1.2: `"alice"` and
    `alice` are one mailbox), Unicode is composed (NFC, RFC 6532, section 3.1).
    """
    if address.isascii() and not address.startswith('"'):
        return address.lower()
    local, _, domain = unicodedata.normalize("NFC", address.lower()).rpartition("@")
    return f"{_quoted_where_needed(_unquoted(local))}@{domain}"


def mailbox_of(recipient: str) -> str:
    """Name the mailbox that a valid recipient belongs to: `qa+run7@d` is mail for `qa@d`.

    A local part that begins with its plus has no tag: `+run7@d` stays itself.
    """
    local, _, domain = normalise(recipient).rpartition("@")
    name = _unquoted(local)
    return f"{_quoted_where_needed(name.partition('+')[0] or name)}@{domain}"


def _closing_bracket(argument: str) -> int:
    """Find the first `>` outside quotes; -1 when there is none."""
    quoted = escaped = False
    for position, character in enumerate(argument):
        if escaped:
            escaped = False
        elif quoted and character == "\\":
            escaped = True
        elif character == '"':
            quoted = not quoted
        elif character == ">" and not quoted:
            return position
    return -1


def _check_local_part(local: str) -> None:
    if len(local) > LOCAL_PART_OCTETS or len(local.encode()) > LOCAL_PART_OCTETS:
        raise _syntax("The local part is too long")
    if _DOT_STRING.fullmatch(local):
        return
    if local.startswith('"'):
        _check_quoted(local)
    elif local.isascii() or not _DOT_STRING.fullmatch(_printable_as_ascii(local)):
        raise _syntax("The local part is malformed")


def _check_quoted(local: str) -> None:
    """Check a Quoted-string: printable text, quotes and backslashes escaped, and not empty."""
    if len(local) < 3 or not local.endswith('"'):
        raise _syntax("The quoted local part is malformed")
    escaped = False
    for character in local[1:-1]:
        # isprintable() is false for every control, DEL and separator but the space.
        if not character.isprintable() or (character == '"' and not escaped):
            raise _syntax("The quoted local part is malformed")
        escaped = character == "\\" and not escaped
    if escaped:
        raise _syntax("The quoted local part is malformed")


def _check_domain(domain: str) -> None:
    if domain.startswith("["):
        _check_literal(domain)
        return
    if domain.isascii():
        if len(domain) > DOMAIN_OCTETS or not _DOMAIN.fullmatch(domain):
            raise _syntax("The domain is malformed")
        return
    as_ascii = _letters_as_ascii(domain)
    labels = (len(label.encode()) for label in domain.split("."))
    if (
        len(domain.encode()) > DOMAIN_OCTETS
        or max(labels) > _LABEL_OCTETS
        or not _DOMAIN.fullmatch(as_ascii)
    ):
        raise _syntax("The domain is malformed")


def _check_literal(domain: str) -> None:
    """Check an address literal: IPv4, or IPv6 with its tag; no other tag was ever registered."""
    inside = domain[1:-1]
    is_ipv6 = inside[:5].lower() == "ipv6:"
    try:
        if not domain.endswith("]"):
            raise _syntax("The address literal is malformed")
        if is_ipv6 and _DIGITS_OF_IPV6.fullmatch(inside, 5):  # no zone: `fe80::1%eth0` is ours
            ipaddress.IPv6Address(inside[5:])
        else:
            ipaddress.IPv4Address(inside)
    except ValueError as error:
        raise _syntax("The address literal is malformed") from error


def _printable_as_ascii(text: str) -> str:
    """Put a letter for each printable non-ASCII character, so that the ASCII rules can judge."""
    return "".join("x" if c > "\x7f" and c.isprintable() else c for c in text)


def _letters_as_ascii(text: str) -> str:
    """Put a letter for each non-ASCII letter, mark or digit, the only ones a U-label may hold.

    The others stay and fail, among them the full stops of other scripts that IDNA reads as dots.
    """
    return "".join("x" if c > "\x7f" and unicodedata.category(c)[0] in "LMN" else c for c in text)


def _unquoted(local: str) -> str:
    """Say what a local part means once quotes and escapes are taken off."""
    if not local.startswith('"'):
        return local
    return re.sub(r"\\(.)", r"\1", local[1:-1])


def _quoted_where_needed(name: str) -> str:
    if _DOT_STRING.fullmatch(_printable_as_ascii(name)):
        return name
    escaped = name.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def _syntax(message: str) -> Invalid:
    return Invalid(message, code="address_syntax", field="address")
