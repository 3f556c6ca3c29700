"""Stacked requests: the answers of single ones, none spoilt by another, whatever comes together."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from edgecut.models.session import open_session
from edgecut.runtime import oip, tensors
from edgecut.runtime.batching import Batching
from edgecut.runtime.served import Refusal
from edgecut.runtime.server import CloudServer

pytest.importorskip("onnxruntime")


class Counting:
    """A session that writes down how many rows each run had; `slow_s` holds runs up so that others gather."""

    def __init__(self, model: Any, slow_s: float = 0.0) -> None:
        self.session = open_session(model)
        self.get_inputs, self.get_outputs = self.session.get_inputs, self.session.get_outputs
        self.rows: list[int] = []
        self.slow_s = slow_s

    def run(self, names: list[str], feeds: dict[str, Any]) -> Any:
        self.rows.append(len(next(iter(feeds.values()))))
        time.sleep(self.slow_s)
        return self.session.run(names, feeds)


def ask(stub: oip.Stub, array: Any, model: str = "net", name: str = "x", timeout: float = 20) -> dict[str, Any]:
    made = oip.message("ModelInferRequest")(model_name=model)
    tensors.append(made.inputs, made.raw_input_contents, name, array)
    response = stub.ModelInfer(made, timeout=timeout)
    return tensors.decode_all(response.outputs, response.raw_output_contents)


def test_many_threads_get_their_own_rows_back(small_models: Path) -> None:
    made: list[Counting] = []

    def counting(model: Any) -> Any:
        made.append(Counting(model, slow_s=0.002))
        return made[-1]

    with (
        CloudServer(small_models, make_session=counting, workers=2, batching=Batching(8, 0.005)) as server,
        grpc.insecure_channel(server.address) as channel,
        ThreadPoolExecutor(12) as pool,
    ):
        stub = oip.Stub(channel)
        random = np.random.default_rng(0)
        given = [random.standard_normal((int(random.integers(1, 11)), 12)).astype(np.float32) for _ in range(150)]
        for x, answer in zip(given, pool.map(lambda x: ask(stub, x), given), strict=True):
            np.testing.assert_array_equal(answer["z"], -x)
            np.testing.assert_array_equal(answer["y"], np.maximum(x, 0))
        text = server.metrics.text({})
    rows = [count for session in made for count in session.rows]
    assert sum(rows) == sum(len(x) for x in given)
    assert len(rows) < 150, "nothing was stacked"
    assert max(rows) <= 10  # one that is larger than a batch goes alone
    assert f'edgecut_batch_requests_sum{{model="net",version="1"}} {150.0!r}' in text


def test_a_request_that_breaks_the_batch_is_refused_alone(small_models: Path) -> None:
    """The number 9 is no row of the table: the stacked run fails, and then only its own."""
    with (
        CloudServer(small_models, workers=4, batching=Batching(16, 0.2)) as server,
        grpc.insecure_channel(server.address) as channel,
        ThreadPoolExecutor(5) as pool,
    ):
        stub = oip.Stub(channel)

        def pick(number: int) -> Any:
            try:
                return ask(stub, np.array([number]), "pick", "i")["y"].tolist()
            except grpc.RpcError as error:
                return error.code()

        answers = list(pool.map(pick, [0, 1, 9, 2, 3]))
    assert answers == [[[0, 1]], [[2, 3]], grpc.StatusCode.INTERNAL, [[4, 5]], [[6, 7]]]


def test_what_is_unlike_is_not_stacked_and_what_is_malformed_is_refused_before(small_models: Path) -> None:
    with (
        CloudServer(small_models, batching=Batching(16, 0.1)) as server,
        grpc.insecure_channel(server.address) as channel,
        ThreadPoolExecutor(4) as pool,
    ):
        stub = oip.Stub(channel)
        x = np.ones((2, 12), np.float32)
        good = pool.submit(ask, stub, x)
        bad = pool.submit(ask, stub, x[:, :5])
        other = pool.submit(ask, stub, np.array([2]), "pick", "i")
        with pytest.raises(grpc.RpcError, match="needs FP32"):
            bad.result()
        np.testing.assert_array_equal(good.result()["z"], -x)
        assert other.result()["y"].tolist() == [[4, 5]]


def test_who_waits_too_long_for_a_worker_is_dropped_and_the_others_are_not(small_models: Path) -> None:
    made: list[Counting] = []

    def counting(model: Any) -> Any:
        made.append(Counting(model))
        return made[-1]

    with (
        CloudServer(small_models, make_session=counting, workers=1, batching=Batching(8, 0.0)) as server,
        grpc.insecure_channel(server.address) as channel,
        ThreadPoolExecutor(3) as pool,
    ):
        stub = oip.Stub(channel)
        server.admission.start()  # the one worker is busy
        impatient = pool.submit(ask, stub, np.full((1, 12), 7, np.float32), timeout=0.3)
        with pytest.raises(grpc.RpcError) as raised:
            impatient.result()
        assert raised.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        patient = pool.submit(ask, stub, np.ones((1, 12), np.float32))
        end = time.monotonic() + 20
        while server.admission.held < 2 and time.monotonic() < end:
            time.sleep(0.001)
        server.admission.finish()
        assert patient.result()["z"].tolist() == [[-1] * 12]
    assert sum(count for session in made for count in session.rows) == 1, "the dropped one was run"


def test_a_model_that_loses_rows_is_run_request_by_request(small_models: Path) -> None:
    class Losing(Counting):
        def run(self, names: list[str], feeds: dict[str, Any]) -> Any:
            values = super().run(names, feeds)
            return [value[:1] for value in values] if self.rows[-1] > 1 else values

    with (
        CloudServer(small_models, make_session=Losing, batching=Batching(4, 0.2)) as server,
        grpc.insecure_channel(server.address) as channel,
        ThreadPoolExecutor(4) as pool,
    ):
        stub = oip.Stub(channel)
        given = [np.full((1, 12), number, np.float32) for number in range(4)]
        for x, answer in zip(given, pool.map(lambda x: ask(stub, x), given), strict=True):
            np.testing.assert_array_equal(answer["z"], -x)


def test_only_models_whose_rows_are_free_are_stacked(small_models: Path) -> None:
    with CloudServer(small_models, batching=Batching(4, 0.2)) as server:
        free = {model.name: model.rows_are_free for model in server.catalogue}
    assert free == {"kinds": True, "net": True, "pick": True}


def test_a_batch_always_answers_even_where_the_run_meets_a_defect(small_models: Path) -> None:
    class Broken(Counting):
        def run(self, names: list[str], feeds: dict[str, Any]) -> Any:
            raise KeyboardInterrupt  # no Exception, so nothing expects it

    done: list[Any] = []
    with CloudServer(small_models, make_session=Broken, batching=Batching(4, 0.05)) as server:
        from edgecut.runtime.batching import Batcher

        model = server.catalogue.find("net")
        batcher = Batcher(model, server.admission, Batching(4, 0.05), lambda *_: None)

        class Call:
            deadline, queued_s, run_s, stacked = None, 0.0, None, 1

            def due(self) -> float | None:
                return None

            def expired(self) -> bool:
                return False

        def ask_batcher() -> None:
            try:
                batcher.infer(["z"], {"x": np.ones((1, 12), np.float32)}, Call())
            except (Refusal, KeyboardInterrupt) as error:
                done.append(type(error).__name__)

        threads = [threading.Thread(target=ask_batcher) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(20)
        assert sorted(set(done)) in (["KeyboardInterrupt"], ["KeyboardInterrupt", "Refusal"]) and len(done) == 3
        assert server.admission.running == 0
