"""State that moves, as users see it: a smaller run of `python -m tests.moving`."""

from pathlib import Path

from tests import moving


async def test_moved_and_killed_agents_go_on_from_what_they_saved_last(tmp_path: Path) -> None:
    outcome = await moving.run(tmp_path, agents=12, moves=2, seed=3)
    assert outcome.wrong == []
    assert outcome.restores >= 12, "one that is killed before its first save has nothing"
    assert outcome.saves > outcome.restores
