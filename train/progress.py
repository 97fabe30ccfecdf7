"""What a person sees of a training: one moving line on a terminal, plain lines in a log file.

In:      steps as they end, mean values whenever the trainer has fetched them.   Out: text on stderr, of the first rank alone.
Source:  ours. Nothing here asks the device for a value. The time that is left is reckoned from the speed of this process
         alone, and for the steps that are left, so a resumed training does not count what was done before it.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import TypeVar

from tqdm import tqdm

from model.ranks import rank

tqdm.set_lock(threading.RLock())  # its own lock is shared by forked processes: one that is killed while it holds it stops all others
tqdm.monitor_interval = 0  # no thread of its own: lines are drawn from the loop

LINE_SECONDS = 60.0
"""Seconds after which a log file gets another line, however long the epoch is."""
DRAW_SECONDS = 0.5
"""Seconds between two drawings of the line on a terminal."""

T = TypeVar("T")


def say(line: str) -> None:
    """One plain line on stderr, above the moving line if there is one; other ranks than the first say nothing."""
    if rank() == 0:
        tqdm.write(line, file=sys.stderr)
        sys.stderr.flush()


class WaitClock:
    """Seconds that a loop has waited for what it iterates over."""

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self.waited = 0.0
        self._clock = clock

    def timed(self, items: Iterator[T]) -> Iterator[T]:
        """The same items."""
        while True:
            asked = self._clock()
            item = next(items, None)
            self.waited += self._clock() - asked
            if item is None:
                return
            yield item


class Progress:
    """The steps of one stage, for a reader.

    Call :meth:`begin`, iterate over :meth:`timed`, :meth:`add` each step, :meth:`tell` what is known of the values, :meth:`end`
    the epoch; and so on. Closing it (or leaving its `with`) takes the moving line away.

    Args:
        stage: its name.
        epochs: of the stage.
        steps: of an epoch.
        done: steps that earlier processes have done, of all `epochs * steps`.
        terminal: whether stderr is one; None: ask it.
        silent: None: all ranks but the first.
        clock: seconds.
    """

    def __init__(
        self,
        stage: str,
        epochs: int,
        steps: int,
        done: int = 0,
        *,
        terminal: bool | None = None,
        silent: bool | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._stage, self._epochs, self._steps, self._done = stage, epochs, steps, done
        self._clock, self._silent = clock, rank() > 0 if silent is None else silent
        self._own = 0
        self._started: float | None = None
        self._epoch, self._begun, self._clips, self._wait = 0, 0.0, 0, WaitClock(clock)
        self._ended: float | None = 0.0
        self._values: Mapping[str, float] = {}
        self._bar: tqdm | None = None
        if not self._silent and (sys.stderr.isatty() if terminal is None else terminal):
            self._bar = tqdm(
                total=epochs * steps, initial=done, bar_format="{percentage:3.0f}%|{bar:16}| {desc}", dynamic_ncols=True, leave=False
            )
        self._interval = LINE_SECONDS if self._bar is None else DRAW_SECONDS
        self._shown = clock()

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def begin(self, epoch: int) -> None:
        """An epoch (from 1) begins, or goes on in its middle."""
        now = self._clock()
        if self._started is None:
            self._started = self._shown = now
        self._epoch, self._begun, self._ended, self._clips, self._wait = epoch, now, None, 0, WaitClock(self._clock)
        self._values = {}

    def timed(self, batches: Iterator[T]) -> Iterator[T]:
        """The same batches; the time that they are waited for counts as data wait."""
        return self._wait.timed(batches)

    def add(self, clips: int) -> None:
        """One step is over (or on its way, on a GPU); it took `clips` tracklets, those of all ranks together."""
        self._done += 1
        self._own += 1
        self._clips += clips
        if self._clock() - self._shown >= self._interval:
            self._show(f", step {self._done - (self._epoch - 1) * self._steps}/{self._steps}")

    def tell(self, values: Mapping[str, float]) -> None:
        """The newest means of 'loss' and what else is worth a place in the line."""
        self._values = values

    def end(self, values: Mapping[str, float]) -> None:
        """The epoch is over, with these means. Call it when the device has finished, else the speed is too high."""
        self._values, self._ended = values, self._clock()
        self._show("")

    def close(self) -> None:
        """No more lines."""
        if self._bar is not None:
            self._bar.close()

    @property
    def speed(self) -> float:
        """Tracklets per second since the epoch began in this process; when it has ended, of the epoch."""
        return self._clips / self._spent if self._spent else 0.0

    @property
    def wait(self) -> float:
        """Part of that time in which the loop waited for batches, 0..1."""
        return self._wait.waited / self._spent if self._spent else 0.0

    @property
    def left(self) -> float | None:
        """Seconds until the stage ends; None before the first step."""
        if self._started is None or not self._own:
            return None
        return (self._clock() - self._started) / self._own * (self._epochs * self._steps - self._done)

    @property
    def _spent(self) -> float:
        return (self._clock() if self._ended is None else self._ended) - self._begun

    def line(self, where: str = "") -> str:
        """The facts in one line; `where` says how far the epoch is."""
        values = "".join(f"  {name} {value:.4f}" for name, value in self._values.items())
        left = "" if self.left is None else f"  {tqdm.format_interval(self.left)} left"
        return f"{self._stage} {self._epoch}/{self._epochs}{where}{values}  {self.speed:.1f} tracklets/s  data wait {self.wait:.1%}{left}"

    def _show(self, where: str) -> None:
        self._shown = self._clock()
        if self._silent:
            return
        if self._bar is None:
            say(self.line(where))
        else:
            self._bar.n = self._done
            self._bar.set_description_str(self.line(where), refresh=False)
            self._bar.refresh()
