"""The cloud side on Ray: a cluster of one node, one of two nodes of which one is killed, and what needs neither."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgecut.agent.caller import Caller
from edgecut.agent.transport import Security, TransportError
from edgecut.errors import BundleError, ModelError, ServerError
from edgecut.runtime import oip
from edgecut.runtime.deployments import write_deployments
from edgecut.runtime.namespaces import end_processes_in
from edgecut.runtime.ray_engine import serve_on_ray
from edgecut.runtime.ray_replica import Settings, _groups, add_to_proxy, application, in_groups
from edgecut.runtime.repository import write_model
from edgecut.runtime.served import Refusal, invalid
from edgecut.runtime.tunnel import TunnelShape, real_link

pytest.importorskip("onnxruntime")
START_S = 240.0
# A node that is gone without a word is noticed after about 3 s; by Ray's own values it takes 15 or more.
NOTICED_SOONER = {
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_timeout_ms": "2000",
    "RAY_health_check_failure_threshold": "3",
    "RAY_health_check_initial_delay_ms": "5000",
}
WEIGHTS = np.random.default_rng(7).standard_normal((16, 4)).astype(np.float32)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cloud side's repository: y = x @ WEIGHTS, and a model that fails on zeros."""
    folder = tmp_path_factory.mktemp("cloud") / "model_repository"
    spec = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", size]) for name, size in (("x", 16), ("y", 4))
    ]
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"])]
    graph = helper.make_graph(nodes, "net", spec[:1], spec[1:], [numpy_helper.from_array(WEIGHTS, "w")])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.checker.check_model(model)
    tensors = [("x", "TYPE_FP32", [16])], [("y", "TYPE_FP32", [4])]
    write_model(folder, "net", model.SerializeToString(), *tensors)
    write_deployments(folder.parent, "net", *tensors)
    return folder


@pytest.fixture
def token(tmp_path: Path) -> Path:
    path = tmp_path / "token"
    path.write_text("opensesame\n")
    return path


def need_ray() -> None:
    if importlib.util.find_spec("ray") is None:
        pytest.skip("no Ray here; install edgecut[ray]")


def x_of(rows: int) -> Any:
    return np.random.default_rng(rows).standard_normal((rows, 16)).astype(np.float32)


# What needs no cluster.


def test_which_requests_are_stacked() -> None:
    def asked(rows: int, columns: int = 4, names: tuple[str, ...] = ("y",)) -> Any:
        return names, {"x": np.zeros((rows, columns), np.float32)}

    group = [asked(1), asked(2), asked(1, columns=5), asked(3), asked(1, names=("z",)), asked(9), asked(0), asked(1)]
    groups = _groups(group, max_rows=4)
    assert sorted(place for places in groups for place in places) == list(range(len(group)))
    assert [0, 1] in groups and [2] in groups and [4] in groups and [5] in groups and [6] in groups
    assert _groups([asked(3), asked(1), asked(1)], 4) == [[0, 1], [2]]
    # Two inputs that share no first size are never stacked.
    odd = (("y",), {"a": np.zeros((2, 1)), "b": np.zeros((3, 1))})
    assert _groups([odd, odd], 8) == [[0], [1]]


def test_the_proxy_gets_the_bytes_of_every_call() -> None:
    class Server:
        def add_generic_rpc_handlers(self, handlers: Sequence[Any]) -> None:
            self.handlers = handlers

    server = Server()
    add_to_proxy(None, server)
    (handler,) = server.handlers
    found = handler.service(type("Details", (), {"method": f"/{oip.SERVICE}/ModelInfer"}))
    assert found is not None and found.request_deserializer is None
    assert len(handler._method_handlers) == len(oip.methods())


def test_arguments_that_cannot_be(root: Path) -> None:
    with pytest.raises(ServerError, match="--plaintext"):
        serve_on_ray(root)
    with pytest.raises(ServerError, match=r"every address.*--host 0\.0\.0\.0"):
        serve_on_ray(root, "127.0.0.1", plaintext=True)
    with pytest.raises(ServerError, match="port 70000"):
        serve_on_ray(root, port=70000, plaintext=True)
    with pytest.raises(ServerError, match="token file"):
        serve_on_ray(root, port=0, plaintext=True, token_file=root / "none")
    with pytest.raises(ServerError, match="2 replicas at most"):
        serve_on_ray(root, port=0, plaintext=True, replicas=3, max_replicas=2)
    with pytest.raises(ServerError, match="min_replicas"):
        serve_on_ray(root, port=0, plaintext=True, replicas=-1)
    with pytest.raises(BundleError, match="check the path"):
        serve_on_ray(root / "none", port=0, plaintext=True)


def test_a_model_that_cannot_be_served_is_said_before_ray_starts(root: Path, tmp_path: Path) -> None:
    tensors = [("x", "TYPE_FP32", [16])], [("y", "TYPE_FP32", [4])]
    write_model(tmp_path, "net", b"no model", *tensors)
    with pytest.raises(ModelError, match="cannot load"):
        serve_on_ray(tmp_path, port=0, plaintext=True)


