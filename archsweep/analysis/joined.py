"""Several sweeps as one: their variants side by side, where their losses can be compared."""

from __future__ import annotations

from dataclasses import replace
from itertools import chain
from typing import TYPE_CHECKING

import pandas as pd

from archsweep.analysis.words import amount, one_kind, words
from archsweep.config import NOT_CONTENT, label
from archsweep.errors import RecordError
from archsweep.records.files import IDENTITY, load_plan
from archsweep.records.schema import CONFIG, CURVES, RESULTS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from archsweep.analysis.source import BudgetRule, Source

# What decides the tokens that a loss is measured on, and how much of the text before them is seen.
_EVALUATION = ("tokenizer", "vocab_size", "validation_fraction", "context_length", "eval_tokens")
_CONTENT = [column.name for column in CONFIG if column.name not in NOT_CONTENT]


def join(sources: Sequence[Source]) -> Source:
    """One source of several sweeps' folders, with a row per replica even where two of them hold it.

    Variants are named by every field that one of the sweeps compares, and by their sweep where that leaves two of different configs alike.
    Raises RecordError where the sweeps do not share corpus, tokenizer and evaluation.
    """
    tags = _tags(sources)
    _refuse_unlike(sources, tags)
    compare = tuple(dict.fromkeys(chain.from_iterable(source.compare for source in sources)))
    results = _rows(sources, tags, compare)
    results["variant"] = pd.array(_variants(results, compare), dtype="string")
    curves = _curves(sources, tags, results)
    kept = _once(results)
    references = {source.reference for source in sources} & {None, *kept["variant"]}
    reference = references.pop() if len(references) == 1 else None  # where the sweeps differ, every pair is tested
    return replace(
        sources[0],
        name=" and ".join(tags),
        question=" ".join(dict.fromkeys(source.question for source in sources if source.question)),
        compare=compare,
        budgets=_budgets(sources, tags, results),
        refused=tuple(chain.from_iterable(source.refused for source in sources)),
        results=kept[list(dict.fromkeys([*(column.name for column in RESULTS), *compare]))],
        curves=curves,
        folder=None,
        command="; ".join(source.command for source in sources if source.command),
        search=None,
        early_stopping=" and ".join(dict.fromkeys(source.early_stopping for source in sources if source.early_stopping)),
        reference=reference,
        margin=min(source.margin for source in sources),
        notes=tuple(filter(None, _notes(sources, tags, results, kept, compare, reference))),
    )


def _tags(sources: Sequence[Source]) -> list[str]:
    """The sweeps' names; their folders where names are alike."""
    names = [source.name for source in sources]
    tags = [name if names.count(name) == 1 else str(source.folder) for name, source in zip(names, sources, strict=True)]
    if len(tags) < 2 or len(set(tags)) < len(tags):
        raise RecordError(f"Two different sweeps or more can be joined, got {', '.join(tags)}. The report of one is made by itself.")
    return tags


def _refuse_unlike(sources: Sequence[Source], tags: Sequence[str]) -> None:
    first, *others = sources
    for tag, other in zip(tags[1:], others, strict=True):
        for what in ("corpus", "metric", "compared budget", *_EVALUATION):
            ours, theirs = _values(first, what), _values(other, what)
            if ours != theirs:
                raise RecordError(
                    f"Sweeps that are joined must be measured on the same tokens, and their {what} differs: "
                    f"{', '.join(ours)} in {tags[0]}, {', '.join(theirs)} in {tag}. Losses are not comparable between them: run one again "
                    "with the other's."
                )


def _values(source: Source, what: str) -> list[str]:
    if what == "corpus":
        assert source.folder is not None, "only folders are joined"
        return [str(load_plan(source.folder)["corpus_id"])]
    if what in ("metric", "compared budget"):
        return [source.metric if what == "metric" else source.within or "none"]
    return sorted(map(str, source.results[what].dropna().unique()))


# ------------------------------------------------------------------------------------------------------------------------ the rows


def _rows(sources: Sequence[Source], tags: Sequence[str], compare: Sequence[str]) -> pd.DataFrame:
    """The rows of all sweeps; what one of them compares and another does not is a level too, and what both do of one kind."""
    fields = {column.name for column in RESULTS}
    own = [name for name in compare if name not in fields]
    as_they_are = [source.results.astype({name: object for name in own if name in source.results}) for source in sources]  # 1, not 1.0
    results = pd.concat([rows.assign(tag=tag) for rows, tag in zip(as_they_are, tags, strict=True)], ignore_index=True)
    return results.assign(**{name: one_kind(results[name].where(results[name].notna(), None)) for name in own})


