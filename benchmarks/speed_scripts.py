"""Ways of `speed_works` that run in a process of their own, in this version of the project or another checkout."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

_COMPILED = Path(tempfile.mkdtemp())


@dataclass(frozen=True)
class Measured:
    """What a way cost, where it ran in another process or the cost is no time."""

    value: Any
    cost: float


@dataclass(frozen=True)
class Script:
    """A way: Python that prints what it found and cost; `path` is where modules are looked for first."""

    text: str
    arguments: tuple[str, ...] = ()
    path: str = ""

    def __call__(self) -> Measured:
        """Run it."""
        told = json.loads(output("-c", self.text, *self.arguments, path=self.path).splitlines()[-1])
        return Measured(told["value"], told["cost"])

    def at(self, checkout: Path) -> Script:
        """Return the same of another checkout."""
        return replace(self, path=str(checkout.resolve()))


def output(*arguments: str, path: str = "") -> str:
    """Return what Python prints; what it compiles is kept, so that each start but the first finds it."""
    kept = {"PYTHONDONTWRITEBYTECODE": "", "PYTHONPYCACHEPREFIX": str(_COMPILED)}
    environment = {**os.environ, **kept, **({"PYTHONPATH": path} if path else {})}
    command = [sys.executable, *arguments]
    return subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True).stdout


_MEMORY = """
import json, sys
from pathlib import Path
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
torch.set_num_threads(1)
def most():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) * 1024
model = AutoModelForCausalLM.from_pretrained(sys.argv[1], dtype=torch.float32).eval()
tokenizer, ids, completion = AutoTokenizer.from_pretrained(sys.argv[1]), json.loads(sys.argv[2]), [30, 40, 50]
seeded = torch.Generator().manual_seed(0)
deltas = torch.nn.functional.normalize(torch.randn(60, model.config.hidden_size, generator=seeded))
"""
_TOLD = """
print(json.dumps({"value": value, "cost": (most() - before) / 1e9}))
"""
# Writing 5 there makes the most memory so far the memory of now.
_FROM_HERE = """
Path("/proc/self/clear_refs").write_text("5")
before = most()
"""
SCORE_60 = f"""{_MEMORY}
from steer_tools import attach_model
from steer_tools.core.interventions import Add
from steer_tools.core.plan import Placement
from steer_tools.core.site import Site
from steer_tools.engines.base import Row
from steer_tools.prompts import TokenPrompt
from steer_tools.session.session import current_session
attach_model(model, tokenizer)
engine = current_session().engine
layers = [i * len(model.model.layers) // 60 for i in range(60)]
plans = [(Placement(Add(own), Site(layer), 20.0),) for layer, own in zip(layers, deltas, strict=True)]
rows = [Row(TokenPrompt(tuple(ids)), plan) for plan in plans]
engine.score(rows[:1], [completion])
{_FROM_HERE}
value = [float(own.sum()) for own in engine.score(rows, [completion] * 60)]
{_TOLD}"""
SCORE_ONE = f"""{_MEMORY}
def add(module, inputs, output):
    output[:, len(ids) - 1 :] += 20 * deltas[0]
whole = torch.tensor([[*ids, *completion]])
{_FROM_HERE}
with torch.inference_mode():
    hook = model.model.layers[0].register_forward_hook(add)
    log_probs = model(whole).logits[0, len(ids) - 1 : -1].log_softmax(-1)
    value = [float(log_probs.gather(1, torch.tensor(completion)[:, None]).sum())]
{_TOLD}"""

EXPERIMENT = """
import json, os, resource, sys, tempfile
import torch
torch.set_num_threads(1)
os.environ["STEER_TOOLS_WORKSPACE"] = tempfile.mkdtemp()
from steer_tools import load_model, steering_experiment
load_model(sys.argv[1])
before = resource.getrusage(resource.RUSAGE_SELF)
found = steering_experiment(sys.argv[2], save_folder="experiment")
after = resource.getrusage(resource.RUSAGE_SELF)
cost = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
value = [found["verdict"], found["best_layer"], found["best_strength"]]
print(json.dumps({"value": value, "cost": cost}))
"""
