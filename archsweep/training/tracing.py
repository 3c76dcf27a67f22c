"""A model as its bare operations: what its Python code costs is paid once, not at every step."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch.fx import GraphModule


RECORDED_STEPS = 500  # a recording took what some 60 to 320 steps saved


class Traced:
    """`function` of an input and of parameters: at its first call with a shape of the input its operations are recorded, and these run
    from then on, to the same bits and with the same gradients.

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
        devices = [argument.device for argument in arguments[:1] if argument.device.type == "cuda"]
        with torch.random.fork_rng(devices):  # recording computes, and must not draw what the first call would
            recorded: GraphModule = make_fx(self._function)(*arguments)
        recorded.graph.eliminate_dead_code()
        recorded.recompile()
        return recorded
