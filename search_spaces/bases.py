"""The bases that questions start from: TINY takes seconds on a CPU, SMALL minutes on one GPU, GPT2 is the 124M-parameter original."""

from __future__ import annotations

from archsweep.config import ExperimentConfig

# About 56,000 non-embedding parameters on a standard library's text, 200 steps of 512 tokens: a replica takes seconds on one core.
# So short a run needs a long warm-up, and so narrow a model larger initial weights than the .02 that suit a width of 768: with .02, losses
# ended .2 nats/token higher, and with 25 % of warm-up .3 higher.
TINY = ExperimentConfig(
    experiment_name="tiny",
    num_layers=2,
    num_heads=4,
    head_dim=12,
    context_length=64,
    vocab_size=512,
    batch_tokens=512,
    max_tokens=102_400,
    learning_rate=1e-2,
    weight_decay=0.1,
    lr_scheduler_type="linear",
    warmup=0.5,
    eval_tokens=16_384,
    model_overrides={"initializer_range": 0.06},
)

# About 10 million non-embedding parameters, 1,000 steps of 16,384 tokens, in bf16; `dataset="text:..."` gives it more text.
SMALL = ExperimentConfig(
    experiment_name="small",
    num_layers=6,
    num_heads=6,
    head_dim=64,
    context_length=256,
    vocab_size=4096,
    batch_tokens=16_384,
    max_tokens=16_384_000,
    learning_rate=2e-3,
    weight_decay=0.1,
    lr_scheduler_type="linear",
    warmup=0.05,
    num_evaluations=8,
    eval_tokens=131_072,
    precision="bf16",
)

# GPT-2's smallest published size, exactly; about 20 tokens per parameter in steps of 524,288 tokens.
GPT2 = ExperimentConfig(
    experiment_name="gpt2",
    num_layers=12,
    num_heads=12,
    head_dim=64,
    context_length=1024,
    dataset="hf:HuggingFaceFW/fineweb-edu:sample-10BT",
    tokenizer="hf:gpt2",
    vocab_size=50_257,
    validation_fraction=0.01,
    batch_tokens=16_384,
    gradient_accumulation_steps=32,
    max_tokens=2_499_805_184,
    learning_rate=6e-4,
    weight_decay=0.1,
    lr_scheduler_type="cosine",
    warmup=0.05,
    num_evaluations=20,
    eval_tokens=1_048_576,
    precision="bf16",
)

BASES = {"tiny": TINY, "small": SMALL, "gpt2": GPT2}
