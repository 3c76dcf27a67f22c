"""The gallery: every shipped question, run to its end on this machine, as docs/gallery shows it. `python -m benchmarks.gallery`.

A sweep that it has run before is not run again: its wall time and machine are those of the run that trained it.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

import archsweep
from archsweep.analysis.compare import Comparison, compare_experiments
from archsweep.pipeline import Question, plan
from archsweep.planning.find import find, shipped
from benchmarks.timing import header

REPOSITORY = Path(archsweep.__file__).parent.parent
GALLERY, TIMES_FILE = REPOSITORY / "docs" / "gallery", "gallery.json"

# The figure that answers each question, in the order in which the gallery shows them.
FIGURES = {
    "heads_vs_layers": "heat_map",
    "heads": "differences",
    "layers_vs_width": "loss_increase",
    "mlp_ratio": "loss_increase",
    "context_length": "loss_increase",
    "isoflop": "scaling",
    "kv_heads": "loss_against_cost",
    "vocab_tying": "heat_map",
    "activation": "differences",
    "norm_position": "effects",
    "pareto": "front_decode_latency",
    "lr_transfer": "transfer",
}


class Run(NamedTuple):
    """One command that answered a question: how long it took, where, and for which trials."""

    seconds: float
    machine: str
    trials: str


def main(results: Path = REPOSITORY / "results") -> None:
    """Run what is missing, and write docs/gallery from all of it."""
    assert set(FIGURES) == set(shipped()), "every shipped question has its figure"
    print("\nThe twelve questions at TINY, each by `python -m archsweep NAME`")
    runs = {name: _ran(name, results) for name in FIGURES}
    comparisons = {name: compare_experiments(results / name) for name in FIGURES}
    GALLERY.mkdir(parents=True, exist_ok=True)
    for name, figure in FIGURES.items():
        shutil.copyfile(results / name / "figures" / f"{figure}.png", GALLERY / f"{name}.png")
        print(f"{name:>16}  {_minutes(runs[name].seconds):>12}  {comparisons[name].verdict}")
    (GALLERY / "README.md").write_text(_page(runs, comparisons))


def _ran(name: str, results: Path) -> Run:
    """The run that answered the question as it is now; it is made where there is none. Raises RuntimeError for a folder of another run."""
    path, trials = results / TIMES_FILE, trials_of(name)
    known: dict[str, list[Any]] = json.loads(path.read_text()) if path.is_file() else {}
    if name in known and (run := Run(*known[name])).trials == trials:
        return run
    if (results / name).exists():
        raise RuntimeError(f"{results / name} is of a run that was not timed, or of another plan. Remove it, or give other results.")
    began = time.monotonic()
    subprocess.run([sys.executable, "-m", "archsweep", name, "--results", str(results), "-y", "--fresh"], check=True, stdout=sys.stderr)
    run = Run(time.monotonic() - began, header("", 1).strip(), trials)
    path.write_text(json.dumps(known | {name: list(run)}, indent=2) + "\n")
    return run


def trials_of(name: str) -> str:
    """What names all that the question trains now; of a search what is known before it runs."""
    ids = sorted(trial.id for trial in plan(Question(name)).trials)
    return hashlib.sha256(" ".join(ids).encode()).hexdigest()[:12]


def _page(runs: dict[str, Run], comparisons: dict[str, Comparison]) -> str:
    machines = "; ".join(dict.fromkeys(run.machine for run in runs.values()))
    rows = [_row(name, runs[name].seconds, comparison) for name, comparison in comparisons.items()]
    parts = [_part(name, comparison) for name, comparison in comparisons.items()]
    head = f"""# Gallery

The shipped questions, as they were answered at the base TINY: models of some 50,000 weights, 102,400 tokens of the Python standard library,
minutes on a laptop. So short a training speaks of itself alone: the verdicts show what an answer looks like, not what holds for GPT-3.
`python -m benchmarks.gallery` runs them and writes this page.

Hardware: {machines}.

| question | variants | models | wall time | verdict in short |
|---|---:|---:|---:|---|
"""
    return head + "\n".join(rows) + "\n\n" + "\n\n".join(parts) + "\n"


def _row(name: str, seconds: float, comparison: Comparison) -> str:
    variants, models = len(comparison.table), len(comparison.source.results)
    return f"| [{name}](#{name}) | {variants} | {models} | {_minutes(seconds)} | {_first_sentence(comparison.verdict)} |"


def _part(name: str, comparison: Comparison) -> str:
    return f"""## {name}

*{find(name).question}*

> {comparison.verdict}

![{name}: {FIGURES[name].replace("_", " ")}]({name}.png)

`python -m archsweep {name}`"""


def _first_sentence(text: str) -> str:
    return re.split(r"(?<=[a-z)\d%])\. (?=\w)", text, maxsplit=1)[0].rstrip(".") + "."


def _minutes(seconds: float) -> str:
    return f"{seconds // 60:.0f} min {seconds % 60:.0f} s"


if __name__ == "__main__":
    main(*(Path(word).resolve() for word in sys.argv[1:2]))
