"""What is kept of a sweep, and what `clean` removes: never a record, a result, a config or the plan."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Literal

import pytest
import torch
from rich.console import Console

from archsweep import cli, load, pipeline
from archsweep.errors import MachineError
from archsweep.pipeline import Leavings, Ledger, Machine
from archsweep.records import write
from archsweep.running.clean import removable
from archsweep.running.lock import locked
from archsweep.running.trackers import replica_name
from archsweep.training.data import LanguageModelDataset
from tests.command_line.command import CTRL_D, at_a_terminal

if TYPE_CHECKING:
    from pathlib import Path

    from archsweep.planning.plan import Plan

PRECIOUS = {"plan.json", "config.json", "records.jsonl", "results.json", "sweep.log", "error.txt"}


def run(plan: Plan, folder: Path, keep_models: Literal["best", "all", "none"]) -> None:
    leavings = Leavings(keep_models=keep_models)
    pipeline.run(plan, folder, Machine(serial=True), Console(file=io.StringIO()), Ledger(fresh=True), leavings)
    pipeline.collect(folder)


def weights(folder: Path) -> list[str]:
    """Where the models lie, from the trial's folder on."""
    return sorted(path.parent.relative_to(folder).as_posix() for path in folder.rglob("model.safetensors"))


def test_the_best_model_every_model_or_none_is_kept_of_the_same_trials(tiny_plan: Plan, tmp_path: Path) -> None:
    trial = tiny_plan.trials[0]
    replicas = [f"models/{replica_name(replica.model_dump())}" for replica in trial.replicas]
    for keep, expected in (("best", ["model"]), ("all", ["model", *sorted(replicas)]), ("none", [])):
        folder = tmp_path / keep
        run(tiny_plan, folder, keep)  # type: ignore[arg-type]
        assert weights(folder / "trials" / trial.id) == expected
        assert not (folder / "trials" / trial.id / "checkpoint").exists()
        assert load(folder).decode_tokens_per_second.notna().all()


def test_the_model_of_each_replica_has_the_loss_that_its_row_says(tiny_plan: Plan, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    run(tiny_plan, tmp_path, "all")
    trial = tiny_plan.trials[0]
    windows = torch.from_numpy(LanguageModelDataset(trial.config).evaluation_windows())
    results = load(tmp_path)
    for row in results[results.trial_id == trial.id].to_dict("records"):
        model = AutoModelForCausalLM.from_pretrained(tmp_path / "trials" / trial.id / "models" / replica_name(row))
        with torch.no_grad():
            logits = model(windows[:, :-1]).logits
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), windows[:, 1:].flatten())
        assert loss.item() == pytest.approx(row["val_loss"], rel=1e-5)


@pytest.fixture
def littered(tiny_plan: Plan, tmp_path: Path) -> Path:
    """A sweep of a finished trial and a half-done one, with all that crashes leave."""
    folder = tmp_path / "tiny"
    tiny_plan.save(folder / "plan.json")
    (folder / "sweep.log").write_text("a line\n")
    for trial in tiny_plan.trials:
        place = folder / "trials" / trial.id
        write.begin(place, trial.config)
        (place / "records.jsonl").write_text("{}\n")
        (place / "error.txt").write_text("an error")
        for name in ("checkpoint/000001.json", "checkpoint/.000002.safetensors.tmp", "model/model.safetensors", ".results.json.12.tmp"):
            (place / name).parent.mkdir(exist_ok=True)
            (place / name).write_bytes(b"x" * 1000)
        (place / "records.jsonl.attempt1").write_bytes(b"x" * 500)
    write.finish(folder / "trials" / tiny_plan.trials[0].id, write.Outcome(status="finished"))
    return folder


def files(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file() and path.name != ".lock"}


def clean(folder: Path, *words: str) -> int:
    with pytest.raises(SystemExit) as ended:
        cli.main(["clean", folder.name, "--results", str(folder.parent), *words])
    return int(ended.value.code or 0)


def test_clean_shows_sizes_and_removes_nothing_without_a_yes(littered: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = files(littered)
    assert clean(littered) == 0
    said = capsys.readouterr().out
    assert "checkpoint of a finished trial" in said
    assert "0.006 MB in all" in said  # 2,000 and 1,000 of checkpoints, 2 drafts of 1,000, 2 attempts of 500
    assert "add --yes" in said
    assert files(littered) == before


@pytest.mark.parametrize(("answer", "said", "removes"), [("y\n", "removed", True), ("\n", "[y/N]", False), (CTRL_D, "[y/N]", False)])
def test_clean_asks_at_a_terminal_and_only_a_yes_removes(littered: Path, answer: str, said: str, removes: bool) -> None:
    before = files(littered)
    code, output = at_a_terminal(["clean", str(littered)], answer, littered.parent)
    assert code == 0
    assert output.strip().endswith(said)
    assert (files(littered) < before) == removes


def test_clean_keeps_a_half_done_trials_checkpoint_and_everything_that_is_evidence(littered: Path, tiny_plan: Plan) -> None:
    finished, half_done = (f"trials/{trial.id}" for trial in tiny_plan.trials)
    before = files(littered)
    assert clean(littered, "--yes") == 0
    gone = before - files(littered)
    litter = {".results.json.12.tmp", "checkpoint/.000002.safetensors.tmp", "records.jsonl.attempt1"}
    assert gone == {f"{finished}/checkpoint/000001.json"} | {f"{trial}/{name}" for trial in (finished, half_done) for name in litter}
    assert clean(littered, "-y", "--models") == 0
    assert {name for name in files(littered) if "model" in name} == set()
    kept = {name for name in before if name.rsplit("/", 1)[-1] in PRECIOUS}
    assert kept <= files(littered)
    assert f"{half_done}/checkpoint/000001.json" in files(littered)


def test_clean_refuses_while_a_driver_runs_the_sweep(littered: Path) -> None:
    with locked(littered), pytest.raises(MachineError, match=r"is being run by process .* stop it: python -m archsweep stop tiny"):
        removable(littered, models=False).__enter__()
