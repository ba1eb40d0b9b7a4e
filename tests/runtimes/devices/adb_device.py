"""The device's end of adb, over loopback TCP: this machine, as an Android device would offer itself to adb's server.

Transport messages, the shell service in both protocols and the sync service, as Android's documentation of adb has
them (OVERVIEW.TXT, SERVICES.TXT, SYNC.TXT, shell_protocol.h).
"""

from __future__ import annotations

import contextlib
import os
import queue
import signal
import socket
import struct
import subprocess
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

CONNECT, OPEN, READY, CLOSE, WRITE, AUTHENTICATE = (
    int.from_bytes(name, "little") for name in (b"CNXN", b"OPEN", b"OKAY", b"CLSE", b"WRTE", b"AUTH")
)
VERSION, MOST_BYTES, TOKEN = 0x01000001, 256 * 1024, 1
STDIN, STDOUT, STDERR, EXIT, CLOSE_STDIN = range(5)


class Stream:
    """One service that the other side opened: bytes in, bytes out."""

    def __init__(self, link: Link, own: int, other: int) -> None:
        self.link, self.own, self.other = link, own, other
        self.inbox: queue.Queue[bytes | None] = queue.Queue()
        self.ready: queue.Queue[bool] = queue.Queue()
        self._rest = b""

    def write(self, content: bytes) -> None:
        """Send, one message at a time: the next one waits until the other side took the last."""
        for begin in range(0, len(content), MOST_BYTES):
            self.link.send(WRITE, self.own, self.other, content[begin : begin + MOST_BYTES])
            if not self.ready.get():
                raise EOFError

    def read(self, size: int) -> bytes:
        """Exactly so many bytes."""
        while len(self._rest) < size:
            piece = self.inbox.get()
            if piece is None:
                raise EOFError
            self._rest += piece
        content, self._rest = self._rest[:size], self._rest[size:]
        return content

    def end(self) -> None:
        """The other side is gone."""
        self.inbox.put(None)
        self.ready.put(False)


class Link:
    """A connection of adb's server."""

    def __init__(self, device: AdbDevice, connection: socket.socket) -> None:
        self.device, self.connection = device, connection
        self._sending = threading.Lock()
        self._streams: dict[int, Stream] = {}

    def send(self, command: int, first: int, second: int, content: bytes = b"") -> None:
        """One message."""
        check = sum(content) & 0xFFFFFFFF
        head = struct.pack("<6I", command, first, second, len(content), check, command ^ 0xFFFFFFFF)
        with self._sending:
            self.connection.sendall(head + content)

    def serve(self) -> None:
        """Answer until the connection ends."""
        with contextlib.suppress(EOFError, OSError), self.connection:
            while True:
                command, first, second, size, _, _ = struct.unpack("<6I", self._receive(24))
                self._take(command, first, second, self._receive(size))
        for stream in list(self._streams.values()):
            stream.end()

    def _receive(self, size: int) -> bytes:
        content = self.connection.recv(size, socket.MSG_WAITALL)
        if len(content) < size:
            raise EOFError
        return content

    def _take(self, command: int, first: int, second: int, content: bytes) -> None:
        stream = self._streams.get(second)
        if command in (CONNECT, AUTHENTICATE) and not self.device.trusting:
            self.send(AUTHENTICATE, TOKEN, 0, bytes(20))
        elif command == CONNECT:
            self.send(CONNECT, VERSION, MOST_BYTES, self.device.banner)
        elif command == OPEN:
            opened = self._streams[len(self._streams) + 1] = Stream(self, len(self._streams) + 1, first)
            self.send(READY, opened.own, first)
            threading.Thread(target=self._run, args=(opened, content.rstrip(b"\0").decode()), daemon=True).start()
        elif stream and command == WRITE:
            self.send(READY, second, first)
            stream.inbox.put(content)
        elif stream and command == READY:
            stream.ready.put(True)
        elif stream and command == CLOSE:
            stream.end()

    def _run(self, stream: Stream, service: str) -> None:
        with contextlib.suppress(EOFError, OSError):
            try:
                name, _, rest = service.partition(":")
                if name.split(",")[0] == "shell":
                    run_shell(self.device, stream, rest, second_protocol="v2" in name)
                elif name == "sync":
                    sync(stream)
            finally:
                self.send(CLOSE, stream.own, stream.other)