def test_authentication_stays_on(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    need_ray()
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    with pytest.raises(ServerError, match="RAY_AUTH_MODE"):
        serve_on_ray(root, port=0, plaintext=True)


def test_stacked_requests_get_their_own_answers() -> None:
    runs: list[int] = []

    async def alone(names: Sequence[str], inputs: Any) -> Any:
        x = inputs["x"]
        runs.append(len(x))
        return invalid("a zero") if (x == 0).any() else [x @ WEIGHTS, x]

    def answers(*given: Any) -> Any:
        runs.clear()
        return asyncio.run(in_groups(alone, [(("y", "x"), {"x": x}) for x in given], 8))

    for answer, rows in zip(answers(*map(x_of, (1, 3, 4, 2))), (1, 3, 4, 2), strict=True):
        np.testing.assert_allclose(answer[0], x_of(rows) @ WEIGHTS, rtol=1e-4, atol=1e-6)
        np.testing.assert_array_equal(answer[1], x_of(rows))
    assert runs == [8, 2]
    poisoned = x_of(2)
    poisoned[1, 3] = 0
    first, refused, last = answers(x_of(1), poisoned, x_of(3))
    np.testing.assert_array_equal(first[1], x_of(1))
    np.testing.assert_array_equal(last[1], x_of(3))
    assert isinstance(refused, Refusal) and str(refused) == "a zero"
    assert runs == [6, 1, 2, 3]


def test_a_model_that_changes_the_number_of_rows_is_not_split() -> None:
    async def total(names: Sequence[str], inputs: Any) -> Any:
        return [inputs["x"].sum(axis=0, keepdims=True)]

    answers = asyncio.run(in_groups(total, [(("y",), {"x": x_of(rows)}) for rows in (1, 2)], 8))
    for answer, rows in zip(answers, (1, 2), strict=True):
        np.testing.assert_array_equal(answer[0], x_of(rows).sum(axis=0, keepdims=True))


# What needs Ray, but no cluster.


@pytest.mark.deep
def test_the_configuration_is_one_for_ray(root: Path) -> None:
    need_ray()
    import yaml
    from ray.serve.schema import ServeDeploySchema

    found = yaml.safe_load((root.parent / "deploy" / "ray_serve.yaml").read_text())
    schema = ServeDeploySchema.model_validate(found)
    (entry,) = schema.applications
    assert schema.grpc_options.port == 8001 and not schema.grpc_options.enable_reflection
    # The imports lead somewhere, and the arguments are ones that the application takes.
    assert schema.grpc_options.grpc_servicer_functions == ["edgecut.runtime.ray_replica:add_to_proxy"]
    assert entry.import_path == "edgecut.runtime.ray_replica:application"
    assert Settings.model_validate(entry.args).max_batch == 16
    assert application(dict(entry.args)) is not None
    with pytest.raises(ServerError, match="extra"):
        application({**entry.args, "extra": 1})
    with pytest.raises(ServerError, match="fewer than"):
        application({**entry.args, "min_replicas": 9})


# What needs a cluster.

ENGINE = """
import json, sys
from edgecut.errors import EdgecutError
from edgecut.runtime.ray_engine import serve_on_ray
try:
    serve_on_ray(sys.argv[1], plaintext=True, **json.loads(sys.argv[2]))
except EdgecutError as error:
    print("failed:", error, flush=True)
"""


def engine(root: Path, **options: Any) -> list[str]:
    return [sys.executable, "-P", "-c", ENGINE, os.fspath(root), json.dumps(options)]


def await_line(process: subprocess.Popen[str], start: str) -> str:
    """The first line that starts so; what a process says before is Ray's affair."""
    watch = threading.Timer(START_S, process.kill)
    watch.start()
    try:
        assert process.stdout is not None
        said = []
        for line in process.stdout:
            said.append(line)
            if line.startswith(start):
                return line
        raise AssertionError(f"it ended with {process.wait()} and said {said}")
    finally:
        watch.cancel()


@contextlib.contextmanager
def one_node(root: Path, **options: Any) -> Iterator[tuple[subprocess.Popen[str], str]]:
    command = engine(root, port=0, **options)
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True) as process:
        try:
            yield process, "127.0.0.1:" + await_line(process, "serving ").rpartition(":")[2].strip()
        finally:
            process.terminate()
            try:
                process.wait(40)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)


@pytest.mark.deep
@pytest.mark.timeout(400)
def test_one_node(root: Path, token: Path) -> None:
    need_ray()
    with one_node(root, token_file=os.fspath(token), max_batch=8) as (process, server):
        caller = Caller(f"grpc://{server}", Security(token_file=os.fspath(token)))
        try:
            for rows in (1, 3, 8, 9):
                np.testing.assert_allclose(
                    caller.infer("net", [("x", x_of(rows))])["y"], x_of(rows) @ WEIGHTS, atol=1e-5
                )
            names = [name for name, _, _ in caller.metadata("net")["inputs"]]
            assert names == ["x"]
            with pytest.raises(TransportError, match=r"net.*needs FP32") as refused:
                caller.infer("net", [("x", x_of(2).astype(np.float64))])
            assert refused.value.kind == "refused"
        finally:
            caller.close()
        check_tokens(server, token)
        process.send_signal(signal.SIGTERM)
        assert process.wait(40) == 0
    with pytest.raises(OSError):
        os.killpg(process.pid, 0)


