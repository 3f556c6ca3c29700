"""The protocol's bytes made and read by hand, against protobuf with the public descriptor: good, odd and damaged."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from google.protobuf.message import DecodeError, Message
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from edgecut.agent import oip_wire
from edgecut.agent.protobuf import WireError
from edgecut.runtime import oip, tensors

REQUEST, RESPONSE = oip.message("ModelInferRequest"), oip.message("ModelInferResponse")
METADATA = oip.message("ModelMetadataResponse")
DTYPES = st.sampled_from(sorted(oip_wire.DTYPES.values(), key=str))
TEXT = st.text(st.characters(codec="utf-8"), max_size=5) | st.sampled_from(["x", "n" * 127, "n" * 300])
ARRAYS = DTYPES.flatmap(
    lambda dtype: hnp.arrays(dtype, hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4))
)
NAMED = st.lists(st.tuples(TEXT, ARRAYS), max_size=3, unique_by=lambda pair: pair[0])
INT64 = st.integers(-(2**63), 2**63 - 1) | st.integers(0, 3)
QUICK = settings(max_examples=60, deadline=None)


def same(got: dict[str, Any], expected: dict[str, Any]) -> bool:
    return list(got) == list(expected) and all(
        (one.dtype, one.shape, one.tobytes()) == (expected[name].dtype, expected[name].shape, expected[name].tobytes())
        for name, one in got.items()
    )


@st.composite
def messages(draw: Any, kind: str) -> Message:
    """A request or a response that any sender might make, sensible or not."""
    made = (REQUEST if kind == "request" else RESPONSE)(model_name=draw(TEXT), model_version=draw(TEXT), id=draw(TEXT))
    place, raws = (
        (made.inputs, made.raw_input_contents) if kind == "request" else (made.outputs, made.raw_output_contents)
    )
    typed = draw(st.integers(0, 3)) == 0
    for name, array in draw(NAMED):
        if typed and array.dtype != np.float16:
            place.add(name=name, datatype=tensors.datatype_of(array.dtype), shape=array.shape)
            getattr(place[-1].contents, tensors._FIELDS[place[-1].datatype]).extend(array.reshape(-1).tolist())
        else:
            tensors.append(place, raws, name, array)
    if kind == "request":
        for name in draw(st.lists(TEXT, max_size=2)):
            made.outputs.add(name=name)
    if draw(st.integers(0, 3)) == 0:  # something that is rarely sent
        odd = draw(
            st.sampled_from(["parameter", "tensor parameter", "bytes", "empty", "raw", "datatype", "shape", "twice"])
        )
        if odd == "parameter":
            made.parameters[draw(TEXT)].string_param = draw(TEXT)
        elif odd == "raw":
            raws.append(draw(st.binary(max_size=9)))
        elif len(place):
            if odd == "tensor parameter":
                place[0].parameters[draw(TEXT)].double_param = 0.5
            elif odd == "empty":
                place[0].contents.SetInParent()
            elif odd == "bytes":
                place[0].contents.bytes_contents.append(b"a")
            elif odd == "datatype":
                place[0].datatype = draw(st.sampled_from([*oip_wire.DTYPES, "BYTES", "BF16", ""]))
            elif odd == "shape":
                place[0].shape[:] = draw(st.lists(INT64, max_size=4))
            else:
                place.add().CopyFrom(place[0])
    return made


def damaged(draw: Any, data: bytes) -> bytes:
    """The bytes with one small accident, or none."""
    how = draw(st.sampled_from(["none", "cut", "byte", "insert", "twice", "append"]))
    at = draw(st.integers(0, max(len(data) - 1, 0)))
    piece = draw(st.binary(min_size=1, max_size=4) | st.sampled_from(FIELDS))
    if how == "cut":
        return data[:at]
    if how == "byte":
        return data[:at] + piece[:1] + data[at + 1 :]
    if how == "insert":
        return data[:at] + piece + data[at:]
    return data + {"none": b"", "twice": data, "append": piece}[how]


# Fields that are legal or nearly so: of a later protocol, in a group, of another wire type, with overlong numbers.
FIELDS = [
    *(b"\xfa\x01\x01a", b"\xf8\x01\x07", b"\xfd\x01abcd", b"\xf9\x01abcdefgh", b"\xfb\x01\xfc\x01", b"\x0d1234"),
    *(b"\x0a\x81\x00a", b"\x8a\x00\x01a", b"\x8a\x80\x80\x80\x80\x00\x01a", b"\x0a\x01\xff", b"\x00", b"\x02\x01a"),
    *(
        b"\x08" + b"\x80" * 9 + b"\x01",
        b"\x08" + b"\xff" * 9 + b"\x7f",
        b"\x08" + b"\xff" * 10,
        b"\x0a\xff\xff\xff\xff\x0f",
    ),
    *(
        b"\x22\x06\x0a\x01k\x12\x01\x08",
        b"\x22\x02\x0a\x00",
        b"\x2a\x04\x1a\x02\x02\x03",
        b"\x2a\x02\x18\x02",
        b"\x3a\x00",
    ),
]


def read(parse: Any, data: bytes) -> Any:
    """Protobuf's reading of a request or a response, or None where it, or the tensors in it, are refused."""
    try:
        made = parse.FromString(data)
        if parse is REQUEST:
            return made, tensors.decode_all(made.inputs, made.raw_input_contents)
        return made, tensors.decode_all(made.outputs, made.raw_output_contents)
    except (DecodeError, tensors.TensorError):
        return None