class AdbDevice:
    """Listens for adb's server; ``environment`` is that of its shell."""

    def __init__(self, environment: Mapping[str, str], *, shell_v2: bool = True, trusting: bool = True) -> None:
        self.environment, self.trusting, self.shell_v2 = dict(environment), trusting, shell_v2
        features = "shell_v2,cmd" if shell_v2 else "cmd"
        self.banner = f"device::ro.product.model=Loopback;features={features}".encode()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._links: list[Link] = []

    @property
    def serial(self) -> str:
        """As adb lists it."""
        return f"127.0.0.1:{self._listener.getsockname()[1]}"

    @contextmanager
    def running(self) -> Iterator[AdbDevice]:
        """Serve in threads of this process."""
        threading.Thread(target=self._accept, daemon=True).start()
        try:
            yield self
        finally:
            self._listener.close()
            self.drop()

    def drop(self) -> None:
        """Pull the plug: every connection ends at once."""
        for link in self._links:
            with contextlib.suppress(OSError):
                link.connection.shutdown(socket.SHUT_RDWR)

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                link = Link(self, self._listener.accept()[0])
                self._links.append(link)
                threading.Thread(target=link.serve, daemon=True).start()


def run_shell(device: AdbDevice, stream: Stream, command: str, *, second_protocol: bool) -> None:
    """A command: stdin, stdout, stderr and exit code apart, or in the first protocol one stream as from a terminal."""
    process = subprocess.Popen(
        ["sh", "-c", command],
        env=device.environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE if second_protocol else subprocess.STDOUT,
    )
    sending = threading.Lock()

    def pass_on(number: int, source: Any) -> None:
        with contextlib.suppress(EOFError, OSError):
            while piece := source.read1(65536):
                with sending:
                    stream.write(_packet(number, piece) if second_protocol else piece.replace(b"\n", b"\r\n"))

    outputs = [(STDOUT, process.stdout), (STDERR, process.stderr)][: 1 + second_protocol]
    threads = [threading.Thread(target=pass_on, args=output, daemon=True) for output in outputs]
    for thread in (*threads, threading.Thread(target=_feed, args=(stream, process, second_protocol), daemon=True)):
        thread.start()
    code = process.wait()
    for thread in threads:
        thread.join()
    if second_protocol:
        stream.write(_packet(EXIT, bytes([code & 255])))


def _packet(number: int, content: bytes) -> bytes:
    return struct.pack("<BI", number, len(content)) + content


def _feed(stream: Stream, process: subprocess.Popen[bytes], second_protocol: bool) -> None:
    """Pass stdin on; where the other side goes, do as adbd does: SIGHUP for the shell, and the end of its stdin."""
    assert process.stdin is not None
    with contextlib.suppress(OSError), process.stdin:
        try:
            while True:
                number, size = struct.unpack("<BI", stream.read(5)) if second_protocol else (STDIN, 1)
                content = stream.read(size)
                if number == CLOSE_STDIN:
                    return
                if number == STDIN:
                    process.stdin.write(content)
                    process.stdin.flush()
        except EOFError:
            process.send_signal(signal.SIGHUP)


def sync(stream: Stream) -> None:
    """Files: what ``adb push`` and ``adb pull`` ask for."""
    while True:
        request, size = struct.unpack("<4sI", stream.read(8))
        if request == b"QUIT":
            return
        name = stream.read(size).decode()
        try:
            if request == b"STAT":
                found = os.stat(name) if os.path.exists(name) else os.stat_result([0] * 10)
                stream.write(b"STAT" + struct.pack("<3I", found.st_mode, found.st_size, int(found.st_mtime)))
            elif request == b"SEND":
                path, _, mode = name.rpartition(",")
                _take_file(stream, Path(path), int(mode))
            elif request == b"RECV":
                content = Path(name).read_bytes()
                for begin in range(0, len(content), 65536):
                    stream.write(_named(b"DATA", content[begin : begin + 65536]))
                stream.write(_named(b"DONE"))
        except OSError as error:
            stream.write(_named(b"FAIL", (error.strerror or str(error)).encode()))


def _named(name: bytes, content: bytes = b"") -> bytes:
    return name + struct.pack("<I", len(content)) + content


def _take_file(stream: Stream, path: Path, mode: int) -> None:
    content = b""
    while (head := struct.unpack("<4sI", stream.read(8)))[0] != b"DONE":  # with the file's time in place of a size
        content += stream.read(head[1])
    path.write_bytes(content)
    path.chmod(mode & 0o777)
    stream.write(_named(b"OKAY"))
