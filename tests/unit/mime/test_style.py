import pytest

from mailtape.mime.style import clean_parsed, clean_simple


@pytest.mark.parametrize(
    ("style", "kept"),
    [
        ("margin:0", "margin:0"),
        (" Color : RED ;; ", "color:RED"),
        ("font-family:'Helvetica Neue', Arial;x:y", "font-family:'Helvetica Neue', Arial"),
        ("color:rgb(1, 2, 3);position:fixed", "color:rgb(1, 2, 3)"),
        ("", ""),
    ],
)
def test_plain_declarations_need_no_parser(style: str, kept: str) -> None:
    if ";;" in style:
        assert clean_simple(style) is None
        assert clean_parsed(style) == kept
    else:
        assert clean_simple(style) == kept


@pytest.mark.parametrize(
    "value",
    [
        "url(https://example.net)", "url('x')", "URL(x)", r"u\72l(x)", "url(x", "image-set('x' 1x)",
        "var(--a)", "attr(x)", "env(x)", "expression(alert(1))", "element(#x)", "paint(x)",
        "linear-gradient(url(x))", "calc(1px + var(--a))", "calc(calc(1px))", "{}", "[a]", "(a)",
        "@import 'x'", "<!-- x -->", r'"a\3b b"', '"a</p>"',
    ],
)  # fmt: skip
def test_a_value_that_could_load_or_compute_goes(value: str) -> None:
    style = f"background:{value}"

    assert clean_simple(style) is None
    assert clean_parsed(style) == ""


@pytest.mark.parametrize(
    "name",
    ["position", "z-index", "top", "content", "cursor", "filter", "mask", "transform", "animation",
     "background-image", "list-style-image", "border-image", "behavior", "-moz-binding", "--a"],
)  # fmt: skip
def test_a_property_that_could_load_or_place_goes(name: str) -> None:
    assert not clean_simple(f"{name}:x")
    assert clean_parsed(f"{name}:x!important") == ""


def test_important_is_taken_off() -> None:
    assert clean_parsed("color:red !important;margin:0") == "color:red;margin:0"


def test_a_function_that_only_computes_stays() -> None:
    assert clean_parsed("width:calc(100% - 4px)") == "width:calc(100% - 4px)"
