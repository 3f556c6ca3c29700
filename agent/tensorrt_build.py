"""Engines from ONNX files: built by TensorRT or TensorRT-RTX, and kept in a folder.

Both libraries have one interface, which changed with the versions: each function takes the module, and asks what it
has rather than which version it is. An engine is for one batch size. float32 means float32: TensorFloat-32, which
newer GPUs would take instead, is switched off. An engine belongs to one model, library version, driver, GPU and
precision, so all of them are in the name it is kept under; a file that is damaged is built again.

Building was tried with TensorRT-RTX 1.7; with TensorRT it was not, for want of the library and a GPU.
"""

import hashlib
import os
import re
import tempfile
from typing import Any, Callable, Dict, List, Mapping, Optional, Sequence, Tuple

import numpy as np

from .backends import BackendError

WORKSPACE_BYTES = 1 << 30
"""How much memory of the GPU a layer may use for itself while it runs; most need far less."""

Shapes = Mapping[str, Tuple[int, ...]]

_MAGIC = b"edgecut engine 1\n"
_COMPUTING = ("CONVOLUTION", "DECONVOLUTION", "MATRIX_MULTIPLY", "FULLY_CONNECTED")
_UNSUPPORTED = re.compile(r"parsing node number \d+ \[(\w+)")


def title(trt: Any) -> str:
    """The library's name and version, for a person."""
    name = {"tensorrt": "TensorRT", "tensorrt_rtx": "TensorRT-RTX"}.get(trt.__name__, trt.__name__)
    return "{} {}".format(name, trt.__version__)


def make_log(trt: Any) -> Any:
    """A logger of the library that keeps what it calls errors, in `errors`, and prints nothing."""

    class Log(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.errors = []  # type: List[str]

        def log(self, severity: Any, msg: str) -> None:
            if severity in (trt.ILogger.Severity.ERROR, trt.ILogger.Severity.INTERNAL_ERROR):
                self.errors.append(msg)

    return Log()


def said(log: Any, otherwise: str = "it gave no reason") -> str:
    """The first thing that went wrong, in the library's words but without the places in its own source."""
    if not log.errors:
        return otherwise
    text = re.sub(r"^I\w+::\w+: Error Code \d+: (Myelin \()?", "", log.errors[0])
    text = re.sub(r"\[?\b\w+\.cpp:[^\]]*\] ?|,? ?\(?\bIn \w+ at \S+|\s+", " ", text)
    return re.sub(r" +", " ", text).strip(" .()")[:300]


def start(trt: Any, what: Callable[[Any], Any], log: Any) -> Any:
    """The library's builder or runtime; without a GPU that it can use TensorRT makes none."""
    try:
        return what(log)
    except TypeError:  # the binding's word for a null pointer
        raise BackendError("{} cannot start here: {}".format(title(trt), said(log))) from None


def build_engine(
    trt: Any,
    path: str,
    precision: str,
    shapes: Optional[Shapes] = None,
    workspace_bytes: int = WORKSPACE_BYTES,
    configure: Optional[Callable[[Any], None]] = None,
) -> bytes:
    """The engine of an ONNX file, with its external weights. Raises BackendError naming what stands in the way.

    `shapes` are the inputs' with the batch first, by default as the file has them with a batch of one. `configure`
    gets the builder's configuration before it is used.
    """
    _weights_beside(path, _read_model(path))
    log = make_log(trt)
    builder = start(trt, trt.Builder, log)
    network = builder.create_network(_network_flags(trt))
    parser = trt.OnnxParser(network, log)
    if not parser.parse_from_file(os.path.abspath(path)):
        raise BackendError(_refused(trt, os.path.basename(path), parser, log))
    config = builder.create_builder_config()
    if hasattr(config, "set_memory_pool_limit"):  # 8.4
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, workspace_bytes)
    else:
        config.max_workspace_size = workspace_bytes
    config.clear_flag(trt.BuilderFlag.TF32)
    _set_precision(trt, network, config, precision)
    sizes = _open_inputs(network, shapes)
    if sizes:
        profile = builder.create_optimization_profile()
        for name, shape in sizes.items():
            profile.set_shape(name, shape, shape, shape)
        config.add_optimization_profile(profile)
    if configure is not None:
        configure(config)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise BackendError("{} cannot build {}: {}".format(title(trt), os.path.basename(path), said(log)))
    return bytes(plan)


def _network_flags(trt: Any) -> int:
    """From 10 on every network has its batch as a dimension; before, only where that is asked for."""
    explicit = getattr(trt.NetworkDefinitionCreationFlag, "EXPLICIT_BATCH", None)
    return 0 if explicit is None or int(trt.__version__.split(".")[0]) >= 10 else 1 << int(explicit)


def _refused(trt: Any, name: str, parser: Any, log: Any) -> str:
    """One sentence from the parser's errors: the operators and nodes, where it names them."""
    errors = [parser.get_error(index) for index in range(parser.num_errors)]
    nodes = [_node(error) for error in errors if hasattr(error, "node_operator") and error.node_operator()]
    nodes = nodes or [match.group(1) for match in map(_UNSUPPORTED.search, log.errors) if match]
    if nodes:
        return "{} does not support what {} needs: {}; cut the model before, or take another backend".format(
            title(trt), name, ", ".join(sorted(set(nodes)))
        )
    reasons = [error.desc() for error in errors] or [said(log)]
    return "{} cannot read {}: {}".format(title(trt), name, "; ".join(reasons)[:300])


