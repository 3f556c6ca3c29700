"""The client with our own server, over both protocols, when something goes away: the answer or one sentence in time."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper

from edgecut.agent.caller import Policy
from edgecut.agent.transport import Security
from edgecut.errors import ServerError
from edgecut.models.spec import TensorSpec
from edgecut.runtime.client import CloudClient
from edgecut.runtime.repository import write_model
from edgecut.runtime.server import CloudServer, Protection

TOKEN = "a-token-of-ours"
INPUT = TensorSpec(name="x", dtype="float32", shape=(3,))
OUTPUT = TensorSpec(name="y", dtype="float32", shape=(3,))
GRPC, REST = 0, 1
both = pytest.mark.parametrize("way", [GRPC, REST], ids=["grpc", "rest"])


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository with one model that negates."""
    folder = tmp_path_factory.mktemp("models")
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 3]) for name in ("x", "y")]
    graph = helper.make_graph([helper.make_node("Neg", ["x"], ["y"])], "g", values[:1], values[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    write_model(folder, "neg", model.SerializeToString(), [("x", "TYPE_FP32", [3])], [("y", "TYPE_FP32", [3])])
    return folder


def ask(client: CloudClient, number: int) -> bool:
    """Whether a request got its own answer. Raises ServerError."""
    x = np.full((1, 3), number, np.float32)
    return bool((client.infer("neg", [("x", x)])["y"] == -x).all())


def free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as held:
        found = [held.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [one.getsockname()[1] for one in found]


@both
def test_a_server_with_a_token(way: int, root: Path, tmp_path: Path) -> None:
    tokens, ours = tmp_path / "tokens", tmp_path / "ours"
    tokens.write_text(TOKEN)
    ours.write_text(TOKEN)
    with CloudServer(root, rest_port=0, protection=Protection(token_file=str(tokens))) as server:
        with CloudClient(server.urls[way], security=Security(token_file=str(ours))) as client:
            client.check_model("neg", (INPUT,), (OUTPUT,))
            assert ask(client, 1)
            ours.write_text("another")
            with pytest.raises(ServerError, match="token") as raised:
                ask(client, 2)
            assert "another" not in str(raised.value)
            ours.write_text(TOKEN)
            assert ask(client, 3)
        with CloudClient(server.urls[way]) as client, pytest.raises(ServerError, match="token"):
            client.check_model("neg", (INPUT,), (OUTPUT,))


@both
def test_a_server_that_starts_again_is_found_within_the_request(way: int, root: Path) -> None:
    ports = free_ports(2)
    with CloudServer(root, port=ports[GRPC], rest_port=ports[REST]) as server:
        client = CloudClient(server.urls[way], 30, policy=Policy(attempts=200, breaker_failures=1000))
        assert ask(client, 1)
    again = CloudServer(root, port=ports[GRPC], rest_port=ports[REST])
    starting = threading.Timer(0.4, again.start)
    starting.start()
    try:
        assert ask(client, 2)
    finally:
        starting.join()
        again.stop(0)
        client.close()


@both
def test_two_servers_one_dying_under_load(way: int, root: Path) -> None:
    with CloudServer(root, rest_port=0) as first, CloudServer(root, rest_port=0) as second:
        urls = [first.urls[way], second.urls[way]]
        with CloudClient(",".join(urls), 20) as client, ThreadPoolExecutor(4) as pool:
            client.check_model("neg", (INPUT,), (OUTPUT,))
            done = [pool.submit(ask, client, i) for i in range(200)]
            done[40].result(30)
            first.stop(0)
            assert all(one.result(60) for one in done)
            second.stop(0)
            with pytest.raises(ServerError, match="none of 2 servers answered") as raised:
                ask(client, 1)
            assert all(url in str(raised.value) for url in urls)


class Freezing:
    """A relay whose open connections stop to carry anything, without ending, once it is `frozen`.

    Connections that are opened then work, until they are `lost` too.
    """

    def __init__(self, port: int) -> None:
        self.port, self.frozen, self.lost = port, threading.Event(), threading.Event()
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.ends: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                one, _ = self.listener.accept()
                other = socket.create_connection(("127.0.0.1", self.port))
                self.ends += [one, other]
                stopped = self.lost if self.frozen.is_set() else self.frozen
                for pair in ((one, other), (other, one)):
                    threading.Thread(target=self._pump, args=(*pair, stopped), daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket, stopped: threading.Event) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                if not stopped.is_set():
                    sink.sendall(data)

    def close(self) -> None:
        for end in [self.listener, *self.ends]:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()


@contextlib.contextmanager
def freezing(port: int) -> Iterator[Freezing]:
    made = Freezing(port)
    try:
        yield made
    finally:
        made.close()


@pytest.mark.deep
@both
def test_a_half_open_connection_is_replaced_within_the_request(way: int, root: Path) -> None:
    with CloudServer(root, rest_port=0) as server:
        scheme, _, address = server.urls[way].partition("://")
        with freezing(int(address.rpartition(":")[2])) as relay:
            client = CloudClient(f"{scheme}://127.0.0.1:{relay.listener.getsockname()[1]}", 8.0)
            assert ask(client, 1)
            relay.frozen.set()
            start = time.monotonic()
            assert ask(client, 2)
            assert 3.9 < time.monotonic() - start < 8, "the first try had half of the time"
            start = time.monotonic()
            assert ask(client, 3) and ask(client, 4)
            assert time.monotonic() - start < 3, "and the connection is not asked for a third time"
            client.close()


@pytest.mark.parametrize("policy", [Policy(), Policy(attempts=1)])
def test_a_server_that_never_answers_again_meets_the_deadline(policy: Policy, root: Path) -> None:
    with CloudServer(root, rest_port=0) as server, freezing(server.port) as relay:
        client = CloudClient(f"127.0.0.1:{relay.listener.getsockname()[1]}", 0.7, policy=policy)
        assert ask(client, 1)
        relay.frozen.set()
        relay.lost.set()
        start = time.monotonic()
        with pytest.raises(ServerError, match=r"did not answer within 0\.7 s|cannot be reached"):
            ask(client, 2)
        assert time.monotonic() - start < 6
        client.close()
