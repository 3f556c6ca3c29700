"""What the server counts and logs, read as Prometheus reads it, and that neither tells what was sent."""

from __future__ import annotations

import contextlib
import io
import json
import re
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from edgecut.errors import ServerError
from edgecut.runtime import oip, tensors
from edgecut.runtime.batching import Batching
from edgecut.runtime.metrics import Metrics
from edgecut.runtime.request_log import RequestLog
from edgecut.runtime.server import CloudServer, Protection

pytest.importorskip("onnxruntime")
parser = pytest.importorskip("prometheus_client.parser")
Values = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def parsed(text: str) -> Values:
    """Every sample by name and sorted labels; a second one of the same name and labels is a defect."""
    found: Values = {}
    for family in parser.text_string_to_metric_families(text):
        assert family.documentation and family.type in ("counter", "gauge", "histogram"), family
        for sample in family.samples:
            key = (sample.name, tuple(sorted(sample.labels.items())))
            assert key not in found
            found[key] = sample.value
    return found


def scraped(server: CloudServer) -> Values:
    with urllib.request.urlopen(f"{server.urls[1]}/metrics", timeout=20) as answer:
        assert answer.headers["Content-Type"].startswith("text/plain; version=0.0.4")
        return parsed(answer.read().decode())


def get(values: Values, name: str, **labels: str) -> float:
    return values[name, tuple(sorted(labels.items()))]


def request(array: Any, model: str = "net", name: str = "x", request_id: str = "") -> Any:
    made = oip.message("ModelInferRequest")(model_name=model, id=request_id)
    tensors.append(made.inputs, made.raw_input_contents, name, array)
    return made


def post(server: CloudServer, body: bytes, model: str = "net") -> Any:
    return urllib.request.urlopen(urllib.request.Request(f"{server.urls[1]}/v2/models/{model}/infer", body), timeout=20)


