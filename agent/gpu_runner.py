"""One run of a sub-model on a GPU and its time, the same for every GPU runtime.

    start | copy every input to the GPU | ready | the runtime's work, the noise | done | copy every output back | end

`run()` returns the seconds from start to end as the GPU's events measured them: what a request pays once its input
lies in page-locked memory, with the gaps in which the GPU waits for the host to hand it work. `compute_s` is ready to
done alone. Neither has the host's wait for the end in it, a few microseconds, nor the filling of the input's memory.

Where noise was asked for (`add_noise`) it is drawn from start on in a stream beside, and added to the outputs where
they lie, so that no activation without noise is ever copied back. `compute_s` has the adding in it, and what of the
draw outlasts the runtime's work. With steps the sums are rounded to int8 there, too, and a quarter of the bytes is
copied back. Not yet run on a GPU.
"""

import contextlib
from typing import Any, Dict, List, Mapping, Optional, Sequence, Tuple, TypeVar

import numpy as np

from ..noise_kernels.mechanism import Noise
from ..noise_kernels.reference import inverse_step
from .backends import BackendError, Runner
from .cuda import LIBRARY, Device, Event, Stream, Tensor
from .gpu_noise import GpuNoise
from .inputs import not_finite

Owned = TypeVar("Owned", Device, Stream, Event, Tensor, GpuNoise)


