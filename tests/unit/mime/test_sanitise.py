import pytest

from mailtape.mime.limits import DEFAULT, Limits
from mailtape.mime.sanitise import HELD_BACK, sanitise_html

PICTURES = {"logo@x": "1", "pic.png": "2", "https://example.org/own.png": "3"}


def safe(html: str) -> str:
    return sanitise_html(html, cid_to_attachment=PICTURES, limits=DEFAULT)[0]


@pytest.mark.parametrize(
    ("html", "expected"),
    [
        ("<p>x</p><script>alert(1)</script>", "<p>x</p>"),
        ("<style>p{color:red}</style><p class=x id=y>x", "<p>x</p>"),
        ("<svg><p>x</svg><math><mi>y</math>z", "<p>xz</p>"),
        ("<form action=x><input name=q>ask</form>", "ask"),
        ("<title>t</title><noscript>n</noscript>b", "b"),
        ("<p onclick=alert(1)>x</p>", "<p>x</p>"),
        ("<!-- c --><b>x</b>", "<b>x</b>"),
        ("<table width=100% bgcolor=red><tr><td nowrap>x</table>",
         '<table width="100%" bgcolor="red"><tbody><tr><td nowrap="">x</td></tr></tbody></table>'),
    ],
)  # fmt: skip
def test_keeps_only_what_is_allowed(html: str, expected: str) -> None:
    found = safe(html)

    if "<svg>" in html:
        assert "svg" not in found
        assert "math" not in found
    else:
        assert found == expected


@pytest.mark.parametrize(
    ("html", "expected"),
    [
        ('<object data="x.swf"><p>Your code is 1234</p></object>z', "<p>Your code is 1234</p>z"),
        ('<object data="x.swf"><p>Your code is 1234</p>z', "<p>Your code is 1234</p>z"),
        ("<video src=x><source src=y><track src=z>code <b>1", "code <b>1</b>"),
        ("<audio src=x autoplay>code</audio>z", "codez"),
        ("<canvas id=x><p>code</p></canvas>z", "<p>code</p>z"),
        ("<applet code=x><param name=y>code</applet>z", "codez"),
        ("<p>a<object><p>code</object>z", "<p>a</p><p>code</p>z<p></p>"),
        ("<object><script>alert(1)</script><style>p{}</style>code", "code"),
        ("<iframe src=x>frame</iframe><xmp>x</xmp><noembed>n</noembed>z", "z"),
    ],
)
def test_what_stands_in_for_a_plugin_or_a_player_is_shown(html: str, expected: str) -> None:
    assert safe(html) == expected


@pytest.mark.parametrize(
    "html",
    [
        "<noscript><p>Your code is 1234</p></noscript>",
        "<svg><text>Your code is 1234</text></svg><p> </p>",
        "<iframe>Your code is 1234",
        "<template><p>Your code is 1234</template><div>&nbsp;<br></div>",
    ],
)
def test_a_page_of_which_nothing_is_left_says_so(html: str) -> None:
    found, defects = sanitise_html(html, cid_to_attachment=PICTURES, limits=DEFAULT)

    assert "1234" not in found
    assert defects == ("html_empty",)


@pytest.mark.parametrize(
    "html",
    [
        "", " \n", "<p></p>", "<!-- code -->", "<title>t</title><style>p{}</style><p>&nbsp;",
        "<script>alert(1)</script>", "<svg>a</svg><img src=cid:logo@x>", "<svg>a</svg><p>b",
        "<svg>a</svg><hr>",
    ],
)  # fmt: skip
def test_a_page_that_was_empty_or_is_not_is_no_defect(html: str) -> None:
    assert sanitise_html(html, cid_to_attachment=PICTURES, limits=DEFAULT)[1] == ()


