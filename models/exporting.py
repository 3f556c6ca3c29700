"""From torch to ONNX, once: a network, a program or a factory becomes `model.onnx` and `twin.pt2` in the cache.

The folder is called after the ONNX file's digest, so a profile or plan that names the digest finds the same weights
again. The twin is the exported program that the ONNX file was made from, with the same names. Needs torch.
"""

from __future__ import annotations

import ast
import contextlib
import importlib
import io
import json
import logging
import re
import sys
import tempfile
import warnings
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import onnx
import torch
from torch import nn

from ..artefacts import digest, read_bytes, write_bytes, writing
from ..errors import ModelError
from .graph import set_metadata
from .load import MAX_MODEL_BYTES
from .spec import PixelFormat

OPSET = 18


def export(
    models: Path,
    module: nn.Module | torch.export.ExportedProgram,
    name: str,
    example: Sequence[torch.Tensor] = (),
    pixels: PixelFormat | None = None,
) -> str:
    """Export into a folder of `models`, with a dynamic batch, and return the ONNX file's digest.

    `example` has a batch of 2 or more as every input's first dimension; an exported program brings its own shapes.
    Raises ModelError where torch cannot export the network.
    """
    given: dict[str, Any] = {}
    if isinstance(module, nn.Module):
        batch = torch.export.Dim("batch")
        given = {
            "args": tuple(example),
            "input_names": ["input"] if len(example) == 1 else [f"input_{i}" for i in range(len(example))],
            "dynamic_shapes": tuple({0: batch} for _ in example),
        }
        module.eval()
        _check_outputs(module, example, name, given)
    try:
        with _quiet():
            program: Any = torch.onnx.export(module, **given, dynamo=True, opset_version=OPSET, verbose=False)
    except Exception as error:  # the exporter's faults are of many types
        raise ModelError(f"torch cannot export {name} to ONNX: {_cause(error)}") from None
    if isinstance(module, nn.Module):
        _check_batch(program.model_proto, name)
    return _store(models, program, name, pixels)


def _check_outputs(module: nn.Module, example: Sequence[torch.Tensor], name: str, given: dict[str, Any]) -> None:
    """One output is called `logits`; several keep torch's names."""
    try:
        with torch.no_grad():
            output = module(*example)
    except Exception as error:  # whatever the user's network raises
        shapes = ", ".join(str(list(tensor.shape)) for tensor in example)
        raise ModelError(f"{name} does not run on inputs of shape {shapes}: {_cause(error)}") from None
    if isinstance(output, torch.Tensor):
        given["output_names"] = ["logits"]


def _check_batch(proto: onnx.ModelProto, name: str) -> None:
    """Torch takes the example's batch for the only one, without a word, where a network's code makes it a number."""
    for value in proto.graph.input:
        size = value.type.tensor_type.shape.dim[0].dim_value
        if size:
            raise ModelError(
                f"torch exports {name} for a batch of {size} alone, because its code makes a plain number of the batch "
                f"of '{value.name}' (as len(x) does); use x.shape[0] there"
            )


