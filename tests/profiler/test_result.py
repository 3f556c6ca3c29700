"""What an agent sends back: any field missing or wrong is one sentence, and nothing wrong becomes a Profile."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from edgecut.errors import DeviceError
from edgecut.models.load import Model
from edgecut.profiler.agents import read_json
from edgecut.profiler.assemble import assemble
from edgecut.profiler.result import read_result

ENVIRONMENT = {
    "processor": "a processor",
    "processors": 2,
    "frequency_hz": None,
    "governor": None,
    "power_mode": None,
    "temperature_c": None,
    "memory_bytes": 1 << 30,
    "load_1min": 0.0,
    "virtualised": None,
    "system": "Linux",
    "python": "3.6.9",
    "versions": {"onnxruntime": "1.10.0"},
}


def result(model: Model) -> dict[str, Any]:
    """A sound result of a model, by hand: every task took 1 ms."""
    taken = {"rounds": [[0.001, 0.001], [0.001]] * 6, "cpu_s": 0.02, "wall_s": 0.02}
    names = ["whole"]
    for cut in model.spec.cuts:
        names += [f"prefix:{cut.name}", f"suffix:{cut.name}", f"noise:{cut.elements}", f"add:{cut.elements}"]
    spent = {"energy_j": 0.5, "above_idle_j": 0.2, "runs": 4, "window_s": 1.0, "note": ""}
    return {
        "format": 1,
        "model_digest": model.spec.digest,
        "backend": "onnxruntime-cpu",
        "threads": 2,
        "precision": "float32",
        "pause_s": 0.005,
        "environment": dict(ENVIRONMENT),
        "tasks": {name: copy.deepcopy(taken) for name in names},
        "nodes": [[layer.output.name, 0.001] for layer in model.spec.layers],
        "layer_note": "",
        "meter": {"name": "ina3221", "source": "rails", "idle_w": 1.0, "idle_window_s": 3.0, "note": ""},
        "energy": {"whole": spent},
        "converged": True,
        "groups": 1,
        "elapsed_s": 2.0,
    }


def test_a_sound_one_is_a_profile(lenet: Model) -> None:
    made = assemble(lenet.spec, lenet.graph, "ssh://board", read_result(result(lenet), "there"), power=None)
    assert made.device == "ssh://board" and made.notes == ()
    assert made.whole.median_s == made.cuts[0].prefix.median_s == 0.001
    assert (made.pause_s, made.threads, made.precision, made.meter) == (0.005, 2, "float32", "rails")
    assert made.whole.utilisation == 0.5
    assert set(made.environment.versions) == {"edgecut", "onnxruntime"}  # nothing of this machine's but edgecut
    assert [layer.latency_s for layer in made.layers] == [0.001] * 5
    assert made.layer_sum_s == pytest.approx(0.005)


FIELDS = [
    ("format",),
    ("model_digest",),
    ("backend",),
    ("threads",),
    ("precision",),
    ("pause_s",),
    ("environment",),
    ("environment", "processor"),
    ("tasks",),
    ("tasks", "whole", "rounds"),
    ("tasks", "whole", "cpu_s"),
    ("tasks", "whole", "wall_s"),
    ("nodes",),
    ("layer_note",),
    ("meter",),
    ("meter", "name"),
    ("meter", "source"),
    ("meter", "idle_w"),
    ("meter", "idle_window_s"),
    ("meter", "note"),
    ("energy",),
    ("energy", "whole", "energy_j"),
    ("energy", "whole", "runs"),
    ("energy", "whole", "window_s"),
    ("converged",),
    ("groups",),
    ("elapsed_s",),
]
WRONG: list[tuple[tuple[Any, ...], Any]] = [
    (("threads",), 0),
    (("threads",), "all"),
    (("precision",), "int8"),
    (("pause_s",), -1),
    (("pause_s",), float("nan")),
    (("environment",), []),
    (("environment", "versions"), {"numpy": {}}),
    (("tasks",), []),
    (("tasks", "whole"), None),
    (("tasks", "whole", "rounds"), []),
    (("tasks", "whole", "rounds"), [[]]),
    (("tasks", "whole", "rounds"), [[0.001], []]),
    (("tasks", "whole", "rounds"), [[-0.001]]),
    (("tasks", "whole", "rounds"), [[float("nan")]]),
    (("tasks", "whole", "rounds"), [[float("inf")]]),
    (("tasks", "whole", "rounds"), [["fast"]]),
    (("tasks", "whole", "wall_s"), 0),
    (("tasks", "whole", "cpu_s"), -1),
    (("nodes",), [["conv1"]]),
    (("nodes",), [["conv1", -1.0]]),
    (("nodes",), [["conv1", None]]),
    (("meter",), None),
    (("meter", "idle_w"), -2.0),
    (("meter", "idle_w"), float("inf")),
    (("energy", "whole"), {}),
    (("energy", "whole", "runs"), 0),
    (("energy", "whole", "window_s"), 0.0),
    (("energy", "whole", "energy_j"), float("nan")),
    (("converged",), "perhaps"),
    (("groups",), 0),
    (("elapsed_s",), None),
]


def put(values: Any, path: tuple[Any, ...], value: Any) -> None:
    for part in path[:-1]:
        values = values[part]
    values[path[-1]] = value


def refused(values: dict[str, Any], *words: str) -> None:
    with pytest.raises(DeviceError) as caught:
        read_result(values, "ssh://board")
    said = str(caught.value)
    assert said.startswith("ssh://board sent ") and "\n" not in said, said
    assert all(word in said for word in words), said


@pytest.mark.parametrize("path", FIELDS, ids=".".join)
def test_a_field_missing(path: tuple[str, ...], lenet: Model) -> None:
    values = result(lenet)
    place: Any = values
    for part in path[:-1]:
        place = place[part]
    del place[path[-1]]
    refused(values, path[-1])


@pytest.mark.parametrize(("path", "value"), WRONG, ids=str)
def test_a_field_wrong(path: tuple[Any, ...], value: Any, lenet: Model) -> None:
    values = result(lenet)
    put(values, path, value)
    refused(values, "an unusable result", path[0])


def test_a_field_more(lenet: Model) -> None:
    refused(result(lenet) | {"guess": 1}, "guess")


@pytest.mark.parametrize("number", [0, 2, "1.0", None])
def test_another_format(number: Any, lenet: Model) -> None:
    refused(result(lenet) | {"format": number}, f"a result of format {number}, and 1 is read here")


def test_of_another_model_or_not_all_of_it(lenet: Model) -> None:
    taken = read_result(result(lenet) | {"model_digest": "sha256:" + "1" * 64}, "there")
    with pytest.raises(DeviceError, match="there measured another model than lenet5"):
        assemble(lenet.spec, lenet.graph, "there", taken, power=None)
    for task in ("whole", "prefix:conv2", "suffix:fc1", "noise:120", "add:120"):
        values = result(lenet)
        del values["tasks"][task]
        with pytest.raises(DeviceError, match=f"there did not measure {task}; profile it again"):
            assemble(lenet.spec, lenet.graph, "there", read_result(values, "there"), power=None)


@pytest.mark.parametrize("load", [0.9, 1.1])
def test_a_busy_machine_is_told(load: float, lenet: Model) -> None:
    values = result(lenet)
    values["environment"]["load_1min"] = load
    made = assemble(lenet.spec, lenet.graph, "there", read_result(values, "there"), power=None)
    assert made.notes == (("the machine was busy when measuring began: load 1.1 on 2 processors",) if load > 1 else ())


def test_what_a_processor_does_says_nothing_of_a_gpu(lenet: Model) -> None:
    values = result(lenet) | {"backend": "tensorrt", "precision": "float16"}
    made = assemble(lenet.spec, lenet.graph, "there", read_result(values, "there"), power=None)
    assert made.whole.utilisation is None and made.cuts[0].suffix.utilisation is None
    assert made.cuts[0].noise.utilisation == 0.5
    assert made.precision == "float16"


def test_no_layer_times_is_a_note(lenet: Model) -> None:
    values = result(lenet) | {"nodes": [], "layer_note": "no profiler here"}
    made = assemble(lenet.spec, lenet.graph, "there", read_result(values, "there"), power=None)
    assert made.notes == ("no layer times: no profiler here",)
    assert made.layer_sum_s is None


@pytest.mark.parametrize("text", [b"", b'{"format": 1', b"\xff\xfe", b"[" * 100_000, b"nonsense"])
def test_files_that_are_no_result(text: bytes, tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    path.write_bytes(text)
    with pytest.raises(DeviceError, match=r"the result .*result\.json cannot be read .*measure again"):
        read_json(path)


def test_other_files(tmp_path: Path) -> None:
    with pytest.raises(DeviceError, match=r"none\.json cannot be read"):
        read_json(tmp_path / "none.json")
    with pytest.raises(DeviceError, match="cannot be read"):
        read_json(tmp_path)
    path = tmp_path / "list.json"
    path.write_text(json.dumps([1, 2]))
    with pytest.raises(DeviceError, match="sent a result of format None"):
        read_result(read_json(path), str(path))
    with open(path, "wb") as file:
        file.truncate(600 << 20)
    with pytest.raises(DeviceError, match=r"has 629145600 bytes, which cannot be"):
        read_json(path)
