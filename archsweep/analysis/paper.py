"""What a paper needs of a sweep: what was trained, in a paragraph, and the references of the methods that were used."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

from archsweep.analysis.words import amount, plural, variants_text, words
from archsweep.config import bare_name

if TYPE_CHECKING:
    from collections.abc import Iterable

    import pandas as pd

    from archsweep.analysis.compare import Comparison
    from archsweep.analysis.source import BudgetRule


class Reference(NamedTuple):
    """A work: how a text cites it, as "Holm 1979", its entry in a list of references, and the word that uses it without citing."""

    cited: str
    entry: str
    word: str = ""


REFERENCES = (
    Reference(
        "Akiba et al. 2019",
        "Akiba, T., Sano, S., Yanase, T., Ohta, T., Koyama, M.: Optuna: a next-generation hyperparameter optimization framework. KDD 2019.",
    ),
    Reference(
        "Bergstra et al. 2011",
        "Bergstra, J., Bardenet, R., Bengio, Y., Kégl, B.: Algorithms for hyper-parameter optimization. NeurIPS 2011.",
    ),
    Reference(
        "Deb et al. 2002",
        "Deb, K., Pratap, A., Agarwal, S., Meyarivan, T.: A fast and elitist multiobjective genetic algorithm: NSGA-II. IEEE "
        "Transactions on Evolutionary Computation 6(2), 182-197, 2002.",
    ),
    Reference(
        "Efron 1987",
        "Efron, B.: Better bootstrap confidence intervals. Journal of the American Statistical Association 82(397), 171-185, 1987.",
        "BCa",
    ),
    Reference(
        "Friedman 1937",
        "Friedman, M.: The use of ranks to avoid the assumption of normality implicit in the analysis of variance. Journal of "
        "the American Statistical Association 32(200), 675-701, 1937.",
        "Friedman",
    ),
    Reference(
        "Golub and Pereyra 1973",
        "Golub, G. H., Pereyra, V.: The differentiation of pseudo-inverses and nonlinear least squares problems whose variables "
        "separate. SIAM Journal on Numerical Analysis 10(2), 413-432, 1973.",
    ),
    Reference(
        "Hoffmann et al. 2022",
        "Hoffmann, J., et al.: Training compute-optimal large language models. NeurIPS 2022, arXiv:2203.15556.",
    ),
    Reference(
        "Holm 1979",
        "Holm, S.: A simple sequentially rejective multiple test procedure. Scandinavian Journal of Statistics 6(2), 65-70, 1979.",
        "Holm",
    ),
    Reference("Kaplan et al. 2020", "Kaplan, J., et al.: Scaling laws for neural language models. arXiv:2001.08361, 2020.", "Kaplan"),
    Reference(
        "Li et al. 2020", "Li, L., et al.: A system for massively parallel hyperparameter tuning. MLSys 2020, arXiv:1810.05934.", "ASHA"
    ),
    Reference(
        "Liaw et al. 2018",
        "Liaw, R., Liang, E., Nishihara, R., Moritz, P., Gonzalez, J. E., Stoica, I.: Tune: a research platform for distributed "
        "model selection and training. arXiv:1807.05118, 2018.",
    ),
    Reference(
        "Loshchilov and Hutter 2019",
        "Loshchilov, I., Hutter, F.: Decoupled weight decay regularization. ICLR 2019, arXiv:1711.05101.",
    ),
    Reference(
        "Muennighoff et al. 2023",
        "Muennighoff, N., et al.: Scaling data-constrained language models. NeurIPS 2023, arXiv:2305.16264.",
    ),
    Reference(
        "Radford et al. 2019",
        "Radford, A., Wu, J., Child, R., Luan, D., Amodei, D., Sutskever, I.: Language models are unsupervised multitask "
        "learners. OpenAI, 2019.",
    ),
    Reference(
        "Schuirmann 1987",
        "Schuirmann, D. J.: A comparison of the two one-sided tests procedure and the power approach for assessing the "
        "equivalence of average bioavailability. Journal of Pharmacokinetics and Biopharmaceutics 15, 657-680, 1987.",
        "two one-sided tests",
    ),
    Reference(
        "Watanabe et al. 2023",
        "Watanabe, S., Bansal, A., Hutter, F.: PED-ANOVA: efficiently quantifying hyperparameter importance in arbitrary "
        "subspaces. IJCAI 2023, arXiv:2304.10255.",
        "PED-ANOVA",
    ),
    Reference(
        "Welch 1947",
        "Welch, B. L.: The generalization of 'Student's' problem when several different population variances are involved. "
        "Biometrika 34(1-2), 28-35, 1947.",
    ),
    Reference(
        "Wortsman et al. 2023",
        "Wortsman, M., et al.: Small-scale proxies for large-scale Transformer training instabilities. arXiv:2309.14322, 2023.",
    ),
)


def setup(comparison: Comparison) -> str:
    """What was trained, as a paper's methods section says it; each part only where the records have it."""
    source = comparison.source
    counted = f"{plural(source.results['variant'].nunique(), 'variant')} in {', '.join(map(bare_name, source.compare))}"
    each = " and ".join(filter(None, (_rates(comparison), _seeds(comparison.settings))))
    parts = [
        f"We compared {', '.join(filter(None, (counted, _trained(source.results), each)))}.",
        *_shared(comparison),
        _SCHEDULED if source.folder else "",
        _searched(comparison),
        f"{source.early_stopping} stopped variants that were behind." if source.early_stopping else "",
    ]
    return " ".join(part for part in parts if part)


