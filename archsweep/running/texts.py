"""Which tokens the trials of a plan read: all of them the same text, each corpus made once."""

from __future__ import annotations

from typing import TYPE_CHECKING

from archsweep.errors import DataError
from archsweep.records.schema import TRIALS_FOLDER
from archsweep.running.recorder import recorded_text
from archsweep.training.corpus import tokens_id
from archsweep.vocabulary import TEXT_FIELDS

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from archsweep.config import ExperimentConfig
    from archsweep.planning.plan import Plan, Trial

Text = tuple[object, ...]


def tokenized(plan: Plan, trials: list[Trial], cache_dir: Path | None) -> dict[Text, str]:
    """The id of each tokenized corpus that the trials read, each made once. Raises DataError where alphabets see unlike texts."""
    from archsweep.training.data import prepare

    configs = {text_of(trial.config): trial.config for trial in trials}
    corpora = {text: (prepare(plan.reading(config), cache_dir), config) for text, config in configs.items()}
    for corpus, config in corpora.values():
        if plan.metric != "val_loss" and config.eval_tokens < corpus.validation_tokens:
            raise DataError(
                f"eval_tokens must hold all of the validation text, {corpus.validation_tokens} tokens with vocab_size={config.vocab_size}, "
                f"so that every alphabet is measured on the same, got {config.eval_tokens}. Raise it, or lower validation_fraction."
            )
    return {text: corpus.id for text, (corpus, _) in corpora.items()}


def text_of(config: ExperimentConfig) -> Text:
    """What decides a config's tokens within its plan, and how many there must be."""
    return tuple(getattr(config, name) for name in (*TEXT_FIELDS, "context_length"))


def text_ids(plan: Plan) -> Callable[[Trial], str]:
    """Names the tokens that a trial of the plan reads."""
    known: dict[Text, str] = {}

    def text_id(trial: Trial) -> str:
        text = text_of(trial.config)
        if text not in known:
            known[text] = tokens_id(plan.reading(trial.config))
        return known[text]

    return text_id


def check_text(plan: Plan, folder: Path, text_id: Callable[[Trial], str]) -> None:
    """Raises DataError where trials that are recorded read other tokens than those that are left would."""
    for trial in plan.trials:
        if (read := recorded_text(folder / TRIALS_FOLDER / trial.id)) not in (None, text_id(trial)):
            raise DataError(
                f"{plan.name} must train all of it on one text, and {trial.label} read the tokens {read}, where this plan reads "
                f"{text_id(trial)}: the longest trial decides how much of {trial.config.dataset} is read, and archsweep's version how it "
                "becomes tokens. Give this sweep a name of its own with --name."
            )
