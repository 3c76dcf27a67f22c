"""The columns of results.parquet and curves.parquet: name, type, unit and meaning, in one place."""

from __future__ import annotations

from typing import Literal, NamedTuple

from archsweep.config import ExperimentConfig

RECORDS_FILE, OUTCOME_FILE, CONFIG_FILE = "records.jsonl", "results.json", "config.json"  # in trials/<id>/
CHECKPOINT_FOLDER = "checkpoint"  # there too, until the trial has finished
MODEL_FOLDER = "model"  # there too: the best replica, as Hugging Face opens it
MODELS_FOLDER = "models"  # there too, where all are kept: a folder per replica
TENSORBOARD_FOLDER = "tensorboard"  # there too: a run per replica
TRIALS_FOLDER = "trials"
PLAN_FILE, RESULTS_FILE, CURVES_FILE = "plan.json", "results.parquet", "curves.parquet"  # in the sweep's folder
LOG_FILE, PROGRESS_FILE = "sweep.log", "progress.json"  # there too: what was said, and how far it is
LOCK_FILE = ".lock"  # there too: who runs it, empty where nobody does
JOURNAL_FILE = "optuna.journal"  # there too, of a search: for optuna's own tools

Status = Literal["finished", "diverged", "pruned", "stopped", "failed", "unfinished"]


class Column(NamedTuple):
    """One column: its pandas dtype (each admits missing values) and what it says."""

    name: str
    dtype: Literal["string", "Int64", "Float64", "boolean"]
    unit: str
    meaning: str


WHICH = (
    Column("sweep", "string", "", "name of the sweep"),
    Column("trial_id", "string", "", "content id of the trial: its config, replicas, corpus and trainer version"),
    Column("variant", "string", "", "what is compared, as 'num_layers=2 num_heads=4'"),
)

REPLICA = (
    Column("seed", "Int64", "", "seed of the initialisation and of the order of the data"),
    Column("learning_rate", "Float64", "", "peak learning rate"),
    Column("weight_decay", "Float64", "", "decoupled weight decay of the matrices"),
)

MEASURED = (
    Column("step", "Int64", "steps", "optimizer steps taken"),
    Column("tokens", "Int64", "tokens", "training tokens seen"),
    Column("train_loss", "Float64", "nats/token", "mean training loss since the evaluation before"),
    Column(
        "val_loss",
        "Float64",
        "nats/token",
        "loss on the fixed evaluation tokens; before the last evaluation, on every eighth window of them (fourth with early stopping)",
    ),
    Column("perplexity", "Float64", "", "exp(val_loss)"),
    Column("bits_per_byte", "Float64", "bits/byte", "val_loss over the evaluation text's bytes: comparable between tokenizers"),
    Column("val_block_losses", "string", "nats/token", "val_loss of up to 32 equal parts of the tokens that were evaluated, as JSON"),
    Column("user_metrics", "string", "", "what the functions of the field metrics measured, as JSON by name"),
    Column("diverged_step", "Int64", "steps", "step at which the replica diverged and was frozen; missing where it did not"),
    Column("last_loss", "Float64", "nats/token", "last finite training loss of a diverged replica"),
    Column("train_seconds", "Float64", "s", "time spent in training steps by the replica's whole stack, evaluation not counted"),
    Column("tokens_per_second", "Float64", "tokens/s", "training tokens of the replica's stack, as it was at the time, over train_seconds"),
    Column("step_seconds", "Float64", "s", "train_seconds over the steps taken"),
    Column("model_flops_utilisation", "Float64", "", "share of the device's peak FLOP/s, by PaLM's formula; missing where that is unknown"),
    Column("predicted_memory_bytes", "Int64", "bytes", "predicted peak on a GPU of the trial, with all its replicas"),
    Column("peak_memory_bytes", "Int64", "bytes", "peak memory: the device's on CUDA, the process's resident set on CPU"),
    Column("stack_size", "Int64", "replicas", "replicas that trained together in this one's stack"),
    Column("micro_batch", "Int64", "windows", "windows of each replica that were computed at once"),
)

COST = (
    Column("parameters", "Int64", "", "all trained weights, tied ones once"),
    Column(
        "non_embedding_parameters", "Int64", "", "weights of the blocks and the final norm: neither token nor position embeddings nor head"
    ),
    Column("kaplan_parameters", "Int64", "", "12 * num_layers * hidden_size**2, Kaplan's convention"),
    Column("flops_per_token", "Int64", "FLOPs/token", "forward and backward matrix products of one token"),
    Column("flops", "Int64", "FLOPs", "flops_per_token times the replica's training tokens"),
    Column("kv_bytes_per_token", "Int64", "bytes/token", "keys and values that a token adds to the cache in decoding, in 16 bits"),
)