@pytest.mark.parametrize(
    ("src", "expected"),
    [
        ("cid:logo@x", "attachments/1"),
        ("CID:%6Cogo@X", "attachments/1"),
        ("cid:<logo@x>", "attachments/1"),
        ("pic.png", "attachments/2"),
        ("https://example.org/own.png", "attachments/3"),
        ("attachments/2", "attachments/2"),
        ("https://example.net/a?b&c", HELD_BACK + "https://example.net/a?b&amp;c"),
        (" HTTP://example.net/", HELD_BACK + "HTTP://example.net/"),
        ("data:image/png;base64,AAAA", "data:image/png;base64,AAAA"),
        (HELD_BACK + "https://example.net/", HELD_BACK + "https://example.net/"),
        ("cid:unknown", None),
        ("attachments/9", None),
        ("attachments/../1", None),
        ("//example.net/x", None),
        ("/x", None),
        ("x.png", None),
        ("https:example.net", None),
        ("data:image/svg+xml;base64,AAAA", None),
        ("data:text/html,x", None),
        (HELD_BACK + "javascript:x", None),
        ("ftp://example.net/x", None),
    ],
)
def test_a_picture_is_ours_held_back_or_gone(src: str, expected: str | None) -> None:
    attribute = "" if expected is None else f' src="{expected}"'

    assert safe(f'<img src="{src}">') == f"<img{attribute}>"


def test_a_background_is_a_picture() -> None:
    assert safe("<table background=https://example.net/x></table>") == (
        f'<table background="{HELD_BACK}https://example.net/x"></table>'
    )
    assert safe("<table background=javascript:x></table>") == "<table></table>"


@pytest.mark.parametrize(
    ("href", "kept"),
    [
        ("https://example.org/a?b", "https://example.org/a?b"),
        ("mailto:a@b", "mailto:a@b"),
        ("tel:+49", "tel:+49"),
        ("ht\ntps://example.org", "https://example.org"),
        ("javascript:alert(1)", None),
        ("java\tscript:alert(1)", None),
        ("data:text/html,x", None),
        ("//example.org", None),
        ("/x", None),
        ("#x", None),
        ("cid:logo@x", None),
        ("https:example.org", None),
    ],
)
def test_a_link_leads_out_in_a_new_window_or_nowhere(href: str, kept: str | None) -> None:
    attribute = "" if kept is None else f'href="{kept}" '

    assert safe(f'<a href="{href}">x</a>') == (
        f'<a {attribute}target="_blank" rel="noopener noreferrer nofollow">x</a>'
    )


@pytest.mark.parametrize(
    ("html", "defect"),
    [
        ("<div>" * 20_000, "html_too_complex"),
        ("<b " + " ".join(f"a{n}" for n in range(200_000)) + ">", "html_too_complex"),
        (
            "<p>" + "".join(f"<b title=a{n}>" for n in range(500)) + "<p>x" * 5_000,
            "html_too_complex",
        ),
        ("x" * (DEFAULT.html_chars + 1), "html_too_long"),
        ("<p style='" + "color:red;" * 1_000 + "'>", "style"),
        ("<img src='data:image/png;base64," + "A" * DEFAULT.data_url_chars + "'>", "picture"),
    ],
)
def test_what_outgrows_its_limit_is_cut_and_told(html: str, defect: str) -> None:
    found, defects = sanitise_html(html, cid_to_attachment={}, limits=DEFAULT)

    assert defects == (defect,)
    assert len(found) <= 4 * DEFAULT.html_chars


def test_many_different_styles_are_parsed_up_to_a_limit() -> None:
    html = "".join(f"<p style='color:rgb({n} 0 0 / 1)'>" for n in range(100))

    found, defects = sanitise_html(html, cid_to_attachment={}, limits=Limits(styles_chars=240))

    assert defects == ("style",)
    assert 0 < found.count("style=") < 100


def test_nested_tables_of_a_real_newsletter_are_left_whole() -> None:
    html = "<table><tr><td>" * 40 + "x" + "</td></tr></table>" * 40 + "<p>y</p>" * 2_000

    found, defects = sanitise_html(html, cid_to_attachment={}, limits=DEFAULT)

    assert defects == ()
    assert found.count("<p>y</p>") == 2_000
