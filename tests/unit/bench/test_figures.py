"""The arithmetic of the bench: a wrong quantile or verdict would be believed."""

import pytest

from bench.figures import (
    Figure,
    as_markdown,
    as_text,
    at_least,
    at_most,
    judged_by,
    one_each,
    quantile,
    side_by_side,
)


@pytest.mark.parametrize(("share", "expected"), [(0.50, 51.0), (0.95, 96.0), (0.99, 100.0)])
def test_a_quantile_of_1_to_101_is_what_it_says(share: float, expected: float) -> None:
    assert quantile([float(number) for number in range(101, 0, -1)], share) == expected


def test_a_p99_of_many_equal_times_ignores_one_outlier() -> None:
    assert quantile([2.0] * 999 + [500.0], 0.99) == 2.0


def test_a_rate_is_met_on_the_border_and_above() -> None:
    assert [at_least(0.13).is_met_by(value) for value in (0.129, 0.13, 0.2)] == [False, True, True]


def test_a_time_is_met_on_the_border_and_below() -> None:
    assert [at_most(60).is_met_by(value) for value in (59.9, 60, 60.1)] == [True, True, False]


def test_the_table_says_what_was_missed() -> None:
    figures = [
        Figure("accepted", 0.15, "ratio", at_least(0.13), "of the sink"),
        Figure("list", 41.2, "ms", at_most(30)),
        Figure("detail", 2.04, "ms"),
    ]

    rows = as_text(one_each(figures)).splitlines()

    assert [row.split() for row in rows[1:]] == [
        ["accepted", "0.150", "≥", "0.13", "met", "of", "the", "sink"],
        ["list", "41.2", "ms", "≤", "30", "MISSED"],
        ["detail", "2.0", "ms"],
    ]


def test_the_page_has_one_row_a_figure() -> None:
    table = as_markdown(one_each([Figure("memory, idle", 123.4, "MB", at_most(300))]))

    assert table.splitlines()[-1] == "| memory, idle | 123 MB | ≤ 300 | met |  |"


def test_what_both_shapes_have_stands_side_by_side_each_with_its_own_target() -> None:
    tables = {
        "Embedded": [
            Figure("accepted", 0.15, "ratio", at_least(0.13)),
            Figure("memory", 200, "MB", at_most(300)),
            Figure("visible", 0.1, "ratio"),
        ],
        "Production": [
            Figure("visible", 0.05, "ratio", at_least(0.07)),
            Figure("accepted", 0.09, "ratio", at_least(0.08)),
            Figure("CPU a mail", 2, "ms"),
        ],
    }

    assert side_by_side(tables) == [
        ("figure", "Embedded", "Production"),
        ("accepted", "0.150 (≥ 0.13 met)", "0.090 (≥ 0.08 met)"),
        ("visible", "0.100", "0.050 (≥ 0.07 MISSED)"),
    ]


def test_many_times_make_one_line_with_the_judged_quantile_in_milliseconds() -> None:
    seconds = [number / 1000 for number in range(101)]

    figure = judged_by("list", 0.95, seconds, at_most(50), "at 100 messages")

    assert figure.cells() == (
        "list, p95",
        "95.0 ms",
        "≤ 50",
        "MISSED",
        "p50 50.0, p95 95.0, p99 99.0 ms; 101 requests at 100 messages",
    )
