"""Configuration and command lines are read, or refused in one line: no traceback, no hanging."""

import argparse
import contextlib
import io
import tempfile
from pathlib import Path

import msgspec
from hypothesis import example, given
from hypothesis import strategies as st

from eventstore.errors import ConfigurationError
from eventstore.language.events import Error
from muster.cli.arguments import values
from muster.cli.arguments.command import BadInput, Refused, print_error, print_note
from muster.cli.arguments.values import span_seconds, time_ms
from muster.cli.client.api_client import Answer, Problem
from muster.cli.client.shapes import AgentAnswer
from muster.cli.events import logs
from muster.cli.events.logs import line_cells
from muster.cli.main import command_line
from muster.settings import loading
from muster.settings.addresses import redacted
from muster.settings.environment import to_environment
from muster.settings.settings import Settings
from muster.terminal import render
from muster.terminal.log_reader import read_line
from tests.hostile import JSON_TEXTS, LONG, NUMERALS, TEXTS, nested, thorough

NAMES = [name for name in Settings.__struct_fields__ if name != "sources"]
ENVIRONMENT = st.sampled_from(
    [*(f"MUSTER_{name.upper()}" for name in NAMES), "REDIS_URL", "REDIS_HOST", "REDIS_PORT",
     "REDIS_PASSWORD", "REDIS_DB", "DATABASE_URL", "PGBOUNCER_URL"]
)  # fmt: skip
SHELL_TEXTS = TEXTS.filter(lambda text: "\x00" not in text)
"""What a shell can hand over; bytes that are no UTF-8 come as lone surrogates."""


def check_message(error: Exception) -> None:
    """A refusal is for people: short, and not empty."""
    assert 0 < len(str(error)) < 2_000


@given(environment=st.dictionaries(ENVIRONMENT, st.one_of(SHELL_TEXTS, NUMERALS), max_size=3))
@example(environment={"REDIS_HOST": "h", "REDIS_PORT": "9" * LONG})
@example(environment={"REDIS_HOST": "h", "REDIS_PASSWORD": "\ud800"})
@example(environment={"MUSTER_PORT": "9" * LONG})
@example(environment={"MUSTER_REDIS_URL": "redis://[::1"})
@example(environment={"MUSTER_REDIS_URL": "redis://h:99999/0"})
@example(environment={"MUSTER_SHUTDOWN_SECONDS": "nan"})
@example(environment={"MUSTER_CONFIG": "/proc/self/mem"})
@thorough
def test_the_environment(environment: dict[str, str]) -> None:
    """An accepted address can be shown without its password, and passed to a child process."""
    try:
        found = loading.load({}, environment)
        redacted(found.redis_url)
        redacted(found.views_url)
        to_environment(found)
    except ConfigurationError as error:
        check_message(error)


TOML = st.one_of(
    TEXTS,
    st.builds("{} = {}\n".format, st.sampled_from(NAMES), NUMERALS),
    st.builds('{} = "{}"\n'.format, st.sampled_from(NAMES), TEXTS),
    st.builds(
        "[roles.r]\nagent = 'a:B'\n[pools.p]\nrole = 'r'\nmax_workers = {}\n".format, NUMERALS
    ),
    st.builds("[roles.r]\nagent = {!r}\n[pools.p]\nrole = {!r}\n".format, TEXTS, TEXTS),
    st.sampled_from(
        [
            "x = " + nested(2_000),
            "x = " + nested(2_000, "{a=", "}"),
            "[" + ".".join("a" * 10_000) + "]",
            "port = " + "9" * LONG,
            "port = nan",
            "port = 2026-11-24",
            "roles = 7",
            "[roles]\nr = 7",
            "pools = []",
            "[[pools]]",
            "port = 1\nport = 2",
            "\ufeffport = 1",
        ]
    ),
)


