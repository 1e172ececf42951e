"""The judge finds sums of usage that the log does not account for."""

from collections.abc import Callable
from typing import Any

import pytest
from msgspec.structs import asdict

from projector.fold.fold import State, fold
from projector.intake.entries import event_of
from projector.store.usage_rows import Account
from projector.usage.tally import Tally
from tests.chaos.judging import usage
from tests.chaos.judging.entries import of_row
from tests.histories import POOLS, History
from tests.measured_usage import stretched

Rows = list[dict[str, Any]]
ALPHA = POOLS[0]


def judged(change: Callable[[Rows], object]) -> set[str]:
    """What is found once the rows are changed."""
    rows = [row for row in stretched(History(4).write(160), 9_000) if row.pool == ALPHA]
    tally = Tally(ALPHA, {})
    fold(ALPHA, [event_of(row) for row in rows], State(), tally=tally)
    tally.close()
    accounts = [Account(ALPHA, sums.account, *key) for key, sums in tally.sums.items()]
    sums = [asdict(row) for row in tally.rows.values()]
    change(sums)
    entries = [of_row(asdict(row)) for row in rows]
    found = usage.judge(ALPHA, entries, map(asdict, accounts), sums)
    return {offence.why.partition(" is ")[0] for offence in found}


def newest(sums: Rows, account: int = 0) -> dict[str, Any]:
    return max((row for row in sums if row["account"] == account), key=lambda row: row["minute"])


def test_the_sums_of_a_fold_are_no_offence() -> None:
    assert judged(lambda sums: None) == set()


@pytest.mark.parametrize("name", [*usage.COUNTS, *usage.LEVELS, *(f"{n}_ms" for n in usage.LEVELS)])
def test_a_sum_that_is_too_large_is_found(name: str) -> None:
    found = judged(lambda sums: newest(sums).update({name: newest(sums)[name] + 1}))
    assert f"in usage_sums: {name} at the end" in found


def test_an_account_that_is_missing_or_too_many_is_found() -> None:
    def lose(sums: Rows) -> None:
        sums[:] = [row for row in sums if row["account"] == 0]

    assert judged(lose) == {"in usage_sums: missing"}
    stray = {**dict.fromkeys(usage.COUNTS, 0), "account": 7, "pool_name": ALPHA, "minute": 1}
    assert judged(lambda sums: sums.append(stray)) == {"in usage_sums: nothing was used"}


def test_a_span_within_is_compared_too() -> None:
    def shift(sums: Rows) -> None:
        last = newest(sums)
        for row in sums:
            if row["account"] == 0 and row is not last:
                row["requested"] += 1

    assert all(" from " in why for why in judged(shift))
    assert judged(shift)
