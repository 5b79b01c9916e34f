"""Writes dino_student.pt as the original's DINO training does with torch.save: `student_backbone` with keys
`backbone.<timm name>`, `student_head`, and the settings, nested in one dict.

torch itself is not needed: stand-in modules give its classes their names. A ViT of width 4, one block, patches of 14 and
images of 28 pixels; gains are 1, other values normal with deviation 0.5, drawn from the
tensor's number. Usage: make_dino_student.py dino_student.pt"""

import io
import math
import pickle
import random
import struct
import sys
import types
import zipfile
from collections import OrderedDict

WIDTH = 4
BACKBONE = {
    "cls_token": (1, 1, WIDTH), "pos_embed": (1, 5, WIDTH),
    "patch_embed.proj.weight": (WIDTH, 3, 14, 14), "patch_embed.proj.bias": (WIDTH,),
    "blocks.0.norm1.weight": (WIDTH,), "blocks.0.norm1.bias": (WIDTH,),
    "blocks.0.attn.qkv.weight": (3 * WIDTH, WIDTH), "blocks.0.attn.qkv.bias": (3 * WIDTH,),
    "blocks.0.attn.proj.weight": (WIDTH, WIDTH), "blocks.0.attn.proj.bias": (WIDTH,), "blocks.0.ls1.gamma": (WIDTH,),
    "blocks.0.norm2.weight": (WIDTH,), "blocks.0.norm2.bias": (WIDTH,),
    "blocks.0.mlp.fc1.weight": (4 * WIDTH, WIDTH), "blocks.0.mlp.fc1.bias": (4 * WIDTH,),
    "blocks.0.mlp.fc2.weight": (WIDTH, 4 * WIDTH), "blocks.0.mlp.fc2.bias": (WIDTH,), "blocks.0.ls2.gamma": (WIDTH,),
    "norm.weight": (WIDTH,), "norm.bias": (WIDTH,),
}
HEAD = {"mlp.0.weight": (6, WIDTH), "mlp.0.bias": (6,)}

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
        stride = tuple(math.prod(self.shape[i + 1:]) for i in range(len(self.shape)))
        return _rebuild_tensor_v2, (self.storage, 0, self.shape, stride, False, OrderedDict())


class Pickler(pickle.Pickler):
    def persistent_id(self, item):
        return ("storage", FloatStorage, item.key, "cpu", item.count) if isinstance(item, Storage) else None


storages = {}


def part(shapes, prefix):
    tensors = OrderedDict()
    for name, shape in shapes.items():
        key, count = str(len(storages)), math.prod(shape)
        drawn = random.Random(len(storages))
        gain = name.endswith("gamma") or "norm" in name and name.endswith("weight")
        values = [1.0 if gain else drawn.gauss(0, 0.5) for _ in range(count)]
        storages[key] = struct.pack(f"<{count}f", *values)
        tensors[prefix + name] = Tensor(Storage(key, count), shape)
    return tensors


state = {
    "student_backbone": part(BACKBONE, "backbone."),
    "student_head": part(HEAD, ""),
    "config": {"epochs": 100, "global_crops": 2, "out_dir": "runs/dino", "use_ema": True},
    "epoch": 99,
}
pickled = io.BytesIO()
Pickler(pickled, 2).dump(state)
with zipfile.ZipFile(sys.argv[1], "w", zipfile.ZIP_STORED) as file:
    file.writestr("dino_student/data.pkl", pickled.getvalue())
    file.writestr("dino_student/byteorder", "little")
    file.writestr("dino_student/version", "3\n")
    for key, values in storages.items():
        file.writestr(f"dino_student/data/{key}", values)
