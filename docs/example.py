# %% [markdown]
# # From a sweep's records to an answer
#
# `make sweep` leaves `results/heads_vs_layers`. These cells read it, a cell at a time in an editor that knows `# %%`, or all at once:
# `python docs/example.py`. What every column says is in [columns.md](columns.md).

# %%
import archsweep

SWEEP = "results/heads_vs_layers"

# %% [markdown]
# A row per model that was planned, whatever became of it: failed and unfinished ones have their rows too.

# %%
results = archsweep.load(SWEEP)
print(results["status"].value_counts())
print(results.groupby(["num_layers", "num_heads", "learning_rate"])["val_loss"].agg(["mean", "std", "count"]))

# %% [markdown]
# A row per model and evaluation.

# %%
curves = archsweep.load_curves(SWEEP)
print(curves.pivot_table(index="tokens", columns="variant", values="val_loss", aggfunc="min"))

# %% [markdown]
# What may be said of it. The comparison prints as the report begins; its parts are dataframes.

# %%
comparison = archsweep.compare_experiments(SWEEP, "comparison")  # comparison/comparison.txt and .csv
print(comparison)
print(comparison.table[["variant", "mean", "sd", "n", "learning_rate", "difference", "low", "high", "holm_p", "verdict"]])
print(comparison.pairs.sort_values("holm_p").head())

# %% [markdown]
# Figures are matplotlib's: change them, save them, put them into a paper.

# %%
figure = archsweep.plot_training_curves(comparison, "training_curves.png")
figure.axes[0].set_title("Heads or layers?")
figure.savefig("training_curves.pdf")

# %% [markdown]
# A question of one's own about the same models: does the number of heads matter at all? Every dataframe of results can be compared, from
# anywhere, once its columns have their roles.

# %%
by_heads = archsweep.compare_experiments(
    results[results["num_layers"] == results["num_layers"].min()],
    compare=["num_heads"],
    tune=["learning_rate"],
    repeat="seed",
    metric="bits_per_byte",
)
print(by_heads.verdict)

# %%
print(archsweep.generate_summary_report(by_heads, "by_heads"))
