"""Run every benchmark, one after another, and print what it found."""

from benchmarks import evaluation_noise, fused, memory, peers

if __name__ == "__main__":
    for benchmark in (peers, fused, memory, evaluation_noise):
        benchmark.main()
