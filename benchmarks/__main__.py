"""Run every benchmark, one after another, and print what it found."""

from benchmarks import driver, evaluation_noise, faults, fused, makespan, memory, page, peers, reporting

if __name__ == "__main__":
    for benchmark in (peers, fused, memory, evaluation_noise, makespan, driver, reporting, page, faults):
        benchmark.main()
