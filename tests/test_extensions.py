"""A function of the user's is found by its name, or the message says what is missing."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from archsweep import extensions
from archsweep.config import ExperimentConfig
from archsweep.errors import ConfigError
from archsweep.training.experiment import ArchitectureExperiment

if TYPE_CHECKING:
    from pathlib import Path

METRIC = """
def accuracy(model, windows):
    predicted = model(windows[:, :-1]).argmax(-1)
    return (predicted == windows[:, 1:]).float().mean()
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "own_things.py").write_text(METRIC)
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


@pytest.mark.usefixtures("own")
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("own_thing:accuracy", "No module named 'own_thing'.*PYTHONPATH"),
        ("own_things:acuracy", "own_things has no function acuracy: did you mean accuracy?"),
    ],
)
def test_what_is_not_there_is_said(name: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        extensions.load(name)


def test_two_metrics_of_one_name_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"different function names, got mean twice"):
        extensions.user_metrics(ExperimentConfig(metrics=("a:mean", "b:mean")))


def test_a_metric_of_ones_own_is_measured_at_every_evaluation(tiny_config: ExperimentConfig, own: Path) -> None:
    config = tiny_config.copy(metrics=("own_things:accuracy",))
    experiment = ArchitectureExperiment(config, cache_dir=own / "cache", output_dir=own / "out")
    experiment.setup()
    found = [rows[0]["user_metrics"] for rows in experiment.evaluations()]
    assert len(found) == 2
    assert all(isinstance(each, dict) and 0 < each["accuracy"] < 1 for each in found)
