"""Triton's folder layout: what is written is read back, Triton's own parser takes it, and nothing leads outside."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from google.protobuf import text_format

from edgecut.errors import BundleError
from edgecut.runtime.repository import (
    CONFIG,
    check_name,
    read_model,
    read_repository,
    write_model,
)
from edgecut.runtime.tensors import TensorSpec

INPUTS = [("x", "TYPE_FP32", [3, -1]), ("count", "TYPE_INT64", [])]
OUTPUTS = [("logits", "TYPE_FP32", [10])]


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    write_model(tmp_path, "net", b"two", INPUTS, OUTPUTS, version=2)
    write_model(tmp_path, "net", b"ten", INPUTS, OUTPUTS, version=10)
    write_model(tmp_path, "a.second-one", b"one", INPUTS, OUTPUTS)
    (tmp_path / ".hidden").mkdir()
    (tmp_path / "net" / "notes").mkdir()
    (tmp_path / "README").write_text("not a model")
    second, net = read_repository(tmp_path)
    assert (second.name, net.name) == ("a.second-one", "net")
    assert (net.versions, net.latest, net.max_batch_size) == ((2, 10), 10, 0)
    assert net.onnx_path(net.latest).read_bytes() == b"ten" and net.onnx_path(2).read_bytes() == b"two"
    assert net.inputs == (
        TensorSpec(name="x", datatype="FP32", shape=(-1, 3, -1)),
        TensorSpec(name="count", datatype="INT64", shape=(-1,)),
    )
    assert net.outputs == (TensorSpec(name="logits", datatype="FP32", shape=(-1, 10)),)


def test_tritons_own_definition_reads_the_configuration(tmp_path: Path) -> None:
    theirs: Any = pytest.importorskip("tritonclient.grpc.model_config_pb2").ModelConfig()
    text = (write_model(tmp_path, "net", b"", INPUTS, OUTPUTS) / CONFIG).read_text()
    text_format.Parse(text, theirs)
    assert (theirs.name, theirs.backend, theirs.max_batch_size) == ("net", "onnxruntime", 0)
    assert "max_batch_size: 0" in text
    assert [list(one.dims) for one in theirs.input] == [[-1, 3, -1], [-1]]
    assert [one.data_type for one in theirs.output] == [11]


def test_a_static_batch_is_written(tmp_path: Path) -> None:
    write_model(tmp_path, "net", b"", INPUTS, OUTPUTS, batch=1)
    assert read_model(tmp_path, "net").inputs[0].shape == (1, 3, -1)


def test_a_foreign_configuration_with_batching_and_unknown_fields_is_read(tmp_path: Path) -> None:
    write_model(tmp_path, "net", b"", INPUTS, OUTPUTS)
    (tmp_path / "net" / CONFIG).write_text(
        'platform: "onnxruntime_onnx" max_batch_size: 8 dynamic_batching { preferred_batch_size: [ 4 ] }\n'
        'input [ { name: "x" data_type: TYPE_FP32 format: FORMAT_NCHW dims: [ 3, 8, 8 ] } ]\n'
        'output [ { name: "y" data_type: TYPE_FP16 dims: 10 label_filename: "labels.txt" } ]\n'
        "instance_group [ { count: 2 kind: KIND_CPU } ]\n"
    )
    net = read_model(tmp_path, "net")
    assert net.max_batch_size == 8
    assert net.inputs == (TensorSpec(name="x", datatype="FP32", shape=(-1, 3, 8, 8)),)
    assert net.outputs == (TensorSpec(name="y", datatype="FP16", shape=(-1, 10)),)


@pytest.mark.parametrize("name", ["", ".", "..", ".net", "a/b", "../up", "a\\b", "a b", "net\n", "/etc", "né"])
def test_names_that_could_lead_elsewhere_are_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="model name"):
        check_name(name)
    with pytest.raises(BundleError):
        write_model(tmp_path, name, b"", INPUTS, OUTPUTS)
    with pytest.raises(BundleError):
        read_model(tmp_path, name)


@pytest.mark.parametrize("part", ["net", f"net/{CONFIG}", "net/1", "net/1/model.onnx"])
def test_links_out_of_the_repository_are_refused(part: str, tmp_path: Path) -> None:
    root, outside = tmp_path / "root", tmp_path / "outside"
    write_model(root, "net", b"", INPUTS, OUTPUTS)
    outside.mkdir()
    moved = outside / "moved"
    (root / part).rename(moved)
    (root / part).symlink_to(moved)
    with pytest.raises(BundleError, match="leads out"):
        read_repository(root)


def test_links_inside_the_repository_are_followed(tmp_path: Path) -> None:
    write_model(tmp_path, "net", b"one", INPUTS, OUTPUTS)
    (tmp_path / "net" / "2").symlink_to("1")
    assert read_model(tmp_path, "net").onnx_path(2).read_bytes() == b"one"


def test_a_repository_below_a_link_is_read(tmp_path: Path) -> None:
    write_model(tmp_path / "real", "net", b"one", INPUTS, OUTPUTS)
    (tmp_path / "alias").symlink_to("real")
    assert read_repository(tmp_path / "alias")[0].onnx_path(1).read_bytes() == b"one"


@pytest.mark.parametrize(
    ("missing", "word"), [(CONFIG, "no file"), ("1/model.onnx", "no file"), ("1", "no version"), (".", "has no model")]
)
def test_what_is_missing_is_named(missing: str, word: str, tmp_path: Path) -> None:
    folder = write_model(tmp_path, "net", b"", INPUTS, OUTPUTS)
    (folder / missing).resolve().rename(tmp_path / ".gone")
    with pytest.raises(BundleError, match=word):
        read_repository(tmp_path)


def test_a_missing_repository_is_named(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="nowhere"):
        read_repository(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("text", "word"),
    [
        (b"name: ", "no model configuration"),
        (b"\xff\xfe", "no model configuration"),
        (b'name: "other"', "other"),
        (b'backend: "python"', "python"),
        (b'platform: "tensorrt_plan"', "tensorrt_plan"),
        (b"#" * (2 << 20), "bytes"),
    ],
)
def test_an_unusable_configuration_is_one_sentence(text: bytes, word: str, tmp_path: Path) -> None:
    (write_model(tmp_path, "net", b"", INPUTS, OUTPUTS) / CONFIG).write_bytes(text)
    with pytest.raises(BundleError, match=word) as caught:
        read_model(tmp_path, "net")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("inputs", "version"),
    [
        ([], 1),
        ([("x", "FP32", [3])], 1),
        ([("x", "TYPE_STRING", [3])], 1),
        ([("x", "TYPE_FP32", [0])], 1),
        ([("x", "TYPE_FP32", [-2])], 1),
        ([("", "TYPE_FP32", [3])], 1),
        (INPUTS, 0),
        (INPUTS, -1),
    ],
)
def test_what_triton_would_not_load_is_not_written(inputs: list[Any], version: int, tmp_path: Path) -> None:
    with pytest.raises(BundleError):
        write_model(tmp_path, "net", b"", inputs, OUTPUTS, version=version)
    assert not list(tmp_path.iterdir())
