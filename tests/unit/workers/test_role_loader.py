"""Loading role classes: what is refused, and with which message."""

import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from eventstore.errors import ConfigurationError
from workers.api.agent import Placeholder
from workers.api.role_loader import RESERVED_PACKAGES, add_to_path, load


@pytest.fixture
def app(tmp_path: Path) -> Iterator[Path]:
    """A folder with a user's code; modules and path are forgotten afterwards."""
    modules, path = set(sys.modules), list(sys.path)
    yield tmp_path
    sys.path[:] = path
    for name in set(sys.modules) - modules:
        del sys.modules[name]


def write(app: Path, text: str) -> None:
    (app / "acme_code.py").write_text(f"from workers.api.agent import Agent\n{text}\n")


def test_a_class_is_imported_from_the_users_folder(app: Path):
    write(app, "class Developer(Agent):\n    pass")
    loaded = load("acme_code:Developer", str(app))
    assert (loaded.role.__name__, loaded.cannot_fork) == ("Developer", ())
    assert sys.path[-1] == str(app)


def test_the_builtin_agent_is_a_role():
    assert load("workers.builtin:Placeholder").role is Placeholder


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("acme_code", "expected the form"),
        ("acme_code:Missing", "has no 'Missing'"),
        ("acme_code:function", "must be a class derived from muster.Agent"),
        ("acme_code:Other", "must be a class derived from muster.Agent"),
        ("not_there:Developer", "No module named 'not_there'"),
    ],
)
def test_a_wrong_path_is_refused_with_what_was_expected(app: Path, path: str, message: str):
    write(app, "class Other: pass\ndef function(): pass")
    with pytest.raises(ConfigurationError, match=message):
        load(path, str(app))


@pytest.mark.parametrize("statement", ["raise ValueError('broken')", "raise SystemExit('broken')"])
def test_a_failing_import_is_shown_with_the_users_frames_only(app: Path, statement: str):
    write(app, statement)
    with pytest.raises(ConfigurationError, match="broken") as caught:
        load("acme_code:Developer", str(app))
    text = str(caught.value)
    assert 'acme_code.py", line 2' in text
    assert "roles.py" not in text
    assert "importlib" not in text


@pytest.mark.parametrize("name", RESERVED_PACKAGES)
@pytest.mark.parametrize("as_package", [True, False])
def test_a_folder_with_a_module_of_our_name_is_refused(app: Path, name: str, as_package: bool):
    """Our import names are generic: a user's `workers` must not be mixed with Muster's."""
    target = app / name / "__init__.py" if as_package else app / f"{name}.py"
    target.parent.mkdir(exist_ok=True)
    target.touch()
    with pytest.raises(ConfigurationError, match=f"named '{name}'"):
        add_to_path(str(app))
    assert str(app) not in sys.path


def test_musters_own_folder_may_contain_a_users_code_too():
    """A user who runs from a clone has a configuration file there."""
    path = list(sys.path)
    add_to_path(str(Path(__file__).parents[3]))
    sys.path[:] = path


def test_a_missing_folder_is_refused(app: Path):
    with pytest.raises(ConfigurationError, match="is not there"):
        add_to_path(str(app / "nowhere"))


def test_an_import_that_starts_threads_is_reported(app: Path):
    """A fork would not copy them."""
    write(
        app,
        "import threading\n"
        "go = threading.Event()\n"
        "threading.Thread(target=go.wait, name='poller', daemon=True).start()\n"
        "class Developer(Agent): pass",
    )
    loaded = load("acme_code:Developer", str(app))
    assert loaded.cannot_fork == ("poller",)
    sys.modules["acme_code"].go.set()
    next(t for t in threading.enumerate() if t.name == "poller").join()


def test_an_import_that_opens_connections_is_reported(app: Path):
    """All forks would use the same one."""
    write(
        app,
        "import socket\nconnection = socket.socketpair()\nclass Developer(Agent): pass",
    )
    assert load("acme_code:Developer", str(app)).cannot_fork == ("a connection",) * 2
    for one in sys.modules["acme_code"].connection:
        one.close()
