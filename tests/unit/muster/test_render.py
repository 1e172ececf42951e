"""Tables for people and for pipes."""

import pytest

from muster.terminal import render

TABLE = render.Table(
    (
        render.Column("ID"),
        render.Column("ROLE", drop=1),
        render.Column("N", right=True),
        render.Column("REASON"),
    ),
    [("a-1", "developer", "7", "waits for a slot"), ("b-22", "", "12", "")],
)


def test_in_a_pipe_columns_are_aligned_and_nothing_is_left_out():
    assert render.plain(TABLE) == [
        "ID     ROLE         N   REASON",
        "a-1    developer    7   waits for a slot",
        "b-22   -           12   -",
    ]


def test_at_a_narrow_terminal_the_least_important_column_is_dropped_and_the_last_cut():
    lines = [line.plain for line in render.styled(TABLE, 25)]
    assert lines[0] == "ID      N   REASON"
    assert lines[1] == "a-1     7   waits for a …"
    assert all(len(line) <= 25 for line in lines)


def test_at_a_wide_terminal_every_column_stays():
    assert render.styled(TABLE, 80)[1].plain == render.plain(TABLE)[1]


def test_control_characters_of_agents_never_reach_the_terminal():
    """An agent's error message could otherwise write to the operator's terminal."""
    table = render.Table((render.Column("REASON"),), [("\x1b[31mred\nand\tmore\x07",)])
    assert render.plain(table)[1] == "�[31mred and more�"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0s"),
        (59.9, "59s"),
        (200, "3m20s"),
        (3_599, "59m"),
        (5 * 3600 + 720, "5h12m"),
        (9 * 86400, "9d"),
    ],
)
def test_a_span_is_shown_in_two_units_at_most(seconds, text):
    assert render.duration(seconds) == text


def test_the_age_of_a_time_that_is_not_set_is_a_dash():
    assert render.age(0) == "-"
    assert render.age(1_000, now_ms=43_000) == "42s"


def test_a_bar_shows_any_use_and_never_more_than_full():
    assert render.bar(0, 20) == "░" * 10
    assert render.bar(1, 100) == "█" + "░" * 9
    assert render.bar(15, 20) == "█" * 8 + "░" * 2
    assert render.bar(30, 20) == "█" * 10
    assert render.bar(0, 0) == "░" * 10


def test_ids_are_shortened_to_their_random_end():
    assert render.short_id("01936b3e-7c1f-7e60-9f52-8b0f9a1c2d3e") == "…9a1c2d3e"
    assert render.short_id("developer_pool") == "developer_pool"
