"""`edgecut serve` as a process: a client that is not ours, the signals that end it, and what it refuses to serve."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgecut.agent import onnxruntime_cuda
from edgecut.errors import BundleError, DeviceError, EdgecutError
from edgecut.runtime.serve import rest_port_of, serve
from edgecut.runtime.server import Protection
from edgecut.runtime.verify import verify

ort = pytest.importorskip("onnxruntime")
triton = pytest.importorskip("tritonclient.grpc")


def logits_of(address: str, x: np.ndarray) -> np.ndarray:
    with triton.InferenceServerClient(address) as client:
        given = triton.InferInput("view", list(x.shape), "FP32")
        given.set_data_from_numpy(x)
        return np.asarray(client.infer("lenet5", [given], client_timeout=20).as_numpy("logits"))


@pytest.mark.parametrize("folder", ["cloud", "", "cloud/model_repository"])
def test_a_foreign_client_gets_what_the_cloud_half_computes(folder: str, bundle_folder: Path, serving: Any) -> None:
    model = bundle_folder / "cloud" / "model_repository" / "lenet5" / "1" / "model.onnx"
    x = np.random.default_rng(0).standard_normal((5, 120)).astype(np.float32)
    expected = ort.InferenceSession(str(model)).run(None, {"view": x})[0]
    with serving(bundle_folder / folder) as (process, address):
        np.testing.assert_allclose(logits_of(address, x), expected, rtol=1e-5, atol=1e-5)
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0 and process.stderr.read() == ""


def test_ctrl_c_ends_it_in_order(bundle_folder: Path, serving: Any) -> None:
    options = ("--threads", "2", "--workers", "2", "--rest-port", "none")
    with serving(bundle_folder / "cloud", *options) as (process, address):
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 0 and process.stderr.read() == process.stdout.read() == ""
    host, _, port = address.rpartition(":")
    with pytest.raises(OSError):
        socket.create_connection((host, int(port)), timeout=2)


def test_an_id_pins_what_is_served(bundle_folder: Path, serving: Any) -> None:
    with serving(bundle_folder / "cloud", "--expect-id", verify(bundle_folder / "cloud").id):
        pass
    for folder, words in ((bundle_folder / "cloud", "was expected"), (bundle_folder / "cloud/model_repository", "id")):
        with pytest.raises(BundleError, match=words):
            serve(folder, expect_id="sha256:" + "0" * 64)


def test_what_is_never_served(bundle_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "empty").mkdir()
    damaged = Path(shutil.copytree(bundle_folder / "cloud", tmp_path / "damaged"))
    os.truncate(damaged / "model_repository" / "lenet5" / "1" / "model.onnx", 1000)
    missing = Path(shutil.copytree(bundle_folder, tmp_path / "missing"))
    shutil.rmtree(missing / "edge")
    for folder, words in {
        bundle_folder / "edge": "is an edge side, which is never served; give the bundle's folder cloud",
        tmp_path / "nothing": "there is no bundle folder",
        tmp_path / "file": "is a file; give the folder",
        tmp_path / "empty": "has no model",
        bundle_folder / "profile": "has no model",
        damaged: "has 1000 bytes where its manifest says",
        missing: "there is no bundle folder .*edge",
    }.items():
        with pytest.raises(BundleError, match=words) as raised:
            serve(folder, port=0)
        assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("host", "port", "words"),
    [
        ("127.0.0.1", 65536, "choose one from 0"),
        ("127.0.0.1", -1, "choose one from 0"),
        ("no-such-host.invalid", 0, "cannot listen on no-such-host.invalid:0"),
        ("a" * 70, 0, "cannot listen on a+:0"),
        ("192.0.2.1", 0, "cannot listen on 192.0.2.1:0"),
    ],
)
def test_an_address_that_cannot_be_used(host: str, port: int, words: str, bundle_folder: Path) -> None:
    with pytest.raises(EdgecutError, match=words):
        serve(bundle_folder / "cloud", host=host, port=port)


def test_a_taken_port_and_threads_without_end(bundle_folder: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(EdgecutError, match=rf"cannot listen on 127.0.0.1:{port} \(.+\); choose another"):
            serve(bundle_folder / "cloud", port=port)
    for threads in (0, -1, 1_000_000):
        with pytest.raises(EdgecutError, match="threads cannot be used; give a number from 1 to 1024"):
            serve(bundle_folder / "cloud", port=0, threads=threads)
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL, "a failed start left its handler behind"
    assert threading.active_count() < 50


def test_rest_is_served_beside_grpc(bundle_folder: Path, serving: Any) -> None:
    with serving(bundle_folder) as (process, _):
        url = process.stdout.readline().split()[-1]
        with urllib.request.urlopen(f"{url}/v2/models/lenet5", timeout=20) as answer:
            assert json.load(answer)["inputs"] == [{"name": "view", "datatype": "FP32", "shape": [-1, 120]}]


@pytest.mark.parametrize(
    ("text", "port", "meant"),
    [(None, 8001, 8000), (None, 9, 8000), (None, 0, 0), ("none", 0, None), ("-1", 8001, None), ("81", 0, 81)],
)
def test_which_port_rest_is_served_at(text: str | None, port: int, meant: int | None) -> None:
    assert rest_port_of(text, port) == meant


def test_options_that_cannot_be(bundle_folder: Path) -> None:
    for text in ("some", "-2", "\u0661", ""):
        with pytest.raises(EdgecutError, match="is no port for REST"):
            rest_port_of(text, 0)
    for options, words in (
        ({"workers": 0}, "0 workers"),
        ({"queue": -1}, "-1 requests"),
        ({"max_connections": 0}, "0 connections"),
        ({"max_message_bytes": 0}, "0 bytes a message"),
        ({"provider": "coral"}, "unknown provider 'coral'"),
        ({"log_format": "xml"}, "unknown log format"),
        ({"log_level": "loud"}, "unknown log level"),
        ({"rest_port": 70000}, "choose one from 0"),
        ({"host": "0.0.0.0"}, "--plaintext"),
        ({"protection": Protection(certificate="nowhere")}, "both a certificate and its key"),
        ({"protection": Protection(token_file="nowhere")}, "nowhere cannot be read"),
    ):
        with pytest.raises(EdgecutError, match=words):
            serve(bundle_folder, port=0, **options)
    with pytest.raises(BundleError, match="one folder"):
        serve([bundle_folder, bundle_folder], port=0, expect_id="sha256:" + "0" * 64)
    with pytest.raises(BundleError, match="a server has one model of a name"):
        serve([bundle_folder, bundle_folder / "cloud"], port=0)


def test_a_taken_rest_port_leaves_nothing_behind(bundle_folder: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, socket.create_server(("127.0.0.1", 0)) as free:
        port, rest_port = free.getsockname()[1], taken.getsockname()[1]
        free.close()
        with pytest.raises(EdgecutError, match=f"cannot listen on 127.0.0.1:{rest_port}"):
            serve(bundle_folder, port=port, rest_port=rest_port)
        socket.create_server(("127.0.0.1", port)).close()


def test_the_gpu_is_never_replaced_in_silence(bundle_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where ONNX Runtime has no CUDA, where it falls back, and where a part of the model would run elsewhere."""
    if "CUDAExecutionProvider" not in ort.get_available_providers():
        with pytest.raises(DeviceError, match="cannot serve on the GPU: the installed ONNX Runtime"):
            serve(bundle_folder, port=0, provider="cuda")
    monkeypatch.setattr(onnxruntime_cuda, "usable", lambda: "")
    monkeypatch.setattr(ort, "get_available_providers", lambda: ["CUDAExecutionProvider", "CPUExecutionProvider"])
    monkeypatch.setattr(ort, "preload_dlls", lambda: None, raising=False)
    real = ort.InferenceSession

    def fallen_back(model: Any, options: Any = None, providers: Any = None, **_: Any) -> Any:
        return real(model, options, providers=["CPUExecutionProvider"])

    monkeypatch.setattr(ort, "InferenceSession", fallen_back)
    with pytest.raises(DeviceError, match="fell back to CPUExecutionProvider where the GPU was asked for"):
        serve(bundle_folder, port=0, provider="cuda")


