"""What a test has printed, for conditions to wait for."""

import pytest


class Terminal:
    """All that was printed since the start of a test."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys, self._text = capsys, ""

    @property
    def text(self) -> str:
        self._text += self._capsys.readouterr().out
        return self._text
