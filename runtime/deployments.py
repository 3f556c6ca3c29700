"""What a bundle's cloud side brings for servers of others: Triton, KServe and Ray Serve.

    model_repository/<model>/configs/batching.pbtxt   Triton, ONNX Runtime backend, dynamic batching
    model_repository/<model>/configs/python.pbtxt     Triton, Python backend, for builds without the ONNX backend
    model_repository/<model>/1/model.py               what the Python backend runs
    deploy/kserve.yaml                                a KServe InferenceService on its Triton runtime
    deploy/ray_serve.yaml                             `serve deploy` on a Ray cluster

Triton takes a configuration below `configs` with --model-config-name=NAME and config.pbtxt without, so all of them
share one model file. Nothing here knows of the noise, the plan or the edge.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from importlib import resources
from pathlib import Path

from ..artefacts import write_bytes
from ..errors import ArtefactError, BundleError
from .manifest import REPOSITORY
from .oip import message
from .repository import BACKEND, CONFIG, check_name, config_text

DEPLOY = "deploy"
MAX_BATCH = 16
BATCH_WAIT_S = 0.002
MAX_REPLICAS = 4
# Requests that one replica should have in work or waiting before another is started.
TARGET_REQUESTS = 8

Tensors = Sequence[tuple[str, str, Sequence[int]]]


def write_deployments(
    cloud_folder: str | os.PathLike[str],
    model_name: str,
    inputs: Tensors,
    outputs: Tensors,
    *,
    version: int = 1,
    batch: int = -1,
    max_batch: int = MAX_BATCH,
    batch_wait_s: float = BATCH_WAIT_S,
    max_replicas: int = MAX_REPLICAS,
) -> tuple[Path, ...]:
    """Write the files above into a cloud side that holds the model already, and return their paths.

    Args:
        cloud_folder: The cloud side; its repository has `model_name` as `repository.write_model` wrote it.
        model_name: The model's name.
        inputs: (name, data type such as "TYPE_FP32", sizes without the batch) of each input.
        outputs: The same of each output.
        version: The version that the Python backend's file is written for.
        batch: The first size of every tensor, -1 for any; nothing is put together where it is fixed.
        max_batch: Rows of the largest batch that a server may put together. Batching is left out for a model with a
            tensor that has no size but the batch, and for `max_batch` below 2.
        batch_wait_s: The longest time that a request waits for others.
        max_replicas: The most replicas that KServe or Ray start.

    Raises:
        BundleError: there is no such model, or the folder cannot be written.
    """
    folder = Path(cloud_folder)
    model = folder / REPOSITORY / check_name(model_name)
    if not (model / CONFIG).is_file() or not (model / str(version) / "model.onnx").is_file():
        raise BundleError(f"{model} is no stored model; write it before its deployments")
    batches = batch == -1 and max_batch > 1 and all(sizes for _, _, sizes in (*inputs, *outputs))
    files = {
        model / "configs" / "python.pbtxt": _python_config(model_name, inputs, outputs, batch),
        model / str(version) / "model.py": _own_file("triton_model.py"),
        folder / DEPLOY / "kserve.yaml": _kserve(model_name, max_replicas, "batching" if batches else ""),
        folder / DEPLOY / "ray_serve.yaml": _ray_serve(
            model_name, max_replicas, max_batch if batches else 1, batch_wait_s
        ),
    }
    if batches:
        files[model / "configs" / "batching.pbtxt"] = _batching_config(
            model_name, inputs, outputs, max_batch, batch_wait_s
        )
    try:
        for path, text in files.items():
            write_bytes(path, text.encode())
    except ArtefactError as error:
        raise BundleError(str(error)) from None
    return tuple(sorted(files))


def kubernetes_name(model_name: str) -> str:
    """A model's name as Kubernetes takes names: at most 63 of a-z, 0-9 and -, a letter first."""
    name = re.sub(r"[^a-z0-9]+", "-", model_name.lower()).strip("-")
    return (name if name[:1].isalpha() else f"model-{name}")[:63].strip("-")


def _own_file(name: str) -> str:
    return resources.files(__package__).joinpath(name).read_text("utf-8")


def _config(model_name: str, backend: str, inputs: Tensors, outputs: Tensors, batch: tuple[int, ...]) -> str:
    config = message("ModelConfig")(name=model_name, backend=backend)
    for field, tensors in ((config.input, inputs), (config.output, outputs)):
        for name, data_type, sizes in tensors:
            field.add(name=name, data_type=data_type, dims=(*batch, *sizes))
    return config_text(config)


def _python_config(model_name: str, inputs: Tensors, outputs: Tensors, batch: int) -> str:
    # The batch is an explicit size, as in config.pbtxt. KIND_AUTO would ask for a GPU wherever there is one.
    text = _config(model_name, "python", inputs, outputs, (batch,))
    return f"{text}instance_group {{\n  count: 1\n  kind: KIND_CPU\n}}\n"


def _batching_config(model_name: str, inputs: Tensors, outputs: Tensors, max_batch: int, batch_wait_s: float) -> str:
    text = _config(model_name, BACKEND, inputs, outputs, ()).removeprefix("max_batch_size: 0\n")
    delay = f"dynamic_batching {{\n  max_queue_delay_microseconds: {round(batch_wait_s * 1e6)}\n}}\n"
    return f"max_batch_size: {max_batch}\n{text}{delay}"


def _kserve(model_name: str, max_replicas: int, config_name: str) -> str:
    arguments = f"\n      args: [{json.dumps(f'--model-config-name={config_name}')}]" if config_name else ""
    return f"""\
# KServe: copy ../{REPOSITORY} to a volume or bucket, name it in storageUri, then kubectl apply -f kserve.yaml
# The port is gRPC. KServe's gateway ends TLS and checks who may ask; without one, keep the service inside the cluster.
apiVersion: serving.kserve.io/v1beta1
kind: InferenceService
metadata:
  name: {json.dumps(kubernetes_name(model_name))}
spec:
  predictor:
    minReplicas: 1
    maxReplicas: {max_replicas}
    scaleMetric: concurrency
    scaleTarget: {TARGET_REQUESTS}
    model:
      modelFormat:
        name: onnx
        version: "1"
      runtime: kserve-tritonserver
      protocolVersion: grpc-v2
      storageUri: "pvc://edgecut-models/{REPOSITORY}"{arguments}
      ports:
        - name: h2c
          containerPort: 9000
          protocol: TCP
      resources:
        requests:
          cpu: "1"
          memory: 2Gi
"""


def _ray_serve(model_name: str, max_replicas: int, max_batch: int, batch_wait_s: float) -> str:
    return f"""\
# Ray Serve: put this cloud side at the folder below on every node, install edgecut[cpu,ray] there, then
# serve deploy ray_serve.yaml. Ray's gRPC port listens on every address without TLS: let a proxy with TLS face the
# network, and name a token file, which every node must have, in token_file.
proxy_location: EveryNode
http_options:
  host: 127.0.0.1
grpc_options:
  port: 8001
  grpc_servicer_functions:
    - edgecut.runtime.ray_replica:add_to_proxy
  enable_reflection: false
applications:
  - name: {json.dumps(model_name)}
    route_prefix: /
    import_path: edgecut.runtime.ray_replica:application
    args:
      folder: /opt/edgecut/cloud
      token_file: null
      min_replicas: 1
      max_replicas: {max_replicas}
      target_requests: {TARGET_REQUESTS}
      max_batch: {max_batch}
      batch_wait_s: {batch_wait_s}
"""
