"""The gateway's refusals: problems as of RFC 9457, printed with the names of fields."""

import msgspec
from msgspec import Struct

from eventstore.language.events import Error


class FieldError(Struct, frozen=True):
    field: str = ""
    message: str = ""

    def __str__(self) -> str:
        names_field = not self.field or self.message.startswith(self.field)
        return self.message if names_field else f"{self.field}: {self.message}"


class Problem(Struct, frozen=True):
    """An error as the gateway answers it; for an agent that could not start, with its error."""

    type: str = ""
    title: str = ""
    status: int = 0
    detail: str = ""
    errors: tuple[FieldError, ...] = ()
    agent_id: str = ""
    idempotency_key: str = ""
    error: Error | None = None

    def __str__(self) -> str:
        summary = self.detail or self.title or f"HTTP status {self.status}"
        if len(self.errors) == 1 and self.errors[0].message == summary:
            lines = [str(self.errors[0])]
        else:
            lines = [summary, *(f"  {error}" for error in self.errors)]
        if self.error is not None:
            lines.append(f"  {self.error.type}: {self.error.message}")
        if self.idempotency_key:
            lines.append(f"  to get its result, repeat with --key {self.idempotency_key}")
        return "\n".join(lines)


def problem_of(status: int, body: bytes) -> Problem:
    """The problem in a refusal; where it has none (a page of a proxy), only the status."""
    try:
        problem = msgspec.json.decode(body, type=Problem)
    except (msgspec.MsgspecError, RecursionError):
        problem = Problem(status=status)
    return msgspec.structs.replace(problem, status=status)
