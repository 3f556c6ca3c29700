"""`edgecut serve` as a process: a client that is not ours, the signals that end it, and what it refuses to serve."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgecut.errors import BundleError, EdgecutError
from edgecut.runtime.serve import serve
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
    with serving(bundle_folder / "cloud", "--threads", "2", "--workers", "2") as (process, address):
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 0 and process.stderr.read() == ""
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
        tmp_path / "file": "there is no bundle folder",
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