def check_tokens(server: str, token: Path) -> None:
    """Refused without a token and with a wrong one, and with yesterday's after a renewal; garbage is no request."""
    other = token.with_name("other")
    other.write_text("closesesame\n")
    with grpc.insecure_channel(server) as channel:
        call = channel.unary_unary(f"/{oip.SERVICE}/ModelInfer")

        def code(data: bytes, *header: str) -> grpc.StatusCode:
            with pytest.raises(grpc.RpcError) as error:
                call(data, metadata=[("authorization", value) for value in header], timeout=20)
            assert "sesame" not in str(error.value)
            return error.value.code()

        assert code(b"") is grpc.StatusCode.UNAUTHENTICATED
        assert code(b"", "Bearer closesesame") is grpc.StatusCode.UNAUTHENTICATED
        assert code(b"\xff\xff", "Bearer opensesame") is grpc.StatusCode.INVALID_ARGUMENT
        assert code(b"", "Bearer opensesame") is grpc.StatusCode.NOT_FOUND
        other.replace(token)
        assert code(b"", "Bearer opensesame") is grpc.StatusCode.UNAUTHENTICATED
        assert code(b"", "Bearer closesesame") is grpc.StatusCode.NOT_FOUND


@pytest.mark.deep
@pytest.mark.timeout(400)
@pytest.mark.skipif(os.geteuid() != 0, reason="two nodes need namespaces, and those root")
def test_a_node_is_killed_under_load(root: Path, token: Path, tmp_path: Path) -> None:
    need_ray()
    secret = tmp_path / "ray_token"
    secret.write_text("c" * 64)
    environment = {
        **os.environ,
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": os.fspath(secret),
        "RAY_USAGE_STATS_ENABLED": "0",
        **NOTICED_SOONER,
    }
    # Ray's sockets need a short path.
    with (
        tempfile.TemporaryDirectory(dir="/tmp") as folder,
        real_link(TunnelShape(uplink_bps=1e9, downlink_bps=1e9, rtt_s=0.0002)) as link,
    ):
        head, other = link.cloud, link.edge
        log = (tmp_path / "ray.log").open("w")

        def start(side: Any, *options: str) -> subprocess.Popen[str]:
            command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--block", "--num-cpus=1", *options]
            command += [f"--node-ip-address={side.address}", "--object-store-memory=80000000", "--disable-usage-stats"]
            started: subprocess.Popen[str] = side.popen(command, env=environment, stdout=log, stderr=log)
            return started

        start(head, "--head", "--port=6379", "--include-dashboard=false", f"--temp-dir={folder}")
        start(other, f"--address={head.address}:6379")
        options = {"port": 8001, "replicas": 2, "cluster": f"{head.address}:6379", "token_file": os.fspath(token)}
        serving = head.popen(engine(root, **options), env=environment, stdout=subprocess.PIPE, stderr=log)
        said = await_line(serving, ("serving ", "failed"))
        assert said.startswith("serving"), said + (tmp_path / "ray.log").read_text()[-2000:]
        servers = f"grpc://{other.address}:8001,grpc://{head.address}:8001"
        script = os.fspath(Path(__file__).with_name("ray_load.py"))
        model = os.fspath(root / "net" / "1" / "model.onnx")
        load = head.popen(
            [sys.executable, "-P", script, model, servers, os.fspath(token), "15"],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=log,
        )
        assert await_line(load, "going")
        time.sleep(3)
        end_processes_in(other.fds[-1:])
        said = await_line(load, "{")
        end_processes_in(head.fds[-1:])
        log.close()
        logs = Path(folder, "session_latest", "logs", "serve").glob("replica_*.log")
        answered = sorted(path.read_text().count("CALL") for path in logs)
    result = json.loads(said)
    assert not result["failures"], result
    assert result["wrong"] == 0 and result["requests"] > 100, result
    # Both nodes had their share before; a proxy that keeps to its own node would have left one of them out.
    assert len(answered) >= 2 and min(answered[-2:]) > 10, answered


def test_what_keeps_ray_from_loading_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from edgecut.runtime import ray_engine

    (tmp_path / "ray.py").write_text("raise KeyError('libamd_smi.so')")
    monkeypatch.syspath_prepend(tmp_path)
    for name in [name for name in sys.modules if name.partition(".")[0] == "ray"]:
        monkeypatch.delitem(sys.modules, name)
    find = importlib.util.find_spec
    with monkeypatch.context() as without:
        without.setattr(importlib.util, "find_spec", lambda name: None if name == "amdsmi" else find(name))
        with pytest.raises(ServerError, match=r"Ray cannot be loaded \(.*libamd_smi.*environment of its own"):
            ray_engine._load()
    (tmp_path / "amdsmi.py").write_text("")
    with pytest.raises(ServerError, match="pip uninstall amdsmi"):
        ray_engine._load()
