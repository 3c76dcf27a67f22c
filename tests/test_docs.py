"""What the documents show, runs: the example; every link leads somewhere, and every command is one that the parsers take."""

from __future__ import annotations

import ast
import re
import runpy
import shlex
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pandas as pd
import pytest
from cyclopts import CycloptsError
from rich.console import Console

import archsweep
from archsweep import pipeline
from archsweep.cli import app
from archsweep.planning import find
from archsweep.planning.plan import make_plan
from archsweep.space import Choice, Space

if TYPE_CHECKING:
    from collections.abc import Iterator

    from archsweep.config import ExperimentConfig

ROOT = Path(archsweep.__file__).parent.parent
DOCS = ROOT / "docs"
PAGES = ("*.md", "docs/**/*.md", "docs/*.py", "cluster/README.md", "benchmarks/RESULTS.md", "results/README.md", "search_spaces/**/*.*")


def documents() -> list[Path]:
    """Every document; of a Python file, its docstring and comments are one."""
    found = {path for pattern in PAGES for path in ROOT.glob(pattern) if path.suffix in (".md", ".py")}
    return sorted(found)


# A document's parts.


class Document(NamedTuple):
    """A document's text without its code blocks; its lines of code, those of blocks and those between backticks; its headings."""

    prose: str
    code: list[str]
    headings: list[str]


def read(path: Path) -> Document:
    text = path.read_text(encoding="utf-8")
    return parse(_told_by(text) if path.suffix == ".py" else text)


def parse(markdown: str) -> Document:
    prose: list[str] = []
    code: list[str] = []
    fence = ""
    for line in markdown.splitlines():
        mark = re.match(r"\s*(`{3,}|~{3,})(.*)", line)
        if fence:
            if mark and mark[1].startswith(fence) and not mark[2].strip():
                fence = ""
            elif code and code[-1].endswith("\\"):
                code[-1] = code[-1][:-1] + line.strip()
            else:
                code.append(line.strip())
        elif mark and "`" not in mark[2]:
            fence = mark[1]
            code.append("")  # so that nothing goes on from the block before
        else:
            prose.append(line)
    text = "\n".join(prose)
    spans = [" ".join(span.split()) for _, span in re.findall(r"(?s)(?<!`)(`+)(?!`)((?:(?!\n\s*\n).)+?)(?<!`)\1(?!`)", text)]
    headings = [line.lstrip("#").strip().rstrip("#").strip() for line in prose if re.match(r"#{1,6} ", line)]
    return Document(text, [line for line in code if line] + spans, headings)


def _told_by(source: str) -> str:
    """A module's docstring and the comments that have lines of their own."""
    comments = [line.strip().lstrip("# ") for line in source.splitlines() if line.strip().startswith("#")]
    return "\n".join([ast.get_docstring(ast.parse(source)) or "", "", *comments])


# Links.


def broken_links(path: Path) -> Iterator[str]:
    """What a relative link names, and is not there: a file, or a heading of it."""
    prose = re.sub(r"(?s)(`+).+?\1", "", read(path).prose)  # a link between backticks is none
    targets = re.findall(r"\]\(\s*<?([^)\s>]+)>?(?:\s+\"[^\"]*\")?\s*\)", prose) + re.findall(
        r"(?m)^\[[^\]]+\]:\s*<?(\S+?)>?(?:\s|$)", prose
    )
    for target in targets:
        if re.match(r"[a-z][a-z0-9+.-]*:", target):  # https:, mailto:
            continue
        name, _, anchor = target.partition("#")
        file = path if not name else (path.parent / name)
        if (
            name.startswith("/")
            or not file.exists()
            or not file.resolve().is_relative_to(ROOT if path.is_relative_to(ROOT) else path.parent)
        ):
            yield f"{target}: there is no {name} beside {path.name}"
        elif anchor and (file.suffix != ".md" or anchor not in anchors(file)):
            yield f"{target}: {file.name} has no heading #{anchor}"


def anchors(path: Path) -> set[str]:
    """What GitHub calls the headings of a page: small letters, hyphens for spaces, no punctuation, and numbers where one comes again."""
    found: set[str] = set(re.findall(r"<a (?:id|name)=\"([^\"]+)\"", read(path).prose))
    for heading in read(path).headings:
        shown = re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", heading)
        name = re.sub(r"[^\w\- ]", "", shown.lower()).replace(" ", "-")
        again = 0
        while (anchor := f"{name}-{again}" if again else name) in found:
            again += 1
        found.add(anchor)
    return found


