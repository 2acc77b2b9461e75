"""How fast tensors pass from one process to another on this machine: the choice of the daemon's transport.

``python -m benchmarks.transports`` sends the same bytes over a Unix socket through ZeroMQ, gRPC, Arrow Flight and, as
what none can be faster than, a plain stream socket; beside them the memory's own speed, in the same run. A message is
taken by the receiver as a numpy array and acknowledged as the daemon would, a window of messages at a time. Needs
``pyzmq``, ``grpcio`` and ``pyarrow``; what is not installed is left out.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import multiprocessing
import socket
import statistics
import struct
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

_WINDOW = 8
"""Messages on their way at most."""
_SIZES = (1 << 10, 64 << 10, 1 << 20, 16 << 20)
_TOTAL = 1 << 30
_MOST = 20_000


def _stream_server(path: str, ready: Any) -> None:
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(path)
        listening.listen()
        ready.set()
        peer, _ = listening.accept()
        with peer:
            head = bytearray(8)
            while _fill(peer, memoryview(head)):
                body = np.empty(struct.unpack("<Q", head)[0], np.uint8)
                _fill(peer, body.data)
                peer.sendall(b"k")


def _fill(peer: socket.socket, room: memoryview) -> bool:
    while room:
        count = peer.recv_into(room)
        if not count:
            return False
        room = room[count:]
    return True


def _stream_client(path: str, messages: Iterator[memoryview]) -> None:
    with socket.socket(socket.AF_UNIX) as peer:
        peer.connect(path)
        waiting = 0
        for message in messages:
            peer.sendall(struct.pack("<Q", len(message)))
            peer.sendall(message)
            waiting += 1
            if waiting == _WINDOW:
                waiting -= len(peer.recv(_WINDOW))
        while waiting:
            waiting -= len(peer.recv(_WINDOW))


def _zmq_server(path: str, ready: Any) -> None:
    import zmq

    router = zmq.Context.instance().socket(zmq.ROUTER)
    router.bind(f"ipc://{path}")
    ready.set()
    while True:
        peer, body = router.recv_multipart(copy=False)
        if not len(body.buffer):
            return
        np.frombuffer(body.buffer, np.uint8)
        router.send_multipart([peer, b"k"], copy=False)


def _zmq_client(path: str, messages: Iterator[memoryview]) -> None:
    import zmq

    dealer = zmq.Context.instance().socket(zmq.DEALER)
    dealer.connect(f"ipc://{path}")
    waiting = 0
    for message in messages:
        dealer.send(message, copy=len(message) < 1 << 16)
        waiting += 1
        if waiting == _WINDOW:
            dealer.recv()
            waiting -= 1
    while waiting:
        dealer.recv()
        waiting -= 1
    dealer.send(b"")
    dealer.close()


def _grpc_server(path: str, ready: Any) -> None:
    from concurrent.futures import ThreadPoolExecutor

    import grpc

    def taken(messages: Iterator[bytes], context: Any) -> Iterator[bytes]:
        for message in messages:
            np.frombuffer(message, np.uint8)
            yield b"k"

    method = grpc.stream_stream_rpc_method_handler(taken)
    server = grpc.server(ThreadPoolExecutor(2), options=_UNLIMITED)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("tracer", {"take": method}),))
    server.add_insecure_port(f"unix:{path}")
    server.start()
    ready.set()
    server.wait_for_termination()


_UNLIMITED = (("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1))


def _grpc_client(path: str, messages: Iterator[memoryview]) -> None:
    import grpc

    with grpc.insecure_channel(f"unix:{path}", options=_UNLIMITED) as channel:
        for _ in channel.stream_stream("/tracer/take")(bytes(message) for message in messages):
            pass


def _flight_server(path: str, ready: Any) -> None:
    from pyarrow import flight

    class Server(flight.FlightServerBase):  # type: ignore[misc]
        def do_put(self, context: Any, descriptor: Any, reader: Any, writer: Any) -> None:
            for chunk in reader:
                chunk.data.column(0).to_numpy(zero_copy_only=True)
                writer.write(b"k")

    server = Server(f"grpc+unix://{path}")
    ready.set()
    server.serve()


def _flight_client(path: str, messages: Iterator[memoryview]) -> None:
    import pyarrow as pa
    from pyarrow import flight

    schema = pa.schema([("values", pa.uint8())])
    with flight.connect(f"grpc+unix://{path}") as client:
        writer, answers = client.do_put(flight.FlightDescriptor.for_path("x"), schema)
        waiting = 0
        for message in messages:
            column = pa.Array.from_buffers(pa.uint8(), len(message), [None, pa.py_buffer(message)])
            writer.write_batch(pa.record_batch([column], schema=schema))
            waiting += 1
            if waiting == _WINDOW:
                answers.read()
                waiting -= 1
        while waiting:
            answers.read()
            waiting -= 1
        writer.close()


_TRANSPORTS: dict[str, tuple[str, Callable[[str, Any], None], Callable[[str, Iterator[memoryview]], None]]] = {
    "stream socket": ("socket", _stream_server, _stream_client),
    "ZeroMQ": ("zmq", _zmq_server, _zmq_client),
    "gRPC": ("grpc", _grpc_server, _grpc_client),
    "Arrow Flight": ("pyarrow.flight", _flight_server, _flight_client),
}


def _there(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:
        return False


def seconds(name: str, size: int, count: int) -> float:
    _, serve, send = _TRANSPORTS[name]
    spawning = multiprocessing.get_context("spawn")
    body = memoryview(np.random.default_rng(0).bytes(size))
    with tempfile.TemporaryDirectory() as folder:
        path, ready = str(Path(folder) / "socket"), spawning.Event()
        server = spawning.Process(target=serve, args=(path, ready), daemon=True)
        server.start()
        ready.wait()
        began = time.perf_counter()
        send(path, (body for _ in range(count)))
        took = time.perf_counter() - began
        server.kill()
        server.join()
    return took


def copied(size: int, count: int) -> float:
    source, target = np.ones(size, np.uint8), np.empty(size, np.uint8)
    np.copyto(target, source)
    began = time.perf_counter()
    for _ in range(count):
        np.copyto(target, source)
    return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    rows = []
    print(f"{'':<14}" + "".join(f"{size >> 10:>9} KiB" for size in _SIZES) + "   (MB/s, median)")
    for name in ("memcpy", *(name for name, (module, _, _) in _TRANSPORTS.items() if _there(module))):
        rates = []
        for size in _SIZES:
            count = min(_MOST, max(_WINDOW, _TOTAL // size))
            run = copied if name == "memcpy" else lambda size, count, name=name: seconds(name, size, count)
            rates.append(size * count / 1e6 / statistics.median(run(size, count) for _ in range(asked.repeat)))
            rows.append({"transport": name, "bytes": size, "mb_per_s": rates[-1]})
        print(f"{name:<14}" + "".join(f"{rate:>13.0f}" for rate in rates), flush=True)
    if asked.json:
        asked.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
