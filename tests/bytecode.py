"""Compiles tests and product once, before the processes of a run start.

In a fresh clone nothing is compiled, and each of the processes would compile all of it: pytest
rewrites the asserts of four hundred files, which takes twice as long as collecting them.
"""

import multiprocessing
import os
import py_compile
import sys
from collections.abc import Sequence
from importlib.util import cache_from_source
from pathlib import Path

import pytest
from _pytest.assertion import rewrite
from _pytest.assertion.rewrite import assertstate_key

PACKAGES = ("eventstore", "projector", "workers", "gateway", "muster", "tests")
MISSING_MIN = 50
"""With fewer, those who import them may compile them."""


def compile_missing(config: pytest.Config) -> None:
    """Compile what was never compiled, on all processors, into the cache that the run will use."""
    folders = (config.rootpath / package for package in PACKAGES)
    missing = [path for folder in folders for path in folder.rglob("*.py") if not _has_code(path)]
    if len(missing) < MISSING_MIN:
        return
    fork, count = multiprocessing.get_context("fork"), os.cpu_count() or 1
    shares = [missing[first::count] for first in range(count)]
    processes = [fork.Process(target=_compile, args=(config, share)) for share in shares]
    for process in processes:
        process.start()
    for process in processes:
        process.join()


def _is_rewritten(path: Path) -> bool:
    return path.name.startswith("test_") or path.name == "conftest.py"


def _rewritten_code(path: Path) -> Path:
    return rewrite.get_cache_dir(path) / (path.stem + rewrite.PYC_TAIL)


def _has_code(path: Path) -> bool:
    code = _rewritten_code(path) if _is_rewritten(path) else Path(cache_from_source(str(path)))
    return code.exists()


def _compile(config: pytest.Config, paths: Sequence[Path]) -> None:
    for path in paths:
        if _is_rewritten(path):
            source, code = rewrite._rewrite_test(path, config)
            target = _rewritten_code(path)
            if rewrite.try_makedirs(target.parent):
                rewrite._write_pyc(config.stash[assertstate_key], code, source, target)
        else:
            py_compile.compile(str(path), doraise=False, quiet=2)


def use_folder(folder: Path) -> None:
    """Where Python is to write no bytecode, this process and those that it starts use `folder`."""
    os.environ["PYTHONPYCACHEPREFIX"] = sys.pycache_prefix = str(folder)
    sys.dont_write_bytecode = False
