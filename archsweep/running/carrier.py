"""What travels between nodes that share no disk: a corpus to a trial, and what a trial keeps to the sweep's folder and back."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, NamedTuple

from archsweep.atomic import write_atomically
from archsweep.records.schema import CHECKPOINT_FOLDER, MODEL_FOLDER, MODELS_FOLDER
from archsweep.running.lock import LOCK_FILE
from archsweep.running.worker import Report, Storage, corpus_folder, receive_corpus, train_trial

if TYPE_CHECKING:
    from collections.abc import Generator, Mapping

    from archsweep.planning.plan import Trial
    from archsweep.running.recorder import Place

KEPT_FOLDERS = (CHECKPOINT_FOLDER, MODEL_FOLDER, MODELS_FOLDER)  # what a worker writes in a trial's folder; the records are the driver's

Files = dict[str, bytes]  # by their paths within a trial's folder
Stamps = dict[str, tuple[int, int]]  # the same files' times and sizes


class Keeper:
    """The driver's disk, for workers that do not see it: an actor on the driver's node."""

    def __init__(self, place: Place, storage: Storage) -> None:
        self._place, self._storage = place, storage
        self._corpora: dict[str, Any] = {}

    def corpus(self, corpus_id: str) -> list[Any]:
        """The corpus's files, as one object that Ray moves to a node once however many of its workers ask."""
        import numpy as np
        import ray

        if corpus_id not in self._corpora:
            paths = [path for path in corpus_folder(corpus_id, self._storage).iterdir() if path.is_file()]
            self._corpora[corpus_id] = ray.put({path.name: np.fromfile(path, np.uint8) for path in paths})
        return [self._corpora[corpus_id]]  # in a list, so that Ray hands over the reference and not what it refers to

    def kept(self, trial_id: str) -> Files:
        """What the trial has kept. Raises MachineError where the sweep's folder is no longer the one that the run began in."""
        with self._place.opened():
            folder = self._place.trials / trial_id
            return {name: (folder / name).read_bytes() for name in stamps(folder)}

    def keep(self, trial_id: str, changed: Files, names: set[str]) -> None:
        """Let the trial have kept the files of these `names`, of which the `changed` ones are given. Raises MachineError as `kept` does."""
        with self._place.opened():
            replace(self._place.trials / trial_id, changed, names)


class Carrier(NamedTuple):
    """How a worker reaches the trials' folders: by the disk, where it sees `home` with the driver's `mark`; else by the `keeper`."""

    home: Path
    mark: str = ""
    keeper: Any = None  # an actor handle of Keeper; None where every worker is on the driver's machine

    def train(self, trial: Trial, corpus_id: str, storage: Storage, threads: int, gpu_share: float) -> Generator[Report, None, None]:
        """As `train_trial`; what the trial needs is here before it begins, and what it keeps is there before it reports."""
        if self.keeper is not None:
            receive_corpus(corpus_id, storage, self._corpus)  # into this machine's cache, which a shared disk of results need not hold
        if self.keeper is None or self._shares_disk():
            yield from train_trial(trial, corpus_id, storage, threads, self.home / trial.id, gpu_share)
            return
        with TemporaryDirectory(prefix="archsweep-trial-") as scratch:
            folder = Path(scratch, trial.id)
            replace(folder, kept := self._ask("kept", trial.id), set(kept))
            reports = train_trial(trial, corpus_id, storage, threads, folder, gpu_share)
            sent = stamps(folder)
            try:
                for report in reports:
                    sent = self._send(folder, sent)
                    yield report
            finally:
                reports.close()  # which saves the trial where it has not ended
                self._send(folder, sent)

    def _shares_disk(self) -> bool:
        try:
            return (self.home.parent / LOCK_FILE).read_text() == self.mark
        except OSError:
            return False

    def _corpus(self, corpus_id: str) -> Mapping[str, memoryview]:
        import ray

        files: dict[str, Any] = ray.get(self._ask("corpus", corpus_id)[0])
        return {name: memoryview(content) for name, content in files.items()}

    def _send(self, folder: Path, sent: Stamps) -> Stamps:
        """Tell the keeper what has changed since the stamps `sent`; the new ones."""
        now = stamps(folder)
        if now != sent:
            changed = {name: (folder / name).read_bytes() for name, stamp in now.items() if sent.get(name) != stamp}
            self._ask("keep", folder.name, changed, set(now))
        return now

    def _ask(self, what: str, *arguments: object) -> Any:
        import ray

        return ray.get(getattr(self.keeper, what).remote(*arguments))


def make_carrier(place: Place, storage: Storage, keeps: bool) -> Carrier:
    """One for the sweep of which this process is the driver; with a keeper where it `keeps` for workers on other machines."""
    if not keeps:
        return Carrier(place.trials)
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    mark = (place.folder / LOCK_FILE).read_text()
    return Carrier(
        place.trials,
        mark,
        ray.remote(Keeper).options(num_cpus=0, max_restarts=-1, max_task_retries=-1, scheduling_strategy=here).remote(place, storage),
    )


def stamps(folder: Path) -> Stamps:
    """The files that a trial keeps in its folder, whole ones alone: drafts have names that begin with a dot."""
    paths = [path for kept in KEPT_FOLDERS for path in (folder / kept).rglob("*") if path.is_file() and not path.name.startswith(".")]
    return {path.relative_to(folder).as_posix(): ((status := path.stat()).st_mtime_ns, status.st_size) for path in sorted(paths)}


def replace(folder: Path, changed: Files, names: set[str]) -> None:
    """Make the files that are kept in `folder` those of `names`, with the `changed` ones' content; each is whole or not there."""
    for name in sorted(changed, key=lambda name: name.endswith(".json")):  # a checkpoint's JSON says that its tensors are there
        write_atomically(folder / name, changed[name])
    for name in set(stamps(folder)) - names:
        (folder / name).unlink(missing_ok=True)
