"""The cloud partition under Triton's Python backend, for Triton builds that have no ONNX Runtime backend.

A copy of this file lies beside `model.onnx` in the bundle and is all that Triton loads; it needs NumPy and ONNX Runtime
in the Python that Triton's stub finds, and nothing of edgecut. Tensors cross by DLPack: the stub's own conversion
misreads arrays, without an error, where it was built for another major version of NumPy than the one installed.
"""

from __future__ import annotations

import ctypes
import os
from typing import Any

import numpy
import onnxruntime
import triton_python_backend_utils as triton  # type: ignore[import-not-found]

MODEL = os.path.join(os.path.dirname(os.path.abspath(__file__)), "model.onnx")


class TritonPythonModel:
    """One instance of the model; Triton calls `initialize` once and `execute` with the requests at hand."""

    def initialize(self, args: dict[str, str]) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = int(os.environ.get("OMP_NUM_THREADS", "1"))
        wanted = "CUDAExecutionProvider" if args["model_instance_kind"] == "GPU" else "CPUExecutionProvider"
        self.session = onnxruntime.InferenceSession(MODEL, options, providers=[wanted])
        if self.session.get_providers()[0] != wanted:
            raise triton.TritonModelException(f"{wanted} was asked for and cannot be used here")
        self.inputs = [node.name for node in self.session.get_inputs()]
        self.outputs = [node.name for node in self.session.get_outputs()]

    def execute(self, requests: list[Any]) -> list[Any]:
        return [self._answer(request) for request in requests]

    def _answer(self, request: Any) -> Any:
        wanted = list(request.requested_output_names()) or self.outputs
        try:
            given = {name: triton.get_input_tensor_by_name(request, name) for name in self.inputs}
            feed = {name: numpy.from_dlpack(tensor) for name, tensor in given.items()}
            values = self.session.run(wanted, feed)
        except Exception as error:  # the class alone: messages of a runtime may quote what was sent
            sentence = f"the model failed on this request ({type(error).__name__})"
            return triton.InferenceResponse(error=triton.TritonError(sentence))
        tensors = [
            triton.Tensor.from_dlpack(name, _Lent(numpy.ascontiguousarray(value)))
            for name, value in zip(wanted, values)  # noqa: B905  (Python 3.8 has no strict=)
        ]
        return triton.InferenceResponse(output_tensors=tensors)


class _Lent:
    """An array for the stub, which renames the capsule it takes in a way that NumPy's destructor complains about.

    The stub frees the array itself when it has sent it, so the destructor has nothing to do.
    """

    def __init__(self, array: Any) -> None:
        self.array = array

    def __dlpack__(self, stream: Any = None) -> Any:
        capsule = self.array.__dlpack__()
        ctypes.pythonapi.PyCapsule_SetDestructor(ctypes.py_object(capsule), None)
        return capsule

    def __dlpack_device__(self) -> Any:
        return self.array.__dlpack_device__()
