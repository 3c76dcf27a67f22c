"""What a sweep ends with, and what can be had of it afterwards: reports, joins, tables, models."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import archsweep
from archsweep.config import ExperimentConfig
from archsweep.training.data import LanguageModelDataset
from tests.command_line.command import TINY_SPACE, run
from tests.sweep_folder import write_sweep


def test_a_sweep_trains_and_ends_with_the_verdict_and_the_reports_path(
    space_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(str(space_file), "--serial", "--results", str(tmp_path / "results")) == 0
    *_, last = capsys.readouterr().out.strip().splitlines()
    assert last == f"report: {tmp_path / 'results' / 'one_or_two' / 'report.html'}"
    assert Path(last.removeprefix("report: ")).is_file()
    assert run("report", "one_or_two", "--results", str(tmp_path / "results")) == 0
    said = capsys.readouterr().out
    assert "One layer or two?" in said
    assert "num_layers=1" in said
    assert f"python -m archsweep {space_file}" in (tmp_path / "results" / "one_or_two" / "report.md").read_text()


def test_a_sweep_of_which_nothing_changed_keeps_its_page_and_one_that_grew_gets_another(
    space_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sweep = (str(space_file), "--serial", "--results", str(tmp_path / "results"))
    page = tmp_path / "results" / "one_or_two" / "report.html"
    assert run(*sweep) == 0
    first, said = page.read_bytes(), capsys.readouterr().out.partition("One layer or two?")[2].splitlines()[-8:]
    page.write_bytes(first + b"<!-- the reader's own note -->")
    assert run(*sweep) == 0
    assert page.read_bytes().endswith(b"own note -->")
    assert capsys.readouterr().out.splitlines()[-8:] == said
    assert run("report", "one_or_two", "--results", str(tmp_path / "results")) == 0
    assert page.read_bytes() == first
    assert run(*sweep, "--set", "repeat=3", "--extend") == 0
    assert b"0, 1, 2" in page.read_bytes()
    assert b"0, 1, 2" not in first


def test_a_variants_best_model_is_exported_opens_by_itself_and_writes_text(
    space_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    results = ("--results", str(tmp_path / "results"))
    assert run(str(space_file), "--serial", *results) == 0
    assert run("export", "one_or_two", "num_layers=2", "--to", str(tmp_path / "exported"), *results) == 0
    assert capsys.readouterr().out.strip().splitlines()[-1] == f"model: {tmp_path / 'exported'}"

    from transformers import AutoModelForCausalLM, AutoTokenizer

    model, tokenizer = (auto.from_pretrained(tmp_path / "exported") for auto in (AutoModelForCausalLM, AutoTokenizer))
    assert model.config.n_layer == 2
    prompt = tokenizer("The cat sees", return_tensors="pt")
    written = model.generate(**prompt, max_new_tokens=4, min_new_tokens=4, do_sample=False, pad_token_id=0)
    text = tokenizer.decode(written[0])
    assert text.startswith("The cat sees")
    assert len(text) > len("The cat sees")

    rows = archsweep.load(tmp_path / "results" / "one_or_two")
    best = rows[rows.num_layers == 2].groupby("learning_rate").val_loss.mean().idxmin()
    best_row = rows[(rows.num_layers == 2) & (rows.learning_rate == best)].sort_values("val_loss").iloc[0]
    windows = torch.from_numpy(LanguageModelDataset(ExperimentConfig.load(tmp_path / "exported" / "experiment.json")).evaluation_windows())
    with torch.no_grad():
        logits = model(windows[:, :-1]).logits
    loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), windows[:, 1:].flatten())
    assert loss.item() == pytest.approx(best_row.val_loss, rel=1e-5)

    own = ExperimentConfig.load(tmp_path / "exported" / "experiment.json")
    assert (own.learning_rate, own.seed) == (best_row.learning_rate, best_row.seed)

    for words, message in (
        (("num_layers=3",), "has no variant 'num_layers=3': did you mean num_layers="),
        (("num_layers=2", "--to", str(tmp_path / "exported")), "must not exist yet"),
    ):
        assert run("export", "one_or_two", *words, *results) == 2
        assert message in capsys.readouterr().err


def test_a_model_is_exported_as_what_it_is_where_the_best_replica_has_left_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Two trials of one variant, as after --extend with more seeds, each with the model of its own best replica."""
    folder, losses = tmp_path / "grown", {(1e-3, 0): 4.3, (1e-3, 1): 4.3, (3e-3, 0): 4.2, (3e-3, 1): 4.2, (1e-3, 2): 4.15, (3e-3, 2): 4.1}
    losses |= {(1e-3, 3): 3.9, (3e-3, 3): 4.0}  # by the mean over seeds the larger rate is best, by this trial's own the smaller

    def loss(variant: Any, rate: float, seed: int) -> float:
        return losses[rate, seed]

    plans = []
    for seeds in ((0, 1, 2), (3,)):
        write_sweep(folder, [{"num_layers": 1}], loss, rates=(1e-3, 3e-3), seeds=seeds, name="grown")
        plans.append(json.loads((folder / "plan.json").read_text()))
    first, second = (plan["trials"][0]["id"] for plan in plans)
    (folder / "plan.json").write_text(json.dumps(plans[0] | {"trials": [*plans[0]["trials"], *plans[1]["trials"]], "repeat": 4}))
    for trial in (first, second):
        (folder / "trials" / trial / "model").mkdir()
        (folder / "trials" / trial / "model" / "of").write_text(trial)

    def exported(to: str) -> tuple[str, float, int, str]:
        assert run("export", "grown", "num_layers=1", "--to", str(tmp_path / to), "--results", str(tmp_path)) == 0
        config = ExperimentConfig.load(tmp_path / to / "experiment.json")
        return (tmp_path / to / "of").read_text(), config.learning_rate, config.seed, capsys.readouterr().out

    *found, said = exported("one")
    assert found == [first, 3e-3, 2]
    assert "seed=3 learning_rate=0.003 weight_decay=0.1 is best and has left no model: this is seed=2 learning_rate=0.003" in said
    kept = folder / "trials" / second / "models" / "learning_rate-0.003_weight_decay-0.1_seed-3"  # as --keep-models all leaves them
    kept.mkdir(parents=True)
    (kept / "of").write_text("the best")
    *found, said = exported("two")
    assert found == ["the best", 3e-3, 3]
    assert "has left no model" not in said


