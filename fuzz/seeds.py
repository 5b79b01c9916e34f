"""Writes the first inputs of every fuzz target: corpus/<target>/…, from the experiments, the fixtures and by hand.

Usage, in any folder: python3 fuzz/seeds.py"""

import io
import json
import pickle
import runpy
import struct
import tarfile
import zipfile
import zlib
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parent
FIXTURES = ROOT / "tests/fixtures"
SEPARATOR = b"\n%%%%\n"


def seed(target, name, *parts):
    folder = HERE / "corpus" / target
    folder.mkdir(parents=True, exist_ok=True)
    joined = SEPARATOR.join(part.encode() if isinstance(part, str) else part for part in parts)
    (folder / f"seed-{name}").write_bytes(joined)


# Experiments. Paths need not exist: what a target loads must be good to its end, so data and models lie at `/dev`.
for path in sorted((ROOT / "experiments").glob("*.toml")):
    text = path.read_text()
    for known in ("assets/one-clause-language", "real/", "social-judgments"):
        text = text.replace(known, "/dev")
    seed("experiment", path.stem, text)
notes = """name = "n"
extends = "base.toml"
[stages.b]
kind = "note"
text = "b"
after = "stage:a"
[axes.x]
to = ["b.text"]
values = ["c", "d"]
[axes.y.values]
one = { "a.text" = "e" }
two = {}
[ablations.z]
set = { "b.text" = "z" }
over_axis = true
where = { x = "c" }
[ablations.both]
combine = ["z"]
[exclude.w]
where = { x = ["d"], ablation = "base" }
[profiles.p.run]
jobs = 2
[run]
targets = ["b"]
device = "cpu"
"""
seed("experiment", "notes", notes, '[stages.a]\nkind = "note"\ntext = "a"\n')
seed("experiment", "data", """name = "d"
protocol = "paper-2025"
[data.x]
path = "/dev"
[data.h]
path = "/dev"
[models.m]
hub = "google/gemma-3-270m"
revision = "main"
[stages.split]
kind = "split"
clips = "data:x"
method = "lists"
ids = { test = ["a", "b"], train = ["c"] }
[stages.embed]
kind = "embed"
text = "data:x"
language = "model:m"
inject = "none"
[stages.rsa]
kind = "rsa"
embeddings = "stage:embed"
human = "data:h"
pool = "all"
[axes.pool]
to = "rsa.pool"
values = ["all", "eos", "only_soc"]
[tables.t]
value = ["rsa.spearman"]
rows = "pool"
[tables.t.published.a]
where = { pool = "all" }
value = 0.5
tolerance = 1e-3
""")
seed("experiment", "command", """name = "c"
[data.x]
path = "/dev"
[stages.run]
kind = "command"
command = ["{input:program}", "--rate={value:rate}", "{output}", "{output:a.csv}", "{{{scratch}}}", "{device}"]
version = "1"
inputs = { program = "data:x" }
values = { rate = 0.5 }
outputs = ["a.csv", "frames/"]
gives = ["text", "frames"]
environment = { A = "b" }
pass = ["HOME"]
grace = 5
[stages.note]
kind = "note"
text = "a"
after = "stage:run"
[axes.rate]
to = "run.values.rate"
values = [1, 2.5, "x", true]
""")
seed("layers", "all", "note.text=x\nsplit.test=0.25\nrun.jobs=2\naxes.text.values=[\"a\"]\n'split'.\"val\" = 1e-1",
     "SOCTOK_RUN__STORE=x\nSOCTOK_STAGES__SPLIT__TEST=0.5\nSOCTOK_NAME=y", "small")

manifest = "split,clip_id,frame_path,t_sec,group\n"
seed("manifest", "all", manifest + "train,a,0.png,0,g\ntrain,a,f.npy#1,1.5,g\ntest,b,p.safetensors#x#1,0,\ntest,b,e.npy#0,1e0,\n")
captions = "clip_id,caption_index,caption,split,group,pos,oracle_text\n"
table = "clip_id,split,group\na,test,g\nb,train,h\n"
rows = "a,1,two dogs,test,g,NUM NOUN,red\na,2,\"a, dog \",,,,\nb,1,one cat,train,h,,\n"
seed("captions", "all", captions + rows, table)
seed("captions", "two", "clip_id,caption\na,a dog\na,a cat\nb,a \xe9\n", table)
seed("split", "frames", manifest + "train,a,0.png,0,g\ntest,b,0.png,0,h\n", table)
seed("split", "captions", captions + rows, table)

