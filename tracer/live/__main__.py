"""The daemon's process, as ``tracer daemon start`` starts it: settings as JSON on standard input."""

from __future__ import annotations

import logging
import logging.handlers
import signal
import sys

from pydantic import TypeAdapter

from tracer.errors import TracerError
from tracer.live import place
from tracer.live.daemon import Daemon, Settings

_LOG = 4 << 20
FORMAT = "%(asctime)s %(levelname)s %(message)s"


def serve(settings: Settings) -> None:
    """Run the daemon in this process until a signal or a client ends it. Raises InputError as :meth:`Daemon.run`."""
    daemon = Daemon(settings)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, daemon.stop)
    daemon.run()


def main() -> int:
    settings = TypeAdapter(Settings).validate_json(sys.stdin.buffer.read())
    place.folder(make=True)
    handler = logging.handlers.RotatingFileHandler(place.log(), maxBytes=_LOG, backupCount=1)
    logging.basicConfig(level=logging.INFO, handlers=[handler], format=FORMAT)
    logging.captureWarnings(True)
    try:
        serve(settings)
    except TracerError as error:
        print(error, file=sys.stderr)
        return int(error.exit_code)
    except BaseException:
        logging.exception("the daemon ends by a fault of its own")
        raise
    return 0


if __name__ == "__main__":
    sys.exit(main())
