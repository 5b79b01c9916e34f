"""Writes the files of these tests that torch.save would write: a zip with a pickle and one raw storage per tensor.

torch itself is not needed: stand-in modules give its classes their names. Usage: make_torch.py [FOLDER], the folder of this
file unless named; the same bytes every time."""

import io
import math
import pickle
import random
import struct
import sys
import types
import zipfile
from collections import OrderedDict
from pathlib import Path

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
    def __init__(self, storage, shape, stride=None):
        self.storage, self.shape = storage, shape
        self.stride = stride or tuple(math.prod(shape[i + 1:]) for i in range(len(shape)))

    def __reduce__(self):
        return _rebuild_tensor_v2, (self.storage, 0, self.shape, self.stride, False, OrderedDict())


class Pickler(pickle.Pickler):
    def persistent_id(self, item):
        return ("storage", FloatStorage, item.key, "cpu", item.count) if isinstance(item, Storage) else None


def stored(storages, shape, values):
    """A tensor of a storage of its own, which is added to `storages` (key → bytes)."""
    key, count = str(len(storages)), math.prod(shape)
    storages[key] = struct.pack(f"<{count}f", *values)
    return Tensor(Storage(key, count), shape)


def projector(inner=3, outer=4, value=lambda index: index * 0.01):
    """The original's projector, as projector_only.pt: the i-th value in the order of `shapes` is i / 100."""
    shapes = {
        "net.0.g": (inner,), "net.0.b": (inner,), "net.1.weight": (outer, inner), "net.1.bias": (outer,),
        "net.4.weight": (outer, outer), "net.4.bias": (outer,), "net.5.g": (outer,), "net.5.b": (outer,),
    }
    state, storages, first = OrderedDict(), {}, 0
    for name, shape in shapes.items():
        count = math.prod(shape)
        state["projector." + name] = stored(storages, shape, (value(first + i) for i in range(count)))
        first += count
    return state, storages


def projector_tiny():
    """One of the widths of tests/inputs.rs; the i-th value is ((37 · i) mod 101 − 50) / 100."""
    return projector(4, 64, lambda index: (37 * index % 101 - 50) / 100)


def dino_student():
    """What the original's DINO training keeps: `student_backbone` with keys `backbone.<timm name>`, `student_head`, and the
    settings, nested in one dict. A ViT of width 4, one block, patches of 14 and images of 28 pixels; gains are 1, other
    values normal with deviation 0.5, drawn from the tensor's number."""
    width = 4
    backbone = {
        "cls_token": (1, 1, width), "pos_embed": (1, 5, width),
        "patch_embed.proj.weight": (width, 3, 14, 14), "patch_embed.proj.bias": (width,),
        "blocks.0.norm1.weight": (width,), "blocks.0.norm1.bias": (width,),
        "blocks.0.attn.qkv.weight": (3 * width, width), "blocks.0.attn.qkv.bias": (3 * width,),
        "blocks.0.attn.proj.weight": (width, width), "blocks.0.attn.proj.bias": (width,), "blocks.0.ls1.gamma": (width,),
        "blocks.0.norm2.weight": (width,), "blocks.0.norm2.bias": (width,),
        "blocks.0.mlp.fc1.weight": (4 * width, width), "blocks.0.mlp.fc1.bias": (4 * width,),
        "blocks.0.mlp.fc2.weight": (width, 4 * width), "blocks.0.mlp.fc2.bias": (width,), "blocks.0.ls2.gamma": (width,),
        "norm.weight": (width,), "norm.bias": (width,),
    }
    head = {"mlp.0.weight": (6, width), "mlp.0.bias": (6,)}
    storages = {}

    def part(shapes, prefix):
        tensors = OrderedDict()
        for name, shape in shapes.items():
            drawn = random.Random(len(storages))
            gain = name.endswith("gamma") or "norm" in name and name.endswith("weight")
            values = [1.0 if gain else drawn.gauss(0, 0.5) for _ in range(math.prod(shape))]
            tensors[prefix + name] = stored(storages, shape, values)
        return tensors

    return {
        "student_backbone": part(backbone, "backbone."),
        "student_head": part(head, ""),
        "config": {"epochs": 100, "global_crops": 2, "out_dir": "runs/dino", "use_ema": True},
        "epoch": 99,
    }, storages


def expanded():
    """A view of 100,000 values of a storage that has one, as `torch.zeros(1).expand(100000)` is saved."""
    return OrderedDict(bias=Tensor(Storage("0", 1), (100_000,), (0,))), {"0": bytes(4)}


def save(path, name, state, storages):
    """Writes them under the folder `name` of the zip, with the date that torch gives every entry."""
    pickled = io.BytesIO()
    Pickler(pickled, 2).dump(state)
    entries = {"data.pkl": pickled.getvalue(), "byteorder": b"little", "version": b"3\n"}
    entries.update((f"data/{key}", values) for key, values in storages.items())
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as file:
        for entry, data in entries.items():
            file.writestr(zipfile.ZipInfo(f"{name}/{entry}"), data)


if __name__ == "__main__":
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent
    for made, name in ((projector, "projector_only"), (dino_student, "dino_student"), (expanded, "expanded")):
        save(folder / f"{name}.pt", name, *made())
    save(folder / "projector_tiny.pt", "projector_only", *projector_tiny())
