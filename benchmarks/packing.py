"""Fractional GPUs: the same sweep with one trial on a GPU at a time, and with several."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import torch

from archsweep.training.precision import device_name
from benchmarks.makespan import sweep
from benchmarks.timing import header

TRIALS_PER_GPU = (1, 2, 4, 8)
PROGRAM = "from archsweep.running import resources; resources.MOST_TRIALS_PER_GPU = {}; from archsweep.__main__ import main; main()"
# Eight variants of four settings each: stacks whose steps leave most of a large GPU idle.
SPACE = '''"""How deep?"""
from archsweep.space import Choice, Space
from search_spaces.bases import TINY

base = TINY.copy(num_heads=4, head_dim=32, context_length=128, batch_tokens=1024, max_tokens=1024 * 1500, eval_tokens=65536)
space = Space(base=base, compare={"num_layers": Choice(1, 2, 3, 4, 5, 6, 7, 8)}, tune={"learning_rate": Choice(1e-3, 3e-3)}, repeat=2)
'''


def main(numbers: tuple[int, ...] = TRIALS_PER_GPU) -> None:
    """Print the sweep's seconds with so many trials on the GPU at once, from the first one's begin to the last one's end."""
    print(header("Fractional GPUs: one sweep of 8 variants, with more and more trials on the GPU at once", 1))
    if not torch.cuda.is_available():
        print("This needs a CUDA device, and torch sees none: nothing was measured.")
        return
    print(device_name(torch.device("cuda")))
    home = Path(tempfile.mkdtemp(prefix="archsweep-packing-"))
    (home / "depth.py").write_text(SPACE)
    alone = 0.0
    for number in numbers:
        spent, results = sweep(["-c", PROGRAM.format(number)], str(home / "depth.py"), home / str(number))
        alone = alone or spent.trials
        trials = results.drop_duplicates("trial_id").trial_seconds
        training = (results.train_seconds / results.stack_size).groupby(results.trial_id).sum()
        print(
            f"{number} at once: {spent.trials:4.0f} s, {alone / spent.trials:.2f} times the speed; {len(trials)} trials with "
            f"{results.gpu_share.max():.3f} of a GPU, {trials.median():.1f} s each, {training.median():.1f} s of it training",
            flush=True,
        )


if __name__ == "__main__":
    main(tuple(int(number) for number in sys.argv[1:]) or TRIALS_PER_GPU)