@QUICK
@given(TEXT, TEXT, TEXT, NAMED)
def test_what_is_made_is_what_protobuf_makes(model: str, version: str, name: str, arrays: list[Any]) -> None:
    for parse, made, raws in (
        (REQUEST, oip_wire.encode_request(model, arrays, version, name), "raw_input_contents"),
        (RESPONSE, oip_wire.encode_response(model, version, name, arrays), "raw_output_contents"),
    ):
        expected = parse(model_name=model, model_version=version, id=name)
        for one in arrays:
            tensors.append(getattr(expected, raws[4:-9] + "s"), getattr(expected, raws), *one)
        assert parse.FromString(made) == expected
        assert len(made) == expected.ByteSize()
    asked = oip.message("ModelMetadataRequest")(name=model, version=version)
    assert oip_wire.encode_name(model, version) == asked.SerializeToString()


def test_strides_byte_orders_and_lists_are_put_right() -> None:
    array = np.arange(12, dtype=">f4").reshape(3, 4).T
    for given_array in (array, array.tolist(), np.float64(3.5), np.zeros((2, 0), ">i2")):
        expected = np.asarray(given_array)
        back = oip_wire.decode_request(oip_wire.encode_request("m", [("x", given_array)]))
        assert back is not None
        np.testing.assert_array_equal(back.inputs["x"], expected)
        assert back.inputs["x"].dtype == expected.dtype.newbyteorder("<") and back.inputs["x"].shape == expected.shape


@pytest.mark.parametrize("array", [np.zeros(1, np.complex64), np.array(["a"]), np.array([None]), [[1], [2, 3]]])
def test_what_has_no_place_on_the_wire_is_refused(array: Any) -> None:
    with pytest.raises((WireError, ValueError)):
        oip_wire.encode_request("m", [("x", array)])
    with pytest.raises(WireError, match="no text"):
        oip_wire.encode_request("\ud800", [])


@QUICK
@given(st.data(), messages("response"))
def test_a_response_is_read_as_protobuf_reads_it_or_refused(data: st.DataObject, message: Message) -> None:
    good = message.SerializeToString()
    given_bytes = damaged(data.draw, good)
    expected = read(RESPONSE, given_bytes)
    try:
        got = oip_wire.decode_response(given_bytes)
    except WireError as error:
        assert given_bytes != good or expected is None, error  # what a sender's protobuf makes is never refused
        assert "\n" not in str(error)
        return
    assert expected is not None and same(got, expected[1])
    for array in got.values():
        assert not array.flags.writeable and array.flags.aligned


@QUICK
@given(st.data(), messages("request"))
def test_a_request_is_read_as_protobuf_reads_it_or_left_to_it(data: st.DataObject, message: Message) -> None:
    good = message.SerializeToString()
    given_bytes = damaged(data.draw, good)
    expected = read(REQUEST, given_bytes)
    got = oip_wire.decode_request(given_bytes)
    if got is None:
        usual = len(message.raw_input_contents) == len(message.inputs) and not message.parameters
        plain = not any(tensor.parameters or tensor.HasField("contents") for tensor in message.inputs)
        assert given_bytes != good or expected is None or not (usual and plain)
        return
    assert expected is not None and same(got.inputs, expected[1])
    made = expected[0]
    assert got[:3] == (made.model_name, made.model_version, made.id)
    assert got.outputs == tuple(output.name for output in made.outputs)
    assert not made.parameters and not any(tensor.parameters for tensor in made.inputs)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=12) | st.lists(st.sampled_from(FIELDS), max_size=4).map(b"".join))
