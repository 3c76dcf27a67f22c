"""Finding a space: by shipped name or file, on another base, with fields set; every way to miss has its message."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from archsweep.config import ExperimentConfig
from archsweep.errors import ConfigError, SpaceError
from archsweep.planning.cost import cost
from archsweep.planning.find import base, bases, find, override, rebase, shipped, with_settings
from archsweep.planning.plan import make_plan
from archsweep.space import Budget, Choice, Space

ROOT = Path(__file__).parents[2]
GOOD = '''"""Is two more than one?

More about it.
"""

from archsweep.space import Choice, Space
from search_spaces.bases import TINY

space = Space(base=TINY, compare={"num_layers": Choice(1, 2)})
'''


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "mine.py"
    path.write_text(GOOD)
    return path


def refused(name: str | Path) -> str:
    with pytest.raises(SpaceError) as caught:
        find(str(name))
    return str(caught.value)


def question(**changes: Any) -> Space:
    return replace(find("heads_vs_layers").space, **changes)


def test_the_shipped_questions_are_listed_and_found() -> None:
    assert set(shipped()) == {
        "heads_vs_layers", "heads", "layers_vs_width", "mlp_ratio", "context_length", "isoflop", "kv_heads", "vocab_tying", "activation",
        "norm_position", "pareto", "lr_transfer",
    }  # fmt: skip
    for name, text in shipped().items():
        found = find(name)
        assert (found.name, found.question) == (name, text)
        assert "?" in text


def test_listing_and_planning_import_nothing_heavy() -> None:
    code = (
        "import sys; from archsweep.planning.find import find, shipped; from archsweep.planning.plan import make_plan; shipped();"
        "make_plan('x', '', find('heads_vs_layers').space, 'c');"
        "print([name for name in ('torch', 'ray', 'pandas', 'numpy', 'optuna') if name in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


def test_listing_does_not_import_the_spaces() -> None:
    code = (
        "import sys; from archsweep.planning.find import shipped; shipped();"
        "print([name for name in sys.modules if name.startswith('search_spaces.')])"
    )
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


def test_a_file_of_ones_own_is_found_by_its_path(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = find(str(file))
    assert (found.name, found.question) == ("mine", "Is two more than one?")
    monkeypatch.chdir(file.parent)
    assert find("mine.py").space == found.space


def test_another_space_of_a_file_is_found_by_its_name(file: Path) -> None:
    file.write_text(f"{GOOD}\nmore = Space(base=TINY, compare={{'num_layers': Choice(3, 4)}})\n")
    found = find(f"{file}:more")
    assert (found.name, found.question, found.space.compare) == ("mine-more", "Is two more than one?", {"num_layers": Choice(3, 4)})
    assert find("layers_vs_width:by_time").space.length_budget == Budget("train_seconds", 1.5, tolerance=0.1)
    assert "must define `fewer = Space(...)`, there is none" in refused(f"{file}:fewer")
    assert "layers_vs_widt is not a shipped search space" in refused("layers_vs_widt:by_time")


def test_files_of_different_folders_import_their_own_siblings(tmp_path: Path) -> None:
    path_before = list(sys.path)
    for folder, layers in (("a", 3), ("b", 5)):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "sizes.py").write_text(f"LAYERS = {layers}\n")
        (tmp_path / folder / "mine.py").write_text(
            GOOD.replace("space =", "from sizes import LAYERS\nspace =").replace("(1, 2)", "(1, LAYERS)")
        )
        assert find(str(tmp_path / folder / "mine.py")).space.compare["num_layers"].values == (1, layers)
    assert sys.path == path_before
    assert "sizes" not in sys.modules


def test_files_of_one_name_state_dataclasses_of_their_own(tmp_path: Path) -> None:
    stated = "from dataclasses import dataclass\n\n@dataclass\nclass Depth:\n    layers: int = {layers}\n\nspace ="
    for folder, layers in (("a", 3), ("b", 5)):
        (tmp_path / folder).mkdir()
        text = GOOD.replace("from archsweep", "from __future__ import annotations\nfrom archsweep").replace("(1, 2)", "(1, Depth().layers)")
        (tmp_path / folder / "mine.py").write_text(text.replace("space =", stated.format(layers=layers)))
        assert find(str(tmp_path / folder / "mine.py")).space.compare["num_layers"].values == (1, layers)
    assert "_space_mine" not in sys.modules


def test_an_unknown_name_gets_the_nearest() -> None:
    message = refused("heads_vs_layer")
    assert "heads_vs_layer is not a shipped search space: did you mean heads_vs_layers" in message


@pytest.mark.parametrize("name", ["../x", "a/b", "", "results/plan.json", ".", "heads vs layers"])
def test_what_is_neither_a_name_nor_a_file_gets_the_rule(name: str) -> None:
    message = refused(name)
    assert "must be a shipped name (activation, " in message
    assert repr(name) in message


def test_bases_is_not_a_question() -> None:
    assert "not a shipped search space" in refused("bases")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    assert "nothing.py must be an existing file" in refused(tmp_path / "nothing.py")


@pytest.mark.parametrize(("text", "told"), [("x = 1\n", "there is none"), ("space = {}\n", "it is a dict")])
def test_a_file_without_a_space_is_refused(file: Path, text: str, told: str) -> None:
    file.write_text(text)
    assert f"mine.py must define `space = Space(...)`, {told}." in refused(file)


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("import Choice, Space", "import Choices, Space", "line 6: ImportError"),
        ("Choice(1, 2)", "Choice(1, 2", "line 9: SyntaxError"),
        ("Choice(1, 2)", "choice(1, 2)", "line 9: NameError: name 'choice'"),
        ("num_layers", "num_layer", "line 9: 1 fault in the search space"),
        ("base=TINY", "base=TINY.copy(num_layers=0)", "line 9: tiny: 1 fault in the config"),
        ("base=TINY", "base=TINY, bugdet=3", "line 9: TypeError"),
    ],
)
def test_a_file_that_fails_is_refused_with_its_line(file: Path, old: str, new: str, told: str) -> None:
    file.write_text(GOOD.replace(old, new))
    message = refused(file)
    assert f"{file}, {told}" in message
    assert "_space_mine" not in sys.modules


def test_a_file_whose_name_cannot_name_a_folder_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "my space.py"
    path.write_text(GOOD)
    assert "Rename the file" in refused(path)


def test_gpt2_is_the_published_architecture() -> None:
    gpt2 = base("gpt2")
    assert set(bases()) == {"tiny", "small", "gpt2"}
    assert (gpt2.num_layers, gpt2.num_heads, gpt2.hidden_size, gpt2.ffn_size) == (12, 12, 768, 3072)
    assert (gpt2.context_length, gpt2.vocab_size, cost(gpt2).parameters) == (1024, 50_257, 124_439_808)


def test_a_base_is_found_by_its_name_or_the_nearest_is_told() -> None:
    assert base("small").num_layers == 6
    with pytest.raises(SpaceError, match=r"smal is not a base: did you mean small\?"):
        base("smal")


@pytest.mark.parametrize(("name", "target"), [("tiny", 57_000), ("small", 11_000_000), ("gpt2", 85_000_000)])
def test_another_base_brings_its_own_budget(name: str, target: int) -> None:
    # 2 * (12 * 48**2 + 13 * 48) + 2 * 48 = 56,640; 6 * (12 * 384**2 + 13 * 384) + 2 * 384 = 10,647,552; 85,056,000 published.
    assert rebase(question(), base(name)).budget == Budget("non_embedding_parameters", target, 0.01)


def test_another_base_counts_in_the_budgets_own_kind() -> None:
    whole = question(budget=Budget("parameters", 150_000, 0.02))
    assert rebase(whole, base("gpt2")).budget == Budget("parameters", 120_000_000, 0.02)


def test_another_base_scales_the_rates_with_its_own() -> None:
    tuned = rebase(question(), base("gpt2"))
    assert tuned.tune["learning_rate"].values == pytest.approx((3e-4, 6e-4, 1.2e-3, 2.4e-3))
    compared = rebase(find("lr_transfer").space, base("small"))
    assert compared.compare["learning_rate"].values == pytest.approx((5e-4, 1e-3, 2e-3, 4e-3, 8e-3, 1.6e-2))
    assert compared.budget is None


@pytest.mark.parametrize("base_name", ["tiny", "small", "gpt2"])
@pytest.mark.parametrize("name", [name for name in shipped() if name != "pareto"])  # a search refuses what it cannot make
def test_every_question_can_be_asked_of_every_base(name: str, base_name: str) -> None:
    plan = make_plan(name, "", rebase(find(name).space, base(base_name)), "corpus")
    assert not plan.refused


def test_another_base_scales_what_a_question_sets_itself() -> None:
    heads = rebase(find("heads").space, base("small"))
    assert heads.base.hidden_size == 384
    assert {trial.config.hidden_size for trial in make_plan("heads", "", heads, "corpus").trials} == {384}
    llama = rebase(find("kv_heads").space, base("small")).base
    assert (llama.family, llama.num_heads, llama.hidden_size, llama.precision) == ("llama", 8, 512, "bf16")
    windows = rebase(find("context_length").space, base("gpt2"))
    assert windows.compare["context_length"] == Choice(256, 512, 1024, 2048, 4096)
    assert windows.base.metrics == ("search_spaces.positions:loss_by_position",)
    compute = rebase(find("isoflop").space, base("small")).compare
    assert compute["hidden_size"] == Choice(96, 192, 288, 384)
    # SMALL's own FLOPs are 1.38e15, TINY's 5.7e10 (`cost(base("small")).flops`): 24,000 times as many
    ratio = cost(base("small")).flops / cost(base("tiny")).flops
    assert compute["budget.flops"].values == pytest.approx([1.5e10 * ratio, 3e10 * ratio, 6e10 * ratio], rel=0.05)


def test_fields_and_repeat_are_set() -> None:
    changed = override(
        question(), {"max_tokens": "2048", "repeat": "2", "dataset": "text:a b.txt", "model_overrides": '{"n_positions": 70}'}
    )
    assert (changed.base.max_tokens, changed.repeat, changed.base.dataset) == (2048, 2, "text:a b.txt")
    assert changed.base.model_overrides == {"n_positions": 70}
    assert (changed.compare, changed.tune, changed.budget) == (question().compare, question().tune, question().budget)


def test_text_stays_text_where_the_field_is_text() -> None:
    assert override(question(), {"tokenizer": "1.json", "lr_scheduler_type": "cosine"}).base.tokenizer == "1.json"


def test_what_cannot_be_set_is_told_all_at_once() -> None:
    with pytest.raises(SpaceError) as caught:
        override(question(), {"max_token": "1", "num_layers": "3", "learning_rate": "1", "hidden_size": "64", "experiment_name": "x"})
    message = str(caught.value)
    assert message.startswith("5 faults")
    for part in (
        "did you mean max_tokens",
        "num_layers is compared",
        "learning_rate is tuned",
        "hidden_size follows from the budget",
        "sweep's name",
    ):
        assert part in message


def test_a_setting_of_the_wrong_kind_is_refused_by_its_owner() -> None:
    with pytest.raises(ConfigError, match="max_tokens"):
        override(question(), {"max_tokens": "many"})
    with pytest.raises(SpaceError, match="repeat"):
        override(question(), {"repeat": "0"})
    with pytest.raises(SpaceError, match="max_tokens"):
        override(question(), {"max_tokens": "null"})


def test_a_width_can_be_set_where_no_budget_solves_it() -> None:
    free = Space(base=ExperimentConfig(), compare={"num_layers": Choice(1, 2)})
    assert override(free, {"hidden_size": "128"}).base.hidden_size == 128


def test_a_config_by_itself_takes_settings() -> None:
    changed = with_settings(ExperimentConfig(), {"num_heads": "2", "dataset": "text:a.txt", "experiment_name": "7"})
    assert (changed.num_heads, changed.hidden_size, changed.dataset, changed.experiment_name) == (2, 128, "text:a.txt", "7")
    with pytest.raises(ConfigError, match="did you mean num_heads"):
        with_settings(ExperimentConfig(), {"num_head": "2"})