def _cause(error: BaseException) -> str:
    """The last line of the innermost cause that says something."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0][:300]}" if lines else type(error).__name__


def _store(models: Path, program: Any, name: str, pixels: PixelFormat | None) -> str:
    proto: onnx.ModelProto = program.model_proto
    set_metadata(proto, name, pixels)
    try:
        raw = proto.SerializeToString(deterministic=True)
    except Exception as error:  # protobuf's EncodeError and relatives
        raise ModelError(f"{name} does not fit into one ONNX file of 2 GB: {_cause(error)}") from None
    folder = models / digest(raw).removeprefix("sha256:")
    exported = program.exported_program
    # An example input would be stored as a pickle, which nobody should have to load.
    exported._example_inputs = None
    with writing(folder / "twin.pt2") as beside, open(beside, "wb") as file:
        torch.export.save(exported, file)
    refuse_pickles(folder / "twin.pt2")
    write_bytes(folder / "model.onnx", raw)
    return digest(raw)


def from_factory(reference: str, models: Path, shapes: Sequence[tuple[int, ...]]) -> str:
    """Export what `package.module:factory` makes, and return the ONNX file's digest.

    The factory takes nothing and returns a torch module, or a module and a tuple of example inputs with the batch
    first. `shapes` are the inputs' shapes without the batch, where it returns a module alone. Raises ModelError.
    """
    module_name, _, attribute = reference.partition(":")
    here = str(Path.cwd())
    sys.path.insert(0, here)  # as `python -m` does: the user's own modules are meant
    try:
        made: Any = importlib.import_module(module_name)
        for part in attribute.split("."):
            made = getattr(made, part)
        torch.manual_seed(0)  # the same weights each time, or two profiles would be of two models
        made = made()
    except (Exception, SystemExit) as error:  # whatever the user's code raises
        raise ModelError(
            f"the factory {reference} cannot be used: {_cause(error)}; give package.module:function"
        ) from None
    finally:
        with contextlib.suppress(ValueError):
            sys.path.remove(here)
    module, example = made if isinstance(made, tuple) and len(made) == 2 else (made, None)
    if not isinstance(module, nn.Module):
        raise ModelError(f"the factory {reference} returns a {type(module).__name__}; it must return a torch module")
    if example is None and not shapes:
        raise ModelError(
            f"the factory {reference} returns a module without example inputs; give the shape with --input-shape "
            "3x224x224, or return (module, (example,))"
        )
    tensors = [torch.zeros(2, *shape) for shape in shapes] if example is None else _examples(example, reference)
    return export(models, module, attribute, tensors)


def _examples(example: Any, reference: str) -> list[torch.Tensor]:
    tensors = list(example) if isinstance(example, tuple | list) else [example]
    if not tensors or not all(isinstance(tensor, torch.Tensor) and tensor.dim() >= 1 for tensor in tensors):
        raise ModelError(f"the factory {reference} must return its example inputs as tensors with the batch first")
    # Of a batch of one, torch takes the 1 for a part of the network.
    return [tensor if len(tensor) > 1 else torch.cat([tensor, tensor]) for tensor in tensors]


def from_program(path: Path, models: Path) -> str:
    """Export a `.pt2` file, and return the ONNX file's digest. Its example inputs, which are pickled, are not read."""
    raw = read_bytes(path, limit=MAX_MODEL_BYTES)
    with tempfile.TemporaryDirectory(prefix="edgecut-") as folder:
        copy = Path(folder) / "program.pt2"
        _without_examples(raw, path, copy)
        refuse_pickles(copy, path)
        try:
            program = torch.export.load(io.BytesIO(copy.read_bytes()))
        except Exception as error:  # torch raises several unrelated types here
            raise ModelError(f"torch {torch.__version__} cannot load {path}: {_cause(error)}") from None
    return export(models, program, path.stem)


def _without_examples(raw: bytes, path: Path, target: Path) -> None:
    try:
        with zipfile.ZipFile(io.BytesIO(raw)) as source, zipfile.ZipFile(target, "w") as archive:
            for info in source.infolist():
                example = "/data/sample_inputs/" in info.filename.lower()
                archive.writestr(info.filename, b"" if example else source.read(info))
    except Exception as error:  # zip and compression faults are of many types
        raise ModelError(f"{path} is not a readable .pt2 archive ({error}); export the model again") from None


