"""The wire is the public protocol: our descriptor against its source and against tritonclient's, and the tensors."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from google.protobuf import descriptor_pb2

from edgecut.runtime import oip, tensors
from edgecut.runtime.tensors import TensorError, TensorSpec

FOLDER = Path(oip.__file__).parent
MESSAGES = [
    *[f"{name}{end}" for name in ("ServerLive", "ServerReady", "ModelReady") for end in ("Request", "Response")],
    *[f"{name}{end}" for name in ("ServerMetadata", "ModelMetadata", "ModelInfer") for end in ("Request", "Response")],
    "InferParameter",
    "InferTensorContents",
]


def test_the_descriptor_is_what_the_source_compiles_to(tmp_path: Path) -> None:
    protoc = pytest.importorskip("grpc_tools.protoc")
    out = tmp_path / "oip.binpb"
    assert not protoc.main(["", f"-I{FOLDER}", "--include_imports", f"--descriptor_set_out={out}", "oip.proto"])
    parse = descriptor_pb2.FileDescriptorSet.FromString
    assert parse(out.read_bytes()) == parse((FOLDER / "oip.binpb").read_bytes())


def fields(descriptor: Any) -> dict[str, Any]:
    """Everything of a message that decides its bytes, nested messages included."""
    found: dict[str, Any] = {}
    for field in descriptor.fields:
        nested = fields(field.message_type) if field.message_type else None
        oneof = field.containing_oneof.name if field.containing_oneof else None
        found[field.name] = (field.number, field.type, field.is_repeated, field.is_packed, oneof, nested)
    return found


@pytest.mark.parametrize("name", MESSAGES)
def test_messages_are_those_of_tritonclient(name: str) -> None:
    theirs = pytest.importorskip("tritonclient.grpc.service_pb2").DESCRIPTOR.message_types_by_name[name]
    assert fields(oip.message(name).DESCRIPTOR) == fields(theirs)


def test_calls_are_those_of_tritonclient() -> None:
    theirs = pytest.importorskip("tritonclient.grpc.service_pb2").DESCRIPTOR.services_by_name["GRPCInferenceService"]
    assert theirs.full_name == oip.SERVICE
    for method in oip.methods():
        other = theirs.methods_by_name[method.name]
        assert (other.input_type.full_name, other.output_type.full_name) == (
            method.request.DESCRIPTOR.full_name,
            method.response.DESCRIPTOR.full_name,
        )
    assert [method.name for method in oip.methods()] == [name for name in oip.Servicer.__dict__ if name[0].isupper()]


@pytest.mark.parametrize("name", ["ModelConfig", "ModelInput", "ModelOutput", "ModelInstanceGroup"])
def test_the_configuration_is_a_part_of_tritons(name: str) -> None:
    theirs = pytest.importorskip("tritonclient.grpc.model_config_pb2").DESCRIPTOR.message_types_by_name[name]
    for field in oip.message(name).DESCRIPTOR.fields:
        other = theirs.fields_by_name[field.name]
        assert (field.number, field.type, field.is_repeated) == (other.number, other.type, other.is_repeated)
        if field.enum_type:
            numbers = {value.name: value.number for value in other.enum_type.values}
            assert {value.name: value.number for value in field.enum_type.values} == numbers


@pytest.mark.parametrize("first", ["tritonclient", "edgecut"])
def test_tritonclient_lives_in_the_same_process(first: str) -> None:
    pytest.importorskip("tritonclient.grpc")
    both = ["import tritonclient.grpc", "from edgecut.runtime import oip; oip.methods()"]
    code = "; ".join(both if first == "tritonclient" else reversed(both))
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_importing_the_messages_loads_neither_grpc_nor_the_descriptor() -> None:
    code = "import sys; from edgecut.runtime import oip; assert 'grpc' not in sys.modules; "
    code += "assert not oip._pool.cache_info().currsize"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def request(**tensor: Any) -> Any:
    made = oip.message("ModelInferRequest")()
    made.inputs.add(**tensor)
    return made


@pytest.mark.parametrize("datatype", tensors.DTYPES)
@pytest.mark.parametrize("shape", [(), (1,), (2, 3), (0, 3)])
def test_arrays_survive_the_wire(datatype: str, shape: tuple[int, ...]) -> None:
    dtype = tensors.DTYPES[datatype]
    array = np.arange(int(np.prod(shape))).reshape(shape).astype(dtype)
    made = oip.message("ModelInferRequest")()
    tensors.append(made.inputs, made.raw_input_contents, "x", array)
    back = type(made).FromString(made.SerializeToString())
    got = tensors.decode_all(back.inputs, back.raw_input_contents)["x"]
    assert got.dtype == dtype and got.shape == shape and not got.flags.writeable
    np.testing.assert_array_equal(got, array)


def test_other_byte_orders_and_strides_are_put_right() -> None:
    array = np.arange(12, dtype=">f4").reshape(3, 4).T
    fields, raw = tensors.encode("x", array)
    assert (fields["datatype"], tuple(fields["shape"])) == ("FP32", (4, 3))
    np.testing.assert_array_equal(np.frombuffer(raw, "<f4").reshape(4, 3), array)


def test_raw_contents_are_not_copied() -> None:
    raw = np.arange(6, dtype="<f4").tobytes()
    got = tensors.decode(request(name="x", datatype="FP32", shape=[2, 3]).inputs[0], raw)
    assert np.shares_memory(got, np.frombuffer(raw, "<f4"))


@pytest.mark.parametrize(
    ("datatype", "field", "values"),
    [
        ("FP32", "fp32_contents", [0.5, -1.0]),
        ("FP64", "fp64_contents", [0.5, 1e300]),
        ("INT8", "int_contents", [-128, 127]),
        ("INT64", "int64_contents", [-(2**63), 2**63 - 1]),
        ("UINT16", "uint_contents", [0, 65535]),
        ("UINT64", "uint64_contents", [0, 2**64 - 1]),
        ("BOOL", "bool_contents", [True, False]),
    ],
)
def test_typed_contents_are_read(datatype: str, field: str, values: list[Any]) -> None:
    made = request(name="x", datatype=datatype, shape=[2], contents={field: values})
    got = tensors.decode_all(made.inputs, [])["x"]
    assert got.tolist() == values and got.dtype == tensors.DTYPES[datatype] and not got.flags.writeable


@pytest.mark.parametrize(
    ("tensor", "raws", "word"),
    [
        ({"datatype": "BYTES", "shape": [1]}, [b"1234"], "BYTES"),
        ({"datatype": "", "shape": [1]}, [b"1234"], "datatype"),
        ({"datatype": "FP32", "shape": [-1, -4]}, [b"1234" * 4], "sizes"),
        ({"datatype": "FP32", "shape": [2**62, 4]}, [b""], "elements"),
        ({"datatype": "FP32", "shape": [0, 2**62, 2**62]}, [b""], "elements"),
        ({"datatype": "FP32", "shape": [1] * 40}, [b"1234"], "sizes"),
        ({"datatype": "FP32", "shape": [2]}, [b"1234567"], "8 bytes"),
        ({"datatype": "FP32", "shape": [2]}, [b""], "8 bytes"),
        ({"datatype": "FP32", "shape": [1]}, [b"1234", b"1234"], "one for each"),
        ({"datatype": "FP32", "shape": [1]}, [], "1 values"),
        ({"datatype": "FP16", "shape": [1]}, [], "raw"),
        ({"datatype": "BOOL", "shape": [1]}, [b"\2"], "0 and 1"),
        ({"datatype": "FP32", "shape": [1], "contents": {"fp32_contents": [1.0]}}, [b"1234"], "both"),
        ({"datatype": "FP32", "shape": [0], "contents": {"int_contents": [1]}}, [], "int_contents"),
        ({"datatype": "INT8", "shape": [1], "contents": {"int_contents": [128]}}, [], "fit"),
        ({"datatype": "UINT16", "shape": [1], "contents": {"uint_contents": [65536]}}, [], "fit"),
    ],
)
def test_what_contradicts_itself_is_refused(tensor: dict[str, Any], raws: list[bytes], word: str) -> None:
    with pytest.raises(TensorError, match=word):
        tensors.decode_all(request(name="x", **tensor).inputs, raws)


def test_a_name_twice_and_a_foreign_dtype_are_refused() -> None:
    made = request(name="x", datatype="UINT8", shape=[1])
    made.inputs.add(name="x", datatype="UINT8", shape=[1])
    with pytest.raises(TensorError, match="twice"):
        tensors.decode_all(made.inputs, [b"1", b"1"])
    with pytest.raises(TensorError, match="complex64"):
        tensors.encode("x", np.zeros(1, np.complex64))


def test_a_spec_fits_what_it_says() -> None:
    spec = TensorSpec(name="x", datatype="FP32", shape=(-1, 3))
    assert spec.fits(np.zeros((7, 3), np.float32))
    assert not spec.fits(np.zeros((7, 4), np.float32))
    assert not spec.fits(np.zeros((7, 3, 1), np.float32))
    assert not spec.fits(np.zeros((7, 3), np.float64))
