"""How much memory a checkpoint's editing and auditing take: `python benchmarks/weights.py [FOLDER]`.

A random checkpoint of 2 GB (1.0 billion weights in bfloat16, Llama's names, tied embeddings, five shards) is made
tensor by tensor below FOLDER, or the folder for temporary files; it needs 6 GB there, which are freed at the end. One
process copies it and projects a direction out of it, one audits the pair, one undoes the edit. Anonymous memory is read
from /proc every 5 ms; Python and torch are included. On two shared cores, torch on one thread, idle (and busy):

    edit   15 s (50)  384 MiB (372)  45 tensors changed
    audit  21 s (75)  478 MiB (491)  an ablation: 0.9948 of the change explained, 0.0084 left, |cosine| 0.99998
    undo    8 s (32)  342 MiB (342)  every tensor is the base's again
"""

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch

from steer_tools.weights.shards import INDEX, NewTensor, write_file

WIDTH, INNER, KEYS, LAYERS, VOCABULARY = 2048, 5632, 256, 22, 32_000
SHARDS = 5

MEASURED = """
import json, sys, threading, time
from pathlib import Path
import torch
torch.set_num_threads(1)

def anonymous():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon")) / 1024

most, is_over = 0.0, threading.Event()
def watch():
    global most
    while not is_over.wait(0.005):
        most = max(most, anonymous())
watching = threading.Thread(target=watch)
watching.start()
start, root = time.perf_counter(), Path(sys.argv[1])
said = {}
BODY
seconds = time.perf_counter() - start
is_over.set()
watching.join()
print(json.dumps({"seconds": round(seconds, 1), "MiB": round(most), **said}))
"""
EDIT = """
from steer_tools.weights.checkpoints import copy_checkpoint, edit_checkpoint
from steer_tools.weights.tensor_edits import CheckpointEdits, ProjectedOut
from steer_tools.weights.shards import find_tensors
(root / "edited").mkdir()
copy_checkpoint(root / "base", root / "edited")
along = torch.nn.functional.normalize(torch.randn(2048, generator=torch.Generator().manual_seed(1)).double(), dim=0)
torch.save(along, root / "along.pt")
embedding = "model.embed_tokens.weight"
writers = [name for name in find_tensors(root / "edited") if "o_proj" in name or "down_proj" in name]
changed = {embedding: ProjectedOut(1, along)} | {name: ProjectedOut(0, along) for name in writers}
edits = CheckpointEdits(changed, copies={"lm_head.weight": embedding}, config={"tie_word_embeddings": False})
edit_checkpoint(root / "edited", edits)
said = {"changed": len(changed)}
"""
AUDIT = """
from steer_tools import audit_checkpoint, load_vector
from steer_tools.session.session import current_session
from steer_tools.workspace import Workspace
current_session().workspace = Workspace(root)
result = audit_checkpoint("edited", "base")
(finding,) = result["findings"]
found = load_vector(finding["vector_path"]).directions[0].double()
said = {name: result[name] for name in ("verdict", "equal", "differing", "stand_ins")}
said |= {name: finding[name] for name in ("explained", "left")}
said["cosine"] = round(abs(float(found @ torch.load(root / "along.pt"))), 6)
"""
UNDO = """
from steer_tools.weights.checkpoints import undo_edited_model
from steer_tools.weights.shards import find_tensors
undo_edited_model(root / "edited")
ours, theirs = (find_tensors(root / name) for name in ("base", "edited"))
assert ours.keys() == theirs.keys()
said = {"equal": all(a == b for n in ours for a, b in zip(ours[n].chunks(), theirs[n].chunks(), strict=True))}
"""


def shapes() -> dict[str, tuple[int, ...]]:
    """Return the shapes of a Llama with tied embeddings."""
    found: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (VOCABULARY, WIDTH),
        "model.norm.weight": (WIDTH,),
    }
    for layer in range(LAYERS):
        parts = {
            "self_attn.q_proj": (WIDTH, WIDTH),
            "self_attn.k_proj": (KEYS, WIDTH),
            "self_attn.v_proj": (KEYS, WIDTH),
            "self_attn.o_proj": (WIDTH, WIDTH),
            "mlp.gate_proj": (INNER, WIDTH),
            "mlp.up_proj": (INNER, WIDTH),
            "mlp.down_proj": (WIDTH, INNER),
            "input_layernorm": (WIDTH,),
            "post_attention_layernorm": (WIDTH,),
        }
        found |= {f"model.layers.{layer}.{part}.weight": shape for part, shape in parts.items()}
    return found


def random_chunks(shape: tuple[int, ...], seed: int) -> Iterator[bytes]:
    """Yield the bytes of a random tensor, about 8 MiB at once."""
    generator = torch.Generator().manual_seed(seed)
    rows = max(1, 2**22 // (shape[1] if len(shape) > 1 else 1))
    for start in range(0, shape[0], rows):
        part = torch.randn(min(rows, shape[0] - start), *shape[1:], generator=generator) * 0.02
        yield part.bfloat16().view(torch.int16).numpy().tobytes()


def make(folder: Path) -> int:
    """Write the checkpoint and return its size in bytes."""
    folder.mkdir()
    config = {
        "model_type": "llama",
        "architectures": ["LlamaForCausalLM"],
        "hidden_size": WIDTH,
        "intermediate_size": INNER,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": 32,
        "num_key_value_heads": 4,
        "vocab_size": VOCABULARY,
        "tie_word_embeddings": True,
    }
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    named = list(shapes().items())
    weight_map: dict[str, str] = {}
    for shard in range(SHARDS):
        file = f"model-{shard + 1:05}-of-{SHARDS:05}.safetensors"
        tensors = {
            name: NewTensor("BF16", shape, 2 * torch.Size(shape).numel(), random_chunks(shape, i))
            for i, (name, shape) in enumerate(named)
            if i % SHARDS == shard
        }
        write_file(folder / file, tensors, {"format": "pt"})
        weight_map |= dict.fromkeys(tensors, file)
    index = {"metadata": {}, "weight_map": weight_map}
    (folder / INDEX).write_text(json.dumps(index), encoding="utf-8")
    return sum(path.stat().st_size for path in folder.glob("*.safetensors"))


def main() -> None:
    """Make, edit, audit and undo."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(dir=sys.argv[1] if len(sys.argv) > 1 else None) as folder:
        print(f"made {make(Path(folder) / 'base') / 1e9:.2f} GB", flush=True)
        for name, body in {"edit": EDIT, "audit": AUDIT, "undo": UNDO}.items():
            command = [sys.executable, "-c", MEASURED.replace("BODY", body), folder]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            print(name, done.stdout.strip(), flush=True)


if __name__ == "__main__":
    main()
