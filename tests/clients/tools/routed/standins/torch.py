"""What guidellm uses of torch, which is gigabytes: an iterator over its prompts, and a generator that it only seeds."""

import sys
from types import ModuleType
from typing import Generic, TypeVar

Item = TypeVar("Item")


class IterableDataset(Generic[Item]):
    pass


class DataLoader(Generic[Item]):
    """One item at a time, without workers."""

    def __init__(self, dataset, *, collate_fn, **_) -> None:
        self.dataset = dataset
        self._collate = collate_fn

    def __iter__(self):
        return (self._collate([item]) for item in self.dataset)


class Tensor:
    """Nothing is one, and nothing is a Module: `datasets` looks."""


class Generator:
    def manual_seed(self, _: int) -> None:
        pass


def module(name: str, **members) -> ModuleType:
    made = ModuleType(name)
    made.__dict__.update(members)
    sys.modules[name] = made
    return made


nn = module("torch.nn", Module=type("Module", (), {}))
dataset = module("torch.utils.data.dataset", IterableDataset=IterableDataset)
dataloader = module("torch.utils.data.dataloader", DataLoader=DataLoader)
data = module("torch.utils.data", dataset=dataset, dataloader=dataloader, get_worker_info=lambda: None)
utils = module("torch.utils", data=data)
__path__: list[str] = []
