"""`LogWriter`: whatever the descriptor does, `write` neither blocks nor raises, and what is lost is counted."""

from __future__ import annotations

import fcntl
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from beluna_gateway.telemetry.log_writer import MAX_QUEUED_BYTES, LogWriter


def lost(number: int) -> str:
    return f"LOST {number}"


@contextmanager
def writing(descriptor: int) -> Iterator[LogWriter]:
    """A writer that is closed at the end, whatever its descriptor does."""
    writer = LogWriter(descriptor, lost)
    try:
        yield writer
    finally:
        writer.close(5)


@contextmanager
def pipe() -> Iterator[tuple[int, int]]:
    """Reading and writing end."""
    ends = os.pipe()
    open_ends = set(ends)
    try:
        yield ends
    finally:
        for end in open_ends:
            try:
                os.close(end)
            except OSError:
                continue  # the test closed it


def read_until(descriptor: int, words: bytes) -> bytes:
    """Reads until `words` have come."""
    data = b""
    while words not in data:
        data += os.read(descriptor, 65536)
    return data


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_lines_come_in_order():
    """Each with its end, those of several threads whole, and closing writes what is queued."""
    with pipe() as (reading, end):
        with writing(end) as writer:

            def write(name: str) -> None:
                for number in range(100):
                    writer.write(f"{name} {number}")

            threads = [threading.Thread(target=write, args=name) for name in "abc"]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        os.close(end)
        lines = b"".join(iter(lambda: os.read(reading, 65536), b"")).decode().splitlines()

    for name in "abc":
        assert [line for line in lines if line[0] == name] == [f"{name} {number}" for number in range(100)]
    assert len(lines) == 300


def test_a_reader_that_stops_costs_lines_only():
    """Writing goes on at once; what is kept is bounded; when the reader goes on, the lost lines are counted."""
    line = "x" * 1000
    with pipe() as (reading, end):
        with writing(end) as writer:
            began = time.monotonic()
            for _ in range(5000):
                writer.write(line)
            assert time.monotonic() - began < 5
            assert writer._queued_bytes <= MAX_QUEUED_BYTES

            # The writer may have taken some lines before the last one was lost, and says so more than once then.
            whole = number = 0
            text = b""
            while whole + number < 5000:
                *lines, text = (text + os.read(reading, 65536)).split(b"\n")
                whole += lines.count(line.encode())
                number += sum(int(one.removeprefix(b"LOST ")) for one in lines if one.startswith(b"LOST "))

        assert whole + number == 5000
        assert number >= 5000 - (MAX_QUEUED_BYTES + 65536) // 1001


def test_lines_lost_during_the_last_write_are_told_without_another_line():
    """Nothing follows that could bring their number along."""
    with pipe() as (reading, end), writing(end) as writer:
        writer.write("x" * 500_000)
        until(lambda: not writer._lines)
        writer.write("x" * MAX_QUEUED_BYTES)

        assert read_until(reading, b"LOST").endswith(b"x\nLOST 1\n")


def test_a_descriptor_that_fails_loses_lines_until_it_works_again(monkeypatch: pytest.MonkeyPatch):
    """The number of lost lines is told after the next line that could be written."""
    broken = threading.Event()
    broken.set()
    write = os.write
    tried: list[int] = []

    def failing(descriptor: int, data: bytes) -> int:
        if broken.is_set():
            tried.append(descriptor)
            raise OSError(28, "No space left on device")
        return write(descriptor, data)

    monkeypatch.setattr(os, "write", failing)
    with pipe() as (reading, end), writing(end) as writer:
        for number in range(3):
            writer.write(f"lost {number}")
        until(lambda: writer._lost == 3)
        broken.clear()
        writer.write("works again")

        assert read_until(reading, b"LOST 3\n") == b"works again\nLOST 3\n"
        writer.write("and again")
        assert read_until(reading, b"again\n") == b"and again\n"


def test_a_line_that_was_cut_is_ended(monkeypatch: pytest.MonkeyPatch):
    """The next line does not continue half a line."""
    write = os.write
    steps: Iterator[int | OSError] = iter([3, OSError(28, "full"), OSError(28, "full")])

    def partly(descriptor: int, data: bytes) -> int:
        step = next(steps, None)
        if isinstance(step, OSError):
            raise step
        return write(descriptor, data if step is None else data[:step])

    monkeypatch.setattr(os, "write", partly)
    with pipe() as (reading, end), writing(end) as writer:
        writer.write("abcdef")
        until(lambda: writer._lost == 1)
        writer.write("next")

        assert read_until(reading, b"LOST 1\n") == b"abc\nnext\nLOST 1\n"


def test_a_pipe_without_a_reader():
    """No signal, no exception, and the end does not wait."""
    with pipe() as (reading, end):
        os.close(reading)
        with writing(end) as writer:
            writer.write("a")
            until(lambda: writer._lost == 1)
            began = time.monotonic()
        assert time.monotonic() - began < 2


def test_a_descriptor_that_somebody_made_nonblocking():
    """Waits for room instead of losing lines."""
    with pipe() as (reading, end):
        fcntl.fcntl(end, fcntl.F_SETFL, os.O_NONBLOCK)
        with writing(end) as writer:
            for number in range(200):
                writer.write(f"{number} " + "x" * 1000)
            writer.write("last")
            text = read_until(reading, b"last\n")

    assert [int(line.split()[0]) for line in text.decode().splitlines()[:-1]] == list(range(200))


def test_closing_leaves_a_stuck_write_behind():
    """After its time is over; the thread ends when the reader goes."""
    with pipe() as (reading, end):
        writer = LogWriter(end, lost)
        writer.write("x" * 500_000)
        until(lambda: not writer._lines)
        began = time.monotonic()
        writer.close(0.2)
        assert 0.15 < time.monotonic() - began < 3
        assert writer._thread.is_alive()
        os.close(reading)
        writer._thread.join(10)
        assert not writer._thread.is_alive()


def test_lone_surrogates_are_written_as_escapes():
    """A text that has no UTF-8 form."""
    with pipe() as (reading, end), writing(end) as writer:
        writer.write("a\ud800b")

        assert read_until(reading, b"b\n") == b"a\\ud800b\n"
