"""What the sections of docs/reproduction.md share: the pairs of devices, the baselines, and how a ratio is written."""

from __future__ import annotations

from typing import Any

from paper_figures import geometric_mean

Row = dict[str, Any]
MAIN, MAIN_CPU = "tx2-gpu/titan-xp", "tx2-cpu/titan-xp"
EDGE_TITLES = {
    "tx2-gpu": "TX2 at Max-Q, GPU under TensorRT",
    "tx2-gpu-pytorch": "TX2 at Max-Q, GPU under PyTorch",
    "tx2-gpu-maxn": "TX2 at Max-N, GPU under TensorRT",
    "tx2-cpu": "TX2 at Max-Q, processor under ONNX Runtime",
}
CLOUD_TITLES = {"titan-xp": "Titan Xp", "titan-x-pascal": "Titan X (Pascal)"}
FLOAT32, UINT8, JPEG, WORDS = (f"cloud-only {form}" for form in ("float32", "uint8", "JPEG", "16-bit words"))
FORMS = {FLOAT32: "float32", UINT8: "uint8", JPEG: "JPEG"}
NONE = "\N{EN DASH}"


def speedup_text(row: Row, form: str) -> str:
    """Against one form of the input; a dash where the network has no such form."""
    found = row["speedups"].get(form)
    return NONE if found is None else f"{found:.2f}"


def mean_text(rows: Row, form: str) -> str:
    """The geometric mean over the networks that have the form, and how many they are."""
    having = [row["speedups"][form] for row in rows.values() if row["speedups"].get(form) is not None]
    return NONE if not having else f"{geometric_mean(having):.2f} ({len(having)})"