line = {"clip_id": "a", "split": "train", "group": "s", "captions": False, "utterances": [
    {"text": "he is. it is", "speaker": "A", "start": 0.5, "end": 2, "oracle_text": "red", "eos_true_bits": 0.0,
     "words": [{"text": "he", "start": 0.5, "end": 1.0, "pos": "PRON", "true_bits": 2.5, "floor_bits": 1.0},
               {"text": "is", "content": True}, {"text": "it"}, {"text": "is"}]}]}
lines = json.dumps(line) + "\n" + json.dumps({"clip_id": "b", "utterances": [{"text": "yes, na\xefve"}]}) + "\n"
seed("transcripts", "lines", "\n" + lines)
for number, shape in enumerate([
    {"conversation_id": "c", "turns": [{"speaker": "A", "utterance": "Hello, you", "timestamp": 1.5}]},
    {"id": "V1", "metadata:transcript": [{"words": [{"word": "so", "start": 0.5, "end": 0.75}]}, {"text": "no", "start": 1}]},
    [{"word": "a", "begin": 0, "finish": 1}, {"token": "b"}], {"transcript": "plain"}, {"words": ["x", "y"]}, "text",
    {"segments": ["one", {"speaker": 3, "transcript": "two"}], "split": "test", "group": "g"},
]):
    seed("transcripts", f"json-{number}", json.dumps(shape))
# A conversation of the Seamless dataset, the same side as JSON lines, and a turn of the seed's transcripts.
seamless = {"id": "V00_S0809_I00000582_P0947", "metadata:vad": [{"start": 0.0, "end": 2.5}], "metadata:transcript": [
    {"start": 0.0, "end": 1.25, "transcript": "So, hi", "words": [
        {"word": "So,", "start": 0.0, "end": 0.4, "score": 0.9}, {"word": "hi", "start": 0.5, "end": None}]},
    {"start": 1.5, "end": 2.5, "transcript": "men talk", "words": [
        {"word": "men", "start": 2.0, "end": 1.5}, {"word": "talk", "start": 2.1, "end": 2.4}]}]}
side = [{"start": 0.0, "end": 1.0, "text": "Hello", "words": [{"word": "Hello", "start": -1.0, "end": 0.5}]},
        {"start": 1.0, "end": 2.0, "text": "na\xefve world", "speaker": 2}]
sides = "\n\n".join(map(json.dumps, side)) + "\n"
turns = {"conversation_id": "conv_001", "turns": [
    {"speaker": "A", "utterance": "Hello, you", "timestamp": 1.5, "frame_path": "f.jpg"}]}
seed("transcripts", "segments", "\n" + sides)
seed("dialogues", "both", json.dumps(seamless), sides, "so it\n goes ")
seed("dialogues", "turns", json.dumps(turns), "", "")
seed("dialogues", "lines", "", sides, "")


def npy(kind, shape, size, version=1):
    text = f"{{'descr': '{kind}', 'fortran_order': False, 'shape': {shape}, }}"
    head = b"\x93NUMPY" + bytes([version, 0])
    width = 2 if version == 1 else 4
    text += " " * (-(len(head) + width + len(text) + 1) % 64) + "\n"
    return head + len(text).to_bytes(width, "little") + text.encode() + bytes(range(size))


for kind, size in (("<f4", 4), ("<f8", 8), ("<i4", 4), ("<i8", 8), ("|u1", 1)):
    seed("npy", kind.strip("<|"), npy(kind, (2, 3), 6 * size))
seed("npy", "scalar", npy("<f4", (), 4))
seed("npy", "version-2", npy("<f4", (2,), 8, 2))
seed("npy", "empty", npy("<f4", (0, 4), 0))
for name, method in (("stored", zipfile.ZIP_STORED), ("deflated", zipfile.ZIP_DEFLATED)):
    held = io.BytesIO()
    with zipfile.ZipFile(held, "w", method) as file:
        file.writestr("all.last.npy", npy("<f4", (2, 3), 24))
        file.writestr("eos.0.npy", npy("<f4", (2,), 8))
    seed("npz", name, held.getvalue())