def test_junk_is_never_read_otherwise_than_protobuf_reads_it(junk: bytes) -> None:
    request = oip_wire.decode_request(junk)
    assert request is None or read(REQUEST, junk) is not None
    try:
        got = oip_wire.decode_response(junk)
    except WireError:
        return
    expected = read(RESPONSE, junk)
    assert expected is not None and same(got, expected[1])


@QUICK
@given(
    TEXT,
    st.lists(TEXT, max_size=2),
    st.lists(st.tuples(TEXT, TEXT, st.lists(INT64, max_size=3)), max_size=3),
    st.data(),
)
def test_metadata_is_read_as_protobuf_reads_it(name: str, versions: list[str], specs: Any, data: st.DataObject) -> None:
    made = METADATA(name=name, versions=versions, platform="p")
    for field in (made.inputs, made.outputs):
        for tensor, datatype, shape in specs:
            field.add(name=tensor, datatype=datatype, shape=shape)
    given_bytes = damaged(data.draw, made.SerializeToString())
    try:
        got = oip_wire.decode_metadata(given_bytes)
    except WireError:
        assert given_bytes != made.SerializeToString()
        return
    back = METADATA.FromString(given_bytes)
    lists = [[(one.name, one.datatype, tuple(one.shape)) for one in field] for field in (back.inputs, back.outputs)]
    assert got == {"name": back.name, "versions": list(back.versions), "inputs": lists[0], "outputs": lists[1]}


def test_arrays_share_the_messages_memory_where_they_lie_aligned() -> None:
    shared = set()
    for length in range(1, 9):
        data = oip_wire.encode_response("m" * length, "1", "", [("y", np.arange(64, dtype=np.float32))])
        array = oip_wire.decode_response(data)["y"]
        shared.add(np.shares_memory(array, np.frombuffer(data, np.uint8)))
        np.testing.assert_array_equal(array, np.arange(64))
    assert shared == {True, False}


def test_every_cut_through_a_tensor_is_refused() -> None:
    data = oip_wire.encode_response("m", "1", "", [("y", np.arange(9.0))])
    assert len(oip_wire.decode_response(data)["y"]) == 9
    for end in range(len(data) - 72 - 10, len(data)):
        with pytest.raises(WireError):
            oip_wire.decode_response(data[:end])


@pytest.mark.parametrize("size", [0, 7, 9, 16])
def test_raw_contents_of_another_size_are_refused(size: int) -> None:
    for parse, place in ((REQUEST, "inputs"), (RESPONSE, "outputs")):
        made = parse()
        getattr(made, place).add(name="y", datatype="FP32", shape=[2])
        getattr(made, f"raw_{place[:-1]}_contents").append(bytes(size))
        if parse is REQUEST:
            assert oip_wire.decode_request(made.SerializeToString()) is None
        else:
            with pytest.raises(WireError, match="8 bytes"):
                oip_wire.decode_response(made.SerializeToString())


@pytest.mark.parametrize("end", [b"\x02", b"\x7f", b"\x80\x01"])
def test_numbers_beyond_64_bits_are_refused(end: bytes) -> None:
    number = b"\x81" + b"\x80" * 8 + end  # protobuf may read it as 1
    shape = b"\x1a" + bytes([len(number)]) + number
    tensor = b"\x0a\x01y\x12\x04FP32" + shape
    raw = b"\x04" + bytes(4)
    with pytest.raises(WireError, match="number"):
        oip_wire.decode_response(b"\x2a" + bytes([len(tensor)]) + tensor + b"\x32" + raw)
    assert oip_wire.decode_request(b"\x2a" + bytes([len(tensor)]) + tensor + b"\x3a" + raw) is None


@pytest.mark.parametrize(
    ("datatype", "field", "values"),
    [("INT8", "int_contents", [128]), ("UINT16", "uint_contents", [65536]), ("FP16", "fp32_contents", [1.0])],
)
def test_typed_contents_that_do_not_fit_are_refused(datatype: str, field: str, values: list[Any]) -> None:
    made = RESPONSE()
    made.outputs.add(name="y", datatype=datatype, shape=[1], contents={field: values})
    with pytest.raises(WireError):
        oip_wire.decode_response(made.SerializeToString())


@pytest.mark.parametrize("shape", [[2**62, 4], [0, 2**62, 2**62], [-1, -4], [1] * 40])
def test_impossible_shapes_are_refused(shape: list[int]) -> None:
    made = RESPONSE(raw_output_contents=[b""])
    made.outputs.add(name="y", datatype="FP32", shape=shape)
    with pytest.raises(WireError, match=r"impossible|needs"):
        oip_wire.decode_response(made.SerializeToString())
