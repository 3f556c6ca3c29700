"""What a cloud side brings for Triton, KServe and Ray, read by those projects' own parsers, types or stated facts."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import text_format

from edgecut.errors import BundleError
from edgecut.runtime.deployments import kubernetes_name, write_deployments
from edgecut.runtime.repository import read_repository, write_model

yaml = pytest.importorskip("yaml")

INPUTS = [("x", "TYPE_FP32", [3, -1]), ("ids", "TYPE_INT64", [7])]
OUTPUTS = [("logits", "TYPE_FP32", [10])]
# Field names and types of an InferenceService, as far as they are used: KServe's CRD
# serving.kserve.io_inferenceservices.yaml (v1beta1) and Kubernetes' ContainerPort and ResourceRequirements.
STRINGS = {"type": "array", "items": {"type": "string"}}
QUANTITIES = {"type": "object", "additionalProperties": {"type": ["string", "integer"]}}


def fields(required: list[str], **properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}


COUNT = {"type": "integer", "minimum": 0}
TEXT = {"type": "string", "minLength": 1}
LABEL = {"type": "string", "pattern": "^[a-z]([-a-z0-9]*[a-z0-9])?$", "maxLength": 63}
PORT = fields(
    ["containerPort"],
    name={"type": "string", "maxLength": 15},
    containerPort={"type": "integer", "minimum": 1, "maximum": 65535},
    protocol={"enum": ["TCP", "UDP", "SCTP"]},
)
MODEL = fields(
    ["modelFormat"],
    modelFormat=fields(["name"], name=TEXT, version=TEXT),
    runtime=TEXT,
    protocolVersion={"enum": ["v1", "v2", "grpc-v1", "grpc-v2"]},
    storageUri={"type": "string", "pattern": "^(pvc|s3|gs|https?|hf|oci)://"},
    args=STRINGS,
    ports={"type": "array", "items": PORT},
    resources=fields([], requests=QUANTITIES, limits=QUANTITIES),
)
PREDICTOR = fields(
    ["model"],
    model=MODEL,
    minReplicas=COUNT,
    maxReplicas=COUNT,
    scaleMetric={"enum": ["cpu", "memory", "concurrency", "rps"]},
    scaleTarget=COUNT,
)
INFERENCE_SERVICE = fields(
    ["apiVersion", "kind", "metadata", "spec"],
    apiVersion={"const": "serving.kserve.io/v1beta1"},
    kind={"const": "InferenceService"},
    metadata=fields(["name"], name=LABEL),
    spec=fields(["predictor"], predictor=PREDICTOR),
)


@pytest.fixture
def cloud(tmp_path: Path) -> Path:
    write_model(tmp_path / "model_repository", "Net.v2", b"model", INPUTS, OUTPUTS)
    return tmp_path


def triton_config(path: Path) -> Any:
    """As Triton's own message reads it; every field must be one of it."""
    configs = pytest.importorskip("tritonclient.grpc.model_config_pb2")
    return text_format.Parse(path.read_text(), configs.ModelConfig())


def test_the_repository_stays_what_it_was(cloud: Path) -> None:
    before = read_repository(cloud / "model_repository")
    written = write_deployments(cloud, "Net.v2", INPUTS, OUTPUTS)
    assert read_repository(cloud / "model_repository") == before
    assert {path.relative_to(cloud).as_posix() for path in written} == {
        "deploy/kserve.yaml",
        "deploy/ray_serve.yaml",
        "model_repository/Net.v2/1/model.py",
        "model_repository/Net.v2/configs/batching.pbtxt",
        "model_repository/Net.v2/configs/python.pbtxt",
    }


def test_dynamic_batching_for_tritons_onnx_backend(cloud: Path) -> None:
    write_deployments(cloud, "Net.v2", INPUTS, OUTPUTS, max_batch=24, batch_wait_s=0.0015)
    config = triton_config(cloud / "model_repository/Net.v2/configs/batching.pbtxt")
    assert (config.name, config.backend, config.max_batch_size) == ("Net.v2", "onnxruntime", 24)
    assert config.dynamic_batching.max_queue_delay_microseconds == 1500
    assert [(tensor.name, list(tensor.dims)) for tensor in config.input] == [("x", [3, -1]), ("ids", [7])]
    assert [(tensor.name, list(tensor.dims)) for tensor in config.output] == [("logits", [10])]
    types = type(config).DESCRIPTOR.file.enum_types_by_name["DataType"].values_by_name
    assert [tensor.data_type for tensor in config.input] == [types[name].number for name in ("TYPE_FP32", "TYPE_INT64")]


