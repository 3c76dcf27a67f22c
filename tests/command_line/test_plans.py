"""What is said before anything trains: the README's commands, plans, what they cost, and who is asked."""

from __future__ import annotations

import json
import os
import pty
import shlex
import subprocess
import sys
from io import TextIOWrapper
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from archsweep import cli, pipeline
from archsweep.cli import asking
from archsweep.device import processor_name
from archsweep.pipeline import Machine, Question
from archsweep.planning import throughput
from archsweep.planning.find import find
from archsweep.planning.forecast import is_large
from archsweep.records import write
from archsweep.training.data import LanguageModelDataset
from benchmarks import faults
from tests.command_line.command import CTRL_D, REPOSITORY, at_a_terminal, run
from tests.sweep_folder import write_sweep

if TYPE_CHECKING:
    from collections.abc import Mapping


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


def expensive(space_file: Path, cache: Path) -> list[str]:
    """A command that is predicted to take hours: a token of its shapes was seen to take seconds."""
    for trial in pipeline.plan(Question(str(space_file))).trials:
        facts = {"device_name": processor_name(), "precision": "fp32", "replicas": 6, "stack_size": 6, "seconds_per_token": 30.0}
        throughput.append(cache, throughput.measured(trial.config, "trial", **facts))
    return [str(space_file), "--set", "device=cpu", "--serial", "--cache", str(cache)]


@pytest.mark.parametrize("answer", ["n\n", CTRL_D])
def test_a_large_sweep_is_asked_about_at_a_terminal_and_a_no_trains_nothing(answer: str, space_file: Path, tmp_path: Path) -> None:
    words = expensive(space_file, tmp_path / "cache")
    code, said = at_a_terminal([*words, "--results", "results"], answer, tmp_path)
    assert code == 130
    assert "Go on? [y/N]" in said
    assert said.splitlines()[-1] == "Nothing was run."
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
        assert asking.agreed(forecast) == agreed
        assert asking.agreed(forecast.model_copy(update={"seconds": None})), "a small or unknown one asks nothing"
    os.close(terminal)


@pytest.mark.slow
def test_yes_given_beforehand_is_not_asked_for(space_file: Path, tmp_path: Path) -> None:
    code, said = at_a_terminal([*expensive(space_file, tmp_path / "cache"), "--results", "results", "-y"], "n\n", tmp_path)
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


@pytest.mark.slow
def test_a_plan_for_a_cluster_tells_what_its_nodes_take(space_file: Path, tmp_path: Path) -> None:
    options = ("--set", "device=cpu", "--cache", str(tmp_path / "cache"), "--results", str(tmp_path / "results"))
    with faults.on_two_nodes(tmp_path / "cluster") as sweep:

        def ask(*words: str) -> subprocess.CompletedProcess[str]:
            command = [sys.executable, "-m", "archsweep", "plan", str(space_file), *options, *sweep.options, *words]
            return subprocess.run(command, env=sweep.environment, cwd=tmp_path, capture_output=True, text=True, timeout=200)

        def forecast(*words: str) -> dict[str, Any]:
            told: dict[str, Any] = json.loads(ask("--json", *words).stdout)["forecast"]
            return told

        before = forecast()
        assert (before["devices"], before["slots"], before["seconds"]) == (2, 2, None)
        assert before["basis"] == f"unknown: nothing was measured on {processor_name()}; trials that run there measure it"
        facts = {"device_name": processor_name(), "precision": "fp32", "replicas": 6, "stack_size": 6, "seconds_per_token": 1e-4}
        trials = pipeline.plan(Question(str(space_file))).trials
        for trial in trials:
            throughput.append(tmp_path / "cache", throughput.measured(trial.config, "trial", **(facts | {"device_name": "another"})))
        assert forecast()["seconds"] is None, "what other devices take says nothing of these"
        for trial in trials:
            throughput.append(tmp_path / "cache", throughput.measured(trial.config, "trial", **facts))
        [tokens] = {trial.cost.train_tokens for trial in trials}
        evaluated = trials[0].evaluated_tokens / 3
        after = forecast()
        assert after["seconds"]["expected"] == pytest.approx(6 * (tokens + evaluated) * 1e-4, rel=1e-6), "a trial on each node"
        assert after["device_name"] == processor_name()

    refused = ask()
    assert refused.returncode == 3
    assert "nothing answers at 127.0.0.1:" in refused.stderr


