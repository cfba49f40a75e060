"""Connections between the processes of a training, which show at once if one of them dies.

NCCL does not notice that a process has died: the others wait for it inside a kernel, where Python cannot interrupt
them. The system closes the connections of a process however it ends, so a thread that reads from one notices it.
"""

import os
import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

_ADDRESS = "sepclip/lifeline"  # key of the shared store: the port of the first process, and a secret
_GRACE_SECONDS = 5.0  # for the main thread to notice the death itself, and to end the process in its own way
_CONNECT_SECONDS = 60.0
_BYE = b"."


@contextmanager
def lifeline(rank: int, size: int, store: Any, on_loss: Callable[[], None]) -> Iterator[None]:
    """Call ``on_loss`` in a thread if another process dies during the block, unless the block ends soon after that.

    The first process is connected with each of the others: if one of these dies, it closes all connections.
    A block that ends with an error counts as a death.
    """
    ending = threading.Event()

    def watch(connection: socket.socket) -> None:
        received = b""
        with suppress(OSError):  # a reset is an end too
            received = connection.recv(1)
        if received == _BYE or ending.is_set():
            return
        # the others notice it now too, and not only when this process ends
        for other in connections:
            with suppress(OSError):
                other.shutdown(socket.SHUT_RDWR)
        if not ending.wait(_GRACE_SECONDS):
            on_loss()

    connections = _accept(size, store) if rank == 0 else [_connect(store)]
    for connection in connections:
        threading.Thread(target=watch, args=(connection,), name="lifeline", daemon=True).start()
    says_bye = False
    try:
        yield
        says_bye = True
    finally:
        ending.set()
        for connection in connections:
            with suppress(OSError):
                if says_bye:
                    connection.sendall(_BYE)
                connection.shutdown(socket.SHUT_RDWR)
            connection.close()


def _accept(size: int, store: Any) -> list[socket.socket]:
    """Return the connections of the first process to all others; raise TimeoutError if one does not connect."""
    secret = secrets.token_hex(16).encode()
    connections: list[socket.socket] = []
    deadline = time.monotonic() + _CONNECT_SECONDS
    with socket.create_server(("", 0)) as server:
        store.set(_ADDRESS, f"{server.getsockname()[1]} {secret.decode()}")
        while len(connections) < size - 1:
            server.settimeout(max(0.1, deadline - time.monotonic()))
            connection, _ = server.accept()
            connection.settimeout(max(0.1, deadline - time.monotonic()))
            # anyone who reaches the port may connect: only a process of this training knows the secret
            if secrets.compare_digest(_receive(connection, len(secret)), secret):
                connection.settimeout(None)
                connections.append(connection)
            else:
                connection.close()
    return connections


def _connect(store: Any) -> socket.socket:
    """Return the connection to the first process."""
    port, secret = store.get(_ADDRESS).decode().split()
    connection = socket.create_connection((os.environ["MASTER_ADDR"], int(port)), _CONNECT_SECONDS)
    connection.settimeout(None)
    connection.sendall(secret.encode())
    return connection


def _receive(connection: socket.socket, count: int) -> bytes:
    received = b""
    with suppress(OSError):
        while len(received) < count and (part := connection.recv(count - len(received))):
            received += part
    return received
