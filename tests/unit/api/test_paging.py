from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailtape.api.paging import PageQuery, decode_cursor, encode_cursor, page_of
from mailtape.domain.errors import Invalid


@given(st.binary(min_size=16, max_size=16))
def test_a_cursor_comes_back_as_the_id_it_was_made_of(identifier: bytes) -> None:
    cursor = encode_cursor(identifier)

    assert decode_cursor(cursor) == identifier
    assert cursor.replace("-", "").replace("_", "").isalnum()


@given(st.text())
def test_any_other_text_is_refused_and_never_breaks(text: str) -> None:
    with suppress(Invalid):
        assert len(decode_cursor(text)) == 16


@pytest.mark.parametrize("text", ["", "x", "A" * 21, "A" * 23, "A" * 21 + "=", "A" * 21 + "\n"])
def test_refuses_cursors_of_another_shape(text: str) -> None:
    with pytest.raises(Invalid):
        decode_cursor(text)


@pytest.mark.parametrize(("rows", "more"), [(0, False), (1, False), (2, False), (3, True)])
def test_a_page_tells_whether_there_is_another(rows: int, more: bool) -> None:  # noqa: FBT001
    ids = [bytes([n]) * 16 for n in range(rows)]

    page = page_of(ids, PageQuery(limit=2, after=None), key=lambda row: row, show=lambda row: row)

    assert page.items == ids[:2]
    assert (page.next_cursor is not None) is more
    if page.next_cursor is not None:
        assert decode_cursor(page.next_cursor) == ids[1]