def _variants(results: pd.DataFrame, compare: Sequence[str]) -> list[str]:
    named = results[[*compare, "tag"]]
    rows = named.astype(object).where(named.notna(), None).to_dict("records")
    names = [label({name: row[name] for name in compare}) for row in rows]
    configs = results[_CONTENT].astype("string").fillna("").agg("\n".join, axis=1)
    kinds = configs.groupby(pd.Series(names)).transform("nunique")
    return [f"{name} ({row['tag']})" if kind > 1 else name for name, row, kind in zip(names, rows, kinds, strict=True)]


def _once(results: pd.DataFrame) -> pd.DataFrame:
    """Of rows of one replica, the first that has finished, else the first."""
    finished_first = results.assign(later=results["status"] != "finished").sort_values("later", kind="stable")
    return finished_first.drop_duplicates(["variant", *IDENTITY]).drop(columns="later").sort_index().reset_index(drop=True)


def _curves(sources: Sequence[Source], tags: Sequence[str], results: pd.DataFrame) -> pd.DataFrame:
    curves = pd.concat([source.curves.assign(tag=tag) for source, tag in zip(sources, tags, strict=True)], ignore_index=True)
    variants = results[["tag", "trial_id", "variant"]].drop_duplicates(["tag", "trial_id"])
    curves = curves.drop(columns="variant").merge(variants, on=["tag", "trial_id"], how="left")
    return curves.drop_duplicates(["variant", *IDENTITY, "step"], ignore_index=True)[[column.name for column in CURVES]]


def _budgets(sources: Sequence[Source], tags: Sequence[str], results: pd.DataFrame) -> tuple[BudgetRule, ...]:
    """Every budget that was stated, each with the variants that it was stated for."""
    found: dict[BudgetRule, set[str]] = {}
    for source, tag in zip(sources, tags, strict=True):
        for budget in source.budgets:
            found.setdefault(budget, set()).update(results.loc[results["tag"] == tag, "variant"])
    everything = set(results["variant"])
    return tuple(budget._replace(variants=None if variants == everything else frozenset(variants)) for budget, variants in found.items())


# --------------------------------------------------------------------------------------------------------------- what must be said


def _notes(
    sources: Sequence[Source],
    tags: Sequence[str],
    results: pd.DataFrame,
    kept: pd.DataFrame,
    compare: Sequence[str],
    reference: str | None,
) -> list[str]:
    counts = [f"{tag} ({results.loc[results['tag'] == tag, 'variant'].nunique()} variants)" for tag in tags]
    twice = len(results) - len(kept)
    family = "tested and corrected together" if reference is None else f"tested against {reference} and corrected together"
    return [
        f"Joined from {' and '.join(counts)}: all {kept['variant'].nunique()} variants are one family, {family}.",
        f"{twice} replicas are in more than one of these sweeps and count once." if twice else "",
        _different_budgets(sources, tags),
        _different_fields(results, tags, compare),
        *(_partial(results, tag) for tag in tags),
        *(_searched(source, tag) for source, tag in zip(sources, tags, strict=True)),
    ]


def _different_budgets(sources: Sequence[Source], tags: Sequence[str]) -> str:
    if all(set(source.budgets) == set(sources[0].budgets) for source in sources):
        return ""
    stated = [f"{tag}: {' and '.join(map(_budget, source.budgets)) or 'none'}" for source, tag in zip(sources, tags, strict=True)]
    rule = "a variant that is off the other's is not compared with its variants"
    return f"The sweeps have different budgets ({'; '.join(stated)}), and {rule}."


def _budget(budget: BudgetRule) -> str:
    return f"{amount(budget.target)} {words(budget.kind)} ± {budget.tolerance:.1%}"


def _different_fields(results: pd.DataFrame, tags: Sequence[str], compare: Sequence[str]) -> str:
    """Fields that neither sweep varies and that are not the same in both."""
    found = []
    for name in _CONTENT:
        values = [results.loc[results["tag"] == tag, name].astype("string").fillna("None").unique() for tag in tags]
        if name not in compare and all(len(each) == 1 for each in values) and len({each[0] for each in values}) > 1:
            found.append(f"{name} ({', '.join(f'{each[0]} in {tag}' for each, tag in zip(values, tags, strict=True))})")
    return (
        f"The sweeps differ in what neither compares: {'; '.join(found)}. Differences between their variants may be due to that."
        if found
        else ""
    )


def _partial(results: pd.DataFrame, tag: str) -> str:
    statuses = results.loc[results["tag"] == tag, "status"]
    unfinished = int((statuses == "unfinished").sum())
    return f"{tag} is partial: {unfinished} of its {len(statuses)} replicas are unfinished." if unfinished else ""


def _searched(source: Source, tag: str) -> str:
    if source.search is None:
        return ""
    return f"{source.search.sampler} chose the variants of {tag} by these very losses, which makes its best look better than they are."
