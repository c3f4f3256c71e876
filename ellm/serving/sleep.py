"""A model's sleep: given back while nobody asks, and had again for who asks next."""

from __future__ import annotations

import time

from ellm.serving.engine import Engine
from ellm.serving.runtime import Runtime
from ellm.system.errors import InputError, tell


class Sleep:
    """Gives back what an engine and its runtime hold once there was nothing to do for `seconds`, and has it again.

    For the thread that runs the engine's steps; any may call `stop`.
    """

    def __init__(self, engine: Engine, runtime: Runtime, seconds: float):
        self._engine, self._runtime, self._seconds = engine, runtime, seconds
        self._stopped = False

    @property
    def due(self) -> float | None:
        """Seconds without anything to do until `begin` is to be called; None: it was."""
        return self._seconds if self._engine.executables else None

    def begin(self) -> None:
        """Give back what is cached, then the weights. Nothing happens while some of it is being written to files."""
        if self._engine.room.written:
            self._engine.sleep(self._runtime.unload)

    def end(self) -> None:
        """Have it again. Raises InputError if the model's files are not what they were, or there is no memory."""
        if self._engine.executables:
            return
        begun = time.perf_counter()
        try:
            self._runtime.reload(self._go_on)
        except InputError as error:
            cause = InputError(f"the model is asleep and cannot be woken: {error}")
            tell(cause)
            raise cause from error
        self._engine.wake(self._runtime.executables, self._runtime.drafter, time.perf_counter() - begun)

    def stop(self) -> None:
        """Let a waking that is under way fail."""
        self._stopped = True

    def _go_on(self, _: int, __: int) -> None:
        if self._stopped:
            raise InputError("this LLM is closed")