_SCHEDULED = "Trials were run by archsweep, on Ray Tune (Liaw et al. 2018) or, with --serial, one after another."


def references(paragraphs: Iterable[str]) -> list[str]:
    """The entries of what the paragraphs cite, as "Holm 1979" or "Holm (1979)", or use by its name, in the list's order."""
    text = re.sub(r"\((\d{4})\)", r"\1", " ".join(paragraphs)).replace(",", "")
    return [work.entry for work in REFERENCES if work.cited in text or (work.word and work.word in text)]


def _trained(rows: pd.DataFrame) -> str:
    """The family of models and their optimizer, where every row says them: results that are not ours may be of anything."""
    families = sorted(rows["family"].dropna().unique())
    known = bool(families) and bool(rows["family"].notna().all())
    gpt2 = "GPT-2 language models (Radford et al. 2019)"
    what = f"as {gpt2 if families == ['gpt2'] else f'{_enumerated(families)} language models'}" if known else ""
    how = "with AdamW (Loshchilov and Hutter 2019)" if rows["betas"].notna().all() else ""  # whose decay rates these are
    return f"trained {' '.join(filter(None, (what, how)))}" if what or how else ""


def _rates(comparison: Comparison) -> str:
    """The learning rates, which need not be the same for all variants; peaks where a schedule is known."""
    tried, scheduler = comparison.settings, comparison.source.results["lr_scheduler_type"]
    rates = sorted(tried["learning_rate"].dropna().unique())
    if not rates:
        return ""
    counts = tried.groupby("variant")["learning_rate"].nunique()
    own = "" if (counts == len(rates)).all() else f"{_between(counts)} of "
    noun = "peak learning rate" if scheduler.notna().all() else "learning rate"
    return f"at {own}{plural(len(rates), noun)} ({', '.join(f'{rate:g}' for rate in rates)})"


def _seeds(tried: pd.DataFrame) -> str:
    """How many seeds a setting was planned with."""
    fewest, most = int(tried["planned"].min()), int(tried["planned"].max())
    return f"with {plural(most, 'seed')} each" if fewest == most else f"with {fewest} to {most} seeds each"


def _between(counts: pd.Series) -> str:
    fewest, most = int(counts.min()), int(counts.max())
    return f"{most}" if fewest == most else f"{fewest} to {most}"


def _shared(comparison: Comparison) -> list[str]:
    """The budget, the text and the batch, as far as all trials share them, and the budgets of a part of the variants."""
    rows, budgets = comparison.source.results, comparison.source.budgets
    held = {name: rows[name].dropna().iloc[0] for name in _SHARED if rows[name].nunique() == 1 and rows[name].notna().all()}
    told = [_budget(budget) for budget in budgets if budget.variants is None]
    told += [f"{held['max_tokens']:,} training tokens"] if "max_tokens" in held and "tokens" not in {each.kind for each in budgets} else []
    told += [f"a context of {held['context_length']} tokens"] if "context_length" in held else []
    told += [f"the text {held['dataset']}"] if "dataset" in held else []
    some = [f"{variants_text(len(each.variants), verb='')} shared {_budget(each)}" for each in budgets if each.variants is not None]
    return [f"{told_of}." for told_of in (f"All shared {_enumerated(told)}" if told else "", _enumerated(some) if some else "") if told_of]


def _budget(budget: BudgetRule) -> str:
    return f"{amount(budget.target)} {words(budget.kind)} (within {budget.tolerance:.1%})"


_SHARED = ("max_tokens", "context_length", "dataset")


def _searched(comparison: Comparison) -> str:
    rule = comparison.source.search
    if rule is None:
        return ""
    sampler = {"nsga2": " (Deb et al. 2002)", "tpe": " (Bergstra et al. 2011)"}.get(rule.sampler.lower(), "")
    goals = " and ".join(words(name) for name in rule.objectives)
    return f"The variants were chosen by the {rule.sampler} sampler{sampler} of Optuna (Akiba et al. 2019) to minimise {goals}."


def _enumerated(parts: list[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"
