from email.message import EmailMessage

from mailtape.domain.message import AttachmentFacts, Mailbox
from mailtape.mime.sanitise import HELD_BACK
from mailtape.mime.understand import understand, unparsed


def an_order() -> bytes:
    mail = EmailMessage()
    mail["From"] = "Ann Müller <ann@example.org>"
    mail["To"] = "Bob <bob@example.net>, c@example.net"
    mail["Cc"] = "d@example.net"
    mail["Reply-To"] = "replies@example.org"
    mail["Subject"] = "Grüße: your order"
    mail.set_content("Hello Bob,\nyour code is 123456.\n")
    mail.add_alternative(
        '<p>Hello <img src="cid:logo@x"><img src="https://example.org/pixel"></p>', subtype="html"
    )
    mail.get_payload()[1].add_related(b"\x89PNG", "image", "png", cid="<logo@x>")
    mail.add_attachment(b"%PDF", "application", "pdf", filename="order.pdf")
    return mail.as_bytes().replace(b"\n", b"\r\n")


def test_a_mail_is_summed_up() -> None:
    summary = understand(an_order()).summary

    assert summary.sender == Mailbox("Ann Müller", "ann@example.org")
    assert summary.to == (Mailbox("Bob", "bob@example.net"), Mailbox("", "c@example.net"))
    assert summary.subject == "Grüße: your order"
    assert summary.snippet == "Hello Bob, your code is 123456."
    assert summary.attachments == 2
    for word in ("Grüße", "Ann", "bob@example.net", "d@example.net", "123456"):
        assert word in summary.search_text


def test_a_mail_is_shown_with_its_own_pictures_and_no_others() -> None:
    content = understand(an_order()).content

    assert content.html is not None
    assert '<img src="attachments/1">' in content.html
    assert f'<img src="{HELD_BACK}https://example.org/pixel">' in content.html
    assert content.text == "Hello Bob,\nyour code is 123456.\n"
    assert content.cc == (Mailbox("", "d@example.net"),)
    assert content.reply_to == (Mailbox("", "replies@example.org"),)
    assert content.defects == ()
    assert [name for name, _ in content.headers][:3] == ["From", "To", "Cc"]


def test_attachments_are_numbered_and_come_with_their_bytes() -> None:
    understood = understand(an_order())

    logo, order = understood.content.attachments
    assert (logo.id, logo.content_id, logo.content_type) == ("1", "logo@x", "image/png")
    assert order == AttachmentFacts(
        id="2",
        filename="order.pdf",
        content_type="application/pdf",
        size=4,
        sha256="315d429b7714cedb6ad04ac31240145257692630457f3c88253c5beceac76027",
        content_id="",
    )
    assert understood.attachments == (b"\x89PNG", b"%PDF")


def test_a_mail_of_html_alone_has_its_text() -> None:
    raw = b"Content-Type: text/html\r\n\r\n<h1>Hi</h1><p>one &amp; two<br>three<script>x</script>"

    understood = understand(raw)

    assert understood.content.text == "Hi\n\none & two\nthree"
    assert understood.summary.snippet == "Hi one & two three"


def test_a_code_within_a_plugin_is_found_and_a_page_without_a_trace_is_told() -> None:
    shown = understand(b"Content-Type: text/html\r\n\r\n<object data=x.swf><p>Your code is 1234")
    gone = understand(b"Content-Type: text/html\r\n\r\n<iframe>Your code is 1234</iframe>")

    assert shown.content.text == shown.summary.snippet == "Your code is 1234"
    assert shown.content.defects == ()
    assert gone.content.defects == ("html_empty",)


def test_a_mail_that_must_not_be_touched_is_listed_by_its_header() -> None:
    understood = unparsed(an_order())

    assert understood.summary.subject == "Grüße: your order"
    assert understood.summary.sender.address == "ann@example.org"
    assert understood.content.defects == ("unparsed",)
    assert (understood.content.text, understood.content.html) == (None, None)
    assert understood.content.attachments == understood.attachments == ()


def test_nothing_at_all_is_a_mail_too() -> None:
    understood = understand(b"")

    assert understood.summary.sender == Mailbox("", "")
    assert understood.content.headers == ()
    assert understood.content.text == ""