# Commands.


def broken_commands(document: Document) -> Iterator[str]:
    """What the command line's own parser does not take, or asks of a space that is not shipped."""
    for line in document.code:
        for rest in _commands_in(line):
            for words in _alternatives(_words(rest)):
                if reason := _refusal(words):
                    yield f"python -m archsweep {rest.strip()}: {reason}"


def _commands_in(line: str) -> list[str]:
    line = re.sub(r"^\$ ", "", line)
    if re.match(r"archsweep(?= |$)", line):
        return [line.removeprefix("archsweep")]
    return re.findall(r"(?=-m archsweep(?![\w./-])(.*))", line)  # each to the line's end; _words stops at the next command


def _words(rest: str) -> list[str]:
    """The words up to the next command or redirection, without what stands for more of the same."""
    words: list[str] = []
    for word in shlex.split(rest, comments=True):
        if re.fullmatch(r"[|&;]+|\d?>>?.*", word):
            break
        is_value = bool(words) and words[-1].startswith("--")  # of an option: `--address …`
        if plain := word.strip("[]" if is_value else "[]…").rstrip(".;"):
            words.append(plain)
        if word.endswith(";"):
            break
    return words


def _alternatives(words: list[str]) -> list[list[str]]:
    """Of `--format csv|latex`, both."""
    return [list(chosen) for chosen in product(*(word.split("|") for word in words))]


def _refusal(words: list[str]) -> str | None:
    if not words:
        return None
    if "--help" in words:
        return None if words[0].isupper() or words[0] in {*app, *find.shipped()} else f"{words[0]} is not a command"
    try:
        _, bound, _ = app.parse_args(words, exit_on_error=False, print_error=False)
    except CycloptsError as error:
        return str(error)
    space = bound.arguments.get("space")
    if space is not None and ":" in space and space.partition(":")[0] in find.shipped():  # another of a module's spaces
        assert find.find(space)
        return None
    if space is None or space in find.shipped() or re.fullmatch(r"[\w./-]+\.py|[A-Z_]+|\$\w+", space):  # yours, or a word for any
        return None
    return f"{space} is neither a command nor a shipped search space"


def broken_targets(document: Document, makefile: str) -> Iterator[str]:
    """What `make` is told to make, and cannot."""
    variables = dict(re.findall(r"(?m)^(\w+) [:?]?= (.*)$", makefile))
    while "$(" in (expanded := re.sub(r"\$\((\w+)\)", lambda found: variables.get(found[1], ""), makefile)) and expanded != makefile:
        makefile = expanded
    targets = {target for line in re.findall(r"(?m)^([^\s#=.][^=\n]*?|\.venv[^=\n]*?):(?!=)", expanded) for target in line.split()}
    for line in document.code:
        for rest in re.findall(r"(?:^|&& |; )make((?: [^\s#&;|]+)*)", line):
            for word in rest.split():
                if not (word in targets or word.startswith("-") or "=" in word):
                    yield f"make {word}: the Makefile has no such target"


def broken_modules(document: Document) -> Iterator[str]:
    """The benchmarks that a command starts, and that are not there."""
    for line in document.code:
        for module in re.findall(r"-m (benchmarks[\w.]*)", line):
            place = ROOT / module.rstrip(".").replace(".", "/")
            if not (place.name.isupper() or place.with_suffix(".py").is_file() or (place / "__main__.py").is_file()):
                yield f"python -m {module}: there is no such module"


def faults(path: Path) -> list[str]:
    document = read(path)
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    found = (broken_links(path), broken_commands(document), broken_targets(document, makefile), broken_modules(document))
    return [fault for kind in found for fault in kind]


@pytest.mark.parametrize("path", documents(), ids=lambda path: str(path.relative_to(ROOT)))
def test_every_link_and_every_command_of_a_document_is_good(path: Path) -> None:
    assert faults(path) == []


def test_the_documents_that_are_there_are_looked_at() -> None:
    names = {str(path.relative_to(ROOT)) for path in documents()}
    assert {"README.md", "docs/results.md", "docs/example.py", "cluster/README.md", "benchmarks/RESULTS.md", "results/README.md"} <= names
    assert "search_spaces/heads_vs_layers.py" in names
    commands = [rest for line in read(ROOT / "README.md").code for rest in _commands_in(line)]
    assert len(commands) > 20, "a checker that finds no commands finds no fault"