class GpuRunner(Runner):
    """A runner whose inputs and outputs are copied each time. A subclass says what is enqueued between the copies."""

    def __init__(self, library: str = LIBRARY) -> None:
        self.compute_s = None  # type: Any
        self._noise = None  # type: Optional[GpuNoise]
        self._held = contextlib.ExitStack()
        try:
            self.device = self._own(Device(library=library))
            self.stream = self._own(Stream(self.device))
            self._start, self._ready, self._done, self._end = [self._own(Event(self.device)) for _ in range(4)]
        except BaseException:
            with contextlib.suppress(BackendError):
                self._held.close()
            raise
        self.inputs = {}  # type: Dict[str, Tensor]
        self.results = {}  # type: Dict[str, Tensor]
        self._levels = {}  # type: Dict[str, Tensor]

    def _own(self, made: Owned) -> Owned:
        """Have something closed when this is."""
        self._held.callback(made.close)
        return made

    def place_input(self, name: str, array: Any, dtype: Any) -> None:
        """Keep an input in place for all runs, in the runtime's own type. Raises BackendError if that loses values."""
        placed = _as(dtype, name, array)
        self.inputs[name] = self._own(Tensor(self.device, placed.shape, placed.dtype))
        self.inputs[name].host[...] = placed

    def place_output(self, name: str, shape: Tuple[int, ...], dtype: Any) -> None:
        """Make room for an output."""
        self.results[name] = self._own(Tensor(self.device, shape, dtype))

    def add_noise(
        self,
        noise: Noise,
        cache: Optional[str] = None,
        steps: Optional[Sequence[float]] = None,
        sticky: bool = False,
    ) -> None:
        """From now on add fresh `noise` to the outputs, which must be the tensors that it is for (its carriers).

        `cache` is a folder for the compiled kernels. With `steps`, one for each tensor, the outputs are int8, and a
        run raises InputError where one was not finite before. Raises BackendError, and for noise that cannot be made
        here at all, which the caller then adds on the processor: that of the model's input, and `sticky` noise.
        """
        _check_here(noise, sticky)
        shapes = {name: tensor.host.shape[1:] for name, tensor in self.results.items()}
        batches = {tensor.host.shape[:1] for tensor in self.results.values()}
        types = {tensor.host.dtype.name for tensor in self.results.values()}
        if shapes != dict(noise.carriers) or len(batches) != 1 or types != {"float32"}:
            raise BackendError(
                "the noise is for {} in float32, and the sub-model gives {} in {}; learn noise for this cut".format(
                    dict(noise.carriers), shapes, ", ".join(sorted(types))
                )
            )
        self.device.activate()
        self._beside, self._drawn = self._own(Stream(self.device)), self._own(Event(self.device))
        self._order = [name for name, _ in noise.carriers]
        batch = next(iter(self.results.values())).host.shape[0]
        drawn = self._own(GpuNoise(self.device, noise, batch, cache))
        levels = {}  # type: Dict[str, Tensor]
        if steps is not None:
            self._inverse_steps = [float(inverse_step(step)) for step in steps]
            for name in self._order:
                levels[name] = self._own(Tensor(self.device, self.results[name].host.shape, np.int8))
            self._broken = self._own(Tensor(self.device, (1,), np.uint32))
            self._mend()
        self._levels, self._noise = levels, drawn  # last: until all is there, run() adds none

    def _mend(self) -> None:
        """Put the mark of an activation that is not finite back to none."""
        self._broken.host[0] = 0
        self._broken.to_device(self.stream)

    def _enqueue(self) -> None:
        """Hand the runtime's work to the stream."""
        raise NotImplementedError

    def run(self) -> float:
        """See the top of this file."""
        self.device.activate()
        stream = self.stream
        self._start.record(stream)
        if self._noise is not None:
            self._beside.wait(self._start)  # and so for the last run's end
            self._noise.draw(self._beside.address)
            self._drawn.record(self._beside)
        for tensor in self.inputs.values():
            tensor.to_device(stream)
        self._ready.record(stream)
        self._enqueue()
        if self._noise is not None:
            stream.wait(self._drawn)
            self._add(self._noise)
        self._done.record(stream)
        for tensor in self._returned():
            tensor.to_host(stream)
        self._end.record(stream)
        self._end.synchronise()
        if self._levels and self._broken.host[0]:
            self._mend()
            raise not_finite()
        self.compute_s = self._done.seconds_since(self._ready)
        return self._end.seconds_since(self._start)

    def _add(self, noise: GpuNoise) -> None:
        """Queue the adding to every output, in place, or as int8 to a place of its own."""
        for place, name in enumerate(self._order):
            activation = self.results[name].address
            if not self._levels:
                noise.add(self.stream.address, activation, tensor=place)
                continue
            out, inverse = self._levels[name].address, self._inverse_steps[place]
            noise.add(self.stream.address, activation, out, inverse, place, self._broken.address)

    def _returned(self) -> List[Tensor]:
        """What is copied back: never an activation without its noise, where noise was asked for."""
        return [*self._levels.values(), self._broken] if self._levels else list(self.results.values())

    def outputs(self) -> Dict[str, Any]:
        """Run once; float32 copies of all outputs by name."""
        self.run()
        return {name: tensor.host.astype(np.float32) for name, tensor in (self._levels or self.results).items()}

    def call(self, feed: Mapping[str, Any]) -> Dict[str, Any]:
        """Run on new inputs, which must have the shapes that this was opened with; copies of the outputs."""
        for name, tensor in self.inputs.items():
            if name not in feed:
                raise BackendError("the model's input '{}' was not given".format(name))
            if np.shape(feed[name]) != tensor.host.shape:
                raise BackendError(
                    "input '{}' is {}, and the engine is for {} alone; open one for that shape".format(
                        name, list(np.shape(feed[name])), list(tensor.host.shape)
                    )
                )
            tensor.host[...] = _as(tensor.host.dtype, name, feed[name])
        self.run()
        return {name: tensor.host.copy() for name, tensor in (self._levels or self.results).items()}

    def close(self) -> None:
        """Give all memory back to the GPU."""
        self.inputs, self.results, self._levels, self._noise = {}, {}, {}, None
        # A GPU on which work has failed refuses even this; what failed first is what the caller must hear of.
        with contextlib.suppress(BackendError):
            self.device.activate()
        with contextlib.suppress(BackendError):
            self._held.close()


def _check_here(noise: Noise, sticky: bool) -> None:
    """Raises BackendError where a runner cannot make this noise."""
    if noise.place == "input":
        raise BackendError("noise that is added to the model's input is made before the input reaches the GPU")
    if sticky:
        raise BackendError("noise that follows from what it is added to is made where that can be read, not on the GPU")


def _as(dtype: Any, name: str, array: Any) -> Any:
    """The array in the runtime's own type. Raises BackendError if that loses whole numbers."""
    value = np.asarray(array)
    placed = value.astype(dtype)
    if not np.issubdtype(np.dtype(dtype), np.floating) and not np.array_equal(placed, value):
        raise BackendError("input '{}' has values that {} cannot hold".format(name, np.dtype(dtype).name))
    return placed
