"""How many connections the crowd of `.ci/outside` is, and what is said where it is no whole one."""

import pytest

from tests.outside.crowd import CROWD, FILES_BESIDE, possible

ENOUGH = CROWD + FILES_BESIDE
CI = {"CI": "true"}


@pytest.mark.parametrize("environ", [{}, CI])
@pytest.mark.parametrize("hard", [ENOUGH, 10 * ENOUGH])
def test_a_limit_with_room_for_all_is_no_matter(hard: int, environ: dict[str, str]) -> None:
    assert possible(hard, environ) == (10_000, "")


@pytest.mark.parametrize("hard", [256, 4_096, ENOUGH - 1])
def test_fewer_than_all_fail_in_ci_with_what_to_do(hard: int) -> None:
    count, said = possible(hard, CI)
    assert count == 0
    for part in (
        f"(ulimit -Hn) is {hard:,}",
        "`ulimit -n 10500`",
        "With CI=true that is a failure",
    ):
        assert part in said


@pytest.mark.parametrize("environ", [{}, {"CI": ""}, {"CI": "false"}])
def test_elsewhere_fewer_do_and_the_number_is_said(environ: dict[str, str]) -> None:
    count, said = possible(4_096, environ)
    assert count == 3_596
    assert said.startswith("*** ONLY 3,596 OF 10,000 CONNECTIONS")
    assert "failure" not in said


def test_so_few_that_they_say_nothing_fail_everywhere() -> None:
    count, said = possible(1_024, {})
    assert (count, "Fewer than 1,000 say nothing" in said) == (0, True)