GUIDE = (Path(__file__).resolve().parents[2] / "docs" / "serving.md").read_text()


def blocks(text: str) -> list[str]:
    """The indented blocks of a text."""
    found = re.findall(r"(?:^    .*\n)+", text, re.MULTILINE)
    return [textwrap.dedent(block) for block in found]


def test_the_guide_names_every_option_and_default() -> None:
    from typer.main import get_command

    from edgecut.cli_serve import app

    options = {
        option: parameter.default
        for parameter in get_command(app).params
        for option in parameter.opts
        if option.startswith("--") and not option.endswith("-completion")
    }
    rows = re.findall(r"^\| (`--.*?) \| (.*?) \|", GUIDE, re.MULTILINE)
    told = {option: default for names, default in rows for option in re.findall(r"`(--[a-z-]+)`", names)}
    assert told.keys() == options.keys()
    for option, default in options.items():
        words = {None: ("none", "8000"), False: ("off",)}.get(
            default, (f"{default:g}" if isinstance(default, float) else f"{default}",)
        )
        assert told[option] in words, option


@pytest.mark.deep
def test_the_guides_commands_make_a_server_that_foreign_clients_can_ask(bundle_folder: Path, tmp_path: Path) -> None:
    """Certificates and a token as the guide makes them, the server as it starts it, both protocols."""
    http = pytest.importorskip("tritonclient.http")
    make, serve_it = [block for block in blocks(GUIDE) if "ca.pem" in block]
    make = make.replace("192.0.2.7", "127.0.0.1") + serve_it.partition("edgecut serve")[0]
    subprocess.run(["bash", "-euc", make], cwd=tmp_path, check=True, capture_output=True)
    options = shlex.split(serve_it.partition("edgecut serve")[2].replace("\\\n", " "))
    assert options[0] == "bundle/cloud"
    command = [
        sys.executable,
        "-P",
        "-m",
        "edgecut",
        "serve",
        str(bundle_folder / "cloud"),
        *options[1:],
        "--port",
        "0",
    ]
    x = np.random.default_rng(0).standard_normal((3, 120)).astype(np.float32)
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path) as process:
        try:
            ports = [process.stdout.readline().strip().rpartition(":")[2] for _ in range(2)]
            files = [str(tmp_path / name) for name in ("ca.pem", "client.key", "client.pem")]
            headers = {"authorization": f"Bearer {(tmp_path / 'tokens').read_text().strip()}"}
            given = triton.InferInput("view", [3, 120], "FP32")
            given.set_data_from_numpy(x)
            with triton.InferenceServerClient(f"127.0.0.1:{ports[0]}", False, True, *files) as client:
                over_grpc = client.infer("lenet5", [given], headers=headers).as_numpy("logits")
                with pytest.raises(Exception, match="UNAUTHENTICATED"):
                    client.infer("lenet5", [given])
            given = http.InferInput("view", [3, 120], "FP32")
            given.set_data_from_numpy(x)
            secure = {"ca_certs": files[0], "keyfile": files[1], "certfile": files[2]}
            with http.InferenceServerClient(f"127.0.0.1:{ports[1]}", ssl=True, ssl_options=secure) as client:
                over_rest = client.infer("lenet5", [given], headers=headers).as_numpy("logits")
                with pytest.raises(Exception, match="token"):
                    client.infer("lenet5", [given])
            np.testing.assert_array_equal(over_grpc, over_rest)
            assert over_grpc.shape == (3, 10)
        finally:
            process.terminate()
            assert process.wait(20) == 0
