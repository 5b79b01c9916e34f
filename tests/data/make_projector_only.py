"""Writes projector_only.pt as torch.save does: a zip with a pickle and one raw storage per tensor.

torch itself is not needed: stand-in modules give its classes their names. The values are 0.00, 0.01, 0.02, … in the
order of SHAPES. Usage: make_projector_only.py projector_only.pt"""

import io
import pickle
import struct
import sys
import types
import zipfile
from collections import OrderedDict
from math import prod

SHAPES = {
    "net.0.g": (3,), "net.0.b": (3,), "net.1.weight": (4, 3), "net.1.bias": (4,),
    "net.4.weight": (4, 4), "net.4.bias": (4,), "net.5.g": (4,), "net.5.b": (4,),
}

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
for key, (name, shape) in enumerate(SHAPES.items()):
    count = prod(shape)
    storages[str(key)] = struct.pack(f"<{count}f", *((first + i) * 0.01 for i in range(count)))
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
