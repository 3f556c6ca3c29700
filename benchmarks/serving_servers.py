"""The servers that benchmarks/serving.py asks, each started on loopback in processes of its own; the others' installed.

All serve `identity`: x float32 [batch, n] comes back as y. Ours runs it as an ONNX model. Triton's binary from the PyPI
package nvidia-pytriton has no ONNX backend, so its Python backend gives x back, as do MLServer's and KServe's custom
models: theirs pay for no runtime, which is in their favour.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import struct
import subprocess
import sys
import sysconfig
import threading
import time
import venv
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from onnx import TensorProto, helper

from edgecut.agent.transport import TransportError, open_transport
from edgecut.runtime.repository import write_model

MODEL = "identity"
START_S = 90.0
# The releases that were measured, pinned so that a result names what it compares with.
PYTRITON, MLSERVER, KSERVE = "nvidia-pytriton==0.7.0", "mlserver==1.7.1", "kserve==0.21.0"


class Server(NamedTuple):
    """A running server: its release, its process, and its addresses by protocol, as `open_transport` takes them."""

    release: str
    pid: int
    addresses: dict[str, str]


Start = Callable[[Path, Path], contextlib.AbstractContextManager[Server]]


@contextlib.contextmanager
def ours(folder: Path, work: Path) -> Iterator[Server]:
    """`edgecut serve` as it comes."""
    repository = work / "repository"
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", "n"]) for name in "xy"]
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], MODEL, values[:1], values[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10).SerializeToString()
    write_model(repository, MODEL, model, [("x", "TYPE_FP32", [-1])], [("y", "TYPE_FP32", [-1])])
    grpc_port, rest_port = free_port(), free_port()
    command = [sys.executable, "-P", "-m", "edgecut", "serve", str(repository)]
    command += ["--port", str(grpc_port), "--rest-port", str(rest_port)]
    addresses = {"gRPC": f"grpc://127.0.0.1:{grpc_port}", "REST": f"http://127.0.0.1:{rest_port}"}
    with _running(command, addresses, work / "ours.log") as pid:
        yield Server("edgecut", pid, addresses)


@contextlib.contextmanager
def triton(folder: Path, work: Path) -> Iterator[Server]:
    """The binary out of nvidia-pytriton, with its Python backend."""
    package = folder / "pytriton"
    if not (package / "ready").exists():
        _pip([sys.executable], ["--target", str(package), "--no-deps", PYTRITON])
        # Its stub is older than NumPy 2, whose arrays it takes to be empty.
        _pip([sys.executable], ["--target", str(package / "numpy1"), "--no-deps", "numpy<2"])
        (package / "ready").touch()
    home = package / "pytriton" / "tritonserver"
    backends = work / "backends"
    shutil.copytree(home / "backends", backends)
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    stub = home / "python_backend_stubs" / version / "triton_python_backend_stub"
    for program in (shutil.copy2(stub, backends / "python"), home / "bin" / "tritonserver"):
        os.chmod(program, 0o755)
    model = work / "triton" / MODEL
    (model / "1").mkdir(parents=True)
    tensor = "put [{name: %s data_type: TYPE_FP32 dims: [-1, -1]}]"
    config = ["in" + tensor % '"x"', "out" + tensor % '"y"', "instance_group [{count: 1 kind: KIND_CPU}]"]
    (model / "config.pbtxt").write_text("\n".join([f'name: "{MODEL}"', 'backend: "python"', *config]))
    (model / "1" / "model.py").write_text(_TRITON_MODEL.replace("NUMPY", str(package / "numpy1")))
    grpc_port, rest_port = free_port(), free_port()
    command = [str(home / "bin" / "tritonserver"), f"--model-repository={model.parent}"]
    command += [f"--backend-directory={backends}", "--disable-auto-complete-config", "--allow-metrics=false"]
    command += [f"--grpc-port={grpc_port}", f"--http-port={rest_port}"]
    command += ["--grpc-address=127.0.0.1", "--http-address=127.0.0.1"]
    libraries = f"{package / 'nvidia_pytriton.libs'}:{sysconfig.get_config_var('LIBDIR')}"
    addresses = {"gRPC": f"grpc://127.0.0.1:{grpc_port}", "REST": f"http://127.0.0.1:{rest_port}"}
    with _running(command, addresses, work / "triton.log", LD_LIBRARY_PATH=libraries) as pid:
        yield Server(PYTRITON, pid, addresses)


@contextlib.contextmanager
def mlserver(folder: Path, work: Path) -> Iterator[Server]:
    """MLServer with a custom runtime, in one process."""
    python = _environment(folder / "mlserver", MLSERVER)
    model = work / "mlserver"
    model.mkdir()
    ports = [free_port() for _ in range(3)]
    settings = dict(zip(("grpc_port", "http_port", "metrics_port"), ports, strict=True))
    (model / "settings.json").write_text(json.dumps({"host": "127.0.0.1", "parallel_workers": 0, **settings}))
    (model / "model-settings.json").write_text(json.dumps({"name": MODEL, "implementation": "identity.Identity"}))
    (model / "identity.py").write_text(_MLSERVER_MODEL)
    addresses = {"gRPC": f"grpc://127.0.0.1:{ports[0]}"}
    command = [str(python.parent / "mlserver"), "start", str(model)]
    with _running(command, addresses, work / "mlserver.log") as pid:
        yield Server(MLSERVER, pid, addresses)


@contextlib.contextmanager
def kserve(folder: Path, work: Path) -> Iterator[Server]:
    """The KServe SDK's server with a custom model. It listens on every address; there is no option against that."""
    python = _environment(folder / "kserve", KSERVE)
    script = work / "kserve_model.py"
    script.write_text(_KSERVE_MODEL)
    grpc_port, rest_port = free_port(), free_port()
    command = [str(python), str(script), "--grpc_port", str(grpc_port), "--http_port", str(rest_port)]
    addresses = {"gRPC": f"grpc://127.0.0.1:{grpc_port}"}
    with _running(command, addresses, work / "kserve.log") as pid:
        yield Server(KSERVE, pid, addresses)


