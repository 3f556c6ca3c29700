"""One model behind the server: what it takes and gives, and a request through it or the reason why not."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import grpc

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
# Parameters that change what a tensor means; passing over them would give a wrong answer instead of none.
_FOREIGN = frozenset({"shared_memory_region", "classification"})
_log = logging.getLogger(__name__)


class Refusal(Exception):
    """A request that gets a gRPC status and a sentence instead of an answer."""

    def __init__(self, code: grpc.StatusCode, sentence: str) -> None:
        super().__init__(sentence)
        self.code = code


class ServedModel:
    """One version of a model with its session; `infer` may run in several threads at once."""

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
        self.inputs = _specs(self.name, self._session.get_inputs())
        self.outputs = _specs(self.name, self._session.get_outputs())
        stored.check(self.inputs, self.outputs)
        self._response = oip.message("ModelInferResponse")

    def infer(self, request: Any) -> Any:
        """The ModelInferResponse to a ModelInferRequest. Raises Refusal."""
        feeds = self._feeds(request)
        names = self._wanted(request)
        try:
            values = self._session.run(names, feeds)
        except Exception as error:  # whatever the runtime meets, the other requests go on
            _log.warning("model '%s' failed: %s", self.name, error)
            sentence = f"model '{self.name}' failed on this request ({type(error).__name__})"
            raise Refusal(grpc.StatusCode.INTERNAL, sentence) from None
        response = self._response(model_name=self.name, model_version=self.version, id=request.id)
        for name, value in zip(names, values, strict=True):
            tensors.append(response.outputs, response.raw_output_contents, name, value)
        return response

    def _feeds(self, request: Any) -> dict[str, Array]:
        for tensor in request.inputs:
            self._no_foreign("input", tensor)
        try:
            feeds = tensors.decode_all(request.inputs, request.raw_input_contents)
            tensors.check(feeds, self.inputs, max_batch_size=self._max_batch_size, finite=self._finite)
        except TensorError as error:
            raise _invalid(f"model '{self.name}': {error}") from None
        return feeds

    def _wanted(self, request: Any) -> list[str]:
        if not request.outputs:
            return list(self.outputs)
        names = [output.name for output in request.outputs]
        if len(set(names)) != len(names) or not self.outputs.keys() >= set(names):
            raise _invalid(f"model '{self.name}' has the outputs {sorted(self.outputs)}, asked were {names[:16]}")
        for output in request.outputs:
            self._no_foreign("output", output)
        return names

    def _no_foreign(self, kind: str, tensor: Any) -> None:
        for key in _FOREIGN.intersection(tensor.parameters):
            raise _invalid(f"model '{self.name}' {kind} '{tensor.name}' asks for {key}, which is not served here")


def _specs(model: str, nodes: Sequence[Any]) -> dict[str, TensorSpec]:
    """What a session says of its inputs or outputs; sizes with a name or without one become -1."""
    specs = {}
    for node in nodes:
        if node.type not in _DATATYPES:
            raise ModelError(f"model '{model}' tensor '{node.name}' is a {node.type}, which cannot be served here")
        shape = tuple(size if isinstance(size, int) else -1 for size in node.shape)
        specs[node.name] = TensorSpec(name=node.name, datatype=_DATATYPES[node.type], shape=shape)
    return specs


def _invalid(sentence: str) -> Refusal:
    return Refusal(grpc.StatusCode.INVALID_ARGUMENT, sentence)
