"""Run every benchmark, one after another, and print what it found."""

from benchmarks import evaluation_noise, faults, fused, makespan, memory, peers

if __name__ == "__main__":
    for benchmark in (peers, fused, memory, evaluation_noise, makespan, faults):
        benchmark.main()