def test_the_python_backend_takes_the_batch_as_a_size(cloud: Path) -> None:
    write_deployments(cloud, "Net.v2", INPUTS, OUTPUTS)
    config = triton_config(cloud / "model_repository/Net.v2/configs/python.pbtxt")
    assert (config.backend, config.max_batch_size, config.platform) == ("python", 0, "")
    assert [list(tensor.dims) for tensor in config.input] == [[-1, 3, -1], [-1, 7]]
    assert not config.HasField("dynamic_batching")


def test_the_python_backend_needs_nothing_of_edgecut(cloud: Path) -> None:
    write_deployments(cloud, "Net.v2", INPUTS, OUTPUTS)
    text = (cloud / "model_repository/Net.v2/1/model.py").read_text()
    imported = {
        name.split(".")[0]
        for node in ast.walk(ast.parse(text, feature_version=(3, 8)))
        for name in (
            [alias.name for alias in node.names]
            if isinstance(node, ast.Import)
            else [node.module or "."]
            if isinstance(node, ast.ImportFrom)
            else []
        )
    }
    assert imported == {"__future__", "ctypes", "numpy", "onnxruntime", "os", "triton_python_backend_utils", "typing"}


def test_a_tensor_that_is_all_batch_is_not_batched(tmp_path: Path) -> None:
    write_model(tmp_path / "model_repository", "net", b"model", INPUTS, [("best", "TYPE_INT64", [])])
    write_deployments(tmp_path, "net", INPUTS, [("best", "TYPE_INT64", [])])
    assert not (tmp_path / "model_repository/net/configs/batching.pbtxt").exists()
    assert "args" not in yaml.safe_load((tmp_path / "deploy/kserve.yaml").read_text())["spec"]["predictor"]["model"]
    ray = yaml.safe_load((tmp_path / "deploy/ray_serve.yaml").read_text())
    assert ray["applications"][0]["args"]["max_batch"] == 1


def test_a_model_of_a_fixed_batch_is_not_batched(cloud: Path) -> None:
    write_deployments(cloud, "Net.v2", INPUTS, OUTPUTS, batch=8)
    config = triton_config(cloud / "model_repository/Net.v2/configs/python.pbtxt")
    assert [list(tensor.dims) for tensor in config.input] == [[8, 3, -1], [8, 7]]
    assert not (cloud / "model_repository/Net.v2/configs/batching.pbtxt").exists()


@pytest.mark.parametrize("name", ["net", "Net.v2", "9lives", "_", "a" * 80 + ".b", "yes", "1e3"])
def test_kserve_gets_an_inference_service(tmp_path: Path, name: str) -> None:
    jsonschema = pytest.importorskip("jsonschema")
    write_model(tmp_path / "model_repository", name, b"model", INPUTS, OUTPUTS)
    write_deployments(tmp_path, name, INPUTS, OUTPUTS, max_replicas=3)
    found = yaml.safe_load((tmp_path / "deploy/kserve.yaml").read_text())
    jsonschema.Draft202012Validator(INFERENCE_SERVICE).validate(found)
    assert found["spec"]["predictor"]["maxReplicas"] == 3
    # The custom configuration that is asked for is one that the repository has.
    (asked,) = found["spec"]["predictor"]["model"]["args"]
    config = asked.removeprefix("--model-config-name=")
    assert (tmp_path / "model_repository" / name / "configs" / f"{config}.pbtxt").is_file()


def test_the_schema_would_see_a_wrong_field(cloud: Path) -> None:
    jsonschema = pytest.importorskip("jsonschema")
    write_deployments(cloud, "Net.v2", INPUTS, OUTPUTS)
    text = (cloud / "deploy/kserve.yaml").read_text()
    for right, wrong in (("storageUri", "storageURI"), ("grpc-v2", "grpc"), ("containerPort: 9000", "port: 9000")):
        assert right in text
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(yaml.safe_load(text.replace(right, wrong)), INFERENCE_SERVICE)


def test_nothing_is_written_beside_no_model(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="no stored model"):
        write_deployments(tmp_path, "net", INPUTS, OUTPUTS)
    with pytest.raises(BundleError, match="no model name"):
        write_deployments(tmp_path, "../net", INPUTS, OUTPUTS)
    assert not list(tmp_path.iterdir())


def test_equal_calls_write_equal_bytes(cloud: Path) -> None:
    first = {path: path.read_bytes() for path in write_deployments(cloud, "Net.v2", INPUTS, OUTPUTS)}
    assert first == {path: path.read_bytes() for path in write_deployments(cloud, "Net.v2", INPUTS, OUTPUTS)}


@pytest.mark.parametrize(("name", "expected"), [("LeNet_5", "lenet-5"), ("9lives", "model-9lives"), ("_", "model")])
def test_names_for_kubernetes(name: str, expected: str) -> None:
    assert kubernetes_name(name) == expected
