from mailtape.domain.message import Mailbox
from mailtape.mime.limits import DEFAULT, Limits
from mailtape.mime.preview import search_text, snippet, text_of
from mailtape.mime.sanitise import sanitise_html


def text(html: str) -> str:
    safe, _ = sanitise_html(html, cid_to_attachment={}, limits=DEFAULT)
    return text_of(safe, DEFAULT)


def test_each_block_is_a_line_and_each_cell_a_word() -> None:
    assert text("<p>a  b</p><div>c<b>d</b></div>e<br>f") == "a b\n\ncd\ne\nf"
    assert text("<table><tr><td>a</td><td>b</td></tr><tr><td>c</td></tr></table>") == "a b\n\nc"


def test_what_looks_like_a_tag_in_an_attribute_or_in_text_is_none() -> None:
    assert text('<p title="a>b<c">x</p>') == "x"
    assert text("<p>1 &lt; 2 &amp;lt; 3") == "1 < 2 &lt; 3"


def test_a_snippet_is_one_line_of_the_first_words() -> None:
    assert snippet("  one\n\n two\tthree\u2028four\0 ", DEFAULT) == "one two three four"
    assert len(snippet("word " * 1_000, DEFAULT)) <= DEFAULT.snippet_chars
    assert snippet("x" * 1_000_000, DEFAULT) == "x" * DEFAULT.snippet_chars


def test_a_search_reads_subject_people_and_text_up_to_its_limit() -> None:
    found = search_text(
        "subject", (Mailbox("Ann", "a@b"), Mailbox("", "c@d")), "text" * 10, DEFAULT
    )

    assert found == "subject Ann a@b c@d " + "text" * 10
    assert len(search_text("s", (), "x" * 100, Limits(search_chars=50))) == 50