OUTCOME = (
    Column(
        "status",
        "string",
        "",
        "finished, diverged, pruned (given up by prune_tune), stopped (early, with its whole trial), failed or unfinished",
    ),
    Column("reason", "string", "", "why it is not finished; missing where it is"),
    Column("trial_seconds", "Float64", "s", "time of the whole trial in its worker"),
    Column("hostname", "string", "", "machine that ran the trial"),
    Column("device_name", "string", "", "the processor or GPU it ran on"),
    Column("precision_used", "string", "", "what matrix products were computed in there: fp32, tf32, bf16 or fp16"),
    Column("software", "string", "", "versions of Python and of the libraries that trained it"),
    Column("reused_from", "string", "", "the sweep of the same results that trained it; missing where it is this one"),
    Column("training_memory_bytes", "Int64", "bytes", "predicted peak on a GPU of training one such model: the objective memory"),
    Column("gpu_share", "Float64", "GPUs", "the share of a GPU that the trial was given; 0 on a CPU"),
    Column("device_energy_joules", "Float64", "J", "energy of the whole GPU meanwhile: other trials' too where gpu_share is below 1"),
    Column("prefill_tokens_per_second", "Float64", "tokens/s", "the exported model reading a full window, batch 1, on the CPU"),
    Column("decode_tokens_per_second", "Float64", "tokens/s", "the exported model writing token after token, batch 1, on the CPU"),
    Column("corpus_tokens", "Int64", "tokens", "training tokens of the corpus: what one epoch reads"),
    Column("corpus_id", "string", "", "content id of the tokenized corpus; rows of different ids are not comparable"),
)

_DTYPES: dict[object, Literal["string", "Int64", "Float64", "boolean"]] = {
    int: "Int64",
    int | None: "Int64",
    float: "Float64",
    bool: "boolean",
}

_FIELDS = {
    "experiment_name": ("", "name of the sweep, or of the experiment"),
    "family": ("", "architecture: gpt2, llama, gpt_neox, or the function that builds the model"),
    "num_layers": ("", "blocks"),
    "num_heads": ("", "attention heads of a block"),
    "head_dim": ("", "width of a head: hidden_size / num_heads"),
    "hidden_size": ("", "width of the residual stream"),
    "ffn_size": ("", "inner width of a block's feed-forward part"),
    "ffn_ratio": ("", "ffn_size / hidden_size, where ffn_size was left out; with a budget of sizes as near it as that allows"),
    "num_kv_heads": ("", "heads of keys and values, each shared by num_heads / num_kv_heads query heads"),
    "context_length": ("tokens", "length of a window"),
    "dropout": ("", "probability of dropping an activation"),
    "model_overrides": ("", "further arguments of the Hugging Face config, as JSON"),
    "dataset": ("", "where the text comes from"),
    "tokenizer": ("", "bpe (trained on the training split), hf:NAME, or a tokenizer.json"),
    "vocab_size": ("tokens", "entries of the tokenizer that is trained"),
    "validation_fraction": ("", "part of the documents that are kept from training"),
    "betas": ("", "AdamW's decay rates of its two averages, as JSON"),
    "grad_clip": ("", "largest norm of a replica's gradient; 0 clips nothing"),
    "batch_size": ("windows", "windows of a gradient, of each replica"),
    "batch_tokens": ("tokens", "batch_size * context_length, where the batch was stated in tokens"),
    "gradient_accumulation_steps": ("", "gradients that are summed for a step"),
    "warmup": ("steps", "steps in which the learning rate rises; below 1: a fraction of all steps"),
    "lr_scheduler_type": ("", "how the learning rate falls after warmup: linear, cosine or constant"),
    "num_epochs": ("", "parts of the training, or passes over the text where max_tokens is missing"),
    "max_tokens": ("tokens", "planned training tokens of a replica"),
    "num_evaluations": ("", "evaluations that are spread over the training"),
    "eval_tokens": ("tokens", "tokens of the last evaluation, the same for all variants"),
    "metrics": ("", "functions that measure more, as JSON"),
    "device": ("", "what was asked for: auto, cpu, cuda"),
    "precision": ("", "what was asked for: auto, fp32, bf16 or fp16"),
    "allow_tf32": ("", "whether float32 products on a GPU may round to TF32"),
    "micro_batch_size": ("windows", "windows that are computed at once, as asked for"),
    "gradient_checkpointing": ("", "whether activations are computed again rather than kept"),
    "compile": ("", "whether the step is compiled: auto, or as asked for"),
}

# A config's fields keep their names; what is no plain value (betas, model_overrides) is a column of JSON text.
CONFIG = tuple(
    Column(name, _DTYPES.get(field.annotation, "string"), *_FIELDS.get(name, ("", "a field of ExperimentConfig")))
    for name, field in ExperimentConfig.model_fields.items()
    if name not in {column.name for column in REPLICA}
)

RESULTS: tuple[Column, ...] = (*WHICH, *REPLICA, *OUTCOME, *MEASURED, *COST, *CONFIG)
CURVES: tuple[Column, ...] = (*WHICH, *REPLICA, *MEASURED)
