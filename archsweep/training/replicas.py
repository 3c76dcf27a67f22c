"""A stack of replicas: K models of one architecture trained as one, by `vmap` over their stacked weights."""

from __future__ import annotations

import weakref
from functools import partial
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
import transformers
from torch import Tensor, nn
from torch.func import functional_call

from archsweep.config import FAMILIES
from archsweep.training.loss import losses, losses_and_gradients
from archsweep.training.model import FOLDED_ATTENTION, CustomGPT2Model
from archsweep.training.precision import DTYPES, autocast, lasts, resolve_compile, resolve_precision
from archsweep.training.tracing import RECORDED_STEPS, Replays, Traced

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from archsweep.config import ExperimentConfig, Replica

SMALL_OPERATION = 48_000  # elements of one layer's activations
LARGEST_CPU_STACK = 6
LARGEST_REPLAY = 2**23  # elements of one layer's activations, from which on kernels take longer than starting them


class _Body(nn.Module):
    """A Hugging Face model without its head, under the same parameter names."""

    def __init__(self, model: transformers.PreTrainedModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor) -> Tensor:
        hidden: Tensor = self.model.base_model(input_ids).last_hidden_state
        return hidden


class ReplicaStack:
    """The weights, gradients and losses of K replicas.

    `weights` and `gradients` are (K, P) float32, a row per replica, so that one replica's weights are contiguous and the optimizer, the
    clipping and the export see plain vectors; the matrices (`decayed` columns) come first. The model computes on views of them.
    """

    def __init__(self, config: ExperimentConfig, replicas: Sequence[Replica], device: torch.device) -> None:
        self.replicas = tuple(replicas)
        self.device = device
        self.precision = resolve_precision(config, device)
        overrides = config.model_overrides.items()
        self.draws = bool(config.dropout or config.family not in FAMILIES or any("drop" in name and value for name, value in overrides))
        self.model = CustomGPT2Model.from_config(config, seed=replicas[0].seed).to(device)
        if isinstance(self.model.model, transformers.PreTrainedModel):
            self.model.model.set_attn_implementation(FOLDED_ATTENTION)
        if config.gradient_checkpointing:
            hugging_face = self.model.model  # the first is the newer name of the second, which warns where both are
            enable = getattr(hugging_face, "activation_checkpointing_enable", None) or hugging_face.gradient_checkpointing_enable
            enable({"use_reentrant": False})

        parameters = dict(self.model.named_parameters())
        # As usual for GPT-2, weight decay shrinks matrices and embeddings, not biases and norms.
        self._names = sorted(parameters, key=lambda name: parameters[name].ndim < 2)
        self._shapes = [parameters[name].shape for name in self._names]
        self.decayed = sum(parameter.numel() for parameter in parameters.values() if parameter.ndim >= 2)
        self.weights = torch.empty((len(replicas), sum(shape.numel() for shape in self._shapes)), device=device)
        self.gradients = torch.zeros_like(self.weights)
        self._initialise(config)

        self._parameters = self._bind()
        self._gradient_views = self._views(self.gradients)
        self._body, self._head = self._cut()
        self._replays = Replays() if device.type == "cuda" and self._may_be_recorded(config) else None
        self._train_forward = self._fastest_forward(config)

    def __len__(self) -> int:
        return len(self.replicas)

    def _initialise(self, config: ExperimentConfig) -> None:
        """Each row is the initial model of its replica's seed, whatever its neighbours are."""
        made: dict[int, Tensor] = {}  # by seed: replicas of one seed begin with the same weights
        for row, replica in zip(self.weights, self.replicas, strict=True):
            if replica.seed not in made:
                parameters = dict(CustomGPT2Model.from_config(config, seed=replica.seed).named_parameters())
                row.copy_(torch.cat([parameters[name].detach().flatten() for name in self._names]))
                made[replica.seed] = row
            else:
                row.copy_(made[replica.seed])

    def _views(self, flat: Tensor) -> list[Tensor]:
        """(K, P) -> one (K, *shape) view per parameter."""
        columns = torch.split(flat, [shape.numel() for shape in self._shapes], dim=1)
        return [column.view(len(self), *shape) for column, shape in zip(columns, self._shapes, strict=True)]

    def _bind(self) -> list[Tensor]:
        """What the model computes with: stacked leaves, or for one replica the module's own parameters.

        Those lie over the first row in either case: a copy would be a replica's worth of memory that no prediction counts.
        """
        own, views = dict(self.model.named_parameters()), self._views(self.weights)
        for name, view in zip(self._names, views, strict=True):
            own[name].data = view[0]
        if len(self) == 1:
            return [own[name] for name in self._names]
        return [view.detach().requires_grad_() for view in views]

    def _cut(self) -> tuple[nn.Module, int | None]:
        """The model up to the hidden states, and which parameter is its head; the whole model and None where it is no built-in family's."""
        model = self.model.model
        head = model.get_output_embeddings() if isinstance(model, transformers.PreTrainedModel) else None
        if not isinstance(head, nn.Linear) or head.bias is not None or self.model.config.family not in FAMILIES:
            return self.model, None
        name = next(name for name, parameter in self.model.named_parameters() if parameter is head.weight)
        return _Body(model), self._names.index(name)

    def _forward(self, inputs: Tensor, *parameters: Tensor) -> Tensor:
        """(K, B, T) token ids -> (K, B, T, D) hidden states, or (K, B, T, V) logits where the model was not cut."""
        weights = dict(zip(self._names, parameters, strict=True))
        with autocast(self.precision, self.device):
            if len(self) == 1:
                alone: Tensor = functional_call(self._body, weights, (inputs[0],))
                return alone.unsqueeze(0)
            # Each replica draws its own dropout masks.
            fused = torch.vmap(lambda weights, tokens: functional_call(self._body, weights, (tokens,)), randomness="different")
            outputs: Tensor = fused(weights, inputs)
            return outputs

    def _fastest_forward(self, config: ExperimentConfig) -> Callable[..., Tensor]:
        """`_forward` as the training steps call it."""
        if len(self) == 1 and resolve_compile(config, self.device):
            torch.compiler.reset()  # else a process's second model gets sizes that are variables, and its ninth is not compiled at all
            return torch.compile(self._forward)
        # Held weakly: in a cycle with this stack, its weights would stay until Python looks for garbage, and in the next trial's way.
        method = weakref.WeakMethod(self._forward)

        def forward(*given: Tensor) -> Tensor:
            bound = method()
            assert bound is not None
            return bound(*given)

        if self._may_be_recorded(config) and self.device.type == "cpu" and lasts(config, RECORDED_STEPS):
            return Traced(forward)
        return forward

    def _may_be_recorded(self, config: ExperimentConfig) -> bool:
        """A module of one's own may decide by values, as rotary frequencies that change with the length do, which an override of several
        parts asks for; checkpointing computes in the backward pass; and compile=false has steps run as they are written."""
        plain = not any(isinstance(value, dict) for value in config.model_overrides.values())
        return self._head is not None and plain and not config.gradient_checkpointing and config.compile is not False

    def _run(self, forward: Callable[..., Tensor], windows: Tensor) -> tuple[Tensor, Tensor]:
        """(K, B, T + 1) tokens -> ((K, B * T, D or V) outputs, (K, B * T) targets)."""
        outputs = forward(windows[..., :-1], *self._parameters)
        return outputs.flatten(1, 2), windows[..., 1:].flatten(1)

    def compute_gradients(self, windows: Tensor, share: float = 1.0, scale: Tensor | None = None, *, add: bool = False) -> Tensor:
        """(K, B, T + 1) tokens -> (K,) mean losses in nats per token; `share` (and each replica's loss `scale`) times the gradients of the
        losses take the place of `gradients`, or with `add` are added to them."""
        scale = torch.ones(len(self), device=self.device) if scale is None else scale
        compute = partial(self._compute_gradients, share=share, add=add)
        if self._replays is None or windows[..., 1:].numel() * self.model.config.hidden_size > LARGEST_REPLAY:  # (K, B, T) times D
            return compute(windows, scale)
        return self._replays((windows.shape, share, add), compute, windows, scale)

    def _compute_gradients(self, windows: Tensor, scale: Tensor, *, share: float, add: bool) -> Tensor:
        outputs, targets = self._run(self._train_forward, windows)
        weight = torch.full((len(self),), share / targets.shape[1], device=self.device) * scale
        # The sum over replicas keeps their gradients apart: no weight is in two of the terms.
        if self._head is None:
            each = F.cross_entropy(outputs.flatten(0, 1).float(), targets.flatten(), reduction="none").view(targets.shape)
            found = list(torch.autograd.grad((each * weight[:, None]).sum(), self._parameters))
        else:
            each, *gradients = losses_and_gradients(outputs.detach(), self._head_weights, targets, weight, DTYPES[self.precision])
            found = self._through_the_body(outputs, *gradients)
        with torch.no_grad():
            own = [gradient.view_as(view) for gradient, view in zip(found, self._gradient_views, strict=True)]
            (torch._foreach_add_ if add else torch._foreach_copy_)(self._gradient_views, own)
        return each.detach().mean(-1)

    def _through_the_body(self, outputs: Tensor, outputs_gradient: Tensor, head_gradient: Tensor) -> list[Tensor]:
        """The gradients by all parameters, from those by the hidden states and by the head."""
        found = list(torch.autograd.grad(outputs, self._parameters, outputs_gradient, allow_unused=True))
        assert self._head is not None
        embedding = found[self._head]  # None where the head is not tied to it
        found[self._head] = head_gradient if embedding is None else embedding.view_as(head_gradient) + head_gradient
        return found

    def forget_recordings(self) -> None:
        """Give up what was recorded on a GPU, and the memory that it holds; a later step records anew."""
        if self._replays is not None:
            self._replays.forget()

    @property
    def _head_weights(self) -> Tensor:
        """(K, V, D)"""
        assert self._head is not None
        head = self._parameters[self._head].detach()
        return head.unsqueeze(0) if len(self) == 1 else head

    @torch.inference_mode()
    def evaluate(self, windows: Tensor, batch_size: int) -> Tensor:
        """(N, T + 1) evaluation windows, the same for every replica -> (K, N) mean losses of their T predictions, in nats per token."""
        self.model.eval()
        found = [self._evaluate(batch.expand(len(self), *batch.shape)) for batch in torch.split(windows, batch_size)]
        self.model.train()
        return torch.cat(found, dim=1)

    def _evaluate(self, windows: Tensor) -> Tensor:
        outputs, targets = self._run(self._forward, windows)
        if self._head is None:
            each = F.cross_entropy(outputs.flatten(0, 1).float(), targets.flatten(), reduction="none")
        else:
            each = losses(outputs, self._head_weights, targets, DTYPES[self.precision])
        return each.view(len(self), windows.shape[1], -1).mean(-1)

    def extract(self, index: int) -> CustomGPT2Model:
        """Replica `index` as a model of its own, on the CPU, with transformers' usual attention."""
        model = CustomGPT2Model.from_config(self.model.config, seed=self.replicas[index].seed)
        own = dict(model.named_parameters())
        with torch.no_grad():
            for name, view in zip(self._names, self._views(self.weights), strict=True):
                own[name].copy_(view[index])
        return model.eval()


def choose_stack_size(config: ExperimentConfig, replicas: int, device: torch.device) -> int:
    """How many of `replicas` to train as one stack, from what `benchmarks/fused.py` measured.

    On a GPU see `ExperimentConfig.gpu_stack_size`. On a CPU a stack saves the calls of many small operations, and loses where one operation
    already keeps a core busy and its results only leave the cache.
    """
    if device.type == "cuda" or config.trains_alone:
        return config.gpu_stack_size(replicas)
    if config.layer_elements > SMALL_OPERATION:
        return 1
    stacks = -(-replicas // LARGEST_CPU_STACK)
    return -(-replicas // stacks)  # of equal size
