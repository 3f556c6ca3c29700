"""Our edge and a server of others: NVIDIA's Triton, running the Python backend variant that a bundle brings."""

from __future__ import annotations

import importlib.util
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from edgecut.agent.caller import Caller
from edgecut.agent.transport import TransportError, open_transport
from edgecut.models.session import open_session
from edgecut.runtime.client import CloudClient
from edgecut.runtime.edge import EdgeSession

pytestmark = pytest.mark.deep


def module() -> Any:
    path = Path(__file__).resolve().parents[1] / "triton_server.py"
    spec = importlib.util.spec_from_file_location("triton_server", path)
    assert spec is not None and spec.loader is not None
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    return made


@pytest.fixture(scope="module")
def repository(bundle_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy, since Python leaves a __pycache__ beside the file that the backend loads."""
    folder = tmp_path_factory.mktemp("triton") / "model_repository"
    return Path(shutil.copytree(bundle_folder / "cloud" / "model_repository", folder))


@pytest.fixture(scope="module")
def triton(repository: Path) -> Iterator[Any]:
    server = module()
    if server.missing():
        pytest.skip(server.missing())
    with server.triton(repository, "python") as running:
        yield running


@pytest.fixture(scope="module")
def cloud(repository: Path) -> Any:
    (path,) = repository.glob("*/1/model.onnx")
    return open_session(path)


def inputs_of(session: Any, rows: int, seed: int = 0) -> dict[str, Any]:
    random = np.random.default_rng(seed)
    return {
        node.name: random.standard_normal((rows, *node.shape[1:])).astype(np.float32) for node in session.get_inputs()
    }


@pytest.mark.parametrize("scheme", ["grpc", "http"])
def test_it_answers_what_the_model_says(triton: Any, cloud: Any, repository: Path, scheme: str) -> None:
    (name,) = (path.name for path in repository.iterdir())
    transport = open_transport(f"{scheme}://{getattr(triton, scheme)}")
    try:
        (output,) = (node.name for node in cloud.get_outputs())
        for rows in (1, 2, 33):
            feed = inputs_of(cloud, rows, rows)
            answer = transport.infer(name, list(feed.items()), 20.0)
            np.testing.assert_allclose(answer[output], cloud.run([output], feed)[0], rtol=1e-5, atol=1e-6)
        said = transport.metadata(name, 20.0)
        assert [entry[0] for entry in said["inputs"]] == list(feed) and said["outputs"][0][0] == output
    finally:
        transport.close()


@pytest.mark.parametrize("scheme", ["grpc", "http"])
def test_our_edge_gets_right_answers_from_it(
    triton: Any, bundle_folder: Path, cloud: Any, scheme: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The logits are those of the cloud partition for the very tensors that were sent."""
    sent: list[dict[str, Any]] = []
    infer = Caller.infer

    def noted(caller: Caller, model: str, tensors: Any, *rest: Any) -> Any:
        sent.append({name: np.array(array) for name, array in tensors})
        return infer(caller, model, tensors, *rest)

    monkeypatch.setattr(Caller, "infer", noted)
    with EdgeSession(bundle_folder, f"{scheme}://{getattr(triton, scheme)}") as session:
        x = np.random.default_rng(0).standard_normal((5, *session.manifest.input.shape)).astype(np.float32)
        answers = [session.infer(x), session.infer(x), *session.stream([x[:1], x[1:3], x])]
        assert session.answered_by == "cloud"
    assert len(sent) == len(answers) == 5
    for logits, feed in zip(answers, sent, strict=True):
        np.testing.assert_allclose(logits, cloud.run(None, feed)[0], rtol=1e-5, atol=1e-5)
    assert not np.array_equal(answers[0], answers[1])


def test_a_request_that_it_refuses_is_one_sentence(triton: Any, cloud: Any, repository: Path) -> None:
    (name,) = (path.name for path in repository.iterdir())
    caller = Caller(f"grpc://{triton.grpc},http://{triton.http}")
    try:
        ((tensor, x),) = inputs_of(cloud, 1).items()
        for bad in ([(tensor, x[:, :-1])], [("nothing", x)], [(tensor, x.astype(np.int32))]):
            with pytest.raises(TransportError) as error:
                caller.infer(name, bad)
            assert error.value.kind == "refused" and "\n" not in str(error.value)
        with pytest.raises(TransportError):
            caller.infer("nobody", [(tensor, x)])
        caller.infer(name, [(tensor, x)])
    finally:
        caller.close()


def test_its_memory_stays_flat(triton: Any, cloud: Any, repository: Path) -> None:
    """Tensors cross to the backend by DLPack, where a missing deleter would leak each of them."""
    (name,) = (path.name for path in repository.iterdir())
    processes = [triton.process, *psutil.Process(triton.process.pid).children(recursive=True)]

    def used() -> int:
        return sum(psutil.Process(process.pid).memory_info().rss for process in processes)

    feed = list(inputs_of(cloud, 2000).items())
    sent = sum(array.nbytes for _, array in feed)
    with CloudClient(triton.grpc) as client:
        for _ in range(30):
            client.infer(name, feed)
        before = used()
        for _ in range(120):
            client.infer(name, feed)
    assert used() - before < 120 * sent / 4, (before, used(), sent)