# The checker itself: what is planted is found, and what is right is not.

PLANTED = [
    ("[a](missing.md)", "missing.md"),
    ("![a](missing.png)", "missing.png"),
    ("[a][b]\n\n[b]: missing.md", "missing.md"),
    ("[a](#no-such)\n\n## Another", "#no-such"),
    ("[a](other.md#nowhere)", "other.md has no heading #nowhere"),
    ("[a](/etc/passwd)", "/etc/passwd"),
    ("```\npython -m archsweep heads_vs_layers --smokey\n```", "--smokey"),
    ("```console\n$ python -m archsweep heads_vs_layer\n```", "heads_vs_layer is neither a command nor"),
    ("```\npython -m archsweep plan \\\n  heads_vs_layers --jsonn\n```", "--jsonn"),
    ("say `python -m archsweep exprt heads_vs_layers`.", "heads_vs_layers"),
    ("`.venv/bin/python -m archsweep\nspaces --all`", "--all"),
    ("`archsweep report`", "--sweep requires"),
    ("`python -m archsweep export SWEEP --format csv|excel`", "excel"),
    ("`python -m archsweep heads_vs_layers --set repeat=5 && python -m archsweep stat heads_vs_layers`", "heads_vs_layers"),
    ("`python -m archsweep repot --help`", "repot is not a command"),
    ("`make swep`", "make swep"),
    ("```\nmake PYTHON=python3.12 swep\n```", "make swep"),
    ("`python -m benchmarks.peer`", "benchmarks.peer"),
]
RIGHT = """# Heads, or *layers*? `now`

[a](other.md) [b](other.md#a-heading-twice-1) [c](#heads-or-layers-now) [d](https://example.org/#x) [e](folder/) `[f](missing.md)` [g][h]

[h]: other.md "a title"

```
[f](missing.md)
python -m archsweep heads_vs_layers --smoke     # --smokey would be none
python -m archsweep my_space.py --set repeat=5 --extend && make sweep
python -m archsweep columns > docs/columns.md
python -m archsweep jobs --address …
python -m archsweep status | head; ls --smokey
```

`python -m archsweep`, `archsweep spaces`, `python -m archsweep export SWEEP --format csv|latex`, `make .venv/.ready`,
`make PYTHON=python3.12`, `python -m archsweep COMMAND --help`, `See python -m archsweep --help.`, `python -m benchmarks.peers`,
`python -m benchmarks`; archsweep spaces --all is prose, as is make swep.
"""


@pytest.fixture
def page(tmp_path: Path) -> Path:
    (tmp_path / "other.md").write_text("# A page\n\n## A heading, twice\n\n```\n# nowhere\n```\n\n## A heading twice\n")
    (tmp_path / "folder").mkdir()
    return tmp_path / "page.md"


@pytest.mark.parametrize(("text", "named"), PLANTED)
def test_a_planted_fault_is_found_and_named(text: str, named: str, page: Path) -> None:
    page.write_text(text)
    (fault,) = faults(page)
    assert named in fault


def test_what_is_right_is_left_alone(page: Path) -> None:
    page.write_text(RIGHT)
    assert faults(page) == []


def test_the_example_runs_on_a_sweep_that_was_trained(
    tiny_config: ExperimentConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    compare = {"num_layers": Choice(1, 2), "num_heads": Choice(1, 2)}
    space = Space(base=tiny_config, compare=compare, tune={"learning_rate": Choice(1e-3, 3e-3)}, repeat=2)
    folder = tmp_path / "results" / "heads_vs_layers"
    pipeline.run(make_plan(folder.name, "Heads or layers?", space, "corpus"), folder, pipeline.Machine(serial=True), Console(quiet=True))
    monkeypatch.chdir(tmp_path)
    found = runpy.run_path(str(DOCS / "example.py"))
    said = capsys.readouterr().out
    assert found["comparison"].verdict in said
    assert found["by_heads"].verdict in said
    assert (found["by_heads"].source.compare, found["by_heads"].source.unit) == (("num_heads",), "bits/byte")
    table = pd.read_csv("comparison/comparison.csv")
    assert table["variant"].tolist() == found["comparison"].table["variant"].tolist()
    assert all(Path(name).is_file() for name in ("training_curves.png", "training_curves.pdf", "by_heads/report.html"))
