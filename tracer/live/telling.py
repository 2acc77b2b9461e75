"""What is done when a rule finds something: a command is run, or a web address on this machine is told."""

from __future__ import annotations

import ipaddress
import json
import logging
import queue
import subprocess
import threading
import urllib.parse
import urllib.request
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, field_validator

log = logging.getLogger("tracer.daemon")
_SECONDS = 10.0
_WAITING = 100


class Telling(BaseModel):
    """The table ``[events]`` of ``tracer.toml``.

    Attributes:
        command: program and arguments; it gets the event as JSON on its standard input, and ten seconds.
        webhook: an ``http`` address on the loopback interface, which gets the event as a POST of JSON.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    command: list[str] = Field(default_factory=list)
    webhook: str = ""

    @field_validator("webhook")
    @classmethod
    def _on_this_machine(cls, address: str) -> str:
        if address:
            parts = urllib.parse.urlsplit(address)
            host = parts.hostname or ""
            try:
                here = host == "localhost" or ipaddress.ip_address(host).is_loopback
            except ValueError:
                here = False
            if parts.scheme != "http" or not here:
                raise ValueError("wants http on the loopback interface (http://127.0.0.1:8000/…): events stay here")
        return address

    def __bool__(self) -> bool:
        return bool(self.command or self.webhook)


class Teller:
    """Tells events in a thread of its own; of too many the newest are dropped, and that is logged."""

    def __init__(self, how: Telling) -> None:
        self._how = how
        self._queue: queue.Queue[dict[str, Any]] = queue.Queue(_WAITING)
        if how:
            threading.Thread(target=self._work, name="tracer-teller", daemon=True).start()

    def tell(self, event: dict[str, Any]) -> None:
        if self._how:
            try:
                self._queue.put_nowait(event)
            except queue.Full:
                log.warning("an event is not told: %d wait already", _WAITING)

    def _work(self) -> None:
        while True:
            body = json.dumps(self._queue.get()).encode()
            try:
                if self._how.command:
                    subprocess.run(
                        self._how.command, input=body, timeout=_SECONDS, check=True, stdout=subprocess.DEVNULL,
                        stderr=subprocess.DEVNULL,
                    )  # fmt: skip
                if self._how.webhook:
                    asked = urllib.request.Request(self._how.webhook, body, {"Content-Type": "application/json"})
                    urllib.request.build_opener(_Straight).open(asked, timeout=_SECONDS).close()
            except (OSError, ValueError, subprocess.SubprocessError) as error:
                log.warning("an event could not be told: %s", error)


class _Straight(urllib.request.HTTPRedirectHandler):
    """No redirection: it could lead away from this machine."""

    def redirect_request(self, *_: Any) -> None:
        return None