def test_spaces_lists_the_shipped_questions_and_what_they_take(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("spaces", "--cache", str(tmp_path)) == 0
    said = capsys.readouterr().out
    # 9 architectures, 4 rates and 3 seeds of them; 5.61e12 FLOPs by the plan's own table
    assert "heads_vs_layers: 9 variants, 108 models, 5.6e+12 FLOPs, a time that is not known yet (plan NAME --measure)\n  Heads or" in said
    assert "pareto: 20 variants, 160 models" in said
    assert "bases" not in said
    assert "parts" not in said
    facts = {"device_name": processor_name(), "precision": "fp32", "replicas": 12, "stack_size": 6, "seconds_per_token": 1e-6}
    for trial in pipeline.plan(Question("layers_vs_width")).trials:
        throughput.append(tmp_path, throughput.measured(trial.config, "trial", **facts))
    assert run("spaces", "--cache", str(tmp_path)) == 0
    assert "108 models, 5.6e+12 FLOPs, about " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "heavy"),
    [
        (["--help"], []),
        (["spaces"], ["optuna", "torch"]),  # a search's first suggestions, and models of parts, whose weights are counted
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
    assert "20 trials of 8 replicas, chosen by nsga2 to minimise val_loss and decode_latency and parameters" in said
    assert "num_layers: IntRange(low=1, high=6, step=1)" in said
    assert "The first 10, which depend on no result" in said
    assert "for all 20 trials, if those that the search has yet to choose cost as much as these 10" in said


def test_a_finished_search_that_shall_have_more_trials_is_asked_about_those(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    text = "from archsweep.space import IntRange, Optuna, Space\nfrom search_spaces.bases import SMALL\n"
    space = "space = Space(base=SMALL, compare={'num_layers': IntRange(1, 20)}, method=Optuna(trials=%d))\n"
    Path("deep.py").write_text(text + space % 4)
    planned = pipeline.plan(Question("deep.py"))
    planned.save(Path("results") / "deep" / "plan.json")
    for trial in planned.trials:
        write.begin(Path("results") / "deep" / "trials" / trial.id, trial.config)
        write.finish(Path("results") / "deep" / "trials" / trial.id, write.Outcome(status="finished"))
    assert run("deep.py", "--dry-run") == 0
    assert "yet to choose" not in capsys.readouterr().out
    Path("deep.py").write_text(text + space % 3000)
    assert run("deep.py", "--dry-run") == 0
    assert "for all 3000 trials, if those that the search has yet to choose cost as much as these 10:" in capsys.readouterr().out
    found = pipeline.forecast(
        pipeline.plan(Question("deep.py")), Machine(num_cpus=1), Path("results"), detect=pipeline.Effect.parse("0.5%")
    )
    assert found.unchosen == 2996
    assert is_large(found)
    assert "and 3000 variants find a difference" in str(found.detectable)


def test_what_a_store_has_of_a_sweep_is_not_planned_again_on_a_new_machine(
    space_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    uri, said = (tmp_path / "store").as_uri(), []
    for machine in ("one", "two"):
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / machine))
        monkeypatch.setenv("ARCHSWEEP_CACHE", str(tmp_path / machine))
        assert run("plan", str(space_file), "--results", uri) == 0
        said.append("nothing is left to train" in capsys.readouterr().out)
        if machine == "one":
            assert run(str(space_file), "--serial", "--results", uri) == 0
    assert said == [False, True]


def test_sizes_that_no_variant_meets_are_told_before_anything_is_measured(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = "from archsweep.space import Budget, Choice, Space\nfrom search_spaces.bases import TINY\n"
    budget = "(Budget('non_embedding_parameters', 10), Budget('train_seconds', 2.0, tolerance=0.2))"
    (tmp_path / "none.py").write_text(text + f"space = Space(base=TINY, compare={{'num_layers': Choice(1, 2)}}, budget={budget})\n")
    assert run("plan", str(tmp_path / "none.py"), "--results", str(tmp_path)) == 2
    assert "none of the 2 variants can be trained" in capsys.readouterr().err


def test_where_there_is_one_variant_no_difference_is_to_be_found(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = "from archsweep.space import Choice, Space\nfrom search_spaces.bases import TINY\n"
    (tmp_path / "one.py").write_text(text + "space = Space(base=TINY, compare={'num_layers': Choice(2)}, repeat=3)\n")
    assert run("plan", str(tmp_path / "one.py"), "--detect", "0.5%", "--results", str(tmp_path)) == 0
    assert "seeds: with one variant there is no difference to find" in capsys.readouterr().out


@pytest.mark.slow
def test_a_searchs_smoke_run_ends_with_its_front(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("pareto", "--smoke", "--serial", "--results", str(tmp_path)) == 0
    assert "The lowest loss of 3 variants that nsga2 chose" in capsys.readouterr().out
    assert "No other variant is as good" in (tmp_path / "pareto-smoke" / "report.md").read_text()