def safetensors(tensors, kind="F32"):
    size = {"F32": 4, "BF16": 2, "F16": 2, "F64": 8, "I32": 4}[kind]
    header, at = {"__metadata__": {"format": "pt"}}, 0
    for name, shape in tensors.items():
        count = size
        for length in shape:
            count *= length
        header[name] = {"dtype": kind, "shape": shape, "data_offsets": [at, at + count]}
        at += count
    text = json.dumps(header, separators=(",", ":"))
    text += " " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text.encode() + bytes(at)


projector = {"net.0.g": [2], "net.0.b": [2], "net.1.weight": [3, 2], "net.1.bias": [3], "net.4.weight": [3, 3],
             "net.4.bias": [3], "net.5.g": [3], "net.5.b": [3]}
mlp = {"fc1.weight": [3, 2], "fc1.bias": [3], "fc2.weight": [2, 3], "fc2.bias": [2]}
block = {"norm1.weight": [4], "norm1.bias": [4], "attn.qkv.weight": [12, 4], "attn.qkv.bias": [12],
         "attn.proj.weight": [4, 4], "attn.proj.bias": [4], "ls1.gamma": [4], "norm2.weight": [4], "norm2.bias": [4],
         "mlp.fc1.weight": [8, 4], "mlp.fc1.bias": [8], "mlp.fc2.weight": [4, 8], "mlp.fc2.bias": [4], "ls2.gamma": [4]}
timm = {"cls_token": [1, 1, 4], "pos_embed": [1, 5, 4], "patch_embed.proj.weight": [4, 3, 2, 2],
        "patch_embed.proj.bias": [4], "norm.weight": [4], "norm.bias": [4]}
timm.update({f"blocks.0.{name}": shape for name, shape in block.items()})
for name, tensors in (("projector", projector), ("mlp", mlp), ("timm", timm), ("part", {"x." + k: v for k, v in mlp.items()})):
    seed("safetensors", name, safetensors(tensors))
for kind in ("BF16", "F16", "F64", "I32"):
    seed("safetensors", kind.lower(), safetensors({"a": [2, 2]}, kind))

gemma = {"model_type": "gemma2", "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 1,
         "head_dim": 2, "hidden_size": 4, "intermediate_size": 4, "vocab_size": 6, "query_pre_attn_scalar": 2,
         "attn_logit_softcapping": 5.0, "final_logit_softcapping": 3.0, "sliding_window": 8, "rms_norm_eps": 1e-6,
         "layer_types": ["sliding_attention"], "max_position_embeddings": 256, "bos_token_id": 2, "eos_token_id": [1],
         "pad_token_id": 0, "rope_parameters": {"rope_theta": 10000.0, "rope_type": "default"},
         "tie_word_embeddings": True, "hidden_activation": "gelu_pytorch_tanh", "rope_scaling": None}
layer = {"self_attn.q_proj.weight": [4, 4], "self_attn.k_proj.weight": [2, 4], "self_attn.v_proj.weight": [2, 4],
         "self_attn.o_proj.weight": [4, 4], "mlp.gate_proj.weight": [4, 4], "mlp.up_proj.weight": [4, 4],
         "mlp.down_proj.weight": [4, 4], "input_layernorm.weight": [4], "post_attention_layernorm.weight": [4],
         "pre_feedforward_layernorm.weight": [4], "post_feedforward_layernorm.weight": [4]}
two = {"model.embed_tokens.weight": [6, 4], "model.norm.weight": [4]}
two.update({f"model.layers.0.{name}": shape for name, shape in layer.items()})
three = dict(two, **{f"model.layers.0.self_attn.{name}_norm.weight": [2] for name in "qk"})
index = json.dumps({"metadata": {}, "weight_map": {name: "one.safetensors" for name in two}})
seed("model", "gemma2", json.dumps(gemma), "", safetensors(two))
seed("model", "gemma2-shards", json.dumps(gemma), index, safetensors(two))
third = dict(gemma, model_type="gemma3_text", rope_local_base_freq=1e4, sliding_window_pattern=6)
del third["layer_types"]
seed("model", "gemma3", json.dumps(third), "", safetensors(three))
dino = {"model_type": "dinov2", "num_attention_heads": 2, "layer_norm_eps": 1e-6, "hidden_act": "gelu", "qkv_bias": True,
        "use_swiglu_ffn": False}