def planted_sweep(results: Path, name: str, *layers: int, **more: Any) -> Path:
    """A sweep of so many layers without training: the fewer, the better."""
    variants = [{"num_layers": number} for number in layers]
    return write_sweep(
        results / name, variants, lambda variant, rate, seed: 3 + 0.1 * variant["num_layers"] + 10 * abs(rate - 3e-3), **more, name=name
    )


def test_two_sweeps_are_compared_and_leave_a_report_of_both(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    results = ("--results", str(tmp_path))
    for name, layers in (("shallow", (1, 2)), ("deep", (2, 4))):
        planted_sweep(tmp_path, name, *layers)
    assert run("compare", "shallow", str(tmp_path / "deep"), *results) == 0
    said = capsys.readouterr().out
    assert "num_layers=1 beats every other variant" in said
    assert "all 3 variants are one family" in said
    assert said.splitlines()[-1] == f"report: {tmp_path / 'summary' / 'report.html'}"
    assert run("compare", "shallow", "deep", "-o", str(tmp_path / "both"), *results) == 0
    assert "shallow and deep" in (tmp_path / "both" / "report.md").read_text()


INTERRUPTING = """calls = 0

def count(model, windows):
    global calls
    calls += 1
    if calls == 20:  # of 12 for each trial: amid the second trial's second evaluation
        raise KeyboardInterrupt
    return calls
"""


def test_an_interrupted_sweep_is_reported_exported_and_joined_and_says_that_it_is_partial(
    tmp_path: Path, tiny_text: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "interrupting.py").write_text(INTERRUPTING)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    whole = TINY_SPACE.format(tokens=384, text=tiny_text)
    Path("whole.py").write_text(whole)
    Path("cut.py").write_text(whole.replace("vocab_size=300", 'vocab_size=300, metrics=("interrupting:count",)'))
    assert run("cut.py", "--serial", "--checkpoint-seconds", "0") == 130
    assert run("whole.py", "--serial") == 0
    results = archsweep.load("results/cut")
    assert results["status"].value_counts().to_dict() == {"finished": 6, "unfinished": 6}
    assert results.loc[results["status"] == "unfinished", "reason"].unique().tolist() == ["last recorded at 192 of 384 tokens"]
    capsys.readouterr()
    for words, partial in (
        (("report", "cut"), "This sweep is partial: 6 of 12 replicas are unfinished"),
        (("compare", "cut", "whole"), "cut is partial: 6 of its 12 replicas are unfinished."),
    ):
        assert run(*words) == 0
        said = capsys.readouterr().out
        assert "So far: " in said
        assert partial in said
        assert partial in Path(said.splitlines()[-1].removeprefix("report: ")).read_text()
    (half_done,) = results.loc[results["status"] == "unfinished", "variant"].unique()
    (trial,) = results.loc[results["status"] == "unfinished", "trial_id"].unique()
    (Path("results/cut/trials") / trial / "model").mkdir()  # as a kill leaves one that was being written
    with monkeypatch.context() as without:
        without.setattr("archsweep.training.data.prepare", pytest.fail)  # the text may be elsewhere, or another one by now
        assert run("export", "cut", half_done, "--to", "so_far") == 0
    assert f"{half_done} has not finished: this is its best so far, of step 3, learning rate " in capsys.readouterr().out
    assert run("export", "cut", "--format", "markdown") == 0
    assert "So far: " in Path("cut-ranking.md").read_text()

    from transformers import AutoModelForCausalLM

    assert f"num_layers={AutoModelForCausalLM.from_pretrained('so_far').config.n_layer}" == half_done


def test_sweeps_that_are_not_comparable_are_refused_with_the_reason(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = planted_sweep(tmp_path, "other", 1, 2)
    planted_sweep(tmp_path, "one", 1, 2)
    (other / "plan.json").write_text((other / "plan.json").read_text().replace("c0ffee", "another"))
    assert run("compare", "one", "other", "--results", str(tmp_path)) == 2
    assert "their corpus differs: c0ffee in one, another in other" in capsys.readouterr().err
    assert run("compare", "one", "--results", str(tmp_path)) == 2
    assert "compare joins two sweeps or more, got 1" in capsys.readouterr().err


def test_a_table_is_exported_in_place_of_the_one_before(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    planted_sweep(tmp_path / "results", "deep", 1, 2, outcomes={1: None}, records={1: 0.4})
    monkeypatch.chdir(tmp_path)
    for _ in range(2):
        assert run("export", "deep", "--format", "latex") == 0
        assert capsys.readouterr().out == "table: deep-ranking.tex\n"
    assert r"\caption{So far: " in Path("deep-ranking.tex").read_text()
    assert run("export", "deep", "--format", "csv", "--table", "curves", "--to", "curves.csv") == 0
    assert len(Path("curves.csv").read_text().splitlines()) == 1 + 9 * 3 + 9
    for words in ((), ("num_layers=1", "--format", "csv")):
        assert run("export", "deep", *words) == 2
        assert "one of the two" in capsys.readouterr().err