def test_what_was_asked_is_what_is_counted(small_models: Path) -> None:
    with (
        CloudServer(small_models, rest_port=0, workers=3, queue=5) as server,
        grpc.insecure_channel(server.address) as channel,
    ):
        stub = oip.Stub(channel)
        sent = request(np.ones((2, 12), np.float32))
        got = [stub.ModelInfer(sent, timeout=20) for _ in range(3)]
        for bad in (request(np.ones((2, 5), np.float32)), request(np.ones(1), model='no"such\nmodel\\')):
            with pytest.raises(grpc.RpcError):
                stub.ModelInfer(bad, timeout=20)
        body = json.dumps({"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 12], "data": [1] * 12}]}).encode()
        answer = post(server, body).read()
        values = scraped(server)
        # What a request holds is let go after its answer has left.
        end = time.monotonic() + 20
        while get(values, "edgecut_held_bytes") and time.monotonic() < end:
            values = scraped(server)
    of = {"model": "net", "version": "1"}
    assert get(values, "edgecut_requests_total", protocol="grpc", code="OK", **of) == 3
    assert get(values, "edgecut_requests_total", protocol="grpc", code="INVALID_ARGUMENT", **of) == 1
    assert (
        get(values, "edgecut_requests_total", protocol="grpc", code="NOT_FOUND", model="", version="") == 1
    )  # and no label of a client's making
    assert get(values, "edgecut_requests_total", protocol="rest", code="OK", **of) == 1
    assert get(values, "edgecut_received_bytes_total", protocol="rest", **of) == len(body)
    assert get(values, "edgecut_sent_bytes_total", protocol="rest", **of) == len(answer)
    assert get(values, "edgecut_sent_bytes_total", protocol="grpc", **of) == sum(one.ByteSize() for one in got)
    for name in ("edgecut_request_seconds", "edgecut_queue_seconds", "edgecut_inference_seconds"):
        assert get(values, f"{name}_count", **of) == get(values, f"{name}_bucket", le="+Inf", **of) == 4
    total, ran, waited = (
        get(values, f"edgecut_{name}_seconds_sum", **of) for name in ("request", "inference", "queue")
    )
    assert total > ran + waited > 0
    assert get(values, "edgecut_workers") == 3 and get(values, "edgecut_queue_limit") == 5
    assert get(values, "edgecut_requests_in_flight") == 0 and get(values, "edgecut_queue_length") == 0
    assert get(values, "edgecut_held_bytes") == 0 and get(values, "edgecut_ready") == 1
    assert {dict(labels)["model"] for name, labels in values if name == "edgecut_model_loaded"} == {
        "net",
        "pick",
        "kinds",
    }
    assert get(values, "process_resident_memory_bytes") > 1e7 and get(values, "process_start_time_seconds") > 1e9


def test_histograms_and_names_that_need_escaping() -> None:
    metrics = Metrics()
    odd = 'a"b\\c\nd'
    for seconds in (0.0004, 0.0005, 0.02, 99.0):
        metrics.observe("grpc", odd, "1", "OK", seconds, 0.0, 0.0001, 10, 20)
    metrics.observe("grpc", odd, "1", "INTERNAL", 1.0, 0.0, None, 10, 0)
    values = parsed(metrics.text({"extra": ("About.", {(): 1.5})}))
    of = {"model": odd, "version": "1"}
    bounds = {
        dict(labels)["le"]: value
        for (name, labels), value in values.items()
        if name == "edgecut_request_seconds_bucket"
    }
    assert bounds["0.0005"] == 2 and bounds["0.01"] == 2 and bounds["0.025"] == 3
    assert bounds["10.0"] == 3 and bounds["+Inf"] == 4
    assert get(values, "edgecut_request_seconds_sum", **of) == pytest.approx(99.0209)
    assert get(values, "edgecut_requests_total", protocol="grpc", code="INTERNAL", **of) == 1
    assert get(values, "extra") == 1.5


SECRET_TOKEN, SECRET_NUMBER, SECRET_TEXT = "Planted-Token-42", 31337031, "PlantedText"


@pytest.mark.parametrize("form", ["text", "json"])
@pytest.mark.parametrize("rows", [1, 4])
def test_no_log_says_what_was_sent(
    form: str, rows: int, small_models: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Values that the runtime itself quotes in its errors, tokens right and wrong, words in odd places."""
    tokens = tmp_path / "tokens"
    tokens.write_text(SECRET_TOKEN)
    stream = io.StringIO()
    log = RequestLog(form, "debug", stream)
    protection = Protection(token_file=str(tokens))
    good, wrong = ([("authorization", f"Bearer {SECRET_TOKEN}{end}")] for end in ("", "x"))
    with (
        CloudServer(
            small_models, rest_port=0, protection=protection, log=log, batching=Batching(rows, 0.001)
        ) as server,
        grpc.insecure_channel(server.address) as channel,
    ):
        stub = oip.Stub(channel)
        for made, metadata in (
            (request(np.array([SECRET_NUMBER]), "pick", "i", "the-id"), good),
            (request(np.array([SECRET_NUMBER]), "pick", "i"), wrong),
            (request(np.full((1, 12), SECRET_NUMBER, np.float32)), good),
        ):
            with contextlib.suppress(grpc.RpcError):
                stub.ModelInfer(made, timeout=20, metadata=metadata)
        for body, model in (
            ({"inputs": [{"name": "i", "datatype": "INT64", "shape": [1], "data": [SECRET_NUMBER]}]}, "pick"),
            ({"inputs": [{"name": "i", "datatype": "INT64", "shape": [1], "data": [SECRET_TEXT]}]}, "pick"),
            ({SECRET_TEXT: SECRET_NUMBER}, "net"),
        ):
            for bearer in (SECRET_TOKEN, SECRET_TOKEN + "x"):
                made = urllib.request.Request(
                    f"{server.urls[1]}/v2/models/{model}/infer",
                    json.dumps(body).encode(),
                    {"Authorization": f"Bearer {bearer}"},
                )
                with contextlib.suppress(urllib.error.HTTPError):
                    urllib.request.urlopen(made, timeout=20)
        metrics = server.metrics.text({})
    said = stream.getvalue() + metrics + "".join(capfd.readouterr())
    assert "INTERNAL" in said and "the-id" in said and "UNAUTHENTICATED" in said
    for secret in (SECRET_TOKEN, str(SECRET_NUMBER), SECRET_TEXT, "3.13370"):
        assert secret not in said


def test_a_line_for_each_request_as_json(small_models: Path) -> None:
    stream = io.StringIO()
    with (
        CloudServer(small_models, log=RequestLog("json", "info", stream)) as server,
        grpc.insecure_channel(server.address) as channel,
    ):
        stub = oip.Stub(channel)
        stub.ModelInfer(request(np.ones((1, 12), np.float32), request_id="id\n" + "x" * 500), timeout=20)
        with pytest.raises(grpc.RpcError):
            stub.ModelInfer(request(np.ones(3), model="m" * 5000), timeout=20)
    first, second = (json.loads(line) for line in stream.getvalue().splitlines())
    assert (first["event"], first["protocol"], first["model"], first["code"]) == ("request", "grpc", "net", "OK")
    assert first["id"] == "id\n" + "x" * 97 and re.fullmatch(r"127\.0\.0\.1:\d+", first["peer"])
    assert first["seconds"] >= first["inference_s"] + first["queued_s"] > 0
    assert first["received_bytes"] > 48 and first["sent_bytes"] > 96
    assert second["code"] == "NOT_FOUND" and second["model"] == "" and len(stream.getvalue()) < 2000


def test_the_guide_names_every_metric(small_models: Path) -> None:
    guide = (Path(__file__).resolve().parents[2] / "docs" / "serving.md").read_text()
    rows = re.findall(r"^\| (`(?:edgecut|process)_.*?) \|(.*?)\|", guide, re.MULTILINE)
    told = {name: {label.strip() for label in labels.split(",")} - {""} for names, labels in rows
            for name in re.findall(r"`(\w+)`", names)}  # fmt: skip
    with CloudServer(small_models, rest_port=0, batching=Batching(2, 0.0)) as server:
        body = json.dumps({"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 12], "data": [1] * 12}]}).encode()
        post(server, body).read()
        with urllib.request.urlopen(f"{server.urls[1]}/metrics", timeout=20) as answer:
            families = list(parser.text_string_to_metric_families(answer.read().decode()))
    found = {}
    for family in families:
        name = family.name + ("_total" if family.type == "counter" else "")
        found[name] = {label for sample in family.samples for label in sample.labels} - {"le"}
    assert told == found


def test_levels_and_forms() -> None:
    def lines(form: str, level: str, write: Callable[[RequestLog], None]) -> str:
        stream = io.StringIO()
        write(RequestLog(form, level, stream))
        return stream.getvalue()

    assert lines("text", "warning", lambda log: log.write("info", "request")) == ""
    text = lines("text", "info", lambda log: log.write("info", "request", id='a "b"\n', none=None, seconds=0.5))
    assert re.fullmatch(r'\S+Z? info request id="a \\"b\\"\\n" seconds=0\.5\n', text)
    assert lines("text", "warning", lambda log: log.warn("two\nlines")).count("\n") == 1
    for form, level in (("xml", "info"), ("text", "loud")):
        with pytest.raises(ServerError, match="unknown log"):
            RequestLog(form, level)
    closed = io.StringIO()
    closed.close()
    RequestLog("text", "info", closed).warn("nobody reads this")
