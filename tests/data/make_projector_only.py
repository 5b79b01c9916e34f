"""Writes projector_only.pt as torch.save does: a zip with a pickle and one raw storage per tensor.

torch itself is not needed: stand-in modules give its classes their names. The i-th value in the order of `shapes` is
i / 100, or with widths ((37 · i) mod 101 − 50) / 100. Usage: make_projector_only.py projector_only.pt, and for the one of
tests/inputs.rs make_projector_only.py projector_tiny.pt 4 64"""

import io
import pickle
import struct
import sys
import types
import zipfile
from collections import OrderedDict
from math import prod

widths = [int(width) for width in sys.argv[2:]]
inner, outer = widths or (3, 4)
shapes = {
    "net.0.g": (inner,), "net.0.b": (inner,), "net.1.weight": (outer, inner), "net.1.bias": (outer,),
    "net.4.weight": (outer, outer), "net.4.bias": (outer,), "net.5.g": (outer,), "net.5.b": (outer,),
}


def value(index):
    return (37 * index % 101 - 50) / 100 if widths else index * 0.01


torch, utils = types.ModuleType("torch"), types.ModuleType("torch._utils")
FloatStorage = torch.FloatStorage = type("FloatStorage", (), {"__module__": "torch"})


def _rebuild_tensor_v2(*_):
    pass


_rebuild_tensor_v2.__module__ = "torch._utils"
utils._rebuild_tensor_v2 = _rebuild_tensor_v2
sys.modules.update({"torch": torch, "torch._utils": utils})


class Storage:
    def __init__(self, key, count):
        self.key, self.count = key, count


class Tensor:
    def __init__(self, storage, shape):
        self.storage, self.shape = storage, shape

    def __reduce__(self):
        stride = tuple(prod(self.shape[i + 1:]) for i in range(len(self.shape)))
        return _rebuild_tensor_v2, (self.storage, 0, self.shape, stride, False, OrderedDict())


class Pickler(pickle.Pickler):
    def persistent_id(self, item):
        return ("storage", FloatStorage, item.key, "cpu", item.count) if isinstance(item, Storage) else None


state, storages, first = OrderedDict(), {}, 0
for key, (name, shape) in enumerate(shapes.items()):
    count = prod(shape)
    storages[str(key)] = struct.pack(f"<{count}f", *(value(first + i) for i in range(count)))
    state["projector." + name] = Tensor(Storage(str(key), count), shape)
    first += count
pickled = io.BytesIO()
Pickler(pickled, 2).dump(state)
with zipfile.ZipFile(sys.argv[1], "w", zipfile.ZIP_STORED) as file:
    file.writestr("projector_only/data.pkl", pickled.getvalue())
    file.writestr("projector_only/byteorder", "little")
    file.writestr("projector_only/version", "3\n")
    for key, values in storages.items():
        file.writestr(f"projector_only/data/{key}", values)