@given(text=TOML)
@example(text="x = " + nested(2_000))
@example(text="port = " + "9" * LONG)
@thorough
def test_the_configuration_file(text: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "muster.toml"
        file.write_bytes(text.encode(errors="surrogateescape" if _escaped(text) else "replace"))
        try:
            loading.load({"config": str(file)}, {})
        except ConfigurationError as error:
            check_message(error)


def _escaped(text: str) -> bool:
    """Whether all letters outside of UTF-8 represent a byte."""
    return not any(0xD800 <= ord(c) <= 0xDFFF and not 0xDC80 <= ord(c) <= 0xDCFF for c in text)


SPANS = st.builds("{}{}".format, NUMERALS, st.sampled_from(["ms", "s", "m", "h", "d", "d ago", ""]))
CLOCKS = st.builds("{:02}:{:02}".format, st.integers(0, 99), st.integers(0, 99))


@given(text=st.one_of(SPANS, CLOCKS, NUMERALS, TEXTS, st.datetimes().map(str), st.dates().map(str)))
@example(text="9" * 400 + "d")
@example(text="9" * 30 + "d")
@example(text="9" * 5_000)
@example(text="0001-01-01")
@example(text="9999-12-31T23:59:59-23:59")
@thorough
def test_a_point_in_time(text: str) -> None:
    """An accepted time can be written as a stream's id."""
    span_seconds(text)
    try:
        assert 0 <= time_ms(text, "--since", now=1_795_000_000.0) < 2**63
    except BadInput as error:
        check_message(error)


@given(text=st.one_of(TEXTS, NUMERALS, JSON_TEXTS.map(lambda raw: raw.decode(errors="replace"))))
@example(text=nested(2_000))
@example(text="@" + "a" * 5_000)
@example(text="@\x00")
@example(text="@/")
@thorough
def test_arguments(text: str) -> None:
    for read in (
        lambda t: values.pairs([t, t], "--label"),
        lambda t: values.json_object(t, "--input"),
        lambda t: values.seconds(t, "--wait"),
        values.setting,
    ):
        if text == "@-":
            continue
        try:
            read(text)
        except BadInput as error:
            check_message(error)


PARSER = command_line()
COMMANDS = (
    ["logs", "--log-dir", "/nowhere", "-n"],
    ["logs", "--log-dir", "/nowhere", "--since"],
    ["logs", "--log-dir", "/nowhere", "--pool"],
    ["ps", "--limit"],
    ["up", "--port"],
    ["gateway", "--port"],
    ["ps", "--label"],
)


@given(command=st.sampled_from(COMMANDS), value=SHELL_TEXTS)
@example(command=COMMANDS[0], value="9" * 5_000)
@example(command=COMMANDS[3], value="9" * 5_000)
@example(command=COMMANDS[4], value="9" * 5_000)
@thorough
def test_a_flag(command: list[str], value: str) -> None:
    """Whatever its value, parsing ends in arguments, or in a usage error of argparse."""
    code: object = 2
    with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
        try:
            args = PARSER.parse_args([*command, value])
            with contextlib.suppress(BadInput, ConfigurationError, Refused):
                _parse_only(args)
        except SystemExit as ended:
            code = ended.code
    assert code in (0, 2)


def _parse_only(args: argparse.Namespace) -> None:
    """Parse the flags, without starting any work."""
    if args.command == "logs":
        logs.run(args)
    elif args.command in ("up", "gateway"):
        loading.load(vars(args), {})


# ---- what comes back -------------------------------------------------------------------------


@given(raw=JSON_TEXTS)
@example(raw=nested(2_000).encode())
@thorough
def test_an_answer(raw: bytes) -> None:
    for shape in (AgentAnswer, Problem, object):
        with contextlib.suppress(Refused):
            Answer(200, raw).read(shape)


LINES = st.builds(
    msgspec.json.encode,
    st.dictionaries(
        st.sampled_from(["ts", "level", "event", "message", "agent_id", "exception", "x"]),
        st.one_of(st.none(), st.booleans(), st.integers(-(2**63), 2**64 - 1), st.text(),
                  st.floats(allow_nan=False, allow_infinity=False)),
    ),
)  # fmt: skip


@given(raw=st.one_of(LINES, JSON_TEXTS))
@example(raw=nested(2_000).encode())
@example(raw=b'{"ts": 1e300}')
@example(raw=b'{"ts": -1e300}')
@example(raw=b'{"ts": "0001-01-01T00:00:00"}')
@example(raw=b'{"ts": 18446744073709551616000}')
@thorough
def test_a_line_of_a_log(raw: bytes) -> None:
    """It is shown, and nothing in it reaches the terminal but text."""
    line = read_line(raw, 0.0, Path("logs/p/w.jsonl"))
    shown = render.join(line_cells(line, short=False))
    assert not any(ord(letter) < 32 and letter not in "\n\t" for letter in shown)
    assert "\x7f" not in shown


@given(text=st.text())
@example(text="\x1b]0;a title\x07\x1b[31mred")
@example(text="all is well\rmuster: fine")
@example(text="\u202egnp.exe")
@thorough
def test_errors_are_printed_without_control_characters(text: str) -> None:
    """The message may be an agent's own: its exception, come back as a problem."""
    problem = Problem(detail=text, error=Error(type=text, message=text))
    with contextlib.redirect_stderr(io.StringIO()) as said:
        print_error("spawn", Refused(str(problem)))
        print_note(text)
    shown = said.getvalue()
    assert not any(ord(letter) < 32 and letter not in "\n\t" for letter in shown)
    assert not set(shown) & set("\x7f\x9b\u202e\u2066\u2028")
