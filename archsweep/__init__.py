"""archsweep: architecture questions about GPT-2, answered with evidence.

Names are imported when they are first used, so that `import archsweep` costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from archsweep.analysis.compare import compare_experiments
    from archsweep.analysis.plots import plot_training_curves
    from archsweep.analysis.report import generate_summary_report
    from archsweep.config import ExperimentConfig, Replica
    from archsweep.errors import ArchsweepError
    from archsweep.records.read import load, load_curves
    from archsweep.records.results import ExperimentResults, MetricsTracker
    from archsweep.space import ASHA, Budget, Choice, IntRange, LogUniform, MedianStopping, Optuna, Space, Uniform, When
    from archsweep.training.data import LanguageModelDataset
    from archsweep.training.experiment import ArchitectureExperiment
    from archsweep.training.metrics import MetricsCalculator
    from archsweep.training.model import CustomGPT2Model

_HOMES = {
    "ASHA": "space",
    "ArchitectureExperiment": "training.experiment",
    "ArchsweepError": "errors",
    "Budget": "space",
    "Choice": "space",
    "CustomGPT2Model": "training.model",
    "ExperimentConfig": "config",
    "ExperimentResults": "records.results",
    "IntRange": "space",
    "LanguageModelDataset": "training.data",
    "LogUniform": "space",
    "MedianStopping": "space",
    "MetricsCalculator": "training.metrics",
    "MetricsTracker": "records.results",
    "Optuna": "space",
    "Replica": "config",
    "Space": "space",
    "Uniform": "space",
    "When": "space",
    "compare_experiments": "analysis.compare",
    "generate_summary_report": "analysis.report",
    "load": "records.read",
    "load_curves": "records.read",
    "plot_training_curves": "analysis.plots",
}

__all__ = [
    "ASHA",
    "ArchitectureExperiment",
    "ArchsweepError",
    "Budget",
    "Choice",
    "CustomGPT2Model",
    "ExperimentConfig",
    "ExperimentResults",
    "IntRange",
    "LanguageModelDataset",
    "LogUniform",
    "MedianStopping",
    "MetricsCalculator",
    "MetricsTracker",
    "Optuna",
    "Replica",
    "Space",
    "Uniform",
    "When",
    "compare_experiments",
    "generate_summary_report",
    "load",
    "load_curves",
    "plot_training_curves",
]


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'archsweep' has no attribute {name!r}")
    return getattr(import_module(f"archsweep.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