parts = {"embeddings.cls_token": [1, 1, 4], "embeddings.position_embeddings": [1, 5, 4], "embeddings.mask_token": [1, 4],
         "embeddings.patch_embeddings.projection.weight": [4, 3, 2, 2],
         "embeddings.patch_embeddings.projection.bias": [4], "layernorm.weight": [4], "layernorm.bias": [4]}
inner = {"norm1.weight": [4], "norm1.bias": [4], "attention.output.dense.weight": [4, 4],
         "attention.output.dense.bias": [4], "layer_scale1.lambda1": [4], "norm2.weight": [4], "norm2.bias": [4],
         "mlp.fc1.weight": [8, 4], "mlp.fc1.bias": [8], "mlp.fc2.weight": [4, 8], "mlp.fc2.bias": [4],
         "layer_scale2.lambda1": [4]}
for part in ("query", "key", "value"):
    inner[f"attention.attention.{part}.weight"], inner[f"attention.attention.{part}.bias"] = [4, 4], [4]
parts.update({f"encoder.layer.0.{name}": shape for name, shape in inner.items()})
seed("model", "dinov2", json.dumps(dino), "", safetensors(parts))
seed("model", "timm", json.dumps({"architecture": "vit"}), "", safetensors(timm))

seed("tokenizer", "words", (ROOT / "assets/one-clause-language/tokenizer.json").read_bytes(), "the red one")
seed("tokenizer", "pieces", (FIXTURES / "tokenizer.json").read_bytes(), "Two cooks share a na\xefve pan.")
model = {"type": "BPE", "vocab": {"a": 0, "b": 1, "ab": 2, "<unk>": 3}, "merges": [["a", "b"]], "unk_token": "<unk>",
         "byte_fallback": True, "fuse_unk": True}
small = {"version": "1.0", "truncation": None, "padding": None, "added_tokens": [
    {"id": 4, "content": "<s>", "single_word": False, "lstrip": True, "rstrip": False, "normalized": False, "special": True}],
    "normalizer": {"type": "Replace", "pattern": {"String": " "}, "content": "\u2581"},
    "pre_tokenizer": {"type": "Split", "pattern": {"Regex": "(?i:a+)|b"}, "behavior": "MergedWithPrevious", "invert": False},
    "post_processor": None, "decoder": {"type": "ByteFallback"}, "model": model}
seed("tokenizer", "bpe", json.dumps(small), "abab a")
small["model"] = {"type": "Unigram", "unk_id": 0, "vocab": [["<unk>", 0.0], ["a", -1.0], ["ab", -2.0]], "byte_fallback": False}
seed("tokenizer", "unigram", json.dumps(small), "abab a")
small["model"] = {"type": "WordLevel", "vocab": {"a": 0, "[UNK]": 1}, "unk_token": "[UNK]"}
small["pre_tokenizer"] = {"type": "Whitespace"}
seed("tokenizer", "level", json.dumps(small), "a b")


def png(width, height, depth, colour, row, palette=b"", interlace=0):
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    lines = b"".join(b"\x00" + bytes(row) for _ in range(height))
    head = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, interlace)
    middle = chunk(b"PLTE", palette) if palette else b""
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + middle + chunk(b"IDAT", zlib.compress(lines)) + chunk(b"IEND", b"")


seed("image", "rgb", png(32, 30, 8, 2, 96))
seed("image", "bits", png(32, 40, 1, 0, 4))
seed("image", "palette", png(30, 30, 8, 3, 30, bytes(range(9))))
seed("image", "alpha-16", png(28, 28, 16, 6, 28 * 8))
seed("image", "photo", (FIXTURES / "image/input.jpg").read_bytes())