def refuse_pickles(path: Path, called: Path | None = None) -> None:
    """Raise ModelError where a .pt2 archive holds anything that torch would unpickle or evaluate, or machine code.

    Torch finds members whatever their case, and unpickles payloads by the start of their name, too. It gives the
    formulas of a program's sizes to Python's `eval`, and looks operators up by any name within torch.
    """
    called = called or path
    try:
        with zipfile.ZipFile(path) as archive:
            members = [(info.filename.lower(), info.file_size) for info in archive.infolist()]
            texts = [
                (info.filename.lower(), json.loads(archive.read(info)))
                for info in archive.infolist()  # an archive may have several members of one name
                if info.filename.lower().endswith(".json")
            ]
            configs = [text for name, text in texts if name.endswith("_config.json")]
            payloads = [payload for config in configs for payload in config["config"].values()]
            pickles = [p for p in payloads if p["use_pickle"] or not p["path_name"].startswith(("weight_", "tensor_"))]
            foreign = [code for _, text in texts for code in _code(text)]
    except Exception as error:  # zip, compression and JSON faults are of many types
        raise ModelError(f"{called} is not a readable .pt2 archive ({error}); export the model again") from None
    # Without example inputs torch still writes their file, empty.
    if pickles or any(size and (name.endswith((".pt", ".pkl")) or "/aotinductor/" in name) for name, size in members):
        raise ModelError(f"{called} holds pickled payloads, which are never loaded; export it without example inputs")
    if foreign:
        raise ModelError(
            f"{called} holds code that no exported program needs ({foreign[0][:100]!r}), which is never run; export "
            "the model again"
        )


OPERATOR = re.compile(r"torch\.ops\.\w+\.\w+(\.\w+)?|torch\._?sym_\w+|(_operator|math)\.\w+", re.ASCII)
FORMULA = (ast.Expression, ast.Call, ast.keyword, ast.Constant, ast.Name, ast.Load, ast.Tuple)
SIZE_FUNCTIONS = {
    *("Symbol", "Integer", "Rational", "Float", "Add", "Mul", "Pow", "Abs", "Max", "Min", "Mod", "Identity"),
    *("Equality", "Unequality", "StrictLessThan", "LessThan", "StrictGreaterThan", "GreaterThan"),
    *("Eq", "Ne", "Lt", "Le", "Gt", "Ge", "And", "Or", "Not", "Piecewise", "ExprCondPair", "Where"),
    *("FloorDiv", "CeilDiv", "CleanDiv", "IntTrueDiv", "FloatTrueDiv", "ModularIndexing", "PythonMod"),
    *("PowByNatural", "FloatPow", "LShift", "RShift", "CeilToInt", "FloorToInt", "TruncToInt", "TruncToFloat"),
    *("RoundToInt", "RoundDecimal", "ToFloat"),
}
"""What the formulas of sizes are written in: sympy's functions and torch's."""


def _code(value: Any, key: str = "") -> Iterator[str]:
    """Strings of a program's description that torch would take for code and that are no formula or operator."""
    if isinstance(value, dict):
        for name, part in value.items():
            yield from _code(part, name)
    elif isinstance(value, list):
        for part in value:
            yield from _code(part, key)
    elif isinstance(value, str) and (
        (key == "expr_str" and not _is_formula(value)) or (key == "target" and not OPERATOR.fullmatch(value))
    ):
        yield value


def _is_formula(text: str) -> bool:
    try:
        nodes = list(ast.walk(ast.parse(text.strip(), mode="eval")))
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    called = {id(node.func) for node in nodes if isinstance(node, ast.Call)}
    return all(_is_harmless(node, id(node) in called) for node in nodes)


def _is_harmless(node: ast.AST, called: bool) -> bool:
    if called:
        return isinstance(node, ast.Name) and node.id in SIZE_FUNCTIONS
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value.isidentifier() and not node.value.startswith("__")
    return isinstance(node, (*FORMULA, ast.operator, ast.BinOp, ast.UnaryOp, ast.unaryop, ast.Compare, ast.cmpop))


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The exporter's deprecation warnings are of torch's own parts and say nothing to a user."""
    log = logging.getLogger("torch.onnx")
    level = log.level
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        log.setLevel(logging.ERROR)
        try:
            yield
        finally:
            log.setLevel(level)
