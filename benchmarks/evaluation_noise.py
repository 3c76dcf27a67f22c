"""Is the default sweep's evaluation long enough? The noise of its tokens against the spread of the seeds."""

from __future__ import annotations

from statistics import fmean, stdev

import torch

from archsweep.planning import find
from archsweep.planning.plan import make_plan
from archsweep.training.corpus import identify
from archsweep.training.experiment import ArchitectureExperiment
from benchmarks.timing import header


def main() -> None:
    """Train two variants of heads_vs_layers and print what evaluating on other tokens, or with another seed, would change."""
    torch.set_num_threads(1)
    found = find.find("heads_vs_layers")
    plan = make_plan(found.name, found.question, found.space, identify(found.space.base.dataset))
    trials = [trial for trial in plan.trials if trial.variant["num_heads"] == 2 and trial.variant["num_layers"] in (1, 2)]
    rate = found.space.base.learning_rate  # about the best one of both
    losses = []  # (seeds, windows) per variant
    for trial in trials:
        experiment = ArchitectureExperiment(trial.config, [replica for replica in trial.replicas if replica.learning_rate == rate])
        experiment.run()
        losses.append(experiment.evaluation_losses())
    differences = losses[1] - losses[0]
    noise = [float(each.std()) / len(each) ** 0.5 for each in differences]
    seeds = differences.mean(1).tolist()
    print(header("Difference of two variants at one learning rate, by seed (nats/token)", 1))
    print(f"mean {fmean(seeds):.4f}; sd between seeds {stdev(seeds):.4f}; standard error from the evaluation tokens {fmean(noise):.4f}")


if __name__ == "__main__":
    main()
