"""Writes expanded.pt: a view of 100,000 values of a storage that has one, as `torch.zeros(1).expand(100000)` is saved.

By the stand-ins of make_projector_only.py. Usage: make_expanded.py expanded.pt"""

import io
import runpy
import sys
import tempfile
import zipfile
from collections import OrderedDict
from pathlib import Path

target = sys.argv[1]
with tempfile.TemporaryDirectory() as folder:
    sys.argv[1] = str(Path(folder) / "projector_only.pt")
    made = runpy.run_path(str(Path(__file__).with_name("make_projector_only.py")))


class Expanded(made["Tensor"]):
    def __reduce__(self):
        return made["_rebuild_tensor_v2"], (self.storage, 0, self.shape, (0,), False, OrderedDict())


pickled = io.BytesIO()
made["Pickler"](pickled, 2).dump(OrderedDict(bias=Expanded(made["Storage"]("0", 1), (100_000,))))
with zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as file:
    file.writestr("expanded/data.pkl", pickled.getvalue())
    file.writestr("expanded/byteorder", "little")
    file.writestr("expanded/version", "3\n")
    file.writestr("expanded/data/0", bytes(4))
