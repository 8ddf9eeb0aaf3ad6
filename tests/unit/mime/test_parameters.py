import time

import pytest

from mailtape.mime.limits import DEFAULT, Limits
from mailtape.mime.parameters import parameters


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("attachment", {}),
        ("", {}),
        ("attachment; filename=a.pdf", {"filename": "a.pdf"}),
        ("attachment;FileName = a.pdf ; size=3", {"filename": "a.pdf", "size": "3"}),
        ('attachment; filename="Report; Q1 2026.pdf"', {"filename": "Report; Q1 2026.pdf"}),
        ('attachment; filename="a\\"; x=\\"b.html"', {"filename": 'a"; x="b.html'}),
        ('attachment; filename="C:\\new\\\\a.pdf"', {"filename": "C:\\new\\a.pdf"}),
        ("attachment; filename=my report (1).pdf", {"filename": "my report (1).pdf"}),
        ("attachment; filename=my report.pdf ;x=y", {"filename": "my report.pdf", "x": "y"}),
        ('attachment; filename="a.pdf; size=3', {"filename": "a.pdf", "size": "3"}),
        ('attachment; "x; filename=a"; filename=b', {"filename": "b"}),
        ("attachment; filename=a; filename=b", {"filename": "a"}),
        ("attachment;;; =x; y; filename=a;", {"filename": "a"}),
        ("text/plain; name='a;b'", {"name": "'a"}),
    ],
)  # fmt: skip
def test_a_parameter_ends_where_its_quotes_do(value: str, expected: dict[str, str]) -> None:
    assert parameters(value, DEFAULT) == expected


@pytest.mark.parametrize(
    ("value", "name"),
    [
        ("x; name*=utf-8''%e2%82%ac.pdf", "€.pdf"),
        ("x; name*=iso-8859-1'de'%fc;name=u", "ü"),
        ("x; name=u; name*=utf-8''%c3%bc", "ü"),
        ("x; name*0*=utf-8''%e2%82; name*1*=%ac.pdf", "€.pdf"),
        ("x; name*1*=%ac.pdf; name*0*=utf-8''%e2%82", "€.pdf"),
        ("x; name*0*=utf-8''%e2%82%ac; name*1=\" 100%25\"; name*2*=%2epdf", "€ 100%25.pdf"),
        ('x; name*0="Report; "; name*1="Q1.pdf"', "Report; Q1.pdf"),
        ("x; name*0=a; name*2=c", "a"),
        ("x; name*1=b; name=a", "a"),
        ("x; name*=no%20charset", "no charset"),
        ("x; name*=''%fc", "ü"),
        ("x; name*=zlib_codec''%78%zz%", "x%zz%"),
        ('x; name*0="=?utf-8?q?=C3=BC"; name*1="=C3=9F?="', "üß"),
    ],
)  # fmt: skip
def test_pieces_of_a_parameter_are_joined_before_they_are_decoded(value: str, name: str) -> None:
    assert parameters(value, DEFAULT)["name"] == name


@pytest.mark.parametrize(
    "value",
    [
        'x; name="=?utf-8?Q?Gr=C3=BC=C3=9Fe=3B?= 1.pdf"',
        "x; name==?utf-8?B?R3LDvMOfZTs=?= 1.pdf",
        'x; name="=?utf-8?Q?Gr=C3?= =?utf-8?Q?=BC=C3=9Fe;?= 1.pdf"',
    ],
)
def test_encoded_words_are_read_where_none_should_be(value: str) -> None:
    assert parameters(value, DEFAULT)["name"] == "Grüße; 1.pdf"


@pytest.mark.parametrize(
    "shape",
    ["; a%d*%d=b", "; name*%d*=%%41%d", "; a%d=%d", '; a%d="%d', "; name*%d%d", ';"%d\\%d',
     ";  %d%d", ';a="%d\\";%d\\";', '\\";%d=%d', '; ="%d\\"%d'],
)  # fmt: skip
def test_a_flood_of_parameters_is_cheap(shape: str) -> None:
    value = "text/plain" + "".join(shape % (number, number) for number in range(10_000))
    unbounded = Limits(parameters=1_000_000, mime_value_bytes=len(value))

    started = time.process_time()
    found = parameters(value, DEFAULT)
    parameters(value, unbounded)

    assert time.process_time() - started < 0.5
    assert len(found) <= DEFAULT.parameters


def test_reads_no_more_than_the_limits() -> None:
    assert parameters("x; a=1; b=2; c=3", Limits(parameters=2)) == {"a": "1", "b": "2"}
    assert parameters("x; a=12345", Limits(mime_value_bytes=8)) == {"a": "123"}
