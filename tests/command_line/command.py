"""The command line as the tests call it, and a sweep that takes it seconds."""

from __future__ import annotations

from pathlib import Path

import pytest

import archsweep
from archsweep import cli

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
