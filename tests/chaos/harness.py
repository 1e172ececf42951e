"""The command `tests/chaos/run`: parses its options, runs a campaign, prints the result.

Exit code 0: no offence was found; 1: there was one, and the folder of the run is retained; 2: wrong
use, or the options cannot be met here; 3: the harness itself failed; 130: it was
interrupted, by Ctrl-C or SIGTERM.
"""

import asyncio
import shutil
import signal
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Sequence
from pathlib import Path

from tests.chaos.campaign import Campaign
from tests.chaos.clocks import library
from tests.chaos.disks import mountable
from tests.chaos.faults import FAULTS
from tests.chaos.options import Options, parse
from tests.chaos.planted import PLANTED
from tests.chaos.recovering import available
from tests.chaos.report import summary

LISTED_MAX = 40


def main(argv: Sequence[str]) -> int:
    options = parse(argv)
    if options.list_faults:
        return list_faults(options)
    if options.judge is not None:
        from tests.chaos.rejudging import judge_again

        return judge_again(options.judge)
    if options.plant and options.plant not in PLANTED:
        print(
            f"there is no bug {options.plant!r}; there are: {', '.join(PLANTED)}", file=sys.stderr
        )
        return 2
    try:
        faults = choose(options)
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    return run(options, faults)


def possible(options: Options) -> dict[str, str]:
    """What each need of a fault lacks here; a need that is met is not in it."""
    lacks = {}
    if not mountable():
        lacks["mounts"] = "this user cannot mount a disk"
    if library() is None:
        lacks["clocks"] = "libfaketime is not installed (Debian: apt-get install faketime)"
    if options.views != "postgresql":
        lacks["postgresql"] = "the views of this run stand in SQLite"
    if not available():
        lacks["recover"] = "this Muster has no `muster recover`"
    return lacks


def choose(options: Options) -> tuple[str, ...]:
    """The faults of this run. Raises `ValueError` for one that does not exist or cannot be done."""
    lacks = possible(options)
    if not options.faults:
        skipped = [n for n, fault in FAULTS.items() if any(need in lacks for need in fault.needs)]
        for name in skipped:
            reasons = [lacks[need] for need in FAULTS[name].needs if need in lacks]
            print(f"skipped: {name}: {', '.join(reasons)}")
        return tuple(name for name in FAULTS if name not in skipped)
    for name in options.faults:
        if name not in FAULTS:
            raise ValueError(f"there is no fault {name!r}; there are: {', '.join(FAULTS)}")
        for need in FAULTS[name].needs:
            if need in lacks:
                raise ValueError(f"{name} cannot be done: {lacks[need]}")
    return options.faults


def list_faults(options: Options) -> int:
    lacks = possible(options)
    for fault in FAULTS.values():
        reasons = [lacks[need] for need in fault.needs if need in lacks]
        note = f"  [not here: {', '.join(reasons)}]" if reasons else ""
        print(f"{fault.name:28} {fault.does}{note}")
    return 0


def run(options: Options, faults: tuple[str, ...]) -> int:
    folder = options.keep or Path(tempfile.mkdtemp(prefix="muster-chaos-"))
    folder = folder.resolve()
    if options.keep is not None and folder.exists() and any(folder.iterdir()):
        print(f"{folder} is not empty", file=sys.stderr)
        return 2
    print(
        f"seed {options.seed}: {options.minutes:g} min, appendfsync {options.appendfsync},"
        f" views in {options.views}, recovered by a {options.recovers},"
        f" {len(faults)} kinds of faults"
        + (f", planted bug {options.plant}" if options.plant else "")
    )
    try:
        code = asyncio.run(_run(folder, options, faults))
    except (KeyboardInterrupt, asyncio.CancelledError):
        code = 130
    except Exception:  # noqa: BLE001  # whatever it is, it is not a verdict
        traceback.print_exc()
        code = 3
    if code not in (1, 3) and options.keep is None:
        shutil.rmtree(folder, ignore_errors=True)
    return code


async def _run(folder: Path, options: Options, faults: tuple[str, ...]) -> int:
    campaign = Campaign(folder, options, faults)
    running = asyncio.current_task()
    assert running is not None
    for number in (signal.SIGINT, signal.SIGTERM):  # SIGINT also where a shell has it ignored
        asyncio.get_running_loop().add_signal_handler(number, running.cancel)
    try:
        await campaign.run()
        return _print_result(campaign, folder)
    finally:
        await campaign.close()
        _save_disks(campaign)


def _print_result(campaign: Campaign, folder: Path) -> int:
    for line in summary(campaign.journal, campaign.figures, campaign.desk.answers):
        campaign.line.say(line)
    offences = campaign.offences
    for offence in offences[:LISTED_MAX]:
        campaign.line.say(f"VIOLATION: {offence}")
    if len(offences) > LISTED_MAX:
        campaign.line.say(f"… and {len(offences) - LISTED_MAX} more, in violations.txt")
    if not offences:
        campaign.line.say(f"verdict: nothing found wrong (seed {campaign.options.seed})")
        return 0
    (folder / "violations.txt").write_text("\n".join(offences) + "\n")
    again = f"tests/chaos/run --judge {folder}"
    campaign.line.say(f"verdict: {len(offences)} violations (seed {campaign.options.seed})")
    campaign.line.say(f"retained: {folder}; to judge it again: {again}")
    return 1


def _save_disks(campaign: Campaign) -> None:
    """Copy the data on mounted disks to the run's folder, and unmount the disks."""
    for disk in campaign.system.disks.values():
        if not disk.folder.exists():
            continue
        disk.free()
        copy = disk.folder.with_name(f"{disk.folder.name}.kept")
        # With owners: PostgreSQL's files belong to another user.
        subprocess.run(["cp", "-a", disk.folder, copy], check=False, capture_output=True)
        disk.unmount()
        if copy.exists() and disk.folder.exists() and not any(disk.folder.iterdir()):
            disk.folder.rmdir()
            copy.rename(disk.folder)
