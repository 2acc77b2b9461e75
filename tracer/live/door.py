"""Who may talk to the daemon: ZeroMQ asks here for every connection (https://rfc.zeromq.org/spec/27/)."""

from __future__ import annotations

import hmac
import os
import threading
from types import TracebackType
from typing import Self

import zmq

_ADDRESS = "inproc://zeromq.zap.01"
USER = b"tracer"


class Door:
    """Lets in this user's processes through the Unix socket, and over TCP (loopback) who shows the token."""

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], token: str) -> None:
        self._context = context
        self._token = token.encode()
        self._thread = threading.Thread(target=self._serve, name="tracer-door", daemon=True)
        self._ready = threading.Event()

    def __enter__(self) -> Self:
        self._thread.start()
        self._ready.wait()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        with self._context.socket(zmq.DEALER) as bell:
            bell.connect(_ADDRESS)
            bell.send_multipart([b"", b""])
            self._thread.join(2)

    def _serve(self) -> None:
        with self._context.socket(zmq.ROUTER) as socket:
            socket.setsockopt(zmq.LINGER, 0)
            socket.bind(_ADDRESS)
            self._ready.set()
            while True:
                peer, _, *request = socket.recv_multipart()
                if request == [b""] or not request:
                    return
                number = request[1] if len(request) > 1 else b""
                answer = [b"200", b"OK"] if self._lets_in(request) else [b"400", b"not allowed"]
                socket.send_multipart([peer, b"", b"1.0", number, *answer, b"", b""])

    def _lets_in(self, request: list[bytes]) -> bool:
        """``request``: version, number, domain, address, identity, mechanism, credentials."""
        if len(request) < 6 or request[0] != b"1.0":
            return False
        address, mechanism, shown = request[3], request[5], request[6:]
        if mechanism == b"NULL":
            # libzmq gives uid, gid and pid of a Unix socket's other end as ":uid:gid:pid".
            return address.split(b":")[1:2] == [str(os.geteuid()).encode()]
        return (
            mechanism == b"PLAIN"
            and len(shown) == 2
            and bool(self._token)
            and hmac.compare_digest(shown[0], USER)
            and hmac.compare_digest(shown[1], self._token)
        )