@contextlib.contextmanager
def echo(folder: Path, work: Path) -> Iterator[Server]:
    """Bytes back over a TCP connection, after eight that say how many: the floor."""
    command = [sys.executable, "-c", f"import sys; sys.path.insert(0, {os.path.dirname(__file__)!r}); {_ECHO}"]
    port = free_port()
    with subprocess.Popen([*command, str(port)]) as process:
        try:
            _await_port(port)
            yield Server("raw TCP", process.pid, {"TCP": f"127.0.0.1:{port}"})
        finally:
            process.kill()


SERVERS: dict[str, Start] = {"echo": echo, "ours": ours, "triton": triton, "mlserver": mlserver, "kserve": kserve}


def echo_forever(port: int) -> None:
    """What the echo's process does."""
    with socket.create_server(("127.0.0.1", port)) as listening:
        while True:
            connection, _ = listening.accept()
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            threading.Thread(target=_echo, args=(connection,), daemon=True).start()


def _echo(connection: socket.socket) -> None:
    buffer = bytearray(1 << 20)
    with contextlib.suppress(OSError, EOFError):
        while True:
            receive(connection, memoryview(buffer)[:8])
            (size,) = struct.unpack_from("<q", buffer)
            receive(connection, memoryview(buffer)[:size])
            connection.sendall(memoryview(buffer)[:size])


def receive(connection: socket.socket, into: memoryview) -> None:
    """Fill `into`. Raises EOFError where the other side ends."""
    while into:
        got = connection.recv_into(into)
        if not got:
            raise EOFError
        into = into[got:]


def free_port() -> int:
    """A port of loopback that is free at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _await_port(port: int) -> None:
    end = time.monotonic() + START_S
    while time.monotonic() < end:
        with contextlib.suppress(OSError):
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        time.sleep(0.05)
    raise SystemExit(f"nothing answers on port {port}")


@contextlib.contextmanager
def _running(command: list[str], addresses: dict[str, str], log: Path, **environment: str) -> Iterator[int]:
    """A server's process group until the block ends, once it answers for the model on every address."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **environment}
    with open(log, "w") as output:
        process = subprocess.Popen(
            command, stdout=output, stderr=output, env=environment, cwd=log.parent, start_new_session=True
        )
        try:
            for address in addresses.values():
                _await_model(process, address, log)
            yield process.pid
        finally:
            process.terminate()
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, 9)
                process.wait()


def _await_model(process: subprocess.Popen[bytes], address: str, log: Path) -> None:
    end = time.monotonic() + START_S
    transport = open_transport(address)
    try:
        while time.monotonic() < end and process.poll() is None:
            with contextlib.suppress(TransportError):
                transport.metadata(MODEL, 5)
                return
            time.sleep(0.2)
    finally:
        transport.close()
    raise SystemExit(f"{address} does not answer; its last words:\n{log.read_text()[-2000:]}")


def _environment(folder: Path, requirement: str) -> Path:
    """The Python of a virtual environment that has the requirement, made where there is none."""
    python = folder / "bin" / "python"
    if not (folder / "ready").exists():
        print(f"installing {requirement}", flush=True)
        venv.create(folder, clear=True, with_pip=True)
        _pip([str(python)], [requirement])
        (folder / "ready").touch()
    return python


def _pip(python: list[str], arguments: list[str]) -> None:
    subprocess.run([*python, "-m", "pip", "install", "-q", "--only-binary", ":all:", *arguments], check=True)


_ECHO = "from serving_servers import echo_forever; echo_forever(int(sys.argv[1]))"
_TRITON_MODEL = """
import sys

sys.path.insert(0, "NUMPY")
import triton_python_backend_utils as utils


class TritonPythonModel:
    def execute(self, requests):
        answers = []
        for request in requests:
            x = utils.get_input_tensor_by_name(request, "x").as_numpy()
            answers.append(utils.InferenceResponse([utils.Tensor("y", x)]))
        return answers
"""
_MLSERVER_MODEL = """
from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceResponse, MetadataModelResponse


class Identity(MLModel):
    async def load(self):
        return True

    async def metadata(self):
        return MetadataModelResponse(name=self.name, platform="", inputs=[], outputs=[])

    async def predict(self, payload):
        x = NumpyCodec.decode_input(payload.inputs[0])
        return InferenceResponse(model_name=self.name, outputs=[NumpyCodec.encode_output("y", x)])
"""
_KSERVE_MODEL = """
import argparse

import kserve
from kserve import InferOutput, InferResponse


class Identity(kserve.Model):
    def __init__(self):
        super().__init__("identity")
        self.ready = True

    async def predict(self, payload, headers=None, response_headers=None):
        x = payload.inputs[0].as_numpy()
        y = InferOutput("y", list(x.shape), "FP32")
        y.set_data_from_numpy(x, binary_data=True)
        return InferResponse(payload.id or "", "identity", [y])


given, _ = argparse.ArgumentParser(parents=[kserve.model_server.parser]).parse_known_args()
kserve.ModelServer(workers=1).start([Identity()])
"""
