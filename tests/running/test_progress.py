"""What a run shows: its accounts, the live view, the log and progress.json."""

from __future__ import annotations

import io
import json
import re
from math import sqrt
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from archsweep.records import write
from archsweep.records.write import Outcome
from archsweep.running.progress import Progress
from archsweep.running.recorder import Place, Recorder
from archsweep.running.snapshot import Snapshot
from archsweep.running.tally import Losses, Tally
from archsweep.running.trackers import Trackers
from archsweep.running.view import view

if TYPE_CHECKING:
    from pathlib import Path

    from archsweep.planning.plan import Plan, Trial


class Clock:
    """Seconds that pass when the test says so."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def report(step: float, seconds: float, resumed_at: int = 0, val_loss: float = float("inf")) -> dict[str, Any]:
    return {"step": step, "trial_seconds": seconds, "resumed_at": resumed_at, "val_loss": val_loss, "rows": []}


def row(seed: int, learning_rate: float, val_loss: float | None) -> dict[str, Any]:
    status = "diverged" if val_loss is None else "finished"
    return {"seed": seed, "learning_rate": learning_rate, "weight_decay": 0.1, "status": status, "val_loss": val_loss}


def rows(losses: dict[tuple[float, int], float | None]) -> list[dict[str, Any]]:
    return [row(seed, rate, loss) for (rate, seed), loss in losses.items()]


def many(trial: Trial, count: int) -> list[Trial]:
    """Copies of a trial under ids and variants of their own, with labels of a length that occurs."""
    variants = [{"num_layers": number, "num_heads": 16, "hidden_size": 1024, "lr_scheduler_type": "constant"} for number in range(count)]
    return [trial.model_copy(update={"id": f"{number:012x}", "variant": variant}) for number, variant in enumerate(variants)]


def drawn(snapshot: Snapshot, width: int, height: int) -> list[str]:
    screen = io.StringIO()
    Console(file=screen, width=width, height=height, force_terminal=True, soft_wrap=True).print(view(snapshot, height))
    return re.sub(r"\x1b\[[0-9;]*m", "", screen.getvalue()).splitlines()


def test_a_trial_is_in_one_state_and_a_second_attempt_counts_once(tiny_plan: Plan) -> None:
    first, second = tiny_plan.trials
    tally = Tally(tiny_plan.trials, tiny_plan.trials)
    assert str(tally.snapshot().counts) == "0 of 2 trials finished, 2 to do"
    tally.began(first)
    tally.ended(first, "failed")
    assert str(tally.snapshot().counts) == "0 of 2 trials finished, 1 failed, 1 to do"
    tally.began(first)
    tally.ended(first, "finished")
    tally.began(second)
    assert str(tally.snapshot().counts) == "1 of 2 trials finished, 1 running"
    tally.stopped()
    assert str(tally.snapshot().counts) == "1 of 2 trials finished, 1 to do"
    tally.began(second)
    tally.ended(second, "diverged")
    assert str(tally.snapshot().counts) == "1 of 2 trials finished, 1 diverged"


def test_a_trial_that_waits_for_another_attempt_is_not_running_and_what_was_left_of_it_is_left(tiny_plan: Plan, tmp_path: Path) -> None:
    first, second = tiny_plan.trials  # six steps each
    progress = Progress(tiny_plan, tiny_plan.trials, tmp_path, Console(file=io.StringIO()))
    recorder = Recorder(Place(tmp_path), progress, Trackers({}, pytest.fail))

    def seen() -> Snapshot:
        progress._write()
        return Snapshot.model_validate_json((tmp_path / "progress.json").read_bytes())

    for trial in (first, second):
        recorder.begin(trial)
        progress.trial_reported(trial, report(step=1, seconds=1))
        progress.trial_reported(trial, report(step=3, seconds=2))
    assert not progress.waits
    assert seen().tokens_per_second == 2 * 2 * 4 * 16 * 4  # trials, steps a second, windows, tokens of each, replicas
    recorder.retry(first, "its process died", "all of it", "again from its checkpoint")
    assert [trial.id for trial in seen().running] == [second.id]
    assert str(seen().counts) == "0 of 2 trials finished, 1 running, 1 to do"
    assert (seen().share_done, seen().tokens_per_second) == (pytest.approx(1 / 2), 2 * 4 * 16 * 4)
    assert progress.waits
    recorder.begin(first)
    progress.trial_reported(first, report(step=3, seconds=1, resumed_at=3))
    assert str(seen().counts) == "0 of 2 trials finished, 2 running"
    assert seen().share_done == pytest.approx(1 / 2)
    assert not progress.waits


def test_the_time_left_is_the_work_left_over_the_rate_since_the_first_report(tiny_plan: Plan) -> None:
    first, second = tiny_plan.trials  # six steps each
    clock = Clock()
    tally = Tally(tiny_plan.trials, tiny_plan.trials, clock)
    tally.began(first)
    clock.now += 50  # start-up, which is not the rate
    tally.reported(first, report(step=1, seconds=50))
    assert tally.snapshot().seconds_left is None
    clock.now += 8
    tally.reported(first, report(step=5, seconds=58))  # 2 s a step
    relative = second.cost.work / first.cost.work
    assert tally.snapshot().seconds_left == pytest.approx(2 * (1 + 6 * relative))
    assert tally.snapshot().share_done == pytest.approx(5 / (6 + 6 * relative))


def test_a_trial_that_was_split_counts_as_its_parts(tiny_plan: Plan) -> None:
    first, second = tiny_plan.trials
    tally = Tally(tiny_plan.trials, [first])
    tally.ended(second, "finished")
    parts = [first.with_replicas(first.replicas[:2], "corpus"), first.with_replicas(first.replicas[2:], "corpus")]
    tally.expect(parts)
    assert str(tally.snapshot().counts) == "1 of 3 trials finished, 2 to do"
    tally.began(parts[0])
    tally.reported(parts[0], report(step=6, seconds=4))
    assert tally.snapshot().share_done == pytest.approx(0.5)


def test_a_suggestion_that_had_ended_elsewhere_is_one_of_those_to_come_and_takes_no_work(tiny_plan: Plan) -> None:
    known, suggested = tiny_plan.trials
    tally = Tally([known], [known], unknown=2)
    assert str(tally.snapshot().counts) == "0 of 3 trials finished, 3 to do"
    tally.began(known)
    tally.reported(known, report(step=6, seconds=4))
    assert tally.snapshot().share_done == pytest.approx(1 / 3)
    tally.ended(suggested, "finished", rows({(rate, seed): 4.0 for rate in (1e-3, 3e-3) for seed in (0, 1)}))
    assert str(tally.snapshot().counts) == "1 of 3 trials finished, 1 running, 1 to do"
    assert tally.snapshot().share_done == pytest.approx(1 / 2)
    assert tally.snapshot().best is not None


def test_what_a_checkpoint_brought_is_no_speed(tiny_plan: Plan) -> None:
    first, _ = tiny_plan.trials
    clock = Clock()
    tally = Tally([first], [first], clock)
    tally.began(first)
    tally.reported(first, report(step=3, seconds=0, resumed_at=3))
    clock.now += 10
    tally.reported(first, report(step=4, seconds=10, resumed_at=3))
    assert tally.snapshot().seconds_left == pytest.approx(2 * 10)


def test_a_trials_speed_counts_the_tokens_of_all_its_replicas(tiny_plan: Plan) -> None:
    trial = tiny_plan.trials[0]
    tally = Tally(tiny_plan.trials, tiny_plan.trials)
    tally.began(trial)
    tally.reported(trial, report(step=1, seconds=1))
    tally.reported(trial, report(step=5, seconds=3, val_loss=4.5))
    running = tally.snapshot().running[0]
    assert running.tokens_per_second == 4 * 4 * 16 * 4 / 2  # steps, windows, tokens of each, replicas, seconds
    assert (running.step, running.steps, running.val_loss) == (5, 6, 4.5)


def test_the_best_variant_is_the_lowest_mean_with_its_t_interval(tiny_plan: Plan) -> None:
    losses = Losses(tiny_plan.trials)
    one, two = (trial.label for trial in tiny_plan.trials)
    losses.add(one, rows({(1e-3, 0): 4.0, (1e-3, 1): 4.2, (3e-3, 0): 3.9, (3e-3, 1): 5.0}))
    losses.add(two, rows({(1e-3, 0): 3.0, (1e-3, 1): None, (3e-3, 0): 4.5, (3e-3, 1): 4.5}))  # its best setting lost a replica
    best = losses.best
    assert best is not None
    assert (best.variant, best.learning_rate, best.seeds) == (one, 1e-3, 2)
    assert best.val_loss == pytest.approx(4.1)
    standard_error = sqrt(0.02) / sqrt(2)  # of 4.0 and 4.2
    assert best.half_width == pytest.approx(12.7062 * standard_error, rel=1e-5)  # the t table's 97.5 % at one degree of freedom


def test_where_bits_per_byte_are_compared_the_best_variant_has_the_fewest_and_shows_them(tiny_plan: Plan, tmp_path: Path) -> None:
    plan = tiny_plan.model_copy(update={"metric": "bits_per_byte"})
    few, many = plan.trials  # tokens for one text: their losses are not comparable
    progress = Progress(plan, plan.trials, tmp_path, Console(file=io.StringIO(), width=200))
    with progress.written():
        for trial, losses, bits in ((few, (3.0, 3.0), (2.0, 2.2)), (many, (2.0, 2.0), (2.5, 2.5))):
            last = [row(seed, 1e-3, loss) | {"bits_per_byte": each} for seed, (loss, each) in enumerate(zip(losses, bits, strict=True))]
            progress.trial_finished(trial, report(step=6, seconds=4, val_loss=losses[0]) | {"rows": last}, Outcome(status="finished"))
    best = Snapshot.model_validate_json((tmp_path / "progress.json").read_bytes()).best
    assert best is not None
    assert (best.variant, best.val_loss, best.bits_per_byte) == (few.label, 3.0, pytest.approx(2.1))
    assert best.half_width == pytest.approx(12.7062 * 0.1, rel=1e-5)  # of 2.0 and 2.2
    assert f"best 2.1000 ± 1.2706 bits/byte {few.label}" in (tmp_path / "sweep.log").read_text()


def test_a_setting_whose_seeds_lie_in_two_trials_counts_when_both_have_finished(tiny_plan: Plan) -> None:
    trial = tiny_plan.trials[0]
    halves = [
        trial.model_copy(update={"id": name, "replicas": tuple(r for r in trial.replicas if r.seed == seed)})
        for seed, name in enumerate(("a", "b"))
    ]
    losses = Losses(halves)
    losses.add(trial.label, rows({(1e-3, 0): 4.0}))
    assert losses.best is None
    losses.add(trial.label, rows({(1e-3, 1): 4.2}))
    assert losses.best is not None
    assert losses.best.val_loss == pytest.approx(4.1)


@settings(deadline=None)  # what else the machine does is no fault of the view
@given(width=st.integers(60, 200), height=st.integers(10, 60), count=st.integers(0, 60))
def test_the_view_fits_the_terminal_whatever_runs(width: int, height: int, count: int, tiny_plan: Plan) -> None:
    trials = many(tiny_plan.trials[0], 60)
    tally = Tally(trials, trials)
    for trial in trials[:count]:
        tally.began(trial)
        tally.reported(trial, report(step=1, seconds=1))
        tally.reported(trial, report(step=5, seconds=3, val_loss=4.5))
    lines = drawn(tally.snapshot(), width, height)
    assert len(lines) <= height
    assert max(map(len, lines)) <= width
    shown = sum("5 of 6" in line for line in lines)
    more = re.search(r"and (\d+) more running", "\n".join(lines))
    assert shown + (int(more[1]) if more else 0) == count


def test_at_80_columns_a_row_keeps_its_numbers_and_the_start_of_its_label(tiny_plan: Plan) -> None:
    trials = many(tiny_plan.trials[0], 60)
    tally = Tally(trials, trials)
    for trial in trials:
        tally.began(trial)
        tally.reported(trial, report(step=1, seconds=1))
        tally.reported(trial, report(step=5, seconds=3, val_loss=4.5))
    lines = drawn(tally.snapshot(), 80, 24)
    assert lines[0] == "0 of 60 trials finished, 60 running"
    assert any(re.search(r"num_layers=3 num_heads=16 .*5 of 6 +4\.5000 +512", line) for line in lines)


def test_the_log_says_every_line_with_its_trial_and_progress_json_is_what_was_shown(tiny_plan: Plan, tmp_path: Path) -> None:
    first, second = tiny_plan.trials
    screen = io.StringIO()
    progress = Progress(tiny_plan, tiny_plan.trials, tmp_path, Console(file=screen, width=80, height=24, force_terminal=True))
    with progress.written(), progress.shown(tiny_plan.trials):
        progress.trial_began(first)
        progress.trial_reported(first, report(step=5, seconds=3))
        progress.trial_failed(first, "out of luck", tmp_path / "error.txt")
        progress.trial_began(second)
        last = report(step=6, seconds=4, val_loss=4.1) | {"rows": rows({(1e-3, 0): 4.0, (1e-3, 1): 4.2})}
        progress.trial_finished(second, last, Outcome(status="finished"))
    log = (tmp_path / "sweep.log").read_text().splitlines()
    assert all(re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d ", line) for line in log)
    assert f"[{first.id}] {first.label}: failed, out of luck (all of it in {tmp_path / 'error.txt'})" in "\n".join(log)
    assert f"[{second.id}] {second.label}: finished, validation loss 4.1000" in "\n".join(log)
    assert "ended, 1 of 2 trials finished, 1 failed" in log[-1]
    shown = " ".join(re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", screen.getvalue()).split())
    assert f"{first.label}: failed, out of luck" in shown  # at once, above the view
    assert "replicas began" not in shown  # which the view says in its own way
    content = json.loads((tmp_path / "progress.json").read_text())
    assert content["counts"]["failed"] == content["counts"]["finished"] == 1
    assert content["best"]["val_loss"] == pytest.approx(4.1)


def test_what_had_finished_before_this_run_counts_and_can_be_the_best(tiny_plan: Plan, tmp_path: Path) -> None:
    before, left = tiny_plan.trials
    sweep = tmp_path / "tiny"
    folder = sweep / "trials" / before.id
    folder.mkdir(parents=True)
    write.append(folder, [each | {"step": 6} for each in rows({(1e-3, 0): 2.0, (1e-3, 1): 2.0})])
    write.finish(folder, write.Outcome(status="finished"))
    progress = Progress(tiny_plan, [left], sweep, Console(file=io.StringIO()))
    with progress.written():
        pass
    seen = Snapshot.model_validate_json((sweep / "progress.json").read_bytes())
    assert (seen.counts.finished, seen.counts.to_do, seen.share_done) == (1, 1, 0)
    assert seen.best is not None
    assert (seen.best.variant, seen.best.val_loss) == (before.label, 2.0)
