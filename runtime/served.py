"""One model behind the server: what it takes and gives, and a request through it or the reason why not."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import grpc
import numpy as np

from ..agent.oip_wire import Request
from ..errors import EdgecutError, ModelError
from . import oip, tensors
from .repository import StoredModel
from .tensors import Array, TensorError, TensorSpec

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

MakeSession = Callable[[bytes | str], "InferenceSession"]

_DATATYPES = {
    "tensor(bool)": "BOOL",
    "tensor(float16)": "FP16",
    "tensor(float)": "FP32",
    "tensor(double)": "FP64",
} | {f"tensor({sign}int{bits})": f"{sign.upper()}INT{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)}
MAX_CHARACTERS = 1000
# Parameters that change what a tensor means; passing over them would give a wrong answer instead of none.
_FOREIGN = frozenset({"shared_memory_region", "classification"})
# In what ONNX Runtime and CUDA say where memory ran out; there is no class of its own.
_OUT_OF_MEMORY = ("Failed to allocate memory", "bad_alloc", "out of memory")


class Refusal(Exception):
    """A request that gets a status and a sentence instead of an answer; REST has a number for each of gRPC's codes."""

    def __init__(self, code: grpc.StatusCode, sentence: str) -> None:
        # It may quote a name that the sender made up, as long as they like and with lines of its own.
        super().__init__("".join(one if one.isprintable() else "?" for one in sentence[:MAX_CHARACTERS]))
        self.code = code


class ServedModel:
    """One version of a model with its session; every method may run in several threads at once."""

    def __init__(self, stored: StoredModel, version: int, make_session: MakeSession, *, finite: bool) -> None:
        self.name = stored.name
        self.version = str(version)
        self._max_batch_size = stored.max_batch_size
        self._finite = finite
        try:
            self._session = make_session(str(stored.onnx_path(version)))
        except EdgecutError:
            raise
        except Exception as error:  # ONNX Runtime has a dozen classes of its own for a bad file
            reason = " ".join(str(error).split())[:300]
            raise ModelError(f"model '{self.name}' version {version} cannot be loaded ({reason})") from None
        given, made = self._session.get_inputs(), self._session.get_outputs()
        self.inputs = _specs(self.name, given)
        self.outputs = _specs(self.name, made)
        self._needs = [(name, tensors.DTYPES[spec.datatype], spec.shape) for name, spec in self.inputs.items()]
        stored.check(self.inputs, self.outputs)
        self.rows_are_free = _rows_are_free([*given, *made], stored.max_batch_size)
        self.max_rows = stored.max_batch_size
        """Of a request or of several stacked; 0 is no bound."""
        self._quiet = _quiet(self._session)
        self._response = oip.message("ModelInferResponse")

    def infer(self, request: Any) -> Any:
        """The ModelInferResponse to a ModelInferRequest. Raises Refusal."""
        asked = unpack(request)
        names = self.check(asked.inputs, asked.outputs)
        response = self._response(model_name=self.name, model_version=self.version, id=asked.request_id)
        for name, value in zip(names, self.run(names, asked.inputs), strict=True):
            tensors.append(response.outputs, response.raw_output_contents, name, value)
        return response

    def check(self, inputs: Mapping[str, Array], outputs: Sequence[str]) -> list[str]:
        """The names of the outputs to make, after inputs and wanted outputs are found right. Raises Refusal."""
        if not self._plainly_right(inputs):
            try:
                tensors.check(inputs, self.inputs, max_batch_size=self._max_batch_size, finite=self._finite)
            except TensorError as error:
                raise invalid(f"model '{self.name}': {error}") from None
        if not outputs:
            return list(self.outputs)
        if len(set(outputs)) != len(outputs) or not self.outputs.keys() >= set(outputs):
            raise invalid(f"model '{self.name}' has the outputs {sorted(self.outputs)}, asked were {outputs[:16]}")
        return list(outputs)

    def _plainly_right(self, inputs: Mapping[str, Array]) -> bool:
        """What `tensors.check` finds, in as few steps as can be; where this says no, that says why or yes."""
        if len(inputs) != len(self._needs) or self._max_batch_size:
            return False
        for name, dtype, shape in self._needs:
            array = inputs.get(name)
            if array is None or array.dtype != dtype or not array.size or len(array.shape) != len(shape):
                return False
            for want, got in zip(shape, array.shape, strict=True):
                if want not in (-1, got):
                    return False
            if self._finite and dtype.kind == "f" and not np.isfinite(array).all():
                return False
        return True

    def run(self, names: Sequence[str], inputs: Mapping[str, Array]) -> list[Array]:
        """The outputs of checked inputs. Raises Refusal with nothing of the payload: errors of a runtime quote it."""
        try:
            values: list[Array] = self._session.run(names, inputs, *self._quiet)
            return values
        except Exception as error:  # whatever the runtime meets, the other requests go on
            if isinstance(error, MemoryError) or any(word in str(error) for word in _OUT_OF_MEMORY):
                sentence = f"model '{self.name}' ran out of memory on this request; send less at once, or later"
                raise Refusal(grpc.StatusCode.RESOURCE_EXHAUSTED, sentence) from None
            sentence = f"model '{self.name}' failed on this request ({type(error).__name__})"
            raise Refusal(grpc.StatusCode.INTERNAL, sentence) from None


