"""What an agent configures of logging, structlog or warnings silences no neighbour."""

import builtins
import io
import logging
import logging.config
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import structlog

from tests.unit.workers.captured import Captured
from workers.output.capture import Capture

LOGGER = "acme.work"


def speak(text: str = "heard") -> None:
    logging.getLogger(LOGGER).info(text)
    structlog.get_logger("acme").info(text)
    warnings.warn_explicit(text, UserWarning, "x.py", 1, registry={})


def drop(*_: object) -> dict[str, object]:
    raise structlog.DropEvent


def silence_handlers() -> None:
    for handler in (*logging.getLogger().handlers, *logging.getLogger("acme").handlers):
        handler.setLevel(logging.CRITICAL)
        handler.addFilter(lambda record: False)


def empty_root() -> None:
    logging.config.dictConfig({"version": 1, "root": {"handlers": []}})


def basic_config() -> None:
    logging.basicConfig(force=True, level=logging.CRITICAL, stream=io.StringIO())


def silence(name: str | None) -> None:
    logger = logging.getLogger(name)
    logger.setLevel(logging.CRITICAL)
    logger.disabled = True
    logger.propagate = False
    logger.handlers = []
    logger.addFilter(lambda record: False)


def configure_structlog() -> None:
    structlog.configure(
        processors=[drop],
        wrapper_class=structlog.make_filtering_bound_logger(50),
        logger_factory=structlog.ReturnLoggerFactory(),
        cache_logger_on_first_use=True,
    )


def ignore_warnings() -> None:
    warnings.simplefilter("ignore")
    warnings.showwarning = lambda *a, **k: None


def raise_warnings() -> None:
    warnings.resetwarnings()
    warnings.filterwarnings("error")


CONFIGURATIONS: dict[str, Callable[[], object]] = {
    "dictConfig": empty_root,
    "basicConfig": basic_config,
    "structlog": configure_structlog,
    "ignore": ignore_warnings,
    "error": raise_warnings,
    "disable": lambda: logging.disable(logging.CRITICAL),
    "root": lambda: silence(None),
    "parent": lambda: silence("acme"),
    "logger": lambda: silence(LOGGER),
    "handlers": silence_handlers,
    "clear": logging.getLogger().handlers.clear,
    "shutdown": logging.shutdown,
    "captureWarnings": lambda: logging.captureWarnings(True),
}


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_what_one_agent_configures_silences_no_other(
    captured: Captured, recwarn: pytest.WarningsRecorder, name: str
) -> None:
    captured.start()
    warnings.simplefilter("always")
    captured.as_agent(CONFIGURATIONS[name])
    captured.agent("a2").context().run(speak)
    speak("of the worker")
    assert [text for agent, text in captured.texts() if agent == "a2"] == ["heard", "heard"]
    assert [text for agent, text in captured.texts() if not agent] == ["of the worker"] * 2
    assert [str(warning.message) for warning in recwarn.list] == ["heard", "of the worker"]


def replace_capture() -> None:
    logging.Logger.callHandlers = lambda *_: None  # type: ignore[method-assign]


def replace_print() -> None:
    builtins.print = lambda *_: None  # type: ignore[assignment]