def _node(error: Any) -> str:
    name = error.node_name()
    return "{} (node '{}')".format(error.node_operator(), name) if name else str(error.node_operator())


def _set_precision(trt: Any, network: Any, config: Any, precision: str) -> None:
    """float16 is asked for up to TensorRT 10; later, and in TensorRT-RTX, the model's own types are computed in."""
    if precision not in ("float32", "float16"):
        raise BackendError("unknown precision '{}'; known: float16, float32".format(precision))
    if hasattr(trt.BuilderFlag, "FP16"):
        if precision == "float16":
            config.set_flag(trt.BuilderFlag.FP16)
        return
    other = trt.DataType.HALF if precision == "float32" else trt.DataType.FLOAT
    computing = [getattr(trt.LayerType, name) for name in _COMPUTING if hasattr(trt.LayerType, name)]
    for index in range(network.num_layers):
        layer = network.get_layer(index)
        if layer.type in computing and layer.get_output(0).dtype == other:
            raise BackendError(
                "{} computes in the types of the model: {} was asked for, but its layer '{}' is in {}; convert the "
                "model first, or ask for that".format(
                    title(trt), precision, layer.name, "float16" if precision == "float32" else "float32"
                )
            )


def _open_inputs(network: Any, shapes: Optional[Shapes]) -> Dict[str, Tuple[int, ...]]:
    """The shapes of the inputs that leave a size open; the others are only checked."""
    found = {}
    for index in range(network.num_inputs):
        tensor = network.get_input(index)
        declared = tuple(tensor.shape)
        shape = (1, *declared[1:]) if shapes is None and declared[:1] == (-1,) else declared
        if shapes is not None:
            if tensor.name not in shapes:
                raise BackendError("the model's input '{}' was not given".format(tensor.name))
            shape = tuple(shapes[tensor.name])
        if len(shape) != len(declared) or any(size not in (asked, -1) for asked, size in zip(shape, declared)):
            raise BackendError(
                "input '{}' of the model takes the shape {}, not {}".format(tensor.name, list(declared), list(shape))
            )
        if -1 in shape:
            raise BackendError(
                "input '{}' leaves more open than its batch: {}; give the sizes".format(tensor.name, list(declared))
            )
        if -1 in declared:
            found[tensor.name] = shape
    return found


def fingerprint(path: str, *others: object) -> str:
    """Changes with the model, the weights beside it, and whatever else is given; 32 hexadecimal digits."""
    model = _read_model(path)
    digest = hashlib.sha256(hashlib.sha256(model).digest())
    for beside in _weights_beside(path, model):
        about = os.stat(beside)
        digest.update(repr((os.path.basename(beside), about.st_size, int(about.st_mtime * 1e6))).encode())
    digest.update(repr(others).encode())
    return digest.hexdigest()[:32]


def _read_model(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError as error:
        raise BackendError("the model {} cannot be read: {}".format(path, error.strerror)) from None


def _weights_beside(path: str, model: bytes) -> List[str]:
    found = [os.path.join(os.path.dirname(os.path.abspath(path)), name) for name in external_files(model)]
    for beside in found:
        if not os.path.isfile(beside):
            raise BackendError("the weights of {} are missing: {}".format(os.path.basename(path), beside))
    return found


def external_files(model: bytes) -> List[str]:
    """The files that an ONNX file keeps weights in: the value of every entry `location` in it."""
    found = set()
    for match in re.finditer(rb"\n\x08location\x12", model):
        size, start = model[match.end()], match.end() + 1
        if size >= 128:  # a length of two bytes, seven bits each
            size, start = size - 128 + 128 * model[start], start + 1
        found.add(model[start : start + size].decode("utf-8", "replace"))
    return sorted(found)


def kept_engine(folder: Optional[str], path: str, key: str, build: Callable[[], bytes], anew: bool = False) -> bytes:
    """The engine kept for `key`; built and kept where it is missing, damaged or wanted anew, or there is no folder."""
    if folder is None:
        return build()
    stem = re.sub(r"\W+", "-", os.path.splitext(os.path.basename(path))[0])
    file = os.path.join(folder, "{}-{}.engine".format(stem, key))
    engine = None if anew else _read(file)
    if engine is None:
        engine = build()
        _write(file, engine)
    return engine


def _read(file: str) -> Optional[bytes]:
    if not os.path.isfile(file):
        return None
    with open(file, "rb") as opened:
        head, engine = opened.read(len(_MAGIC) + 32), opened.read()
    return engine if head == _MAGIC + hashlib.sha256(engine).digest() else None


def _write(file: str, engine: bytes) -> None:
    """Under another name first, so that nobody ever reads half of it."""
    folder = os.path.dirname(os.path.abspath(file))
    os.makedirs(folder, exist_ok=True)
    handle, part = tempfile.mkstemp(dir=folder, suffix=".part")
    try:
        with os.fdopen(handle, "wb") as opened:
            opened.write(_MAGIC + hashlib.sha256(engine).digest())
            opened.write(engine)
        os.replace(part, file)
    except BaseException:
        os.remove(part)
        raise


def shapes_of(feed: Mapping[str, Any]) -> Dict[str, Tuple[int, ...]]:
    """The shapes of a feed's arrays."""
    return {name: tuple(np.shape(array)) for name, array in feed.items()}


def build_key(trt: Any, feed: Mapping[str, Any], precision: str, device: Sequence[object]) -> Tuple[object, ...]:
    """All that an engine depends on besides its model; for `fingerprint`."""
    return (trt.__name__, trt.__version__, sorted(shapes_of(feed).items()), precision, WORKSPACE_BYTES, *device)
