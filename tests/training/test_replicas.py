"""A replica in a stack is the model that plain PyTorch trains alone, whoever its neighbours are."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import pytest
import torch
import torch.nn.functional as F
from transformers import GPT2Config, GPT2LMHeadModel, GPTNeoXConfig, GPTNeoXForCausalLM, LlamaConfig, LlamaForCausalLM

from archsweep.config import ExperimentConfig, Replica
from archsweep.training.data import LanguageModelDataset
from archsweep.training.replicas import ReplicaStack, choose_stack_size

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from .conftest import Run, Train

CPU = torch.device("cpu")
REPLICAS = (
    Replica(seed=0, learning_rate=1e-3, weight_decay=0.1),
    Replica(seed=1, learning_rate=3e-3, weight_decay=0.0),
    Replica(seed=2, learning_rate=2e-3, weight_decay=2.0),
)

# Alone: an ordinary PyTorch program.


def hugging_face_model(config: ExperimentConfig, seed: int) -> torch.nn.Module:
    sizes = {"vocab_size": 300, "bos_token_id": None, "eos_token_id": None, "pad_token_id": None, "attn_implementation": "sdpa"}
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        if config.family == "gpt2":
            shape = {"n_layer": 2, "n_head": 2, "n_embd": 16, "n_inner": 64, "n_positions": 16, "activation_function": "gelu_pytorch_tanh"}
            return GPT2LMHeadModel(GPT2Config(**shape, **sizes, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0))
        if config.family == "gpt_neox":
            shape = {"num_hidden_layers": 2, "num_attention_heads": 2, "hidden_size": 16, "intermediate_size": 64}
            rotary = {"rope_type": "default", "rope_theta": 10_000.0, "partial_rotary_factor": 1.0}
            return GPTNeoXForCausalLM(GPTNeoXConfig(**shape, **sizes, max_position_embeddings=16, rope_parameters=rotary))
        shape = {"num_hidden_layers": 2, "num_attention_heads": 2, "head_dim": 8, "hidden_size": 16, "intermediate_size": 64}
        return LlamaForCausalLM(LlamaConfig(**shape, **sizes, **({"num_key_value_heads": 2} | config.model_overrides)))


def train_alone(config: ExperimentConfig, replica: Replica, corpora: Path) -> tuple[list[float], float]:
    """50 steps of 8 windows, five of them warm-up, then down to zero: (the loss of each step, the validation loss at the end)."""
    data = LanguageModelDataset(config, corpora)
    windows = data.train_windows(replica.seed)
    model = hugging_face_model(config, replica.seed)
    matrices, vectors = ([p for p in model.parameters() if (p.ndim >= 2) is wanted] for wanted in (True, False))
    groups = [{"params": matrices, "weight_decay": replica.weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=replica.learning_rate, betas=(0.9, 0.95), fused=False, foreach=False)

    def loss(tokens: torch.Tensor) -> torch.Tensor:
        logits = model(input_ids=tokens[:, :-1], use_cache=False).logits
        return F.cross_entropy(logits.reshape(-1, 300), tokens[:, 1:].reshape(-1))

    losses = []
    for step in range(50):
        for group in optimizer.param_groups:
            group["lr"] = replica.learning_rate * ((step + 1) / 5 if step < 5 else (50 - step) / 45)
        training = loss(torch.from_numpy(windows.batch(step)))
        optimizer.zero_grad()
        training.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        losses.append(training.item())
    with torch.no_grad():
        return losses, loss(torch.from_numpy(data.evaluation_windows())).item()


FAMILIES = [
    pytest.param({}, id="gpt2"),
    pytest.param({"family": "gpt_neox"}, id="gpt_neox"),
    pytest.param({"family": "llama"}, id="llama"),
    pytest.param(
        {"family": "llama", "model_overrides": {"num_key_value_heads": 1, "tie_word_embeddings": True}}, id="llama, shared and tied"
    ),
]


@pytest.mark.parametrize("changes", FAMILIES)
def test_each_replica_of_a_stack_trains_like_the_model_alone(
    small: ExperimentConfig, train: Train, corpora: Path, changes: dict[str, Any]
) -> None:
    config = small.copy(max_tokens=50 * 128, warmup=5, num_evaluations=50, eval_tokens=64, **changes)
    stacked, single = train(config, REPLICAS, stack_size=3), train(config, REPLICAS[:1])
    for index, replica in enumerate(REPLICAS):
        losses, val_loss = train_alone(config, replica, corpora)
        assert losses[-1] < losses[0] - 0.3  # it learned
        for run in (stacked, single) if index == 0 else (stacked,):
            assert run.column("train_loss", index) == pytest.approx(losses, rel=1e-4)
            assert run.column("val_loss", index)[-1] == pytest.approx(val_loss, rel=1e-4)


def test_a_seed_starts_from_the_weights_that_plain_pytorch_gives_it(small: ExperimentConfig) -> None:
    stack = ReplicaStack(small, REPLICAS, CPU)
    for index, replica in enumerate(REPLICAS):
        expected = hugging_face_model(small, replica.seed).state_dict()
        found = stack.extract(index).model.state_dict()
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_matrices_come_first_in_a_row(small: ExperimentConfig) -> None:
    stack = ReplicaStack(small, REPLICAS, CPU)
    parameters = list(hugging_face_model(small, 0).parameters())
    assert stack.decayed == sum(parameter.numel() for parameter in parameters if parameter.ndim == 2)
    assert stack.weights.shape == stack.gradients.shape == (3, sum(parameter.numel() for parameter in parameters))


# Neighbours.


@pytest.fixture(scope="module")
def usual(small: ExperimentConfig, train: Train) -> dict[str, Run]:
    """All three replicas in one stack, by family."""
    return {family: train(small.copy(family=family), REPLICAS) for family in ("gpt2", "llama")}


def test_neighbours_of_the_same_number_change_no_bit(small: ExperimentConfig, train: Train, usual: dict[str, Run]) -> None:
    others = (REPLICAS[0], Replica(seed=8, learning_rate=1e-4, weight_decay=0.3), Replica(seed=0, learning_rate=2e-3, weight_decay=0.0))
    assert train(small, others).column("val_loss") == usual["gpt2"].column("val_loss")


def test_another_number_of_neighbours_changes_rounding_alone(small: ExperimentConfig, train: Train, usual: dict[str, Run]) -> None:
    for neighbours in (1, 4):
        run = train(small, (REPLICAS[1],) * neighbours, stack_size=neighbours)
        assert run.column("val_loss") == pytest.approx(usual["gpt2"].column("val_loss", 1), rel=1e-5)


def test_the_place_in_a_stack_changes_no_bit(small: ExperimentConfig, train: Train, usual: dict[str, Run]) -> None:
    assert train(small, REPLICAS[::-1]).column("val_loss", 2) == usual["gpt2"].column("val_loss", 0)


ABSURD = Replica(seed=1, learning_rate=1e4, weight_decay=0.1)


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_a_replica_that_diverges_changes_no_bit_of_its_neighbours(
    small: ExperimentConfig, train: Train, usual: dict[str, Run], family: str
) -> None:
    broken = train(small.copy(family=family), (REPLICAS[0], ABSURD, REPLICAS[2]))
    assert broken.column("status", 1)[-1] == "diverged"
    for index in (0, 2):
        assert broken.column("status", index) == ["running", "running", "running", "finished"]
        for name in ("train_loss", "val_loss", "perplexity", "bits_per_byte"):
            assert broken.column(name, index) == usual[family].column(name, index)


# What is done to save time or memory.


@pytest.fixture
def slow_paths_are_errors() -> Iterator[None]:
    """vmap warns where it has no rule for an operation and loops over the replicas."""
    torch._C._functorch._set_vmap_fallback_warning_enabled(True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


@pytest.mark.usefixtures("slow_paths_are_errors")
def test_attention_without_a_rule_would_be_noticed() -> None:
    tensor = torch.ones(3, 1, 1, 4, 8)
    with pytest.raises(UserWarning, match="batching rule"):
        torch.vmap(lambda one: F.scaled_dot_product_attention(one, one, one, is_causal=True))(tensor)


@pytest.mark.usefixtures("slow_paths_are_errors")
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("dropout", [0.0, 0.1])
@pytest.mark.parametrize("changes", FAMILIES)
def test_no_operation_loops_over_the_replicas(small: ExperimentConfig, changes: dict[str, Any], dropout: float, precision: str) -> None:
    stack = ReplicaStack(small.copy(dropout=dropout, precision=precision, **changes), REPLICAS, CPU)
    tokens = torch.randint(300, (3, 2, 17))
    assert stack.compute_gradients(tokens).isfinite().all()
    assert (stack.gradients != 0).any(1).all()
    assert stack.evaluate(tokens[0], batch_size=2).isfinite().all()


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_bf16_trains_to_nearly_the_same_loss_with_float32_weights(
    small: ExperimentConfig, train: Train, usual: dict[str, Run], family: str
) -> None:
    exact = usual[family]
    run = train(small.copy(family=family, precision="bf16"), REPLICAS)
    for index in range(3):
        assert run.column("val_loss", index) != exact.column("val_loss", index)
        assert run.column("val_loss", index) == pytest.approx(exact.column("val_loss", index), rel=0.02)
        assert {parameter.dtype for parameter in run.experiment.model(index).parameters()} == {torch.float32}


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_gradient_checkpointing_changes_no_loss(small: ExperimentConfig, train: Train, usual: dict[str, Run], family: str) -> None:
    run = train(small.copy(family=family, gradient_checkpointing=True), REPLICAS[:2])
    assert run.column("stack_size") == [1] * 4
    for index in range(2):
        assert run.column("val_loss", index) == pytest.approx(usual[family].column("val_loss", index), rel=1e-5)


def test_gradient_checkpointing_keeps_fewer_activations(small: ExperimentConfig) -> None:
    def kept(checkpointing: bool) -> int:
        stack = ReplicaStack(small.copy(num_layers=8, gradient_checkpointing=checkpointing), REPLICAS[:1], CPU)
        sizes: list[int] = []
        with torch.autograd.graph.saved_tensors_hooks(lambda tensor: sizes.append(tensor.numel()) or tensor, lambda tensor: tensor):
            stack.compute_gradients(torch.randint(300, (1, 8, 17)))
        return sum(sizes)

    assert kept(True) < kept(False) / 3


@pytest.mark.slow
@pytest.mark.timeout(900)  # about a minute
@pytest.mark.filterwarnings("ignore:.*torch.jit.script:DeprecationWarning")  # torch's compiler uses what torch has deprecated
@pytest.mark.filterwarnings("ignore:.*autograd.function.Function.*should not be instantiated:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:.*batching rule:UserWarning")  # compiled on a CPU, attention goes from replica to replica after all
def test_compiling_changes_rounding_alone(small: ExperimentConfig, train: Train, usual: dict[str, Run]) -> None:
    run = train(small.copy(compile=True), REPLICAS)
    for index in range(3):
        assert run.column("val_loss", index) == pytest.approx(usual["gpt2"].column("val_loss", index), rel=1e-4)


@pytest.fixture
def graphs(monkeypatch: pytest.MonkeyPatch) -> list[torch.fx.GraphModule]:
    """What torch.compile has read so far. Only its last step, the kernels, is left out: it takes half a minute."""
    found: list[torch.fx.GraphModule] = []
    compiler = torch.compile
    monkeypatch.setattr(torch, "compile", lambda function: compiler(function, backend=lambda graph, _: found.append(graph) or graph))
    return found


@pytest.mark.parametrize("changes", [{}, {"family": "llama", "model_overrides": {"num_key_value_heads": 1}}], ids=["gpt2", "llama"])
def test_a_compiler_reads_the_whole_model_and_computes_attention_in_the_same_precision(
    small: ExperimentConfig, graphs: list[torch.fx.GraphModule], changes: dict[str, Any]
) -> None:
    config = small.copy(precision="bf16", **changes)
    windows = torch.randint(300, (1, 4, 17))
    usual, compiled = (ReplicaStack(config.copy(compile=compile), REPLICAS[:1], CPU) for compile in (False, True))
    assert torch.equal(compiled.compute_gradients(windows), usual.compute_gradients(windows))
    assert torch.equal(compiled.gradients, usual.gradients)
    (graph,) = graphs
    attentions = [node for node in graph.graph.nodes if node.target is F.scaled_dot_product_attention]
    assert {each.meta["example_value"].dtype for node in attentions for each in node.args[:3]} == {torch.bfloat16}
    assert len(attentions) == 2


def test_every_model_of_a_process_is_compiled_for_its_own_sizes(small: ExperimentConfig, graphs: list[torch.fx.GraphModule]) -> None:
    with torch._dynamo.config.patch(recompile_limit=1):  # the usual eight would take a minute
        for head_dim in (4, 8, 12):
            stack = ReplicaStack(small.copy(head_dim=head_dim, compile=True), REPLICAS[:1], CPU)
            stack.compute_gradients(torch.randint(300, (1, 4, 17)))
    assert len(graphs) == 3
    given = [node.meta["example_value"] for graph in graphs for node in graph.graph.nodes if node.op == "placeholder"]
    assert all(isinstance(size, int) for tensor in given for size in tensor.shape)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.timeout(900)  # the compiler takes about a minute
@pytest.mark.filterwarnings("ignore:.*torch.jit.script:DeprecationWarning", "ignore:TensorFloat32", "ignore:Attempting to run cuBLAS")
@pytest.mark.parametrize("replicas", [1, 2])  # two are not compiled
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("changes", [{}, {"family": "llama", "model_overrides": {"num_key_value_heads": 1}}], ids=["gpt2", "llama"])
def test_a_gpu_finds_the_gradients_of_a_cpu_with_a_compiler_or_without(
    small: ExperimentConfig, changes: dict[str, Any], precision: str, replicas: int
) -> None:
    config = small.copy(precision=precision, **changes)
    windows = torch.randint(300, (replicas, 4, 17))
    expected = ReplicaStack(config.copy(precision="fp32"), REPLICAS[:replicas], CPU)
    losses = expected.compute_gradients(windows)
    for compile in (False, True):
        stack = ReplicaStack(config.copy(device="cuda", compile=compile), REPLICAS[:replicas], torch.device("cuda"))
        for _ in range(3):  # the first as it is, the second recorded, the third replayed
            found = stack.compute_gradients(windows.to("cuda"))
        rough = 1e-4 if precision == "fp32" else 2e-2
        torch.testing.assert_close(found.cpu(), losses, rtol=rough, atol=0)
        for one, other in zip(stack.gradients.cpu(), expected.gradients, strict=True):
            assert (one - other).norm() < 2 * rough * other.norm()


@pytest.mark.parametrize("replicas", [1, 2])
def test_a_stack_holds_the_weights_of_its_replicas_and_no_others(small: ExperimentConfig, replicas: int) -> None:
    stack = ReplicaStack(small, REPLICAS[:replicas], CPU)
    stores = (tensor.untyped_storage() for tensor in (stack.weights, *stack.model.parameters(), *stack.model.buffers()))
    held = {store.data_ptr(): store.nbytes() for store in stores}
    assert sum(held.values()) == 4 * replicas * stack.model.count_parameters()["total"]


# Dropout.


def test_dropout_acts_in_training_and_not_in_evaluation(small: ExperimentConfig) -> None:
    stack = ReplicaStack(small.copy(dropout=0.5), REPLICAS, CPU)
    tokens = torch.randint(300, (4, 17))
    batch = tokens.expand(3, 4, 17)
    assert not torch.equal(stack.compute_gradients(batch), stack.compute_gradients(batch))
    assert torch.equal(stack.evaluate(tokens, 4), stack.evaluate(tokens, 4))
    assert not torch.equal(stack.compute_gradients(batch), stack.compute_gradients(batch))


@pytest.mark.parametrize("place", ["resid_pdrop", "embd_pdrop", "attn_pdrop"])
def test_replicas_of_one_seed_draw_their_own_dropout(small: ExperimentConfig, place: str) -> None:
    stack = ReplicaStack(small.copy(model_overrides={place: 0.5}), REPLICAS[:1] * 2, CPU)
    first, second = stack.compute_gradients(torch.randint(300, (4, 17)).expand(2, 4, 17))
    assert not torch.equal(first, second)


# Evaluation.


def test_a_window_is_judged_alike_in_every_batch_size(small: ExperimentConfig) -> None:
    stack = ReplicaStack(small, REPLICAS, CPU)
    windows = torch.randint(300, (13, 17))
    each = torch.cat([stack.evaluate(window[None], 1) for window in windows], dim=1)
    for size in (1, 4, 13, 100):
        torch.testing.assert_close(stack.evaluate(windows, size), each, rtol=1e-6, atol=0)


def test_the_loss_of_a_window_is_the_mean_over_its_next_tokens(small: ExperimentConfig) -> None:
    stack = ReplicaStack(small, REPLICAS, CPU)
    windows = torch.randint(300, (5, 17))
    for index in range(3):
        with torch.no_grad():
            logits = stack.extract(index)(windows[:, :-1])
        surprise = [[-logits[n, t].log_softmax(-1)[windows[n, t + 1]] for t in range(16)] for n in range(5)]
        torch.testing.assert_close(stack.evaluate(windows, 2)[index], torch.tensor(surprise).mean(1), rtol=1e-5, atol=0)


# How many.


def test_small_operations_are_stacked_on_a_cpu_in_equal_stacks_of_at_most_six(small: ExperimentConfig) -> None:
    assert [choose_stack_size(small, replicas, CPU) for replicas in (1, 6, 7, 9, 12, 13)] == [1, 6, 4, 5, 6, 5]


def test_large_operations_are_not_stacked_on_a_cpu_and_larger_ones_not_on_a_gpu(small: ExperimentConfig) -> None:
    large, larger = (small.copy(batch_size=size, max_tokens=None) for size in (5_000, 10_000))  # windows of 16 x 16 elements
    assert choose_stack_size(large, 12, CPU) == 1
    assert [choose_stack_size(each, 12, torch.device("cuda")) for each in (large, larger)] == [12, 1]
    assert choose_stack_size(larger.copy(micro_batch_size=1_000), 12, torch.device("cuda")) == 12


@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize("changes", [{"gradient_checkpointing": True}, {"compile": True}])
def test_what_does_not_work_in_a_stack_trains_one_at_a_time(small: ExperimentConfig, changes: dict[str, Any], device: str) -> None:
    assert choose_stack_size(small.copy(**changes), 12, torch.device(device)) == 1
