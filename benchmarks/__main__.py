"""Run every benchmark, one after another, and print what it found."""

from benchmarks import evaluation_noise, fused, single

if __name__ == "__main__":
    for benchmark in (single, fused, evaluation_noise):
        benchmark.main()
