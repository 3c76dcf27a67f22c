"""Run every benchmark, one after another, and print what it found."""

from importlib import import_module  # each with its own libraries, when its turn comes

BENCHMARKS = (
    "verdicts", "peers", "fused", "replays", "allocator", "memory", "packing", "evaluation_noise", "makespan", "driver", "reporting",
    "page", "faults",
)  # fmt: skip

if __name__ == "__main__":
    for name in BENCHMARKS:
        import_module(f"benchmarks.{name}").main()