DAMAGES: dict[str, tuple[Callable[[], object], str]] = {
    "capture": (replace_capture, "Logger.callHandlers"),
    "print": (replace_print, "builtins.print"),
    "module": (lambda: setattr(logging, "getLogger", lambda _: None), "getLogger"),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_functions_that_an_agent_replaces_are_put_back(captured: Captured, name: str) -> None:
    captured.start()
    damage, what = DAMAGES[name]
    captured.as_agent(damage)
    Capture.check()
    captured.agent("a2").context().run(logging.getLogger(LOGGER).info, "heard")
    print("printed")
    restored = {line["what"] for line in captured.lines() if line.get("event") == "output.restored"}
    assert any(what in name for name in restored)
    heard = [text for _, text in captured.texts() if text != "output.restored"]
    assert heard == ["heard", "printed"]


def test_instrumentation_that_calls_what_it_replaces_stays(captured: Captured) -> None:
    captured.start()
    seen: list[str] = []

    def instrument() -> None:
        wrapped = logging.Logger.callHandlers

        def call_handlers(self: logging.Logger, record: logging.LogRecord) -> None:
            seen.append(record.getMessage())
            wrapped(self, record)

        logging.Logger.callHandlers = call_handlers  # type: ignore[method-assign]

    captured.as_agent(instrument)
    Capture.check()
    captured.as_agent(lambda: logging.getLogger("acme").info("both"))
    assert seen == ["both"]
    assert captured.texts() == [("a1", "both")]


def test_where_workers_share_a_process_agents_have_the_usual_configuration(
    tmp_path: Path,
) -> None:
    """Not that of the process, whose own log they would be in."""
    made, own = Captured(tmp_path), io.StringIO()
    root, handler = logging.getLogger(), logging.StreamHandler(own)
    before = root.level
    root.setLevel(logging.DEBUG)
    root.addHandler(handler)
    processors = structlog.get_config()["processors"]
    structlog.configure(processors=[drop])
    Capture.start(made.output, shared=True)
    made.owner = made.agent("a1")
    made.as_agent(lambda: logging.getLogger("library").info("too low"))
    made.as_agent(lambda: logging.getLogger("acme").info("heard"))
    made.as_agent(lambda: structlog.get_logger().info("heard"))
    logging.getLogger("muster").info("of the process")
    made.stop()
    structlog.configure(processors=processors)
    root.removeHandler(handler)
    root.setLevel(before)
    assert made.texts() == [("a1", "heard"), ("a1", "heard")]
    assert own.getvalue() == "of the process\n"


def test_an_agent_may_silence_itself(captured: Captured) -> None:
    captured.start()

    def quiet() -> None:
        warnings.simplefilter("always")
        silence(LOGGER)
        configure_structlog()
        ignore_warnings()
        speak("unheard")

    captured.as_agent(quiet)
    assert captured.texts() == []


def test_an_agent_may_listen_more_closely(captured: Captured) -> None:
    captured.start()
    neighbour = captured.agent("a2").context()

    def listen() -> None:
        logging.getLogger("library").setLevel(logging.DEBUG)
        logging.getLogger("library.part").debug("heard")
        neighbour.run(logging.getLogger("library.part").debug, "unheard")

    captured.as_agent(listen)
    neighbour.run(logging.getLogger("library.part").debug, "unheard")
    assert captured.texts() == [("a1", "heard")]


def test_a_level_of_ones_own_costs_little_however_many_loggers_there_are(
    captured: Captured,
) -> None:
    """The cached levels of all loggers are not touched; that would be quadratic."""
    captured.start()
    before = set(logging.root.manager.loggerDict)

    def configure() -> None:
        for number in range(3000):
            logging.getLogger(f"many.{number}").setLevel(logging.DEBUG)

    started_at = time.process_time()
    captured.as_agent(configure)
    for name in set(logging.root.manager.loggerDict) - before:
        del logging.root.manager.loggerDict[name]
    assert time.process_time() - started_at < 0.5


def test_handlers_of_an_agent_get_its_own_records(captured: Captured, tmp_path: Path) -> None:
    """Else each of ten agents with a file of its own would write ten times as much."""
    captured.start()
    file = tmp_path / "own.log"

    def own_file() -> None:
        handler = logging.FileHandler(file, encoding="utf-8")
        logging.getLogger().addHandler(handler)
        logging.getLogger(LOGGER).info("mine")
        captured.agent("a2").context().run(logging.getLogger(LOGGER).info, "not mine")
        handler.close()

    captured.as_agent(own_file)
    assert file.read_text(encoding="utf-8") == "mine\n"
    assert captured.texts() == [("a1", "mine"), ("a2", "not mine")]


def test_a_handler_for_the_terminal_doubles_nothing_and_decides(captured: Captured) -> None:
    captured.start()

    def to_the_terminal() -> None:
        logging.basicConfig(level=logging.DEBUG, format="%(asctime)s %(message)s")
        logging.getLogger("acme").addHandler(logging.StreamHandler(sys.stdout))
        for handler in logging.getLogger().handlers:
            handler.setLevel(logging.INFO)  # of those of pytest it is this agent's level, too
            handler.addFilter(lambda record: "secret" not in record.getMessage())
        logging.getLogger("library").debug("too low")
        logging.getLogger("library").info("a secret")
        logging.getLogger("acme").info("once")

    captured.as_agent(to_the_terminal)
    assert captured.texts() == [("a1", "once")]


def test_structlog_lines_keep_what_processors_add_and_remove(captured: Captured) -> None:
    captured.start()

    def redact(_: object, __: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
        return {**event, "password": "***"}

    def configured() -> None:
        structlog.configure(
            processors=[structlog.stdlib.add_log_level, redact, structlog.processors.JSONRenderer()]
        )
        structlog.get_logger().warning("login", password="p", user="u")

    captured.as_agent(configured)
    [line] = captured.lines()
    assert (line["event"], line["password"], line["user"]) == ("login", "***", "u")
    assert line["level"] == "warning"


def test_libraries_log_warnings_and_the_agents_package_more(captured: Captured) -> None:
    captured.start()

    def log() -> None:
        for name in ("acme", "acme.part", "library", "httpx", "httpx.part", "noise", "noise.part"):
            for level in ("debug", "info", "warning", "error"):
                getattr(logging.getLogger(name), level)("%s %s", name, level)

    captured.as_agent(log)
    heard: dict[str, list[str]] = {}
    for _, text in captured.texts():
        heard.setdefault(text.split()[0], []).append(text.split()[1])
    usual, more = ["warning", "error"], ["info", "warning", "error"]
    assert heard == {
        "acme": more, "acme.part": more, "library": usual, "httpx": more, "httpx.part": more,
        "noise": ["error"], "noise.part": ["error"],
    }  # fmt: skip


class Unreadable:
    def __str__(self) -> str:
        raise ValueError("no text")

    __repr__ = __str__


def test_a_record_that_cannot_be_formatted_is_written_all_the_same(captured: Captured) -> None:
    captured.start()

    def log() -> None:
        logger = logging.getLogger("acme")
        logger.propagate = False  # pytest's handler raises
        logger.warning("%d apples", "some")
        logger.warning(Unreadable())
        logger.warning("extra", extra={"order": 7, "what": Unreadable()})
        try:
            raise ValueError(Unreadable())
        except ValueError:
            logger.exception("it failed", stack_info=True)

    captured.as_agent(log)
    apples, unreadable, extra, failed = captured.lines()
    assert apples["message"].startswith("%d apples ('some',) (TypeError")
    assert unreadable["message"] == "a message that cannot be made (ValueError)"
    assert extra["order"] == 7
    assert "ValueError" in failed["exception"]
    assert "test_output_configuration.py" in failed["stack"]
