"""Screens on top of the lists: a confirmation, what failed, the help."""

from typing import ClassVar

from rich.text import Text
from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical, VerticalScroll
from textual.screen import ModalScreen
from textual.widgets import Input, Static

from muster.cli.top.cells import LEGEND
from muster.cli.top.orders import Order, Result

HELP = """\
1 … 5, ← →      pools, workers, agents, events, alerts
↑ ↓, j k        one line; PgUp PgDn a page; g G the first and last
Enter           everything about what the cursor is on, and why
/               filter: words that must all be found, such as
                state:failed pool:night project:demo label=value
s, S            sort by the next column; the other way round
Space           mark, so that a key acts on all marked ones
t, r            terminate, restart agents
d, c            drain, cordon (or uncordon) workers
p               pause (or resume) pools
Esc             back; ends a filter and removes marks
q               quit
A key that changes something says what it will touch, and asks.
"""


class Confirm(ModalScreen[str | None]):
    """Says what an order will touch. Returns the reason that was typed; None: not confirmed."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "dismiss(None)", show=False),
        Binding("y", "confirm", show=False),
        Binding("n,q", "dismiss(None)", show=False),
    ]

    def __init__(self, order: Order) -> None:
        super().__init__()
        self.order = order

    def compose(self) -> ComposeResult:
        with Vertical(classes="dialog"):
            yield Static(Text(self.order.question, "bold"), classes="question")
            with VerticalScroll(classes="touches"):
                yield Static(Text("\n".join(self.order.touches)))
            if self.order.number:
                yield Static(Text(f"Type {self.order.number} and Enter to confirm, Esc to cancel."))
                yield Input(id="answer", type="integer")
            elif self.order.with_reason:
                yield Static(Text("Enter to confirm, Esc to cancel. A reason, for the record:"))
                yield Input(id="answer")
            else:
                yield Static(Text("y to confirm, n or Esc to cancel"))
            yield Static("", id="wrong")  # what was typed

    def on_mount(self) -> None:
        for answer in self.query(Input):
            answer.focus()

    def action_confirm(self) -> None:
        if not self.query(Input):
            _ = self.dismiss("")

    @on(Input.Submitted)
    def _typed(self, event: Input.Submitted) -> None:
        if not self.order.number:
            _ = self.dismiss(event.value.strip())
        elif event.value.strip() == self.order.number:
            _ = self.dismiss("")
        else:
            wrong = Text(f"{event.value or 'nothing'} is not {self.order.number}", "red")
            self.query_one("#wrong", Static).update(wrong)
            self.query_one("#wrong").display = True


class Message(ModalScreen[None]):
    """A text until a key is pressed."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,q,enter,question_mark,space", "dismiss", show=False),
    ]

    def __init__(self, title: str, text: str) -> None:
        super().__init__()
        self._title, self._text = title, text

    def compose(self) -> ComposeResult:
        with Vertical(classes="dialog"):
            yield Static(Text(self._title, "bold"), classes="question")
            with VerticalScroll(classes="touches"):
                yield Static(Text(self._text))
            yield Static(Text("Esc closes this", "dim"))


def help_screen() -> Message:
    """All keys, and what the signs of slots mean."""
    return Message("Keys", f"{HELP}\nSlots: {LEGEND}")


def failure_screen(result: Result) -> Message:
    """What an order could not do, and why."""
    return Message(result.summary, "\n".join(result.failures))
