"""A run of the harness is determined by its seed."""

from itertools import islice

from tests.chaos.options import parse
from tests.chaos.planted import PLANTED
from tests.chaos.schedule import rounds, stream

NAMES = ("a", "b", "c", "d", "e")


def test_the_same_seed_gives_the_same_schedule():
    """A run that found something can be asked for again."""
    assert list(islice(rounds(7, NAMES), 50)) == list(islice(rounds(7, NAMES), 50))
    assert list(islice(rounds(7, NAMES), 50)) != list(islice(rounds(8, NAMES), 50))


def test_every_fault_comes_before_any_comes_again():
    """A short run is not five times the same fault."""
    seen = [one.fault for planned in islice(rounds(3, NAMES), 60) for one in planned.injections]
    for start in range(0, len(NAMES) * 5, len(NAMES)):
        assert sorted(seen[start : start + len(NAMES)]) == sorted(NAMES)


def test_some_faults_overlap_and_none_overlaps_itself():
    """Two failures at once are where promises break; a fault undoes only what it did itself."""
    planned = list(islice(rounds(1, NAMES), 200))
    sizes = {len(one.injections) for one in planned}
    assert sizes == {1, 2}
    for one in planned:
        faults = [injection.fault for injection in one.injections]
        assert len(set(faults)) == len(faults)


def test_each_fault_draws_from_a_generator_of_its_own():
    """So that what one fault hits does not depend on how much another has drawn."""
    seeds = [i.seed for planned in islice(rounds(1, NAMES), 40) for i in planned.injections]
    assert len(set(seeds)) == len(seeds)
    assert stream(1, "a").random() == stream(1, "a").random()
    assert stream(1, "a").random() != stream(1, "b").random()


def test_options_that_are_not_set_are_drawn_from_the_seed():
    """One number says how to repeat a run, the kind of its servers included."""
    first, again = parse(["--seed", "5"]), parse(["--seed", "5"])
    assert first == again
    drawn = {(o.appendfsync, o.views) for o in (parse(["--seed", str(n)]) for n in range(40))}
    assert len(drawn) == 4


def test_set_options_win():
    said = parse(["--seed", "5", "--views", "sqlite", "--appendfsync", "always", "--faults", "a,b"])
    assert (said.views, said.appendfsync, said.faults) == ("sqlite", "always", ("a", "b"))


def test_every_planted_bug_names_existing_faults():
    """Else the run would be refused, which looks as if the bug had been found."""
    from tests.chaos.faults import FAULTS

    named = {fault for planted in PLANTED.values() for fault in planted.faults}
    assert named <= set(FAULTS)
