"""The command line as a person meets it: what it prints, what it refuses, and how it ends."""

from __future__ import annotations

import json
import os
import pty
import shlex
import signal
import subprocess
import sys
import time
from contextlib import suppress
from io import TextIOWrapper
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch

import archsweep
from archsweep import cli, pipeline
from archsweep.config import ExperimentConfig
from archsweep.device import processor_name
from archsweep.pipeline import Question
from archsweep.planning import throughput
from archsweep.planning.find import find
from archsweep.training.data import LanguageModelDataset
from tests.sweep_folder import write_sweep

if TYPE_CHECKING:
    from collections.abc import Mapping

pytestmark = pytest.mark.cluster

REPOSITORY = Path(archsweep.__file__).parent.parent

TINY_SPACE = '''"""One layer or two?"""
from archsweep.config import ExperimentConfig
from archsweep.space import Choice, Space

base = ExperimentConfig(num_layers=1, num_heads=2, head_dim=8, context_length=16, batch_size=4, max_tokens={tokens}, eval_tokens=256,
                        num_evaluations=2, vocab_size=300, dataset="text:{text}")
space = Space(base=base, compare={{"num_layers": Choice(1, 2)}}, tune={{"learning_rate": Choice(1e-3, 3e-3, 9e-3)}}, repeat=2)
'''


def run(*words: str) -> int:
    """What `python -m archsweep WORDS` ends with."""
    with pytest.raises(SystemExit) as ended:
        cli.main(words)
    return int(ended.value.code or 0)


@pytest.fixture
def space_file(tmp_path: Path, tiny_text: Path) -> Path:
    path = tmp_path / "one_or_two.py"
    path.write_text(TINY_SPACE.format(tokens=384, text=tiny_text))
    return path


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

    for words, message in (
        (("num_layers=3",), "has no variant 'num_layers=3': did you mean num_layers="),
        (("num_layers=2", "--to", str(tmp_path / "exported")), "must not exist yet"),
    ):
        assert run("export", "one_or_two", *words, *results) == 2
        assert message in capsys.readouterr().err


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
    assert run("cut.py", "--serial") == 130
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
    assert run("export", "cut", "--format", "markdown") == 0
    assert "So far: " in Path("cut-ranking.md").read_text()


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


def readme_commands() -> list[str]:
    """Every command line of ours that the README shows."""
    lines = (REPOSITORY / "README.md").read_text().splitlines()
    return [line.split("#")[0].strip() for line in lines if line.startswith("python -m archsweep")]


@pytest.mark.parametrize("command", readme_commands())
def test_every_command_in_the_readme_is_understood(command: str) -> None:
    words = shlex.split(command)[3:]
    understood, *_ = cli.app.parse_args(words, exit_on_error=False, print_error=False)
    assert understood.__name__ == (words[0] if words[0] in set(cli.app) else "sweep")


def test_the_command_in_a_report_asks_the_same_question() -> None:
    question = Question("heads_vs_layers", name="mine", base="small", settings={"repeat": "5", "dataset": "text:my file.txt"}, smoke=True)
    expected = "python -m archsweep heads_vs_layers --name mine --base small --set repeat=5 --set 'dataset=text:my file.txt' --smoke"
    assert question.command == expected


