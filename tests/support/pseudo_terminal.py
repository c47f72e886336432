"""A program on a terminal: keys in, what it draws out, and the terminal's mode afterwards."""

from __future__ import annotations

import asyncio
import fcntl
import os
import pty
import re
import struct
import termios
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

SHOWN_S_MAX = 30.0
SIZE = ("COLUMNS", "LINES")
"""Would be taken for the terminal's: a runner of tests may have set them."""
_ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


class Terminal:
    """One program's terminal."""

    def __init__(self, process: asyncio.subprocess.Process, master: int, slave: int) -> None:
        self.process = process
        self.raw = ""
        self._master, self._slave = master, slave
        self._came = asyncio.Event()
        asyncio.get_running_loop().add_reader(master, self._read)

    def _read(self) -> None:
        try:
            self.raw += os.read(self._master, 65536).decode(errors="replace")
        except OSError:
            asyncio.get_running_loop().remove_reader(self._master)
        self._came.set()

    @property
    def text(self) -> str:
        """All that was ever drawn."""
        return _ESCAPES.sub("", self.raw)

    def press(self, keys: str) -> None:
        os.write(self._master, keys.encode())

    async def shows(self, text: str) -> str:
        """Wait until it is drawn from now on. Returns what was drawn, which is then forgotten."""
        try:
            async with asyncio.timeout(SHOWN_S_MAX):
                while text not in self.text:
                    self._came.clear()
                    await self._came.wait()
        except TimeoutError:
            raise AssertionError(f"{text!r} was not drawn, but: {self.text!r}") from None
        drawn, self.raw = self.text, ""
        return drawn

    async def ended(self) -> int:
        async with asyncio.timeout(SHOWN_S_MAX):
            return await self.process.wait()

    def mode(self) -> list[Any]:
        return termios.tcgetattr(self._slave)


@asynccontextmanager
async def on_terminal(
    *command: str, columns: int = 100, lines: int = 24, environ: Mapping[str, str]
) -> AsyncIterator[Terminal]:
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
    inherited = {name: value for name, value in os.environ.items() if name not in SIZE}
    process = await asyncio.create_subprocess_exec(
        *command,
        stdin=slave,
        stdout=slave,
        stderr=slave,
        env={**inherited, **environ, "TERM": "xterm-256color"},
        start_new_session=True,
    )
    try:
        yield Terminal(process, master, slave)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
        asyncio.get_running_loop().remove_reader(master)
        os.close(master)
        os.close(slave)
