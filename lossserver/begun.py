"""Work that begins at once, and not at the event loop's next turn.

A small call is computed without waiting for anything. As a task of its own it would
take two turns of the loop to what takes none.
"""

import asyncio
import contextlib
import types
from collections.abc import Coroutine, Generator
from typing import Any


class Begun:
    """Work under way.

    Parameters:
        work: a coroutine that raises nothing. It runs here until it first waits for something, and
            then by itself.

    Attributes:
        ended: it has waited for nothing.
    """

    def __init__(self, work: Coroutine[Any, Any, None]) -> None:
        self._work = work
        self._resumed = False
        self.ended = False
        try:
            self._awaited = work.send(None)
        except StopIteration:
            self.ended = True
        else:
            self._task = asyncio.get_running_loop().create_task(self._go_on())

    def cancel(self) -> None:
        """Cancel it, as a task."""
        if self.ended:
            return
        self._task.cancel()
        if not self._resumed:
            # The task has not come to it, and will not.
            self.ended = True
            with contextlib.suppress(StopIteration, asyncio.CancelledError):
                self._work.throw(asyncio.CancelledError())

    async def _go_on(self) -> None:
        self._resumed = True
        await self._rest()

    @types.coroutine
    def _rest(self) -> Generator[Any, Any, None]:
        awaited = self._awaited
        try:
            while True:
                try:
                    sent = yield awaited
                except BaseException as error:  # noqa: BLE001  (the work's to see)
                    awaited = self._work.throw(error)
                else:
                    awaited = self._work.send(sent)
        except StopIteration:
            return