def unpack(request: Any) -> Request:
    """A ModelInferRequest message as arrays, with every claim of the sender checked. Raises Refusal."""
    model = request.model_name[:100]
    for kind, fields in (("input", request.inputs), ("output", request.outputs)):
        for tensor in fields:
            no_foreign(model, kind, tensor.name, tensor.parameters)
    try:
        inputs = tensors.decode_all(request.inputs, request.raw_input_contents)
    except TensorError as error:
        raise invalid(f"model '{model}': {error}") from None
    wanted = tuple(output.name for output in request.outputs)
    return Request(request.model_name, request.model_version, request.id, inputs, wanted)


def no_foreign(model: str, kind: str, name: str, parameters: Mapping[str, Any]) -> None:
    """Refuse a tensor whose parameters ask for what is not done here. Raises Refusal."""
    for key in _FOREIGN.intersection(parameters):
        raise invalid(f"model '{model}' {kind} '{name[:100]}' asks for {key}, which is not served here")


def timeout_s(microseconds: int) -> float | None:
    """What a request's parameter `timeout` means, in microseconds as Triton has it; 0 is none. Raises Refusal."""
    if not 0 <= microseconds < 1 << 63:
        raise invalid("the parameter 'timeout' is no number of microseconds")
    return microseconds / 1e6 if microseconds else None


def invalid(sentence: str) -> Refusal:
    """What a request with a fault of its own is answered."""
    return Refusal(grpc.StatusCode.INVALID_ARGUMENT, sentence)


def _quiet(session: Any) -> tuple[Any, ...]:
    """What a session is run with so that ONNX Runtime prints no error of its own: it would quote what was sent."""
    onnxruntime = sys.modules.get("onnxruntime")
    if onnxruntime is None or not isinstance(session, onnxruntime.InferenceSession):
        return ()
    options = onnxruntime.RunOptions()
    options.log_severity_level = 4
    return (options,)


def _rows_are_free(nodes: Sequence[Any], max_batch_size: int) -> bool:
    """Whether requests may be stacked: a batch by configuration, or one name for the first size of every tensor."""
    first = {node.shape[0] if node.shape else None for node in nodes}
    free = all(not isinstance(size, int) for size in first)
    return free and (max_batch_size > 0 or (len(first) == 1 and None not in first))


def _specs(model: str, nodes: Sequence[Any]) -> dict[str, TensorSpec]:
    """What a session says of its inputs or outputs; sizes with a name or without one become -1."""
    specs = {}
    for node in nodes:
        if node.type not in _DATATYPES:
            raise ModelError(f"model '{model}' tensor '{node.name}' is a {node.type}, which cannot be served here")
        shape = tuple(size if isinstance(size, int) else -1 for size in node.shape)
        specs[node.name] = TensorSpec(name=node.name, datatype=_DATATYPES[node.type], shape=shape)
    return specs