def test_a_dry_run_prints_the_plan_and_leaves_nothing(space_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(str(space_file), "--dry-run", "--results", str(tmp_path / "results")) == 0
    assert "2 trials, 12 replicas" in capsys.readouterr().out
    assert not (tmp_path / "results").exists()


def test_json_is_all_that_stdout_holds(space_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ("--json", "--results", str(tmp_path), "--cache", str(tmp_path / "cache"))
    told = []
    for words in (("plan", str(space_file)), (str(space_file), "--dry-run")):
        assert run(*words, *options) == 0
        told.append(json.loads(capsys.readouterr().out))
    assert told[0] == told[1]
    assert [trial["variant"] for trial in told[0]["trials"]] == [{"num_layers": 2}, {"num_layers": 1}]
    assert told[0]["forecast"]["seconds"] is None
    assert "--measure" in told[0]["forecast"]["basis"]
    assert [trial["epochs"] for trial in told[0]["forecast"]["trials"]] == [None, None], "not tokenized yet"


def test_epochs_are_told_once_the_text_is_tokenized(space_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ("plan", str(space_file), "--results", str(tmp_path), "--cache", str(tmp_path / "cache"))
    assert run(*words) == 0
    assert "epochs unknown until the text is tokenized" in capsys.readouterr().out
    base = find(str(space_file)).space.base
    tokens = len(LanguageModelDataset(base, tmp_path / "cache").corpus.train)
    assert run(*words) == 0
    assert f"384 tokens, {384 / tokens:.2g} epochs" in capsys.readouterr().out


def test_detect_says_what_the_seeds_find_by_the_spread_that_was_recorded(
    tmp_path: Path, space_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("plan", str(space_file), "--results", str(tmp_path), "--detect")
    assert run(*words, "1%") == 0
    assert "assumed, as no sweep here has recorded it" in capsys.readouterr().out

    def loss(variant: Mapping[str, int], rate: float, seed: int) -> float:
        return 4 + rate + (0.1 if seed == variant["num_layers"] - 1 else -0.1)

    write_sweep(tmp_path / "earlier", [{"num_layers": 1}, {"num_layers": 2}], loss, seeds=(0, 1), name="earlier")
    assert run(*words, "1%") == 0
    said = capsys.readouterr().out
    # The paired differences are 0.2 and -0.2: their standard deviation is 0.283, that of a seed 0.2.
    assert "seeds that spread by 0.2 nats/token (as in earlier)" in said
    assert "warning: too few seeds to find a difference of 0.04 nats/token" in said
    assert run(*words, "900") == 0
    assert "too few seeds" not in capsys.readouterr().out


def at_a_terminal(words: list[str], answer: str, tmp_path: Path) -> tuple[int, str]:
    """The exit code and the output of a command whose terminal answers `answer`."""
    terminal, theirs = pty.openpty()
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    process = subprocess.Popen(
        [sys.executable, "-m", "archsweep", *words], stdin=theirs, stdout=theirs, stderr=theirs, cwd=tmp_path, env=environment
    )
    os.close(theirs)
    said = ""
    with suppress(OSError):  # how Linux says that the other side is closed
        while part := os.read(terminal, 4096).decode(errors="replace"):
            said += part
            if part.rstrip().endswith("[y/N]"):
                os.write(terminal, f"{answer}\n".encode())
    os.close(terminal)
    return process.wait(timeout=60), said


def expensive(space_file: Path, cache: Path) -> list[str]:
    """A command that is predicted to take hours: a token of its shapes was seen to take seconds."""
    for trial in pipeline.plan(Question(str(space_file))).trials:
        facts = {"device_name": processor_name(), "precision": "fp32", "replicas": 6, "stack_size": 6, "seconds_per_token": 30.0}
        throughput.append(cache, throughput.measured(trial.config, "trial", **facts))
    return [str(space_file), "--set", "device=cpu", "--serial", "--cache", str(cache)]


def test_a_large_sweep_is_asked_about_at_a_terminal_and_a_no_trains_nothing(space_file: Path, tmp_path: Path) -> None:
    words = expensive(space_file, tmp_path / "cache")
    code, said = at_a_terminal([*words, "--results", "results"], "n", tmp_path)
    assert code == 130
    assert "Go on? [y/N]" in said
    assert "Nothing was run." in said
    assert not (tmp_path / "results").exists()


def test_nobody_is_asked_where_there_is_no_terminal(space_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(*expensive(space_file, tmp_path / "cache"), "--results", str(tmp_path / "results")) == 0
    said = capsys.readouterr().out
    assert "Go on?" not in said
    assert "report: " in said


@pytest.mark.parametrize(("answer", "agreed"), [("y", True), ("Yes", True), ("", False), ("no", False)])
def test_only_a_yes_is_a_yes(
    answer: str, agreed: bool, space_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    expensive(space_file, tmp_path)
    machine = pipeline.Machine(num_gpus=0, cache_dir=tmp_path)
    forecast = pipeline.forecast(pipeline.plan(Question(str(space_file)), machine), machine, tmp_path)
    terminal, theirs = pty.openpty()
    with open(theirs, "r+b", buffering=0) as file, TextIOWrapper(file, write_through=True) as text:
        os.write(terminal, f"{answer}\n".encode())
        monkeypatch.setattr(sys, "stdin", text)
        monkeypatch.setattr(sys, "stdout", text)
        assert cli.agreed(forecast) == agreed
        assert cli.agreed(forecast.model_copy(update={"seconds": None})), "a small or unknown one asks nothing"
    os.close(terminal)


@pytest.mark.slow
def test_yes_given_beforehand_is_not_asked_for(space_file: Path, tmp_path: Path) -> None:
    code, said = at_a_terminal([*expensive(space_file, tmp_path / "cache"), "--results", "results", "-y"], "n", tmp_path)
    assert (code, "Go on? [y/N]" in said, "report: " in said) == (0, False, True)


@pytest.mark.slow
def test_a_budget_of_seconds_is_measured_once_and_gives_the_same_plan_again(
    space_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = space_file.read_text().replace("import Choice", "import Budget, Choice")
    space_file.write_text(text.replace("repeat=2", 'repeat=2, budget=Budget("train_seconds", 2.0, tolerance=0.2)'))
    words = (str(space_file), "--set", "device=cpu", "--cache", str(tmp_path / "cache"), "--results", str(tmp_path / "results"))
    plans = []
    for _ in range(2):
        assert run("plan", *words, "--json") == 0
        said = capsys.readouterr()
        plans.append((json.loads(said.out), said.err))
    assert "measuring 2 shapes on" in plans[0][1]
    assert plans[1][1] == ""
    assert plans[0][0] == plans[1][0]
    lines = [json.loads(line) for line in (tmp_path / "cache" / "throughput.jsonl").read_text().splitlines() if line]
    rates = {line["shape"]["num_layers"]: line["seconds_per_token"] for line in lines}
    for trial in plans[0][0]["trials"]:
        assert trial["cost"]["train_tokens"] * rates[trial["config"]["num_layers"]] == pytest.approx(2.0, rel=0.2)
    for trial in plans[0][0]["forecast"]["trials"]:  # six replicas of 2 s each, and their evaluations
        assert 6 * 2 * 0.8 < trial["seconds"]["expected"] < 6 * 2 * 1.3


def test_a_sweep_in_which_a_trial_failed_ends_with_1_and_reports_the_reason(
    space_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(str(space_file), "--serial", "--set", "device=cuda:63", "--results", str(tmp_path)) == 1
    assert "device cuda:63 is not there" in capsys.readouterr().out
    assert "cuda:63 is not there" in (tmp_path / "one_or_two" / "report.md").read_text()


def test_other_settings_in_the_same_folder_are_refused_and_a_name_is_the_way_out(
    space_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    results = ("--serial", "--results", str(tmp_path / "results"))
    assert run(str(space_file), *results) == 0
    assert run(str(space_file), "--set", "repeat=3", *results) == 2
    assert "holds another plan" in capsys.readouterr().err
    assert run(str(space_file), "--set", "repeat=3", "--name", "three_seeds", *results) == 0


@pytest.mark.parametrize(
    ("words", "code", "expected"),
    [
        (["heads_vs_layer"], 2, "heads_vs_layer is not a shipped search space: did you mean heads_vs_layers"),
        (["heads_vs_layers", "--set", "weight_decy=0"], 2, "weight_decy is not a field of ExperimentConfig: did you mean weight_decay"),
        (["heads_vs_layers", "--set", "repeat"], 2, "--set takes FIELD=VALUE, got 'repeat'"),
        (["../x"], 2, "must be a shipped name"),
        (["heads_vs_layers", "--name", "../x"], 2, "it names a folder, got '../x'"),
        (["report", "../x"], 2, "got '../x'"),
        (["report", "nothing_here"], 2, "must be a sweep's folder"),
        (["heads_vs_layers", "--set", "dataset=text:/no/such/file.txt", "--serial"], 2, "/no/such/file.txt"),
        (["heads_vs_layers", "--base", "tinny"], 2, "tinny"),
        (["heads_vs_layers", "--num-cpu", "2"], 2, "--num-cpu"),
        (["heads_vs_layers", "--json"], 2, "it goes with --dry-run or the command plan"),
        (["plan", "heads_vs_layers", "--detect", "much"], 2, "--detect takes a difference in nats/token, as 0.02"),
        (["plan", "heads_vs_layers", "--price-per-gpu-hour", "-1"], 2, "must be an amount of money, at least 0, got -1.0"),
        (["train", "/no/such/config.json"], 2, "/no/such/config.json must be a config in JSON"),
        ([], 2, "heads_vs_layers"),
    ],
)  # fmt: skip
def test_bad_input_gets_a_sentence_with_the_value_and_the_way_out(
    words: list[str], code: int, expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(*words) == code
    said = capsys.readouterr().err
    assert expected in said
    assert "Traceback" not in said
    assert not list(tmp_path.rglob("trials")), "something was trained"


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ("num_heads=3, head_dim=None, hidden_size=16", "hidden_size must be divisible by num_heads, got 16 and 3"),
        ("num_laiers=2", "num_laiers is not a field of ExperimentConfig: did you mean num_layers"),
    ],
)
def test_a_space_with_an_impossible_base_is_refused_with_its_line(
    change: str, expected: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    changes = change.replace("head_dim=None, ", "")
    text = f'"""Which?"""\nfrom archsweep.config import ExperimentConfig\nbase = ExperimentConfig({changes})\n'
    (tmp_path / "impossible.py").write_text(text)
    assert run("plan", str(tmp_path / "impossible.py")) == 2
    said = capsys.readouterr().err
    assert f"{tmp_path / 'impossible.py'}, line 3" in said
    assert expected in said


def test_a_budget_that_no_variant_can_meet_is_refused_with_the_nearest_count(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "too_small.py").write_text(
        '"""Which?"""\nfrom archsweep.space import Budget, Choice, Space\nfrom search_spaces.bases import TINY\n'
        'space = Space(TINY, {"num_layers": Choice(4, 8)}, Budget("non_embedding_parameters", 100))\n'
    )
    assert run("plan", str(tmp_path / "too_small.py")) == 2
    said = capsys.readouterr().err
    assert "none of the 2 variants can be trained" in said
    assert "num_layers=8" in said


def test_a_results_folder_that_cannot_be_written_ends_with_3(space_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a_file").write_text("")
    assert run(str(space_file), "--results", str(tmp_path / "a_file")) == 3
    said = capsys.readouterr().err
    assert "must be writable" in said
    assert "--results" in said


@pytest.fixture
def config_file(tiny_config: ExperimentConfig, tmp_path: Path) -> Path:
    return tiny_config.copy(experiment_name="one").save(tmp_path / "config.json")


def test_one_config_trains_in_this_process_and_is_not_trained_twice(
    config_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ("train", str(config_file), "--set", "seed=3", "--results", str(tmp_path))
    assert run(*command) == 0
    assert capsys.readouterr().out.strip().splitlines()[-1] == f"report: {tmp_path / 'one' / 'report.html'}"
    (row,) = archsweep.load(tmp_path / "one").itertuples()
    assert (row.status, row.seed, row.tokens) == ("finished", 3, 384)
    assert run(*command) == 0
    assert "1 of 1 trials are finished and stay as they are" in capsys.readouterr().out
    assert run("export", "one", "experiment_name=one", "--to", str(tmp_path / "model"), "--results", str(tmp_path)) == 0


def test_one_config_given_in_epochs_trains_so_many_passes_over_its_text(
    config_file: Path, tmp_path: Path, tiny_config: ExperimentConfig
) -> None:
    batches = len(LanguageModelDataset(tiny_config).get_train_dataloader())
    assert run("train", str(config_file), "--set", "max_tokens=null", "--set", "num_epochs=2", "--results", str(tmp_path)) == 0
    assert archsweep.load(tmp_path / "one").step.tolist() == [2 * batches]


def test_spaces_lists_the_shipped_questions(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("spaces") == 0
    said = capsys.readouterr().out
    assert "heads_vs_layers  Heads or layers?" in said
    assert "bases" not in said


@pytest.mark.parametrize(
    ("words", "heavy"),
    [
        (["--help"], []),
        (["spaces"], []),
        (["plan", "heads_vs_layers"], []),
        (["heads_vs_layers", "--dry-run"], []),
        (["plan", "pareto"], ["optuna"]),  # whose first suggestions are a part of the plan
    ],
)
def test_what_only_looks_imports_nothing_heavy(words: list[str], heavy: list[str]) -> None:
    script = (
        "import sys, atexit\n"
        "atexit.register(lambda: print('HEAVY', sorted({'torch', 'ray', 'pandas', 'transformers', 'optuna'} & set(sys.modules))))\n"
        "from archsweep.cli import main\n"
        f"main({words!r})"
    )
    said = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=REPOSITORY, check=True)
    assert f"HEAVY {heavy}" in said.stdout


def test_the_plan_of_a_search_says_its_ranges_its_first_trials_and_what_all_may_cost(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("plan", "pareto") == 0
    said = capsys.readouterr().out
    assert "24 trials of 4 replicas, chosen by nsga2 to minimise val_loss and decode_latency and parameters" in said
    assert "num_layers: IntRange(low=1, high=6, step=1)" in said
    assert "The first 10, which depend on no result" in said
    assert "these 10 trials; 2.4 times as much for all 24 if the others cost as much" in said


@pytest.mark.slow
def test_a_searchs_smoke_run_ends_with_its_front(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("pareto", "--smoke", "--serial", "--results", str(tmp_path)) == 0
    assert "The lowest loss of 3 variants that nsga2 chose" in capsys.readouterr().out
    assert "No other variant is as good" in (tmp_path / "pareto-smoke" / "report.md").read_text()


def _heed_ctrl_c() -> None:
    """A shell's background jobs ignore SIGINT, and so would this test's process if the tests were one."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.mark.slow
@pytest.mark.parametrize(("stop", "runner"), [(signal.SIGINT, "--num-cpus=1"), (signal.SIGTERM, "--serial")])
def test_an_interrupted_sweep_says_how_to_go_on_and_the_same_command_does(
    stop: signal.Signals, runner: str, tmp_path: Path, tiny_text: Path
) -> None:
    (tmp_path / "one_or_two.py").write_text(TINY_SPACE.format(tokens=640_000, text=tiny_text))
    command = [sys.executable, "-m", "archsweep", str(tmp_path / "one_or_two.py"), runner, "--results", str(tmp_path / "results")]
    command.append("--checkpoint-seconds=0.3")
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    for moment in ("replicas began", "goes on from its checkpoint at step"):
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path, env=environment, preexec_fn=_heed_ctrl_c
        )
        assert process.stdout is not None
        assert any(moment in line for line in process.stdout)
        while not any(tmp_path.glob("results/*/trials/*/checkpoint/*")) and process.poll() is None:
            time.sleep(0.05)  # a trial that has just begun has nothing to go on from
        process.send_signal(stop)
        _, errors = process.communicate(timeout=60)
        assert process.returncode == 130
        assert "the same command goes on from there" in errors
        assert "Traceback" not in errors
        assert (tmp_path / "results" / "one_or_two" / "results.parquet").is_file()


@pytest.mark.slow
def test_the_default_sweeps_smoke_run_answers_through_ray(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "archsweep", "heads_vs_layers", "--smoke", "--results", str(tmp_path)]
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip().splitlines()[-1] == f"report: {tmp_path / 'heads_vs_layers-smoke' / 'report.html'}"
    results = archsweep.load(tmp_path / "heads_vs_layers-smoke")
    assert set(results.status) == {"finished"}
    assert results.non_embedding_parameters.between(49_500, 50_500).all()
