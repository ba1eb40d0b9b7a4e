"""Progress: a bar whose clock goes on in a terminal, lines elsewhere."""

import io
import time

import pytest

from tofe_edge.io import progress
from tofe_edge.io.progress import covering_bar, progress_bar


class Terminal(io.StringIO):
    """A stream that says it is one."""

    def isatty(self) -> bool:
        """It is."""
        return True


@pytest.fixture
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    """Seconds are hundredths."""
    for name in ("_TICK_S", "_FIRST_LINE_S", "_NEXT_LINE_S"):
        monkeypatch.setattr(progress, name, getattr(progress, name) / 100)


def wait_for(text: str, stream: io.StringIO) -> None:
    """Wait until the stream has the text; a clock has no time that it must keep on a busy machine."""
    deadline = time.monotonic() + 60
    while text not in stream.getvalue():
        assert time.monotonic() < deadline, stream.getvalue()
        time.sleep(0.01)


def test_without_a_terminal_there_are_lines(fast: None, monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    monkeypatch.setattr("sys.stderr", stream)
    with progress_bar("quick", total=3, unit="step") as bar:
        bar.update()
    assert stream.getvalue() == ""
    with progress_bar("reading", total=3, unit="step") as bar:
        bar.update()
        wait_for("tofe-edge: reading: 1 of 3 steps, 00:00\n", stream)
        bar.set_description("lowering")
        wait_for("tofe-edge: lowering: 1 of 3 steps, 00:00\n", stream)
    with progress_bar("training", total=40, unit="step", initial=10) as bar:
        bar.update(5)
        bar.set_postfix_str("loss 0.5")
        wait_for("training: 15 of 40 steps, 00:00, about 00:0", stream)
    assert "left, loss 0.5\n" in stream.getvalue()


def test_in_a_terminal_the_clock_goes_on_while_a_step_runs(fast: None, monkeypatch: pytest.MonkeyPatch) -> None:
    stream = Terminal()
    monkeypatch.setattr("sys.stderr", stream)
    with progress_bar("lowering", total=3, unit="step") as bar:
        drawn = len(stream.getvalue())
        deadline = time.monotonic() + 60
        while len(stream.getvalue()) == drawn:
            assert time.monotonic() < deadline
        bar.update()
    last = stream.getvalue().split("\r")[-1]
    assert "1/3" in last and "<" not in last  # no estimate: the steps differ
    with progress_bar("measuring", total=50, unit="run"):
        wait_for("<", stream)


def test_bars_of_the_pieces_stay_hidden_under_that_of_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stderr", Terminal())
    with covering_bar("all", total=1), progress_bar("piece", total=1) as inner:
        assert inner.disable
    with progress_bar("piece", total=1) as after:
        assert not after.disable