triplets = "participant,clip_1,clip_2,clip_3,odd_one\n0,1,2,3,1\n0,2,3,a,3\n1,1,1,2,2\n"
seed("judgments", "triplets", triplets, "", "", "")
seed("judgments", "named", triplets.replace("clip_", "stim").replace("odd_one", "choice"), "index,clip_id\n1,a\n2,2\n3,3\na,1\n", "", "")
seed("judgments", "stimuli", "stim1_name,stim2_name,stim3_name,choice\n1,2,3,1\n", "", "clip_id\n1\n2\n3\na\n", "")
seed("judgments", "matrix", ",1,2,3\n1,1,0.5,\n2,0.5,1,0.25\n3,,0.25,1\n", "", "", "")
seed("judgments", "plain", "1,2,a\n1,0.5,0\n0.5,1,1e-1\n0,0.1,1\n", "", "", "")
trials = "".join(f"{i},{i % 6},{(i + 1 + i // 6) % 6},{(i + 3 + i // 9) % 6},{i % 6}\n" for i in range(30))
seed("judgments", "held-out", "participant,clip_1,clip_2,clip_3,odd_one\n" + trials, "", "clip_id\n0\n1\n2\n3\n4\n5\n", "",
     "clip_id,split\n0,test\n1,test\n2,test\n3,train\n4,train\n5,train\n")

seed("packs", "all", json.dumps({"dim": 2, "global_mode": "clip_mean", "parts_of_speech": True}),
     "clip_id,split,group,row\na,train,s,0\nb,,,1\n", "clip_id,utterance,word,frame,row\na,0,1,0,0\na,0,4,2 3,1\n",
     "clip_id,split,t_sec\na,train,0\na,train,1.5\nb,train,0\n", lines)
# The original's packs: of captions (numbers count spaCy's tokens), and of a dialogue.
said = "a woman touches a man's game controller"
header = "clip_id,key,global_vec,locals_npz,meta_pkl,n_locals,n_words,frames_dir,caption,status,error\n"
named = header + f"a,k,/x/0cc175b9c0f1b6a831c399e269772661_global.npy,/x/0cc175b9c0f1b6a831c399e269772661_locals.npz,,3,7,,{said},ok,\n"
tokens = ["a", "woman", "touches", "a", "man", "'s", "game", "controller"]
meta = {"clip_id": "a", "caption": said, "tokens": tokens, "locals_idx": [1, 4, 6], "locals_tokens": ["woman", "man", "game"]}
vector = npy("<f4", (2,), 8)
seed("original", "captions", named + "b,,,,,,,,,error,no frames\n", "1_woman\n4_man\n6_game\n7_controller", json.dumps(meta),
     vector, f"clip_id,caption\na,{said}\nb,other\n")
seed("original", "unnamed", "clip_id,global_vec,locals_npz\na,,\n", "0_he\n1_is", "", vector, f"clip_id,caption\na,he's a man\n")
timed = {"clip_id": "a", "words": [{"text": "he", "start": 0.5, "end": 1.0}]}
seed("original", "dialogue", header + "a,k,,,,,,,,ok,\n", "0_he", json.dumps(timed), vector, lines)
held = io.BytesIO()
with zipfile.ZipFile(held, "w", zipfile.ZIP_DEFLATED) as file:
    file.writestr("1_woman.npy", vector)
    file.writestr("4_man.npy", vector)
seed("original", "archive", named, held.getvalue(), "", vector, f"clip_id,caption\na,{said}\n")

# Folders of files, each with its name in its first line.
def folder(name, **files):
    seed("folder", name, *(path.encode() + b"\n" + (data if isinstance(data, bytes) else data.encode())
                           for path, data in files.items()))


wide = npy("<f4", (3, 2), 24)
folder("text", **{"captions.csv": captions + rows, "transcripts.jsonl": lines, "splits.csv": table,
                  "train/V00_S0809_I00000582_P0947.json": json.dumps(seamless),
                  "test/V00_S0809_I00000582_P0950.jsonl": sides, "triplets.csv": triplets, "rsm.csv": "a,b\n1,0\n0,1\n"})
picture = png(4, 3, 8, 2, 12)
folder("frames", **{"manifest.csv": "split,clip_id,frame_path,t_sec\ntrain,a,frames/a/frame_1.png,0\ntrain,b,none.png,x\n",
                    "frames/a/frame_1.png": picture, "frames/a/frame_2.jpg": picture, "frames/b/0001.png": picture[:60],
                    "a.mp4": "none"})
