"""The options that several commands share, and what commands end with."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

EXIT_FAILED, EXIT_USAGE, EXIT_ENVIRONMENT, EXIT_INTERRUPTED = 1, 2, 3, 130

SpaceName = Annotated[str, Parameter(help="a shipped search space (see `archsweep spaces`), or the path of your own .py file")]
SweepName = Annotated[str | None, Parameter(help="name of the results folder; the search space's by default")]
Results = Annotated[str, Parameter(help="where sweeps are kept: a folder, or a store's URI as s3://BUCKET/PATH")]
Settings = Annotated[
    list[str] | None,
    Parameter(name="--set", negative="", consume_multiple=False, help="a field of the base as FIELD=VALUE; may be repeated"),
]
Base = Annotated[Literal["tiny", "small", "gpt2"] | None, Parameter(help="ask the same question of another base; the budget follows")]
Cache = Annotated[Path | None, Parameter(env_var="ARCHSWEEP_CACHE", help="where tokenized corpora are kept [default: ~/.cache/archsweep]")]
KeepModels = Annotated[
    Literal["best", "all", "none"], Parameter(help="of each finished trial: the best replica's model, every replica's, or no model")
]
Track = Annotated[
    list[Literal["wandb", "mlflow"]] | None,
    Parameter(negative="", consume_multiple=False, help="tell it too, beside TensorBoard's files; may be repeated"),
]
Sweep = Annotated[str, Parameter(help="the sweep's name, or its folder")]
Smoke = Annotated[bool, Parameter(negative="", help="the same path, small: see in under a minute that it works")]
Processors = Annotated[int | None, Parameter(help="processors to use; each trial takes one")]
Gpus = Annotated[int | None, Parameter(help="GPUs to use; trials share them")]
Address = Annotated[str | None, Parameter(help="a running Ray cluster, as HOST:PORT or auto")]
Dashboard = Annotated[str, Parameter(help="the cluster's dashboard, as http://127.0.0.1:8265 or https://HOST")]
SubmittedTo = Annotated[str | None, Parameter(help="of a submitted sweep: the cluster's dashboard, as http://127.0.0.1:8265")]
Insecure = Annotated[bool, Parameter(name="--insecure-no-auth", negative="", help="let in a cluster that answers without a token")]
Serial = Annotated[bool, Parameter(negative="", help="train in this process, without Ray")]
Runner = Annotated[str | None, Parameter(help="what trains the trials instead of Ray: a function of yours, package.module:function")]
Json = Annotated[bool, Parameter(name="--json", negative="", help="print the plan as JSON and nothing else")]
Price = Annotated[float | None, Parameter(help="of a GPU (without one: a processor) for an hour; the plan then tells what the sweep costs")]
Detect = Annotated[str | None, Parameter(help="a difference that matters, as 0.5% of the loss or 0.02 nats/token: are there seeds enough?")]
Measure = Annotated[bool, Parameter(negative="", help="train each shape for a few seconds first, so that the plan can tell the time")]
Yes = Annotated[bool, Parameter(name=["--yes", "-y"], negative="", help="do not ask before more than an hour, or more money than 10")]
Extend = Annotated[bool, Parameter(negative="", help="add to the sweep's folder what this plan asks for beyond it")]
RetryFailed = Annotated[bool, Parameter(help="train again what failed")]
Fresh = Annotated[bool, Parameter(negative="", help="train also what another sweep of the same results has finished")]
CheckpointSeconds = Annotated[float, Parameter(help="how often a trial saves itself")]
CHECKPOINT_SECONDS = 60.0
