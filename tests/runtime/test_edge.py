"""The edge session against real servers: what it computes, what it sends, and how it fails."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgecut.errors import BundleError, DataError, DeviceError, EdgecutError, ServerError
from edgecut.models.data import load_data
from edgecut.models.load import Model
from edgecut.privacy.learn import Learned
from edgecut.runtime import edge as edge_module
from edgecut.runtime.edge import EdgeSession
from edgecut.runtime.manifest import EdgeManifest
from edgecut.runtime.relay import LinkShape, Relay
from edgecut.runtime.verify import verify

ort = pytest.importorskip("onnxruntime")
FREE = LinkShape(uplink_bps=1e11, downlink_bps=1e11, rtt_s=0.0)


def images(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(0, 1, (count, 1, 32, 32)).astype(np.float32)


def run(path: Path, x: np.ndarray) -> np.ndarray:
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {session.get_inputs()[0].name: x})[0])


@pytest.fixture
def session(bundle_folder: Path, server: str) -> Iterator[EdgeSession]:
    with EdgeSession(bundle_folder, server, timeout_s=20) as made:
        yield made


@pytest.fixture
def sent(session: EdgeSession, monkeypatch: pytest.MonkeyPatch) -> list[np.ndarray]:
    """What the session hands to its client, in order."""
    seen: list[np.ndarray] = []
    add = session.part.protector.add

    def recording(activations: list[np.ndarray]) -> list[np.ndarray]:
        noisy = add(activations)
        seen.append(noisy[0].copy())
        return noisy

    monkeypatch.setattr(session.part.protector, "add", recording)
    return seen


@pytest.mark.parametrize("batch", [1, 3, 64])
def test_logits_are_those_of_the_noisy_activation(
    batch: int, session: EdgeSession, sent: list[np.ndarray], bundle_folder: Path, learned: tuple[Learned, Path]
) -> None:
    x = images(batch)
    logits = session.infer(x)
    clean = run(bundle_folder / "edge" / "edge.onnx", x)
    expected = run(bundle_folder / "cloud" / "model_repository" / "lenet5" / "1" / "model.onnx", sent[0])
    assert logits.dtype == np.float32
    np.testing.assert_allclose(logits, expected, rtol=1e-5, atol=1e-5)
    # What was added is noise of the collection: in the order of one of its distributions, for each item of the batch.
    for noise in sent[0] - clean:
        sorted_by = [np.diff(noise[order.astype(int)]).min() > -1e-5 for order in learned[0].noise.orders]
        assert any(sorted_by) and not all(sorted_by) and np.ptp(noise) > 0.1


def test_noise_is_never_used_twice(session: EdgeSession, sent: list[np.ndarray]) -> None:
    x = images(1)
    answers = {session.infer(x).tobytes() for _ in range(200)}
    session.infer(np.repeat(x, 8, axis=0))
    rows = [row.tobytes() for array in sent for row in array]
    assert len(rows) == 208 == len(set(rows)) and len(answers) == 200


def test_bytes_and_floats_of_one_image_agree(session: EdgeSession, sent: list[np.ndarray], lenet: Model) -> None:
    pixels = load_data("mnist").x_test[:5]
    padded = np.pad(pixels, ((0, 0), (2, 2), (2, 2)))[:, None].astype(np.float32) / 255
    given: list[np.ndarray] = []
    inner = session.part.run

    def recording(x: np.ndarray) -> Any:
        given.append(x)
        return inner(x)

    session.part.run = recording  # type: ignore[method-assign]
    classes = [session.infer(x).argmax(1) for x in (pixels, pixels[..., None], padded)]
    for x in given:
        np.testing.assert_allclose(x, padded, atol=1e-7)
    right = np.asarray(ort.InferenceSession(lenet.read()).run(None, {"input": padded})[0]).argmax(1)
    # Small noise was learned here; a class may differ now and then, all of them do not.
    assert all((found == right).sum() >= 3 for found in classes)


ODD: dict[str, tuple[Any, str]] = {
    "float64": (images(1).astype(np.float64), "float64"),
    "int32": (images(1).astype(np.int32), "int32"),
    "too small": (images(1)[..., :31], r"\[1, 1, 32, 31\]"),
    "no batch": (images(1)[0], r"\[1, 32, 32\]"),
    "no dimension": (np.float32(1.0) * np.ones((), np.float32), r"\[\]"),
    "empty": (images(1)[:0], r"\[0, 1, 32, 32\]"),
    "empty bytes": (np.zeros((0, 28, 28), np.uint8), r"\[0, 28, 28\]"),
    "large bytes": (np.zeros((1, 33, 33), np.uint8), "larger"),
    "colour": (np.zeros((1, 28, 28, 3), np.uint8), "do not fit"),
    "flat bytes": (np.zeros((1, 784), np.uint8), "uint8"),
    "NaN": (np.where(np.arange(1024).reshape(1, 1, 32, 32) == 7, np.nan, 0).astype(np.float32), "NaN"),
    "infinite": (np.full((1, 1, 32, 32), -np.inf, np.float32), "infinite"),
    "overflowing": (np.full((1, 1, 32, 32), 3e38, np.float32), "not finite"),
    "text": (np.array(["seven"]), "<U5"),
}


def test_odd_input_is_refused_and_nothing_is_sent(bundle_folder: Path, server: str) -> None:
    host, _, port = server.rpartition(":")
    with Relay(host, int(port), FREE) as relay, EdgeSession(bundle_folder, f"127.0.0.1:{relay.port}") as session:
        session.infer(images(1))
        time.sleep(0.3)
        before = relay.uplink_bytes
        for what, (x, words) in ODD.items():
            with pytest.raises(DataError, match=words) as raised:
                session.infer(x)
            assert "\n" not in str(raised.value), what
        time.sleep(0.3)
        assert relay.uplink_bytes == before
        session.infer(images(1))  # the session goes on, and the count can change
        assert relay.uplink_bytes > before + 480


def recording_proxy(address: str) -> tuple[str, list[bytes]]:
    """A TCP proxy in daemon threads; what clients send is kept."""
    host, _, port = address.rpartition(":")
    listener = socket.create_server(("127.0.0.1", 0))
    kept: list[bytes] = []

    def pump(source: socket.socket, sink: socket.socket, keep: Callable[[bytes], object]) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                keep(data)
                sink.sendall(data)
            sink.shutdown(socket.SHUT_RDWR)

    def serve() -> None:
        client, _ = listener.accept()
        upstream = socket.create_connection((host, int(port)))
        threading.Thread(target=pump, args=(client, upstream, kept.append), daemon=True).start()
        threading.Thread(target=pump, args=(upstream, client, len), daemon=True).start()

    threading.Thread(target=serve, daemon=True).start()
    return f"127.0.0.1:{listener.getsockname()[1]}", kept


def test_only_the_noisy_activation_is_on_the_wire(
    bundle_folder: Path, server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    address, kept = recording_proxy(server)
    x = images(1)
    clean = run(bundle_folder / "edge" / "edge.onnx", x)
    with EdgeSession(bundle_folder, address) as session:
        noisy: list[np.ndarray] = []
        add = session.part.protector.add
        monkeypatch.setattr(session.part.protector, "add", lambda a: noisy.extend(add(a)) or noisy[-1:])
        session.infer(x)
    wire = b"".join(kept)
    assert noisy[0].tobytes() in wire
    # Not the noise either, but where the activation is 0 what is sent IS the noise: additive noise cannot help that.
    for secret in (x, clean):
        parts = [secret.tobytes()[i : i + 16] for i in range(0, secret.nbytes - 16, 16)]
        assert not [part for part in parts if any(part) and part in wire]


def test_a_stopped_server_meets_the_deadline_and_a_woken_one_is_used_again(bundle_folder: Path, serving: Any) -> None:
    with (
        serving(bundle_folder / "cloud") as (process, address),
        EdgeSession(bundle_folder, address, timeout_s=0.6) as session,
    ):
        first = session.infer(images(1))
        process.send_signal(signal.SIGSTOP)
        start = time.monotonic()
        with pytest.raises(ServerError, match=f"{address} did not answer within 0.6 s"):
            session.infer(images(1))
        assert 0.5 < time.monotonic() - start < 10
        process.send_signal(signal.SIGCONT)
        session.timeout_s = 20.0
        assert session.infer(images(1)).shape == first.shape


def test_a_server_killed_under_a_request_is_one_sentence(bundle_folder: Path, serving: Any) -> None:
    with (
        serving(bundle_folder / "cloud") as (process, address),
        EdgeSession(bundle_folder, address, timeout_s=15) as session,
    ):
        session.infer(images(1))
        process.send_signal(signal.SIGSTOP)
        threading.Timer(0.5, process.kill).start()
        start = time.monotonic()
        for _ in range(2):  # the second one finds nobody there any more
            with pytest.raises(ServerError, match=f"{address} cannot be reached or went away") as raised:
                session.infer(images(1))
            assert "\n" not in str(raised.value)
        assert time.monotonic() - start < 30


@pytest.mark.parametrize("side", ["", "edge"])
def test_bundle_or_edge_side_and_its_id(side: str, bundle_folder: Path, server: str) -> None:
    with EdgeSession(bundle_folder / side, server, expect_id=verify(bundle_folder / side).id) as session:
        assert session.infer(images(2)).shape == (2, 10)
        trace = session.trace
        assert 0 < trace.add_s < trace.edge_s < trace.total_s and trace.wait_s < trace.total_s
    with pytest.raises(BundleError, match="was expected"):
        EdgeSession(bundle_folder / side, server, expect_id="sha256:" + "0" * 64)


def test_noise_is_drawn_ahead(bundle_folder: Path, server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """While the answer before it is awaited; beside the edge partition where that was for another batch."""
    with EdgeSession(bundle_folder, server) as session:
        protector, drawn = session.part.protector, []
        draw_ahead = protector.draw_ahead
        monkeypatch.setattr(protector, "draw_ahead", lambda batch: (drawn.append(batch), draw_ahead(batch)))
        assert protector.drawn(1)
        counts = []
        for batch in (1, 1, 2, 2, 1):
            assert session.infer(images(batch)).shape == (batch, 10)
            assert session.trace.noise_s > 0 and protector.drawn(batch)
            counts.append(len(drawn))
            drawn.clear()
        # Once for the next request; once more where the batch is another.
        assert counts == [1, 1, 2, 1, 2]


def test_a_slowdown_holds_the_edge_back(bundle_folder: Path, server: str) -> None:
    with EdgeSession(bundle_folder, server, slowdown=200) as session:
        session.infer(images(1))
        slow = session.trace
        session.slowdown = 1.0
        session.infer(images(1))
        assert slow.edge_s > 3 * session.trace.edge_s and slow.noise_s > 3 * session.trace.noise_s


def test_a_cloud_side_or_a_damaged_bundle_is_refused(bundle_folder: Path, server: str, tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="is a cloud side; give the bundle, or its folder edge"):
        EdgeSession(bundle_folder / "cloud", server)
    copy = Path(shutil.copytree(bundle_folder, tmp_path / "copy"))
    os.truncate(copy / "edge" / "noise.npz", 100)
    with pytest.raises(BundleError, match=r"noise.npz has 100 bytes"):
        EdgeSession(copy, server)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"mechanism": "masked"}, "mechanism 'masked'"),
        ({"mechanism": "cloak"}, "another cut or mechanism"),
        ({"files": ()}, "not in the manifest"),
        ({"drop": "noise.npz"}, "there is no file .*noise.npz"),
        ({"drop": "edge.onnx"}, "there is no file .*edge.onnx"),
        ({"cut": "other"}, "noise of another cut"),
    ],
)
def test_an_edge_side_that_does_not_fit_together(
    change: dict[str, Any], words: str, bundle_folder: Path, server: str, tmp_path: Path
) -> None:
    side = Path(shutil.copytree(bundle_folder / "edge", tmp_path / "edge"))
    manifest = verify(side).manifest
    assert isinstance(manifest, EdgeManifest)
    if name := change.get("drop"):
        (side / name).unlink()
        change = {"files": tuple(file for file in manifest.files if file.path != name)}
    elif "cut" in change:
        change = {"cut": (manifest.cut[0].model_copy(update={"shape": (60, 2)}),)}
    manifest.model_copy(update=change).save(side / "manifest.json")
    with pytest.raises(EdgecutError, match=words):
        EdgeSession(side, server)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_an_answer_that_is_not_finite_is_refused(
    value: float, bundle_folder: Path, server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with EdgeSession(bundle_folder, server) as session:
        ask = session.caller.infer

        def damaged(*request: Any) -> dict[str, np.ndarray]:
            return {name: np.where(np.arange(10) == 3, np.float32(value), x) for name, x in ask(*request).items()}

        assert np.isfinite(session.infer(images(1))).all()
        monkeypatch.setattr(session.caller, "infer", damaged)
        with pytest.raises(ServerError, match="NaN or infinite"):
            session.infer(images(1))


def test_the_asynchronous_and_the_streaming_form(session: EdgeSession, sent: list[np.ndarray], lenet: Model) -> None:
    async def several() -> list[np.ndarray]:
        return await asyncio.gather(*(session.infer_async(images(1, seed)) for seed in range(8)))

    answers = asyncio.run(several())
    assert len({logits.tobytes() for logits in answers}) == 8 and all(logits.shape == (1, 10) for logits in answers)
    sent.clear()
    streamed = list(session.stream((images(2, seed) for seed in range(6)), ahead=2))
    cloud = session.manifest.model_name
    for noisy, logits in zip(sent, streamed, strict=True):
        again = session.caller.infer(cloud, [(session.part.names[0], noisy)])[session.manifest.answer.name]
        np.testing.assert_allclose(logits, again, rtol=1e-5, atol=1e-5)


def test_errors_of_all_forms_are_edgecuts_own(session: EdgeSession) -> None:
    bad = images(1)[0]
    with pytest.raises(DataError):
        session.infer(bad)
    with pytest.raises(DataError):
        session.submit(bad).result(30)
    with pytest.raises(DataError):
        asyncio.run(session.infer_async(bad))
    stream = session.stream(iter([images(1), bad, images(1)]))
    assert next(stream).shape == (1, 10)
    with pytest.raises(DataError):
        next(stream)
    with pytest.raises(DeviceError, match="requests ahead"):
        session.stream([], ahead=0)
    session.close()
    with pytest.raises(DeviceError, match="session was closed"):
        session.infer(images(1))


def test_policies_and_backends_that_cannot_be(bundle_folder: Path, server: str) -> None:
    with pytest.raises(DeviceError, match="unknown policy 'perhaps' of away; known: fail, local"):
        EdgeSession(bundle_folder, server, away="perhaps")
    with pytest.raises(DeviceError, match="unknown backend 'tpu'"):
        EdgeSession(bundle_folder, server, backend="tpu")
    with pytest.raises(DeviceError, match="0 threads cannot be used"):
        EdgeSession(bundle_folder, server, threads=0)
    with pytest.raises(ServerError, match="is another machine"):
        EdgeSession(bundle_folder, "192.0.2.1:8001")
    with pytest.raises(DeviceError, match="--with-local-fallback"):
        EdgeSession(bundle_folder, server, away="local")


def test_the_edge_side_that_was_verified_is_the_one_that_is_used(
    bundle_folder: Path, server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A side that takes the verified one's place before it is opened is of another id."""
    copy = Path(shutil.copytree(bundle_folder, tmp_path / "copy"))
    inner = edge_module.open_parts

    def late(folder: str, *arguments: Any, **options: Any) -> Any:
        manifest = Path(folder) / "manifest.json"
        manifest.write_text(manifest.read_text().replace("lenet5", "lenet6"))
        return inner(folder, *arguments, **options)

    monkeypatch.setattr(edge_module, "open_parts", late)
    with pytest.raises(BundleError, match=r"has the id .* was expected"):
        EdgeSession(copy, server)
