"""Run every benchmark, one after another, and print what it found."""

from benchmarks import allocator, driver, evaluation_noise, faults, fused, makespan, memory, page, peers, reporting, verdicts

if __name__ == "__main__":
    for benchmark in (verdicts, peers, fused, allocator, memory, evaluation_noise, makespan, driver, reporting, page, faults):
        benchmark.main()
