"""Whether a run has been asked to stop: signals in, an answer after each step out.

A run of one process stops at SIGTERM, and at Ctrl-C, after the step that it is at. Of several
processes JAX informs all, so that they stop after the same step, and a handler of our own would
stand in its way.
"""

import os
import signal
import sys
import threading

from jax.experimental import multihost_utils

from resshift_jax.console import show


class Stop:
    """Used as a context around a run.

    Attributes:
        interrupted: it was Ctrl-C.
    """

    def __init__(self, processes: int = 1):
        self._processes = processes
        self._asked = threading.Event()
        self._at_once = True
        self._interrupts = 0
        self.interrupted = False

    def __enter__(self) -> "Stop":
        if self._processes == 1:
            # Python calls handlers between its own instructions, of which there are none while XLA
            # compiles or computes; but the byte that a signal writes is read by a thread at once.
            self._reader, self._writer = os.pipe()
            os.set_blocking(self._writer, False)
            self._before = {
                number: signal.signal(number, self._handle)
                for number in (signal.SIGTERM, signal.SIGINT)
            }
            signal.set_wakeup_fd(self._writer, warn_on_full_buffer=False)
            threading.Thread(target=self._watch, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._processes == 1:
            signal.set_wakeup_fd(-1)
            for number, handler in self._before.items():
                signal.signal(number, handler)
            os.close(self._writer)

    def __call__(self, step: int) -> bool:
        """Whether to stop after this step, the same in all processes; to be asked at each."""
        if self._processes == 1:
            return self._asked.is_set()
        return multihost_utils.reached_preemption_sync_point(step)

    def allow_at_once(self, allowed: bool) -> bool:
        """Whether nothing would be lost from now on; what held before.

        A signal then ends the process without waiting for what is compiled or computed.
        """
        before, self._at_once = self._at_once, allowed
        if allowed and self._asked.is_set():
            self._exit()
        return before

    @property
    def exit_code(self) -> int:
        return 130 if self.interrupted else 0

    def _exit(self) -> None:
        show("stopped: nothing was left to save; the same command goes on", sys.stderr)
        os._exit(self.exit_code)

    def _handle(self, number: int, _: object) -> None:
        self._interrupts += number == signal.SIGINT
        if self._interrupts > 1:
            raise KeyboardInterrupt  # asked twice: now

    def _watch(self) -> None:
        while numbers := os.read(self._reader, 64):
            stops = {signal.SIGTERM, signal.SIGINT} & set(numbers)
            if not stops:
                continue
            self.interrupted = signal.SIGINT in stops
            self._asked.set()
            if self._at_once:
                self._exit()
        os.close(self._reader)
