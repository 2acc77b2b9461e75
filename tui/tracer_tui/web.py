"""The interface in a browser: on this machine alone, and only for whoever has the address with the secret in it.

Any page that is open in the browser may try to reach a port of this machine, and so may other users of it: a request
counts only with the right host and with the secret, which the first one gives in the address and later ones as a cookie
that no other site can send.
"""

from __future__ import annotations

import hmac
import os
import secrets
import shlex
import sys
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import psutil
from aiohttp import web
from textual_serve.server import Server

HOST = "127.0.0.1"
_CHILD = "import sys; from tracer.cli.main import main; main()"
_LEAVE = 3.0
"""Seconds that an interface has to end itself."""
_Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class LocalServer(Server):
    """Serves the interface: every page that is opened runs one of its own."""

    def __init__(self, arguments: Sequence[str], port: int, say: Callable[[str], None]) -> None:
        command = "exec " + shlex.join([sys.executable, "-c", _CHILD, *arguments])
        super().__init__(command, host=HOST, port=port, title="tracer")
        self._secret = secrets.token_urlsafe(24)
        self._say = say

    @property
    def address(self) -> str:
        return f"http://{HOST}:{self.port}/?key={self._secret}"

    def serve(self, debug: bool = False) -> None:
        """Serve until interrupted; the address is said once somebody listens there."""
        self.debug = debug
        text = f"the interface is at {self.address} (ctrl+c ends it)"
        web.run_app(
            self._make_app(), host=self.host, port=self.port, shutdown_timeout=1.0, print=lambda *_: self._say(text)
        )

    async def _make_app(self) -> web.Application:
        app = await super()._make_app()
        app.middlewares.append(self._guard())
        return app

    def _guard(self) -> Any:
        cookie = f"tracer-{self.port}"
        hosts = {f"{HOST}:{self.port}", f"localhost:{self.port}"}
        policy = (
            "default-src 'self'; script-src 'self' 'unsafe-inline'; style-src 'self' 'unsafe-inline'; "
            f"img-src 'self' data:; font-src 'self' data:; connect-src 'self' ws://{HOST}:{self.port}; "
            "frame-ancestors 'none'"
        )

        @web.middleware
        async def guard(request: web.Request, handler: _Handler) -> web.StreamResponse:
            given = request.query.get("key") or request.cookies.get(cookie) or ""
            origin = request.headers.get("Origin")
            elsewhere = request.host not in hosts or (origin is not None and origin.rpartition("/")[2] not in hosts)
            if elsewhere or not hmac.compare_digest(given.encode(), self._secret.encode()):
                raise web.HTTPForbidden(text="tracer ui: open the address that the command printed")
            response = await handler(request)
            if not response.prepared:
                response.headers["Content-Security-Policy"] = policy
                response.headers["Referrer-Policy"] = "no-referrer"
                response.headers["Cache-Control"] = "no-store"
                response.set_cookie(cookie, self._secret, httponly=True, samesite="Strict")
            return response

        return guard

    async def on_startup(self, app: web.Application) -> None:
        """The base class would write its logo here."""

    async def on_shutdown(self, app: web.Application) -> None:
        _end_children()


def _end_children() -> None:
    """Leave no interface behind."""
    children = psutil.Process(os.getpid()).children(recursive=True)
    for child in children:
        _quietly(child.terminate)
    _, alive = psutil.wait_procs(children, timeout=_LEAVE)
    for child in alive:
        _quietly(child.kill)
    psutil.wait_procs(alive, timeout=_LEAVE)


def _quietly(act: Callable[[], None]) -> None:
    try:
        act()
    except psutil.Error:  # it has ended by itself
        return


def serve(arguments: Sequence[str], port: int, say: Callable[[str], None]) -> None:
    """Serve until interrupted. ``arguments`` are those of the ``tracer`` command that shows the interface.

    Raises OSError where the port is taken.
    """
    try:
        LocalServer(arguments, port, say).serve()
    finally:
        _end_children()