folder("vectors", **{"features/features.npy": wide, "features/frames.csv": "clip_id,split,t_sec\na,train,0\na,train,1.5\nb,train,0\n",
                     "packs/packs.json": json.dumps({"dim": 2, "global_mode": "clip_mean", "parts_of_speech": True}),
                     "packs/clips.csv": "clip_id,split,group,row\na,train,s,0\nb,,,1\n", "packs/global.npy": npy("<f4", (2, 2), 16),
                     "packs/locals.npy": npy("<f4", (2, 2), 16), "captions.csv": captions + rows,
                     "packs/locals.csv": "clip_id,utterance,word,frame,row\na,0,1,0,0\na,0,4,2 3,1\n",
                     "original/scene_packs_manifest.csv": named,
                     "original/0cc175b9c0f1b6a831c399e269772661_global.npy": vector})
commit = "0123456789abcdef0123456789abcdef01234567"
seed("lock", "one", f'[[model]]\nrepository = "google/gemma-2-2b"\nrevision = "main"\ncommit = "{commit}"\nfiles = ["config.json"]\n')
record = {"kind": "note", "key": "1", "identity": {"scheme": 1}, "settings": {"text": "a"},
          "inputs": {"after": {"reference": "stage:a", "path": "x", "digest": "00"}},
          "outputs": {"note.txt": {"blake3": "00" * 32, "bytes": 4}}, "output_digest": "00" * 32,
          "cost": {"seconds": 0.5, "peak_memory": 1, "device": "cpu"}, "provenance": {}}
seed("store", "all", json.dumps(record), json.dumps({"characters": 1}), json.dumps({"a": "00"}),
     f"1 2 3 4 5 {'00' * 32}\n", "host/boot/pid:[1] 12 34 0", json.dumps({"done": 1, "total": 2, "unit": "step"}), "note-1")

contents = {"format": 1, "soctok": "0.1.0", "artifacts": True, "runs": ["ab"], "links": {"n/base": "ab"},
            "comparisons": ["n"], "steps": [], "aliases": {}}
inputs = {"data:x": [{"path": "x", "digest": "00", "files": {"a": "00"}}]}
files = [json.dumps(contents), json.dumps(inputs), json.dumps({"run": "ab", "stages": {}}), "{}"]
seed("archive", "parts", *files, "", "model = []\n")
seed("archive", "step", json.dumps(dict(contents, steps=["note-1"])), *files[1:], json.dumps(record), "")
for name, method in (("stored", zipfile.ZIP_STORED), ("deflated", zipfile.ZIP_DEFLATED)):
    held = io.BytesIO()
    with zipfile.ZipFile(held, "w", method) as file:
        for path, text in zip(("archive.json", "inputs.json", "runs/ab/results.json", "comparisons/n"), files):
            file.writestr(path, text)
    seed("archive", name, held.getvalue())

# PyTorch's containers: the zip of the tests, and by the same stand-in classes the legacy stream, tar and a bare pickle.
made = runpy.run_path(str(ROOT / "tests/data/make_torch.py"))
state, storages = made["projector"]()
seed("torch", "zip", (ROOT / "tests/data/projector_only.pt").read_bytes())
for name in ("dino_student", "expanded"):
    seed("torch", name, (ROOT / f"tests/data/{name}.pt").read_bytes())
held = io.BytesIO()
for value in (0x1950A86A20F9469CFC6C, 1001, {"protocol_version": 1001, "little_endian": True, "type_sizes": {"short": 2, "int": 4, "long": 4}}):
    pickle.dump(value, held, 2)
made["Pickler"](held, 2).dump(state)
keys = sorted(storages)
pickle.dump(keys, held, 2)
for key in keys:
    held.write(struct.pack("<q", len(storages[key]) // 4) + storages[key])
seed("torch", "legacy", held.getvalue())
seed("torch", "pickle", pickle.dumps({"a": 1, "b": [1.5, None, True, "x", b"y"]}, 2))
seed("torch", "pickle-4", pickle.dumps({"state": {"a": (1, 2)}, "c": 2 ** 70}, 4))
held = io.BytesIO()
with tarfile.open(fileobj=held, mode="w", format=tarfile.USTAR_FORMAT) as file:
    for name, data in (("sys_info", pickle.dumps({"little_endian": True}, 2)), ("storages", pickle.dumps(0, 2)),
                       ("tensors", pickle.dumps(0, 2)), ("pickle", pickle.dumps({}, 2))):
        entry = tarfile.TarInfo(name)
        entry.size = len(data)
        file.addfile(entry, io.BytesIO(data))
seed("torch", "tar", held.getvalue())
