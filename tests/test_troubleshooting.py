"""docs/troubleshooting.md quotes what archsweep really says: provoked where that is cheap, else found in the source."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pandas as pd
import pytest
from rich.console import Console

import archsweep
from archsweep import doctor, extensions, pipeline
from archsweep.config import ExperimentConfig
from archsweep.errors import ArchsweepError
from archsweep.planning.extend import reconcile
from archsweep.planning.plan import make_plan
from archsweep.records import files, remote, write
from archsweep.running import clean, lock, session, trackers
from archsweep.running.resources import Resources, check_some_node_holds
from archsweep.space import ASHA, Budget, Choice, IntRange, Optuna, Space
from archsweep.submitting import door, jobs, package
from archsweep.submitting.head import enter
from archsweep.training import hardware
from archsweep.training.data import prepare
from archsweep.training.model import CustomGPT2Model
from archsweep.training.precision import resolve_device
from tests.command_line.command import run
from tests.submitting.dashboard import TOKEN, Dashboard, served
from tests.sweep_folder import write_sweep

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from archsweep.planning.plan import Plan
    from archsweep.submitting.head import Head

REPOSITORY = Path(archsweep.__file__).parent.parent
PAGE = REPOSITORY / "docs" / "troubleshooting.md"


class Entry(NamedTuple):
    """A heading that quotes a message, and what stands below it."""

    quote: str
    advice: str


class Scene(NamedTuple):
    """What a provocation may use: an empty folder, which is also the current one and the home, and a config that would train."""

    folder: Path
    config: ExperimentConfig
    monkeypatch: pytest.MonkeyPatch


def entries() -> list[Entry]:
    """Every `### ` heading of the page; a message with a backtick in it is quoted by two."""
    found = []
    for section in re.split(r"^#{2,3} ", PAGE.read_text(), flags=re.MULTILINE)[1:]:
        heading, _, advice = section.partition("\n")
        if heading.startswith("`"):
            quoted = re.fullmatch(r"``(.+)``|`([^`]+)`", heading)
            assert quoted is not None, heading
            found.append(Entry((quoted[1] or quoted[2]).strip(), advice.strip()))
    return found


ENTRIES = entries()


def says(quote: str, text: str) -> bool:
    """Whether the text has the parts of the quote, in order and within one line, with anything where it has `…`."""
    return re.search(".*".join(re.escape(part.strip()) for part in quote.split("…")), text) is not None


# Messages that a command line ends with, in an empty folder.
COMMANDS = {
    "See python -m archsweep --help.": ["heads_vs_layers", "--num-cpu", "2"],
    "is not a shipped search space:": ["heads_vs_layer"],
    "A search space must be a shipped name … or the path of an existing .py file": ["../x"],
    "must be an existing file, there is none in": ["gone.py"],
    "--set takes FIELD=VALUE, got": ["heads_vs_layers", "--set", "repeat"],
    "by this search space; setting it to … would change nothing": ["heads_vs_layers", "--set", "num_heads=2"],
    "follows from the budget; setting it to … would change nothing": ["heads_vs_layers", "--set", "hidden_size=64"],
    "--json prints the plan alone": ["heads_vs_layers", "--json"],
    "--detect takes a difference in nats/token": ["plan", "heads_vs_layers", "--detect", "much"],
    "--num-cpus must be at least": ["plan", "heads_vs_layers", "--num-cpus", "-1"],
    "--checkpoint-seconds must be a time": ["heads_vs_layers", "--dry-run", "--checkpoint-seconds", "nan"],
    "compare joins two sweeps or more, got": ["compare", "one"],
    "export takes a variant, to write its model, or --format": ["export", "one"],
    "must be a config in JSON, as ExperimentConfig.save writes it": ["train", "gone.json"],
}

CONFIGS: dict[str, dict[str, object]] = {
    "is not a field of ExperimentConfig:": {"num_laiers": 2},
    "input should be greater than": {"num_layers": 0},
    "hidden_size must be divisible by num_heads, got": {"hidden_size": 16, "num_heads": 3},
    "hidden_size must be num_heads * head_dim, got": {"hidden_size": 16, "num_heads": 2, "head_dim": 4},
    "head_dim must be even for rotary positions": {"family": "llama", "num_heads": 2, "head_dim": 5},
    "vocab_size must be at least 257 for a byte-level tokenizer": {"vocab_size": 100},
    "max_tokens must hold one step of": {"max_tokens": 10},
    "eval_tokens must hold one window of": {"eval_tokens": 10},
    "num_epochs must be at most the steps that max_tokens makes": {"num_epochs": 1000},
    "warmup must be a fraction of the steps below 1 or a whole number of steps": {"warmup": 1.5},
    "micro_batch_size must be at most batch_size": {"batch_size": 8, "micro_batch_size": 9},
    "package.module:function, which builds the model": {"family": "bert"},
    "must be stdlib, text:PATH_OR_GLOB, hf:NAME[:CONFIG[:SPLIT]]": {"dataset": "corpus.txt"},
    "must be bpe (trained on the corpus), hf:NAME or the path of a tokenizer.json": {"tokenizer": "gpt2"},
}

LAYERS, RATES = {"num_layers": Choice(1, 2)}, {"learning_rate": Choice(1e-3, 2e-3)}
BOTH_WIDTHS = {"hidden_size": Choice(32, 64), "ffn_size": Choice(64, 128)}

SPACES: dict[str, dict[str, object]] = {
    "must be a Choice, got": {"compare": {"num_layers": [1, 2]}},
    "a Choice takes its values one after another, got": {"compare": {"num_layers": Choice([1, 2])}},
    "must list every value once, got": {"compare": {"num_layers": Choice(1, 1)}},
    "must be a Choice in a grid, got": {"compare": {"num_layers": IntRange(1, 4)}},
    "is in compare and in tune.": {"compare": RATES, "tune": RATES},
    "cannot be compared:": {"compare": {"seed": Choice(1, 2)}},
    "cannot be tuned, only": {"compare": {"num_heads": Choice(1, 2)}, "tune": LAYERS},
    "repeat must be a whole number of seeds, at least 1, got": {"repeat": 0},
    "prune_tune compares the seeds of tuned settings half-way": {"prune_tune": True},
    "method must be Optuna, got": {"method": "tpe"},
    "is not an objective:": {"method": Optuna(trials=2, objectives=("val_los",))},  # type: ignore[arg-type]
    "early_stopping decides at evaluations that all variants share": {
        "early_stopping": ASHA(),
        "compare": {"num_evaluations": Choice(1, 2)},
    },
    "margin must be a part of the loss above 0 and at most 0.5": {"margin": 5},
    "reference is for a grid": {"reference": {"num_layers": 1}, "method": Optuna(trials=2)},
    "reference must name one variant, and leaves open": {
        "compare": {**LAYERS, "num_heads": Choice(1, 2)},
        "reference": {"num_layers": 1},
    },
    "is not a kind of budget:": {"budget": Budget("params", 1000)},  # type: ignore[arg-type]
    "leave the budget nothing to solve": {"compare": BOTH_WIDTHS, "budget": Budget("parameters", 50_000)},
    "are both met by": {"budget": (Budget("flops", 1e9), Budget("tokens", 4096))},
    "tolerance of train_seconds must be at least": {"budget": Budget("train_seconds", 3.0)},
    "a search cannot hold train_seconds": {"budget": Budget("train_seconds", 3.0, tolerance=0.1), "method": Optuna(trials=2)},
}

# Spaces that are well put, of which no plan can be made.
PLANS: dict[str, dict[str, object]] = {
    "the nearest that … can reach": {"budget": Budget("non_embedding_parameters", 100)},
    "the nearest that whole steps of … each reach is": {"budget": Budget("tokens", 100)},
    "variants can be trained": {"budget": Budget("tokens", 100)},
    "derive must return an ExperimentConfig": {"derive": lambda config: None},
    "derive must leave alone what is compared": {"derive": lambda config: config.copy(num_layers=5)},
    "constrain must return a reason": {"constrain": lambda config: 1},
    "the reference must be one of the variants that are trained": {
        "reference": {"num_layers": 2},
        "constrain": lambda config: "it is too deep" if config.num_layers == 2 else None,
    },
}

# Files that are no corpus: their name, and what they hold.
TEXTS = {
    "must name at least one file, and matches none": ("other.txt", b""),
    "Convert it, or narrow the glob.": ("corpus.doc", b"some text"),
    "must hold text, and is empty": ("corpus.txt", b""),
    "must hold text, and holds only white space": ("corpus.txt", b" \n\n "),
    "must be UTF-8 text, and is not:": ("corpus.txt", "déjà vu".encode("latin-1")),
    'must be a JSON object with a string in "text", and is not:': ("corpus.jsonl", b'{"body": "some text"}'),
    "must be a Parquet file, and is not:": ("corpus.parquet", b"some text"),
    "must have documents for training and for validation": ("corpus.txt", b"one document"),
    "split must hold one window of context_length + 1": ("corpus.txt", b"\n\n".join(b"%d" % number for number in range(9))),
}


def _config(change: dict[str, object]) -> Callable[[Scene], object]:
    return lambda scene: ExperimentConfig(**change)


def _space(change: dict[str, object]) -> Callable[[Scene], object]:
    return lambda scene: Space(**({"base": scene.config, "compare": LAYERS} | change))  # type: ignore[arg-type]


def _planned(change: dict[str, object]) -> Callable[[Scene], object]:
    return lambda scene: plan_of(scene, **change)


def _command(words: list[str]) -> Callable[[Scene], object]:
    return lambda scene: run(*words)


def _text(name: str, content: bytes) -> Callable[[Scene], object]:
    def read_it(scene: Scene) -> object:
        (scene.folder / name).write_bytes(content)
        glob = "corpus.*"
        return prepare(scene.config.copy(dataset=f"text:{scene.folder / glob}", validation_fraction=0.5), scene.folder / "cache")

    return read_it


def plan_of(scene: Scene, **change: object) -> Plan:
    space = Space(**({"base": scene.config, "compare": LAYERS} | change))  # type: ignore[arg-type]
    return make_plan("sweep", "Which?", space, "corpus")


def no_space(scene: Scene) -> object:
    (scene.folder / "nothing.py").write_text("spaces = []\n")
    return run("plan", "nothing.py")


def a_module_with_a_fault(scene: Scene) -> object:
    (scene.folder / "faulty.py").write_text("number = unknown\n")
    scene.monkeypatch.syspath_prepend(scene.folder)
    return extensions.load("faulty:build")


def a_function_that_is_not_there(scene: Scene) -> object:
    (scene.folder / "own_model.py").write_text("def build(config): ...\n")
    scene.monkeypatch.syspath_prepend(scene.folder)
    return extensions.load("own_model:biuld")


def another_text_alphabet(scene: Scene) -> object:
    from tokenizers import Tokenizer, models

    entries = {f"<{number}>": number for number in range(400)} | {"<|endoftext|>": 400}
    Tokenizer(models.WordLevel(entries, unk_token="<0>")).save("tokenizer.json")
    return prepare(scene.config.copy(tokenizer="tokenizer.json"), scene.folder / "cache")


def no_tokenizer(scene: Scene) -> object:
    Path("tokenizer.json").write_text("{}")
    return prepare(scene.config.copy(tokenizer="tokenizer.json"), scene.folder / "cache")


def another_parquet(scene: Scene) -> object:
    pd.DataFrame({"body": ["some text"]}).to_parquet("corpus.parquet")
    return prepare(scene.config.copy(dataset="text:corpus.parquet"), scene.folder / "cache")


def a_damaged_plan(scene: Scene) -> object:
    Path("sweep").mkdir()
    Path("sweep/plan.json").write_text("{")
    return pipeline.run(plan_of(scene), Path("sweep"), pipeline.Machine(serial=True), Console(quiet=True))


def a_trial_of_another_text(scene: Scene) -> object:
    plan = plan_of(scene)
    write.begin(Path("sweep/trials") / plan.trials[0].id, scene.config)
    write.finish(Path("sweep/trials") / plan.trials[0].id, write.Outcome(status="finished", corpus_id="c0ffee"))
    return pipeline.run(plan, Path("sweep"), pipeline.Machine(serial=True), Console(quiet=True))


def a_sweep(name: str = "sweep", losses: float = 3.0) -> Path:
    return write_sweep(Path(name), [{"num_layers": 1}, {"num_layers": 2}], lambda variant, rate, seed: losses, name=name)


def a_running_sweep(scene: Scene) -> object:
    with lock.locked(a_sweep()), clean.removable(Path("sweep"), models=False) as found:
        return found


def no_folder_to_write(scene: Scene) -> object:
    Path("a_file").write_text("")
    with lock.locked(Path("a_file", "sweep")):
        return None


def another_corpus(scene: Scene) -> object:
    one, other = a_sweep("one"), a_sweep("other")
    for path in [other / "plan.json", *other.glob("trials/*/results.json")]:
        path.write_text(path.read_text().replace("c0ffee", "decaf"))
    return archsweep.compare_experiments([one, other])


def a_line_that_is_no_record(scene: Scene) -> object:
    Path("records.jsonl").write_text('{"loss": 3.0}\n')
    return files.read_records(Path("records.jsonl"))


def rows(**columns: list[object]) -> pd.DataFrame:
    return pd.DataFrame({"seed": [0, 1], "val_loss": [3.0, 3.1], **columns})


def ask(dashboard: Dashboard, scene: Scene, token: str = TOKEN) -> Head:
    """The head that such a dashboard makes, entered with a token."""
    scene.monkeypatch.setenv("RAY_AUTH_TOKEN", token)
    with served(dashboard):
        return enter(dashboard.url)


def an_open_head(scene: Scene) -> object:
    dashboard = Dashboard()
    dashboard.locked = False
    return ask(dashboard, scene)


def another_program(scene: Scene) -> object:
    dashboard = Dashboard()
    dashboard.answer = lambda path, token: (200, "hello") if token else (401, "no")  # type: ignore[method-assign]
    return ask(dashboard, scene)


def a_head_of_another_ray(scene: Scene) -> object:
    dashboard = Dashboard()
    dashboard.ray = "2.1.0"
    return ask(dashboard, scene)


def nobody(scene: Scene) -> object:
    with served(Dashboard()) as dashboard:
        url = dashboard.url
    return enter(url)


def a_job_of_nobody(scene: Scene) -> object:
    scene.monkeypatch.setenv("RAY_AUTH_TOKEN", TOKEN)
    with served(Dashboard()) as dashboard:
        return jobs.find_job(enter(dashboard.url), "sweep")


def a_forgotten_job(scene: Scene) -> object:
    scene.monkeypatch.setenv("RAY_AUTH_TOKEN", TOKEN)
    with served(Dashboard()) as dashboard:
        return jobs.read_job(enter(dashboard.url), "archsweep-sweep")


def a_package(scene: Scene, name: str, content: str) -> package.Package:
    project = scene.folder / "project"
    project.mkdir()
    (project / name).write_text(content)
    return package.choose(project)


def a_token_in_a_file(scene: Scene) -> object:
    packed = a_package(scene, "notes.txt", "canary-77")
    return package.write(packed, scene.folder / "package.zip", door.Token("canary-77", "here"))


def too_large(scene: Scene) -> object:
    scene.monkeypatch.setattr(package, "MOST_BYTES", 10)
    return package.write(a_package(scene, "notes.txt", "some text"), scene.folder / "package.zip", None)


def an_open_token(scene: Scene) -> object:
    Path("auth_token").write_text("a token")
    Path("auth_token").chmod(0o644)
    return doctor._token_file(Path("auth_token"))


def a_named_token_that_is_gone(scene: Scene) -> object:
    scene.monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", "gone")
    return doctor._token_file(Path("gone"))


def a_hub_that_is_gone(scene: Scene) -> object:
    from huggingface_hub import constants

    scene.monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:1")
    return doctor._hub()


def a_hub_without_a_scheme(scene: Scene) -> object:
    from huggingface_hub import constants

    scene.monkeypatch.setattr(constants, "ENDPOINT", "hf-mirror.com")
    return doctor._hub()


def an_old_package(scene: Scene) -> object:
    (scene.folder / "torch-2.5.1.dist-info").mkdir()
    (scene.folder / "torch-2.5.1.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: torch\nVersion: 2.5.1\n")
    scene.monkeypatch.syspath_prepend(scene.folder)
    return "\n".join(str(finding) for finding in doctor._versions())


def a_full_machine(scene: Scene) -> object:
    scene.monkeypatch.setattr(doctor, "_free_memory", lambda: 10**9)
    return doctor._processors()


def a_full_disk(scene: Scene) -> object:
    scene.monkeypatch.setattr(doctor, "LEAST_FREE_BYTES", 10**18)
    return doctor._disk("results", scene.folder)


PROVOCATIONS: dict[str, Callable[[Scene], object]] = {
    **{quote: _command(words) for quote, words in COMMANDS.items()},
    **{quote: _config(change) for quote, change in CONFIGS.items()},
    **{quote: _space(change) for quote, change in SPACES.items()},
    **{quote: _planned(change) for quote, change in PLANS.items()},
    **{quote: _text(name, content) for quote, (name, content) in TEXTS.items()},
    "must define `space = Space(...)`": no_space,
    "a sweep's name must be 1 to 64 letters": lambda scene: pipeline.sweep_folder(scene.folder, "../x"),
    "its module must be importable, and is not:": lambda scene: extensions.load("nowhere:build"),
    "its module must be importable, and raises": a_module_with_a_fault,
    "has no function": a_function_that_is_not_there,
    "is not an option of": lambda scene: CustomGPT2Model.from_config(scene.config.copy(model_overrides={"n_layrs": 2})),
    "base.max_tokens must be a number of tokens": lambda scene: Space(base=scene.config.copy(max_tokens=None), compare=LAYERS),
    "holds another plan than this one": lambda scene: reconcile(plan_of(scene), plan_of(scene, repeat=5), extend=False),
    "cannot be extended:": lambda scene: reconcile(plan_of(scene), plan_of(scene, tune=RATES), extend=True),
    "holds a search in which": lambda scene: reconcile(
        plan_of(scene, method=Optuna(2), tune=RATES), plan_of(scene, method=Optuna(2), tune=RATES, prune_tune=True), extend=False
    ),
    "fixed what is tested before it ran": lambda scene: reconcile(plan_of(scene), plan_of(scene, margin=0.01), extend=True),
    "must be a plan and cannot be read. Remove it": a_damaged_plan,
    "must train all of it on one text": a_trial_of_another_text,
    'must have a column "text" of strings, got': another_parquet,
    "vocab_size must hold every entry of the tokenizer": another_text_alphabet,
    "must be a tokenizer.json as the tokenizers library writes it, and is not:": no_tokenizer,
    "is not there: torch sees": lambda scene: resolve_device(scene.config.copy(device="cuda:63")),
    "cannot start Ray:": lambda scene: session._why_no_ray(None, OSError("no room")),
    "cannot reach the Ray cluster at": lambda scene: session._why_no_ray("10.0.0.1:6379", ConnectionError()),
    "on one node, and the nodes have": lambda scene: check_some_node_holds(Resources(1, 0.5), [{"CPU": 2}]),
    "must be a number of FLOP/s above 0, got": lambda scene: (
        scene.monkeypatch.setenv("ARCHSWEEP_PEAK_FLOPS", "fast") or hardware.peak_flops("a GPU", "fp32")
    ),
    "is being run by": a_running_sweep,
    "must be writable:": no_folder_to_write,
    "has no model: a trial leaves one when it has finished": lambda scene: pipeline.export(a_sweep(), "num_layers=1", Path("model")),
    "has no variant": lambda scene: pipeline.export(a_sweep(), "num_layers=3", Path("model")),
    "has no trial": lambda scene: (a_sweep() / "sweep.log").write_text("began\n") and run("logs", "./sweep", "--trial", "x"),
    "it is written when the sweep runs": lambda scene: a_sweep() and run("logs", "./sweep"),
    "needs the package": lambda scene: scene.monkeypatch.setattr(trackers, "find_spec", lambda name: None) or trackers.check(["wandb"]),
    "must be a sweep's folder, which holds": lambda scene: archsweep.load(scene.folder),
    "must be a record with": a_line_that_is_no_record,
    "must be JSON, and is not:": lambda scene: Path("plan.json").write_text("{") and files.load_plan("."),
    "Sweeps that are joined must be measured on the same tokens": another_corpus,
    "results of one comparison must come from one corpus": lambda scene: archsweep.compare_experiments(
        rows(layers=[1, 2], corpus_id=["a", "b"]), compare=["layers"]
    ),
    "has two results for": lambda scene: archsweep.compare_experiments(
        pd.concat([rows(layers=[1, 1]), rows(layers=[1, 1])]), compare=["layers"]
    ),
    "The results have no column": lambda scene: archsweep.compare_experiments(rows(layers=[1, 2]), compare=["layer"]),
    "Name the columns that make a variant": lambda scene: archsweep.compare_experiments(rows(layers=[1, 2])),
    "A compared column must not be called like one that the report makes itself": lambda scene: archsweep.compare_experiments(
        rows(n=[1, 2]), compare=["n"]
    ),
    "numbers, for the report computes with it": lambda scene: archsweep.compare_experiments(
        rows(tokens=["few", "many"]), compare=["tokens"]
    ),
    "reference= and margin= are for results without a plan": lambda scene: archsweep.compare_experiments(a_sweep(), margin=0.01),
    "--address must be a dashboard's as": lambda scene: door.parse_address("127.0.0.1:6379"),
    "is plain http off this machine": lambda scene: enter("http://head.example:8265"),
    "answers without a token": an_open_head,
    "does not let us in": lambda scene: ask(Dashboard(), scene, token="another"),
    "must hold the cluster's token, and cannot be read": lambda scene: (
        scene.monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", "gone") or door.find_token()
    ),
    "nothing answers at": nobody,
    "answers, and is no dashboard of Ray": another_program,
    "they must be the same. Nothing was sent.": a_head_of_another_ray,
    "is too wide a one. Go to the project's own, and submit from there.": lambda scene: package.choose(Path("/")),
    "must lie in the folder that is sent": lambda scene: package.relative_space(
        "/elsewhere/space.py", scene.folder / "project", a_package(scene, "notes.txt", "some text")
    ),
    "must be among the files that are sent": lambda scene: package.relative_space(
        str(scene.folder / "project" / "space.py"), scene.folder / "project", a_package(scene, ".gitignore", "space.py")
    ),
    "and a head takes at most": too_large,
    "holds the cluster's token, and would be sent": a_token_in_a_file,
    "of a submitted sweep is a place on the cluster": lambda scene: jobs.check_results("results"),
    "knows no job of a sweep": a_job_of_nobody,
    "(any more): the cluster was started anew": a_forgotten_job,
    "--results must be a URI without a password": lambda scene: remote.check_no_password("s3://key:word@bucket/place"),
    "or the URI of a place in a store that pyarrow knows": lambda scene: remote.local_root("ftp://host/place", scene.folder),
    "archsweep's own requirements are not known": lambda scene: (
        scene.monkeypatch.setattr(doctor, "_version", lambda name: "0") or next(doctor._versions())
    ),
    "and is … Install it: pip install": an_old_package,
    "Close other programs, or use fewer processors with --num-cpus.": a_full_machine,
    "GB free. Make room": a_full_disk,
    "lets others read Ray's token": an_open_token,
    "names … which is not there. Unset it, or make the file.": a_named_token_that_is_gone,
    "no MPS daemon: trials that share a GPU take turns on it.": lambda scene: doctor._sharing(scene.folder),
    "the hub does not answer": a_hub_that_is_gone,
    "HF_ENDPOINT must be a hub's address": a_hub_without_a_scheme,
}


@pytest.fixture
def scene(tmp_path: Path, tiny_config: ExperimentConfig, monkeypatch: pytest.MonkeyPatch) -> Scene:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    return Scene(tmp_path, tiny_config, monkeypatch)


@pytest.mark.parametrize("quote", PROVOCATIONS)
def test_a_message_that_is_cheap_to_provoke_says_what_the_page_quotes(quote: str, scene: Scene, capsys: pytest.CaptureFixture[str]) -> None:
    assert quote in {entry.quote for entry in ENTRIES}
    try:
        said = str(PROVOCATIONS[quote](scene))
    except ArchsweepError as error:
        said = str(error)
    assert says(quote, said + capsys.readouterr().err)


@pytest.mark.parametrize("quote", [entry.quote for entry in ENTRIES if entry.quote not in PROVOCATIONS])
def test_every_other_message_stands_in_the_source(quote: str) -> None:
    assert any(says(quote, template) for template in templates())


@cache
def templates() -> tuple[str, ...]:
    """The texts of archsweep/ with `…` for what is filled in, docstrings left out; and the lines of the scripts of cluster/."""
    texts = [text for path in sorted((REPOSITORY / "archsweep").rglob("*.py")) for text in _texts(ast.parse(path.read_text()))]
    scripts = [path for path in sorted((REPOSITORY / "cluster").iterdir()) if path.suffix in (".sh", ".sbatch")]
    return (*texts, *(line for path in scripts for line in path.read_text().splitlines() if not line.lstrip().startswith("#")))


def _texts(tree: ast.AST) -> Iterator[str]:
    docstrings = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            yield "".join(str(part.value) if isinstance(part, ast.Constant) else "…" for part in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings:
            yield node.value


def test_every_entry_is_quoted_once_and_says_what_to_do() -> None:
    quotes = [entry.quote for entry in ENTRIES]
    assert len(quotes) == len(set(quotes)) > 100
    assert [entry.quote for entry in ENTRIES if len(entry.advice.split()) < 5 or not entry.advice.endswith(".")] == []


def test_what_the_page_points_at_is_there() -> None:
    targets = re.findall(r"\]\(([^)#]+)[^)]*\)", PAGE.read_text())
    assert len(targets) > 5
    assert [target for target in targets if not (PAGE.parent / target).exists()] == []


def test_a_message_that_nothing_says_is_found_out() -> None:
    assert not any(says("the moon must be full, got", template) for template in templates())
    assert not says("first … second", "second first")
