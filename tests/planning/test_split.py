"""Trials for a machine: in parts where slots would wait, with every replica in one of them."""

from __future__ import annotations

from itertools import product
from typing import TYPE_CHECKING

from hypothesis import given
from hypothesis import strategies as st

from archsweep.config import ExperimentConfig
from archsweep.planning.plan import Trial, make_plan
from archsweep.planning.split import WASTE, makespan, split
from archsweep.space import Choice, Space

if TYPE_CHECKING:
    from collections.abc import Sequence

BASE = ExperimentConfig(hidden_size=64, num_heads=4, context_length=64)


def trials(layers: Sequence[int], rates: int, repeat: int) -> tuple[Trial, ...]:
    tune = {"learning_rate": Choice(*(1e-3 * 2**n for n in range(rates)))}
    space = Space(base=BASE, compare={"num_layers": Choice(*layers)}, tune=tune, repeat=repeat)
    return make_plan("sweep", "Why?", space, "corpus").trials


def test_a_makespan_by_hand() -> None:
    assert makespan([5, 4, 3, 3], 2) == 8  # 5 and 3 on one slot, 4 and 3 on the other
    assert makespan([5, 4, 3, 3], 4) == 5
    assert makespan([2, 2], 1) == 4


def test_trials_that_fill_the_slots_stay_whole() -> None:
    planned = trials((1, 1 + 1, 3, 4), 2, 3)
    assert split(planned, 1, "corpus") == list(planned)


def test_one_trial_on_two_slots_becomes_two_of_half_the_settings_each() -> None:
    (whole,) = trials((2,), 4, 3)
    parts = split([whole], 2, "corpus")
    assert [{replica.learning_rate for replica in part.replicas} for part in parts] == [{1e-3, 2e-3}, {4e-3, 8e-3}]
    assert all({replica.seed for replica in part.replicas} == {0, 1, 2} for part in parts)


def test_one_setting_is_split_by_its_seeds() -> None:
    (whole,) = trials((2,), 1, 4)
    assert [[replica.seed for replica in part.replicas] for part in split([whole], 2, "corpus")] == [[0, 1], [2, 3]]


def test_what_one_gpu_does_not_hold_becomes_parts_that_it_does() -> None:
    """GPT-2's 124,439,808 parameters, of 16 bytes each in training: 12 replicas are 23.9 GB before the first window is read."""
    gpt2 = ExperimentConfig(num_layers=12, num_heads=12, hidden_size=768, context_length=1024, vocab_size=50_257, tokenizer="hf:gpt2")
    space = Space(base=gpt2, compare={"num_layers": Choice(12)}, tune={"learning_rate": Choice(3e-4, 6e-4)}, repeat=6)
    (whole,) = make_plan("sweep", "Why?", space, "corpus").trials
    assert split([whole], 1, "corpus", 80 * 10**9) == [whole]
    parts = split([whole], 1, "corpus", 24 * 10**9)
    assert [{replica.learning_rate for replica in part.replicas} for part in parts] == [{3e-4}, {6e-4}]
    assert [len(part.replicas) for part in parts] == [6, 6]
    # Its windows 16 at a time, as given: 12.4 GB by themselves on an H100, and 2 GB for each that waits.
    given = whole.model_copy(update={"config": gpt2.copy(batch_size=16, micro_batch_size=16, max_tokens=None)})
    assert [len(part.replicas) for part in split([given], 1, "corpus", 24 * 10**9)] == [3] * 4
    singles = split([whole], 1, "corpus", 2 * 10**9)  # holds none of them: a part of one replica says so itself
    assert [len(part.replicas) for part in singles] == [1] * 12


@given(
    layers=st.sets(st.integers(1, 6), min_size=1, max_size=5), rates=st.integers(1, 4), repeat=st.integers(1, 3), slots=st.integers(1, 12)
)
def test_parts_hold_every_replica_once_and_leave_little_idle(layers: set[int], rates: int, repeat: int, slots: int) -> None:
    planned = trials(sorted(layers), rates, repeat)
    parts = split(planned, slots, "corpus")
    models = [(part.label, replica) for part in parts for replica in part.replicas]
    assert sorted(models, key=repr) == sorted(((trial.label, replica) for trial in planned for replica in trial.replicas), key=repr)
    assert len({part.id for part in parts}) == len(parts)
    works = [part.work for part in parts]
    shortest = max(sum(works) / slots, *(part.cost.work for part in parts), 1)
    singles = sorted((part.cost.work for part in parts for _ in part.replicas), reverse=True)
    assert makespan(works, slots) <= max((1 + WASTE) * shortest, makespan(singles, slots))


def test_what_no_parts_mend_is_left_in_few() -> None:
    planned = trials((1, 1 + 1, 3, 4), 1, 1)
    assert split(planned, 3, "corpus") == sorted(planned, key=lambda trial: -trial.work)
    alike = trials((2,), 5, 1)  # five replicas on two slots: three on one of them in any way
    assert sorted(len(part.replicas) for part in split(alike, 2, "corpus")) == [2, 3]


def test_the_same_machine_gets_the_same_parts() -> None:
    for slots, repeat in product((3, 8), (1, 3)):
        assert split(trials((1, 4), 3, repeat), slots, "corpus") == split(trials((1, 4), 3, repeat), slots, "corpus")
