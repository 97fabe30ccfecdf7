"""What a reader of the log or of the terminal is told, by a clock of the test's own; and a lock that no dead process holds."""

import subprocess
import sys

import pytest

from train import progress
from train.progress import LINE_SECONDS, Progress, WaitClock, say


class Clock:
    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


def steps_of(clock: Clock, seconds: list[tuple[float, float]]):
    """A loader whose batches come after a wait; the loop's own work takes the second number of seconds."""
    for wait, _ in seconds:
        clock.now += wait
        yield 4


def run_epoch(shown: Progress, clock: Clock, epoch: int, seconds: list[tuple[float, float]], values=None) -> None:
    shown.begin(epoch)
    for (_, work), clips in zip(seconds, shown.timed(steps_of(clock, seconds)), strict=True):
        clock.now += work
        shown.add(clips)
    shown.end(values or {})


def test_one_line_per_epoch(capsys):
    """Two steps of 4 clips in 2 s each, half a second of which is waiting: 2 clips/s, 25 %; two epochs of 4 s are left."""
    clock = Clock()
    shown = Progress("student", 3, 2, terminal=False, clock=clock)
    run_epoch(shown, clock, 1, [(0.5, 1.5)] * 2, {"loss": 1.5, "identity": 1.25})
    assert capsys.readouterr().err == ("student 1/3  loss 1.5000  identity 1.2500  2.0 tracklets/s  data wait 25.0%  00:08 left\n")


def test_a_line_a_minute_within_long_epochs(capsys):
    """Ten steps of 25 s: a line after every third, with the values fetched last; then that of the epoch."""
    clock = Clock()
    shown = Progress("visual", 1, 10, terminal=False, clock=clock)
    shown.begin(1)
    for step in range(1, 11):
        clock.now += 25
        if step == 5:
            shown.tell({"loss": 2.0})
        shown.add(4)
    shown.end({"loss": 1.0})
    lines = capsys.readouterr().err.splitlines()
    assert [line.split("  ")[:2] for line in lines] == [
        ["visual 1/1, step 3/10", "0.2 tracklets/s"],
        ["visual 1/1, step 6/10", "loss 2.0000"],
        ["visual 1/1, step 9/10", "loss 2.0000"],
        ["visual 1/1", "loss 1.0000"],
    ]
    assert "02:55 left" in lines[0] and "00:00 left" in lines[3]
    assert LINE_SECONDS <= 60


def test_what_is_left_is_reckoned_from_this_process_alone():
    """97 of 100 epochs were done before, whatever they took: one step of 3 s gives 5 more steps of 3 s."""
    clock = Clock()
    shown = Progress("visual", 100, 2, done=194, terminal=False, silent=True, clock=clock)
    clock.now += 1000  # what came before the first step does not count
    assert shown.left is None
    shown.begin(98)
    clock.now += 3
    shown.add(4)
    assert shown.left == 15
    clock.now += 6  # a slower step
    shown.add(4)
    assert shown.left == 4 * 4.5


def test_an_epoch_that_goes_on_in_its_middle():
    """Step 8 of 10 is the first of this process; speed is of what it does itself."""
    clock = Clock()
    shown = Progress("visual", 2, 10, done=7, terminal=False, silent=True, clock=clock)
    shown.begin(1)
    clock.now += 2
    shown.add(4)
    assert shown.speed == 2 and shown.left == 2 * 12


def test_the_speed_of_an_epoch_stays_when_it_has_ended():
    """A look at held-out identities comes after it, and is no part of it; it does count in what is left."""
    clock = Clock()
    shown = Progress("visual", 2, 2, terminal=False, silent=True, clock=clock)
    run_epoch(shown, clock, 1, [(0, 1)] * 2)
    clock.now += 2
    assert (shown.speed, shown.wait, shown.left) == (4, 0, 4)


def test_other_ranks_say_nothing(capsys, monkeypatch):
    clock = Clock()
    monkeypatch.setattr(progress, "rank", lambda: 1)
    for terminal in (True, False):
        run_epoch(Progress("visual", 1, 2, terminal=terminal, clock=clock), clock, 1, [(0, 100)] * 2)
    say("something")
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(progress, "rank", lambda: 0)  # control
    say("something")
    assert capsys.readouterr().err == "something\n"


def test_one_line_on_a_terminal(capsys):
    """The same facts, drawn over and over on one line, and taken away at the end; a plain line stands above it."""
    clock = Clock()
    with Progress("visual", 2, 2, terminal=True, clock=clock) as shown:
        run_epoch(shown, clock, 1, [(0, 1)] * 2, {"loss": 2.0})
        say("starts from random numbers")
        drawn = capsys.readouterr().err
    assert "\n" not in drawn.split("starts from")[0]
    assert " 50%|" in drawn and "visual 1/2  loss 2.0000  4.0 tracklets/s  data wait 0.0%  00:02 left" in drawn
    assert "starts from random numbers\n" in drawn
    assert "visual" not in capsys.readouterr().err.split("\r")[-1]


def test_the_clock_counts_waiting_alone():
    clock = Clock()
    wait = WaitClock(clock)
    for _ in wait.timed(steps_of(clock, [(2, 0), (3, 0)])):
        clock.now += 50
    assert wait.waited == 5


SCRIPT = """
import os, signal
from tqdm import tqdm
{first}
lock = tqdm.get_lock()
read, write = os.pipe()
child = os.fork()
if child == 0:
    lock.acquire()
    os.write(write, b"x")
    signal.pause()
os.read(read, 1)
os.kill(child, signal.SIGKILL)
os.waitpid(child, 0)
{then}
"""


@pytest.mark.parametrize(
    ("first", "then", "said"),
    [
        (
            "from train.progress import Progress",
            "with Progress('visual', 1, 1, terminal=True) as shown: shown.begin(1); print('drawn')",
            "drawn",
        ),
        ("", "print('free' if lock.mp_lock.acquire(False) else 'held by the dead')", "held by the dead"),  # tqdm's own: a bar would wait
    ],
)
def test_a_killed_process_holds_no_lock(repository, first, then, said):
    """A loader process that is killed while it holds the lock must not stop the training."""
    code = SCRIPT.format(first=first, then=then)
    done = subprocess.run([sys.executable, "-c", code], cwd=repository, capture_output=True, text=True, timeout=120, check=False)
    assert done.stdout.strip() == said, done.stderr
