"""``python bootstrap.py EVENTS PARENT TMP``: a worker's first lines in another environment (see :mod:`.elsewhere`).

Any Python must be able to read this file, however old, so that it can say that it is too old.
"""

import json
import os
import sys

LOWEST = (3, 10)
"""The oldest Python that the worker runs on."""
PACKAGES = "packages"
"""The folder in TMP that holds what the environment need not have."""
SAME = "same"
"""Beside it: what only a Python of the same version can import, under the name of that version."""


def main(events, temporary):
    # type: (int, str) -> None
    """Put tracer where it is found, and nothing of this file's own folder."""
    own = os.path.dirname(os.path.realpath(__file__))
    sys.path[:] = [place for place in sys.path if os.path.realpath(place or os.curdir) != own]
    if sys.version_info < LOWEST:
        version = ".".join(str(part) for part in sys.version_info[:3])
        refuse(events, "%s is Python %s: %d.%d or later is needed" % ((sys.executable, version) + LOWEST))  # noqa: RUF005,UP031
    sys.path.insert(0, os.path.join(temporary, PACKAGES))
    sys.path.append(os.path.join(temporary, SAME, sys.implementation.cache_tag or "none"))
    from importlib.util import find_spec

    if find_spec("numpy") is None:  # not imported: BLAS would start its threads before the sandbox closes
        refuse(events, "%s has no numpy" % sys.executable)  # noqa: UP031
    from tracer.worker.main import main as work

    work()


def refuse(events, message):
    # type: (int, str) -> None
    """End with an error event."""
    error = {"event": "error", "kind": "", "exit": 2, "message": message.splitlines()[0], "traceback": None}
    os.write(events, (json.dumps(error) + "\n").encode())
    os._exit(2)


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[3])
