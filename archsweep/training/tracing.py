"""A model as its bare operations, on a CPU, or as its kernels, on a GPU: what its Python code costs is paid once, not at every step."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

    from torch.fx import GraphModule


RECORDED_STEPS = 500  # a recording took what some 60 to 320 steps saved


class Traced:
    """`function` of an input and of parameters: at its first call with a shape of the input its operations are recorded, and these run
    from then on, to the same bits and with the same gradients. For a CPU; on a GPU see `Replays`.

    A small model's step spends a tenth of its time between its operations: in modules, in `vmap`, in autocast. The function must decide
    nothing by the values of its tensors. Random operations are recorded as such, and draw anew in every call.
    """

    def __init__(self, function: Callable[..., Tensor]) -> None:
        self._function = function
        self._recorded: dict[torch.Size, GraphModule] = {}

    def __call__(self, inputs: Tensor, *parameters: Tensor) -> Tensor:
        shape = inputs.shape
        if shape not in self._recorded:
            self._recorded[shape] = self._record(inputs, *parameters)
        outputs: Tensor = self._recorded[shape](inputs, *parameters)
        return outputs

    def _record(self, *arguments: Tensor) -> GraphModule:
        with torch.random.fork_rng([]):  # recording computes, and must not draw what the first call would
            recorded: GraphModule = make_fx(self._function)(*arguments)
        recorded.graph.eliminate_dead_code()
        recorded.recompile()
        return recorded


class Replays:
    """A computation on a GPU, recorded once for each kind of call as a CUDA graph: all of its kernels are then started as one.

    The kernels of a small model take less time than it takes Python to start them. They are the same in the same order, to the same bits;
    dropout draws anew in every replay. The computation must wait for nothing on the device and decide nothing by its tensors' values. What
    it computes with besides its inputs stays where it is, and so does the memory that it needs, which all kinds share: they never run at
    once.
    """

    def __init__(self) -> None:
        self._called: set[Hashable] = set()
        self._graphs: dict[Hashable, _Graph] = {}

    def __call__(self, kind: Hashable, compute: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
        """What `compute` returns for these inputs; calls of one `kind` differ in the values of their inputs alone."""
        if kind not in self._called:
            self._called.add(kind)
            return compute(*inputs)  # the first call loads kernels, which no recording may
        if kind not in self._graphs:
            pool = next((graph.pool for graph in self._graphs.values()), None)
            self._graphs[kind] = _Graph(compute, inputs, pool)
        return self._graphs[kind](inputs)

    def forget(self) -> None:
        """Give the recordings up, and the memory that they hold; later calls record anew."""
        self._called.clear()
        self._graphs.clear()


class _Graph:
    """One recorded call."""

    def __init__(self, compute: Callable[..., Tensor], inputs: tuple[Tensor, ...], pool: Any) -> None:
        self._inputs = [given.clone() for given in inputs]
        self._graph = torch.cuda.CUDAGraph()
        device = inputs[0].device
        with torch.cuda.device(device), torch.cuda.graph(self._graph, pool, _stream(device)):
            self._output = compute(*self._inputs)
        self.pool = self._graph.pool()

    def __call__(self, inputs: tuple[Tensor, ...]) -> Tensor:
        for own, given in zip(self._inputs, inputs, strict=True):
            own.copy_(given)
        self._graph.replay()
        return self._output.clone()  # the next replay writes over it


@cache
def _stream(device: torch.device) -> Any:
    """The stream on which this process records for a GPU: cuBLAS keeps a workspace for each that it has ever seen."""
    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
