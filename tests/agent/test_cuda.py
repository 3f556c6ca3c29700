"""The binding of CUDA's driver: without one, and, compiled, against the stand-in."""

from __future__ import annotations

import ctypes
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgecut.agent import cuda
from edgecut.agent.backends import BackendError
from edgecut.agent.gpu_runner import GpuRunner


def test_absence_is_one_sentence(tmp_path: Path) -> None:
    assert "no NVIDIA driver is installed here" in cuda.usable(str(tmp_path / "libcuda.so.1"))
    with pytest.raises(BackendError, match="no NVIDIA driver"):
        cuda.versions(str(tmp_path / "libcuda.so.1"))


def test_another_library_is_no_driver() -> None:
    assert "too old: libc.so.6 has no cuInit" in cuda.usable("libc.so.6")


def test_kernel_module_version(tmp_path: Path) -> None:
    file = tmp_path / "version"
    file.write_text(
        "NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.54.15  Tue Mar  5 22:23:56 UTC 2024\nGCC version:\n"
    )
    assert cuda._kernel_module(str(file)) == "550.54.15"
    assert cuda._kernel_module(str(tmp_path / "none")) is None


@pytest.mark.deep
def test_device(driver: Any) -> None:
    device = cuda.Device(library=driver.path)
    assert (device.name, device.compute_capability) == ("Fake GPU", (6, 2))
    assert cuda.versions(driver.path)["cuda"] == "10.2"
    device.close()
    device.close()  # twice is once
    assert cuda.usable(driver.path) == ""
    with pytest.raises(BackendError, match="no GPU number 1; the driver sees 1"):
        cuda.Device(1, driver.path)


@pytest.mark.deep
def test_what_went_wrong_is_said(driver: Any) -> None:
    driver.fail("cuInit", 100)
    assert cuda.usable(driver.path) == "CUDA's cuInit failed: no CUDA-capable device is detected (error 100)"
    driver.fail("cuDeviceGetCount", 9999)
    assert cuda.usable(driver.path) == "CUDA's cuDeviceGetCount failed: unknown error (error 9999)"
    driver.device(count=0)
    assert "no CUDA-capable device" in cuda.usable(driver.path)


@pytest.mark.deep
def test_memory_goes_there_and_back(driver: Any) -> None:
    device = cuda.Device(library=driver.path)
    stream = cuda.Stream(device)
    values = np.random.default_rng(0).standard_normal((3, 5)).astype(np.float32)
    tensor = cuda.Tensor(device, values.shape, values.dtype)
    tensor.host[...] = values
    tensor.to_device(stream)
    stream.synchronise()
    tensor.host[...] = 0
    tensor.to_host(stream)
    assert not tensor.host.any()  # the copy is only queued
    stream.synchronise()
    assert np.array_equal(tensor.host, values)
    empty = cuda.Tensor(device, (0, 4), np.float32)
    assert empty.host.shape == (0, 4)
    for held in (tensor, empty, stream, device):
        held.close()


@pytest.mark.deep
def test_out_of_memory_is_said_and_nothing_is_lost(driver: Any) -> None:
    driver.device(size_bytes=1000)
    device = cuda.Device(library=driver.path)
    with pytest.raises(BackendError, match=r"memory, .* is used up"):
        cuda.Tensor(device, (251,), np.float32)
    kept = cuda.Tensor(device, (250,), np.float32)
    kept.close()
    device.close()


@pytest.mark.deep
def test_events_tell_the_stream_s_time(driver: Any) -> None:
    device = cuda.Device(library=driver.path)
    stream, first, second = cuda.Stream(device), cuda.Event(device), cuda.Event(device)
    first.record(stream)
    driver.work(2_500_000)
    second.record(stream)
    with pytest.raises(BackendError, match="device not ready"):
        second.seconds_since(first)
    second.synchronise()
    assert second.seconds_since(first) == pytest.approx(0.0025)
    for held in (first, second, stream, device):
        held.close()


class Doubling(GpuRunner):
    """Twice its input, in a given time."""

    def __init__(self, driver: Any, values: np.ndarray) -> None:
        super().__init__(driver.path)
        self.driver = driver
        self.place_input("x", values, np.float32)
        self.place_output("y", values.shape, np.float32)

    def _enqueue(self) -> None:
        self.driver.flush()
        view = (ctypes.c_float * self.inputs["x"].host.size).from_address
        there, back = (np.frombuffer(view(t.address), np.float32) for t in (self.inputs["x"], self.results["y"]))
        back[:] = 2 * there
        self.driver.work(40_000)


@pytest.mark.deep
def test_a_run_is_copies_and_compute(driver: Any) -> None:
    values = np.arange(100, dtype=np.float32).reshape(1, 100)
    runner = Doubling(driver, values)
    copy_s = (1000 + 2 * 400) * 1e-9  # what the stand-in takes for 400 bytes
    assert runner.run() == pytest.approx(2 * copy_s + 40e-6, rel=1e-6)
    assert runner.compute_s == pytest.approx(40e-6, rel=1e-6)
    outputs = runner.outputs()
    runner.close()
    runner.close()
    assert np.array_equal(outputs["y"], 2 * values)  # a copy, which outlives the memory


@pytest.mark.deep
def test_a_run_in_another_thread(driver: Any) -> None:
    runner = Doubling(driver, np.ones((1, 4), np.float32))
    found: list[object] = []

    def elsewhere() -> None:
        try:
            found.append(runner.run())
        except BackendError as error:
            found.append(error)

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    runner.close()
    assert isinstance(found[0], float), found[0]


@pytest.mark.deep
@pytest.mark.parametrize("name", ["cuStreamCreate", "cuEventCreate", "cuMemAlloc_v2", "cuMemHostAlloc"])
def test_a_runner_that_cannot_open_gives_all_back(driver: Any, name: str) -> None:
    class Closing(GpuRunner):
        def __init__(self) -> None:
            super().__init__(driver.path)
            try:
                self.place_input("x", np.ones((1, 4)), np.float32)
            except BackendError:
                self.close()
                raise

    driver.fail(name, 700)
    with pytest.raises(BackendError, match="illegal memory access"):
        Closing()


@pytest.mark.deep
def test_what_failed_first_is_heard(driver: Any) -> None:
    """Work has failed, and closing fails in part, too."""
    runner = Doubling(driver, np.ones((1, 4), np.float32))
    driver.fail("cuEventSynchronize", 700)
    with pytest.raises(BackendError, match="illegal memory access"):
        runner.run()
    driver.fail("cuCtxSetCurrent", 700)
    runner.close()


@pytest.mark.deep
def test_values_that_do_not_fit_are_refused(driver: Any) -> None:
    runner = GpuRunner(driver.path)
    runner.place_input("tokens", np.array([[1, 2**31 - 1]]), np.int32)
    assert runner.inputs["tokens"].host.dtype == np.int32
    with pytest.raises(BackendError, match="input 'tokens' has values that int32 cannot hold"):
        runner.place_input("tokens", np.array([[1, 2**31]]), np.int32)
    runner.close()
