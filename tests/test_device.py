"""What this machine trains on, named without torch as torch names it."""

from __future__ import annotations

import torch

from archsweep import device
from archsweep.training.precision import device_name


def test_the_device_is_named_as_records_name_it() -> None:
    assert device.processor_name() == device_name(torch.device("cpu"))
    assert [gpu.name for gpu in device.gpus()] == [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    assert device.processors() >= 1
