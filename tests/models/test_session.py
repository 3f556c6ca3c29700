"""Opening a session: what is missing or broken is said in a sentence."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from edgecut.errors import ModelError
from edgecut.models.load import Model
from edgecut.models.session import open_session, random_feed

WITHOUT = "import sys; sys.modules['onnxruntime'] = None\n"


def test_without_onnxruntime(lenet: Model, tmp_path: Path) -> None:
    program = WITHOUT + (
        "from edgecut.errors import DeviceError\n"
        "from edgecut.models.session import open_session\n"
        "try:\n    open_session(b'')\nexcept DeviceError as error:\n    print(error)\n"
    )
    said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert said == "ONNX Runtime is not installed; install onnxruntime, as edgecut[cpu] or edgecut[gpu] does\n"


def test_profile_command_without_onnxruntime(lenet: Model, tmp_path: Path) -> None:
    program = WITHOUT + f"sys.argv = ['edgecut', 'profile', {str(lenet.path)!r}]\nfrom edgecut.cli import main\nmain()"
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=tmp_path)
    assert (ended.returncode, ended.stdout) == (2, "")
    said = "edgecut: ONNX Runtime is not installed; install onnxruntime, as edgecut[cpu] or edgecut[gpu] does\n"
    assert ended.stderr == said
    assert not list(tmp_path.iterdir())


def test_what_cannot_be_loaded(lenet: Model, tmp_path: Path) -> None:
    for broken in (b"", b"nothing", lenet.read()[:-500]):
        with pytest.raises(ModelError, match="ONNX Runtime cannot load the model: ") as caught:
            open_session(broken)
        assert "\n" not in str(caught.value)
    with pytest.raises(ModelError, match=r"cannot load .*gone\.onnx"):
        open_session(tmp_path / "gone.onnx")


def test_bytes_and_path_give_the_same(lenet: Model) -> None:
    sessions = [open_session(lenet.read(), 2), open_session(lenet.path), open_session(str(lenet.path))]
    feed = random_feed(sessions[0], 3, seed=5)
    assert {name: (value.shape, value.dtype.name) for name, value in feed.items()} == {
        "input": ((3, 1, 32, 32), "float32")
    }
    outputs = [session.run(None, feed)[0] for session in sessions]
    np.testing.assert_allclose(outputs[0], outputs[1], rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(outputs[1], outputs[2])
    options = sessions[0].get_session_options()
    assert (options.intra_op_num_threads, options.inter_op_num_threads) == (2, 1)
    assert not np.array_equal(feed["input"], random_feed(sessions[0], 3, seed=6)["input"])
