"""The number of connections of `.ci/outside`, and its message where they are fewer."""

import pytest

from tests.outside.connections import CONNECTIONS, OTHER_FILES, possible

ENOUGH = CONNECTIONS + OTHER_FILES
CI = {"CI": "true"}


@pytest.mark.parametrize("environ", [{}, CI])
@pytest.mark.parametrize("hard", [ENOUGH, 10 * ENOUGH])
def test_a_limit_above_the_number_of_connections_changes_nothing(
    hard: int, environ: dict[str, str]
) -> None:
    assert possible(hard, environ) == (10_000, "")


@pytest.mark.parametrize("hard", [256, 4_096, ENOUGH - 1])
def test_fewer_connections_fail_in_ci_with_advice(hard: int) -> None:
    count, said = possible(hard, CI)
    assert count == 0
    for part in (
        f"(ulimit -Hn) is {hard:,}",
        "`ulimit -n 10500`",
        "With CI=true that is a failure",
    ):
        assert part in said


@pytest.mark.parametrize("environ", [{}, {"CI": ""}, {"CI": "false"}])
def test_outside_ci_fewer_connections_are_used_and_reported(environ: dict[str, str]) -> None:
    count, said = possible(4_096, environ)
    assert count == 3_596
    assert said.startswith("*** ONLY 3,596 OF 10,000 CONNECTIONS")
    assert "failure" not in said


def test_too_few_connections_fail_everywhere() -> None:
    count, said = possible(1_024, {})
    assert (count, "Fewer than 1,000 say nothing" in said) == (0, True)
