"""What is baked into weights does what the hooks did, in a process without this package, and comes out bit by bit."""

from __future__ import annotations

import itertools
import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, GPT2Model, LlamaConfig, LlamaForCausalLM

import steer_tools
from helpers.checkpoints import MODELS, random_direction, rebuilt, shard, with_random_vectors, with_tied_embeddings
from helpers.family_models import build
from helpers.small_models import LAYERS, NEGATIVE, POSITIVE, WIDTH, WORDS, make_model, make_tokenizer
from steer_tools import (
    SteeringVector,
    apply_steering_vector,
    create_steering_vector,
    load_vector,
    save_edited_model,
    save_vector,
    steering_status,
    undo_edited_model,
)
from steer_tools.core.conditions import Condition
from steer_tools.core.interventions import Add, Clamp, ProjectOut
from steer_tools.core.plan import Placement, Plan
from steer_tools.core.positions import Scope
from steer_tools.core.site import Site
from steer_tools.engines.base import Row, Sampling
from steer_tools.engines.facets import OutputParameter
from steer_tools.engines.huggingface.checkpoint import find_bias_flag, names_on_disk
from steer_tools.errors import ArgumentError, BakingError, LayerError, SteeringError, WorkspacePathError
from steer_tools.prompts import parse_prompts
from steer_tools.session.session import Session
from steer_tools.weights.bakeable_plans import Ablation, Addition, Baking, ablation_everywhere, read_plan, writing_sites
from steer_tools.weights.checkpoints import edit_checkpoint
from steer_tools.weights.saved_model import save_edited
from steer_tools.weights.shards import find_tensors
from steer_tools.weights.tensor_edits import CheckpointEdits, Increased, ProjectedOut
from steer_tools.workspace import Workspace

ALL = Scope(("all",))
HUNDRED = [" ".join(words) for words in itertools.islice(itertools.permutations(WORDS, 3), 0, 40_000, 400)]
NEW_TOKENS = 12

# Runs in a process of its own: folders and ids in, greedy tokens out.
READER = """
import json, sys
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

torch.set_num_threads(1)
texts, ends, count = json.load(open(sys.argv[1]))
answers = {}
for folder in sys.argv[2:]:
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    assert model.dtype == torch.float32
    ids = torch.tensor(tokenizer(texts).input_ids)
    rows = model.generate(
        ids, attention_mask=torch.ones_like(ids), do_sample=False,
        max_new_tokens=count, eos_token_id=ends, pad_token_id=0,
    )[:, ids.shape[1] :].tolist()
    answers[folder] = [row[: next((i for i, token in enumerate(row) if token in ends), count)] for row in rows]
assert not [name for name in sys.modules if name.startswith("steer_tools")]
print(json.dumps(answers))
"""


ADDED = ("llama", "llama with mlp_bias", "llama with attention_bias", "gpt2, tied")
ABLATED = ("llama", "llama, tied", "gpt2", "gpt2, tied", "mixtral", "qwen3_moe")


@pytest.fixture
def attach(empty_session: Session) -> Callable[[Any], Session]:
    def attach_it(model: Any) -> Session:
        empty_session.attach(model, make_tokenizer(), "tiny")
        return empty_session

    return attach_it


def plan_of(session: Session, kind: str, strength: float = 1.0) -> Plan:
    """An addition that changes texts, at two layers, or an ablation of a random direction."""
    engine: Any = session.engine
    direction = random_direction(engine.info.hidden_size)
    if kind == "ablation":
        return ablation_everywhere(direction, writing_sites(engine.find_writers()))
    added = [(1, 0.4 * strength), (2, -0.3 * strength)]
    return tuple(Placement(Add(direction), Site(layer), by, ALL) for layer, by in added)


def bake(session: Session, kind: str, folder: str = "baked") -> Any:
    return save_edited(session, folder, Baking(plan_of(session, kind), "a test"))


def greedy(session: Session, plan: Plan, texts: Sequence[str] = HUNDRED) -> list[list[int]]:
    rows = [Row(prompt, plan) for prompt in parse_prompts(list(texts))]
    return [list(one.tokens) for one in session.engine.generate(rows, Sampling(NEW_TOKENS))]


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def weights_of(folder: Path) -> dict[str, bytes]:
    """Every weight's bits."""
    found: dict[str, bytes] = {}
    for path in folder.glob("model*.safetensors"):
        found |= {name: tensor.view(torch.uint8).numpy().tobytes() for name, tensor in load_file(path).items()}
    return found


# The baked checkpoint


@dataclass(frozen=True)
class Case:
    """A model with something baked, and what the hooks on the unbaked one give."""

    folder: Path
    hooked: list[list[int]]
    unsteered: list[list[int]]


CASES = [*((name, "addition") for name in ADDED), *((name, "ablation") for name in ABLATED)]


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], Case]:
    made: dict[tuple[str, str], Case] = {}
    session = Session(Workspace(tmp_path_factory.mktemp("baked")))
    for name, kind in CASES:
        session.attach(MODELS[name](), make_tokenizer(), "tiny")
        folder = session.workspace.root / f"{name}-{kind}".replace(" ", "-")
        bake(session, kind, str(folder))
        made[name, kind] = Case(folder, greedy(session, plan_of(session, kind)), greedy(session, ()))
    session.detach()
    return made


@pytest.fixture(scope="module")
def answers(cases: dict[tuple[str, str], Case], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What a process that never heard of this package reads out of the folders."""
    folder = tmp_path_factory.mktemp("elsewhere")
    # The tokenizer's </s> and <end>.
    (folder / "texts.json").write_text(json.dumps([HUNDRED, [2, 3], NEW_TOKENS]), encoding="utf-8")
    command = [
        sys.executable,
        "-W",
        "ignore",
        "-c",
        READER,
        "texts.json",
        *(str(case.folder) for case in cases.values()),
    ]
    done = subprocess.run(
        command, cwd=folder, env={"OMP_NUM_THREADS": "1"}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_a_process_without_the_package_gets_the_hooked_models_tokens_on_100_prompts(
    name: str, kind: str, cases: dict[tuple[str, str], Case], answers: dict[str, Any]
) -> None:
    case = cases[name, kind]

    assert len(HUNDRED) == 100
    assert answers[str(case.folder)] == case.hooked
    assert sum(a != b for a, b in zip(case.hooked, case.unsteered, strict=True)) > 50


@pytest.mark.parametrize(
    ("family", "kind", "options"),
    [
        ("granite", "addition", {"residual_multiplier": 0.5, "embedding_multiplier": 3.0}),
        ("granite", "ablation", {"residual_multiplier": 0.5, "embedding_multiplier": 3.0}),
        ("gpt_neox", "addition", {"use_parallel_residual": True}),
        ("gpt_neox", "addition", {"use_parallel_residual": False}),
        ("opt", "ablation", {}),
        ("qwen2_moe", "ablation", {}),
        ("gpt_oss", "ablation", {}),
        ("dbrx", "ablation", {}),
        ("mamba", "ablation", {}),
    ],
)
def test_scaled_parallel_routed_and_recurrent_writers_are_baked_too(
    family: str, kind: str, options: dict[str, Any], attach: Callable[[Any], Session]
) -> None:
    model = build(family)

    proof = bake(attach(rebuilt(model, **options) if options else with_random_vectors(model)), kind).proof

    assert proof.difference < 1e-4
    assert proof.effect > 0.1
    assert proof.same_tokens == proof.prompts == 8


@pytest.mark.filterwarnings("ignore")  # accelerate's own, as in the tests of what it splits.
@pytest.mark.parametrize("kind", ["addition", "ablation"])
def test_a_model_that_lies_on_disk_is_baked_from_there(
    kind: str, attach: Callable[[Any], Session], tmp_path: Path
) -> None:
    with_tied_embeddings(make_model("llama")).save_pretrained(tmp_path / "source")
    parts = ["embed_tokens", "norm", "rotary_emb", *(f"layers.{layer}" for layer in range(LAYERS))]
    places = {f"model.{part}": "cpu" if part == "norm" else "disk" for part in parts} | {"lm_head": "disk"}
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "source", device_map=places).eval()
    assert model.model.embed_tokens.weight.is_meta

    saved = bake(attach(model), kind)

    assert saved.proof.difference < 2e-5
    assert saved.added == (1 if kind == "ablation" else 3 * LAYERS)


def test_a_llama_gets_zero_biases_everywhere_but_where_the_vector_is(attach: Callable[[Any], Session]) -> None:
    session = attach(make_model("llama"))

    saved = bake(session, "addition")

    tensors = {
        name: tensor
        for path in saved.folder.glob("model*")
        if path.suffix == ".safetensors"
        for name, tensor in load_file(path).items()
    }
    biases = {name: tensor for name, tensor in tensors.items() if name.endswith("bias")}
    assert (saved.changed, saved.added) == (2, 3 * LAYERS)
    assert set(biases) == {
        f"model.layers.{layer}.mlp.{part}_proj.bias" for layer in range(LAYERS) for part in ("gate", "up", "down")
    }
    assert {name for name, tensor in biases.items() if tensor.any()} == {
        "model.layers.1.mlp.down_proj.bias",
        "model.layers.2.mlp.down_proj.bias",
    }
    torch.testing.assert_close(biases["model.layers.1.mlp.down_proj.bias"], 0.4 * random_direction())
    assert json.loads((saved.folder / "config.json").read_text(encoding="utf-8"))["mlp_bias"] is True


def test_an_ablated_model_cannot_write_the_direction(attach: Callable[[Any], Session]) -> None:
    session = attach(with_tied_embeddings(make_model("gpt2")))
    along = random_direction() / random_direction().norm()

    folder = bake(session, "ablation").folder

    model = AutoModelForCausalLM.from_pretrained(folder)
    with torch.no_grad():
        streams = model(torch.tensor([[1, 9, 20, 31]]), output_hidden_states=True).hidden_states[:-1]
    assert max(float((stream @ along).abs().max()) for stream in streams) < 1e-5
    assert model.config.tie_word_embeddings is False
    # What reads the stream is as it was, the unembedding included, which had been the embedding's own matrix.
    before: Any = session.engine
    assert torch.equal(model.lm_head.weight, before.architecture.model.lm_head.weight)
    assert not torch.equal(model.transformer.wte.weight, model.lm_head.weight)


def test_additions_at_one_place_and_at_parts_are_summed(attach: Callable[[Any], Session]) -> None:
    session = attach(with_random_vectors(make_model("gpt2")))
    sites = [(Site(1), 0.3), (Site(1, "mlp"), 0.2), (Site(1, "attention"), -0.4), (Site(3), 0.1), (Site(3), 0.2)]
    plan = tuple(Placement(Add(random_direction()), site, by, ALL) for site, by in sites)

    saved = save_edited(session, "baked", Baking(plan, "a test"))

    assert saved.changed == 3
    assert saved.proof.difference < 2e-5


def test_a_model_in_half_precision_is_baked_within_a_stated_tolerance(attach: Callable[[Any], Session]) -> None:
    saved = bake(attach(make_model("llama", dtype=torch.bfloat16)), "ablation")

    assert 1e-3 < saved.proof.difference < saved.proof.tolerance
    assert {place.dtype for place in find_tensors(saved.folder).values()} == {"BF16"}


# From folders


@pytest.fixture
def load_from_folder(attach: Callable[[Any], Session], tmp_path: Path) -> Callable[..., Session]:
    def load(model: Any, *, sharded: bool = False) -> Session:
        folder = tmp_path / "source"
        model.save_pretrained(folder)
        if sharded:
            shard(folder)
        (folder / "notes.txt").write_text("not a part of the checkpoint", encoding="utf-8")
        return attach(AutoModelForCausalLM.from_pretrained(folder).eval())

    return load


@pytest.mark.parametrize("sharded", [False, True])
@pytest.mark.parametrize(
    ("name", "kind"),
    [("llama", "addition"), ("llama, tied", "ablation"), ("gpt2", "addition"), ("qwen3_moe", "ablation")],
)
def test_undoing_restores_every_bit(
    name: str, kind: str, sharded: bool, load_from_folder: Callable[..., Session], tmp_path: Path
) -> None:
    session = load_from_folder(MODELS[name](), sharded=sharded)
    before = contents(tmp_path / "source")
    saved = bake(session, kind)
    baked = weights_of(saved.folder)

    undone = undo_edited_model(saved.folder)

    after = contents(saved.folder)
    assert {file: after[file] for file in before if file != "notes.txt"} == {
        file: content for file, content in before.items() if file != "notes.txt"
    }
    assert {file for file in after if file not in before} == {
        "tokenizer.json",
        "tokenizer_config.json",
        "chat_template.jinja",
    }
    assert undone.removed == saved.added == len(set(baked) - set(weights_of(saved.folder)))
    assert undone.restored == sum(baked[name] != bits for name, bits in weights_of(saved.folder).items())
    assert undone.restored + undone.removed > 0
    assert contents(tmp_path / "source") == before
    with pytest.raises(BakingError, match=r"undo\.safetensors"):
        undo_edited_model(saved.folder)


def test_a_model_from_memory_is_undone_to_its_own_weights(attach: Callable[[Any], Session], tmp_path: Path) -> None:
    model = with_tied_embeddings(make_model("gpt2"))
    model.save_pretrained(tmp_path / "plain")
    saved = bake(attach(model), "ablation")
    assert weights_of(saved.folder) != weights_of(tmp_path / "plain")

    undo_edited_model(saved.folder)

    assert weights_of(saved.folder) == weights_of(tmp_path / "plain")
    reloaded = AutoModelForCausalLM.from_pretrained(saved.folder)
    assert reloaded.lm_head.weight is reloaded.transformer.wte.weight


def test_only_the_shards_with_an_edit_differ_and_the_index_names_what_is_new(
    load_from_folder: Callable[..., Session], tmp_path: Path
) -> None:
    saved = bake(load_from_folder(make_model("llama"), sharded=True), "addition")

    before, after = contents(tmp_path / "source"), contents(saved.folder)
    shards = [file for file in before if file.endswith(".safetensors")]
    assert [after[file] == before[file] for file in shards] == [True] * 3
    index = json.loads(after["model.safetensors.index.json"])
    assert len(index["weight_map"]) == len(find_tensors(saved.folder))
    assert index["metadata"]["total_size"] == sum(place.size for place in find_tensors(saved.folder).values())
    assert "notes.txt" not in after


def test_a_checkpoint_whose_names_lack_the_models_prefix_is_edited(
    attach: Callable[[Any], Session], tmp_path: Path
) -> None:
    whole = make_model("gpt2")
    GPT2Model.save_pretrained(whole.transformer, tmp_path / "base")
    config = json.loads((tmp_path / "base" / "config.json").read_text(encoding="utf-8"))
    (tmp_path / "base" / "config.json").write_text(json.dumps(config | {"tie_word_embeddings": True}), encoding="utf-8")
    assert "wte.weight" in find_tensors(tmp_path / "base")
    session = attach(AutoModelForCausalLM.from_pretrained(tmp_path / "base").eval())

    for kind in ("addition", "ablation"):
        assert bake(session, kind, kind).proof.difference < 2e-5


def test_a_tied_matrix_that_is_stored_twice_is_untied_where_it_stands(
    load_from_folder: Callable[..., Session], tmp_path: Path
) -> None:
    session = load_from_folder(with_tied_embeddings(make_model("llama")))
    file = tmp_path / "source" / "model.safetensors"
    tensors = load_file(file)
    save_file({**tensors, "lm_head.weight": torch.zeros_like(tensors["model.embed_tokens.weight"])}, file)

    saved = bake(session, "ablation")

    assert saved.proof.difference < 2e-5
    undo_edited_model(saved.folder)
    assert (saved.folder / "model.safetensors").read_bytes() == file.read_bytes()


@pytest.mark.parametrize(("family", "dtype"), [("llama", torch.float32), ("gpt2", torch.float16)])
def test_an_undo_file_of_another_checkpoint_is_refused(
    family: str, dtype: torch.dtype, attach: Callable[[Any], Session]
) -> None:
    folder = bake(attach(make_model("gpt2")), "ablation", "one").folder
    other = bake(attach(make_model(family, dtype=dtype)), "ablation", "two").folder
    shutil.copyfile(other / "undo.safetensors", folder / "undo.safetensors")
    before = contents(folder)

    with pytest.raises(BakingError, match="of another checkpoint"):
        undo_edited_model(folder)

    assert contents(folder) == before


MEASURE = """
import sys, threading
from pathlib import Path
import torch
from steer_tools.weights.checkpoints import edit_checkpoint, undo_edited_model
from steer_tools.weights.tensor_edits import CheckpointEdits, ProjectedOut
from steer_tools.weights.shards import find_tensors

def anonymous():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon")) / 1024

torch.set_num_threads(1)
torch.ones(9) @ torch.ones(9)
before = most = anonymous()
is_over = threading.Event()
def watch():
    global most
    while not is_over.wait(0.002):
        most = max(most, anonymous())
watching = threading.Thread(target=watch)
watching.start()
folder = Path(sys.argv[1])
along = torch.nn.functional.normalize(torch.ones(1024, dtype=torch.float64), dim=0)
names = find_tensors(folder)
changed = {name: ProjectedOut(int("embed" in name), along) for name in names if "head" not in name}
edit_checkpoint(folder, CheckpointEdits(changed, copies={"lm_head.weight": "embed.weight"}))
undo_edited_model(folder)
is_over.set()
watching.join()
print(most - before)
"""


@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="Only Linux tells anonymous memory.")
def test_a_checkpoint_of_many_times_the_memory_is_edited_tensor_by_tensor(tmp_path: Path) -> None:
    embedding = torch.full((64 * 1024, 1024), 0.5, dtype=torch.bfloat16)
    layers = {f"layer.{i}.weight": torch.full((1024, 4096), float(i), dtype=torch.bfloat16) for i in range(24)}
    save_file({"embed.weight": embedding, **layers}, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text("{}", encoding="utf-8")
    size = (tmp_path / "model.safetensors").stat().st_size

    done = subprocess.run([sys.executable, "-c", MEASURE, str(tmp_path)], capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stderr
    assert size > 300 * 2**20
    assert float(done.stdout) < 120


# What cannot be baked


def placed(intervention: Any, site: Site | None = None, strength: float = 1.0, scope: Scope = ALL) -> Placement:
    return Placement(intervention, site or Site(1), strength, scope)


def everywhere(strength: float = 1.0) -> Plan:
    return tuple(replace(p, strength=strength) for p in ablation_everywhere(random_direction(), WRITING))


WRITING = [Site(0, "embedding"), *(Site(layer, part) for layer in range(2) for part in ("attention", "mlp"))]
CONDITIONED = replace(placed(Add(random_direction())), condition=Condition.__new__(Condition))
OTHER = [placed(ProjectOut(random_direction(seed=2)), site) for site in WRITING]


@pytest.mark.parametrize(
    ("plan", "words"),
    [
        ((placed(Add(random_direction()), scope=Scope(("generated",))),), "positions is 'generated'"),
        ((placed(Add(random_direction()), scope=Scope(("prompt",))),), "positions is 'prompt'"),
        ((CONDITIONED,), "A condition cannot be baked"),
        ((placed(Add(random_direction()), Site(1, "attention", 2)),), "layer 1 attention head 2"),
        ((placed(Clamp(random_direction(), 0.0, 1.0)),), "'clamp' cannot be baked"),
        ((placed(Add(random_direction())), placed(ProjectOut(random_direction()))), "'add' with 'project_out'"),
        ((), "Nothing cannot be baked"),
        (everywhere(0.5), "A part of 'project_out'"),
        (everywhere()[1:], "at 4 sites, and not at layer 0 embedding"),
        ((*everywhere(), placed(ProjectOut(random_direction()))), "and at a layer's output"),
        ((*everywhere()[1:], OTHER[0]), "Several directions"),
    ],
)
def test_a_plan_that_weights_cannot_hold_is_refused_by_name(plan: Plan, words: str) -> None:
    with pytest.raises(BakingError, match=words):
        read_plan(plan, WRITING)


def test_both_kinds_are_read_as_what_they_are() -> None:
    direction = random_direction()
    both = (
        placed(Add(direction), strength=2.0),
        placed(Add(direction), strength=-0.5),
        placed(Add(direction), Site(3)),
    )
    turned = (placed(ProjectOut(-3 * direction), WRITING[0]), *everywhere()[1:])

    added, ablated = read_plan(both, WRITING), read_plan(turned, WRITING)

    assert isinstance(added, Addition)
    assert isinstance(ablated, Ablation)
    torch.testing.assert_close(added.by_site, {Site(1): 1.5 * direction.double(), Site(3): direction.double()})
    assert float(ablated.along.norm()) == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("family", "kind", "words"),
    [
        ("mistral", "addition", r"MistralForCausalLM has no bias at model\.layers\.1\.mlp\.down_proj\.bias"),
        ("qwen2", "addition", r"Qwen2ForCausalLM has no bias at model\.layers\.1\.mlp\.down_proj\.bias"),
        ("mixtral", "addition", "comes from MixtralExperts"),
        ("gemma2", "addition", "comes from Gemma2RMSNorm"),
        ("gemma2", "ablation", "Gemma2RMSNorm at layer 0 attention"),
        ("gemma3_text", "ablation", "Gemma3RMSNorm at layer 0 attention"),
        ("olmo2", "ablation", "Olmo2RMSNorm at layer 0 attention"),
        ("bloom", "ablation", "what the first block is given"),
        ("minimax", "ablation", "what block 0 adds"),
    ],
)
def test_a_model_whose_weights_have_no_place_for_it_is_refused_and_nothing_is_written(
    family: str, kind: str, words: str, attach: Callable[[Any], Session]
) -> None:
    session = attach(build(family))

    with pytest.raises(BakingError, match=words):
        bake(session, kind)

    assert not session.workspace.root.exists()


@pytest.mark.parametrize("factor", [1.001, 3.0])  # Above the tolerance alone, and above half of the effect, too.
def test_weights_that_were_changed_after_loading_are_found_and_nothing_is_left(
    factor: float, load_from_folder: Callable[..., Session]
) -> None:
    session = load_from_folder(make_model("llama"))
    engine: Any = session.engine
    engine.architecture.model.model.layers[1].mlp.up_proj.weight.data *= factor

    with pytest.raises(BakingError, match=r"differ from the steered one's by up to .*Nothing was saved"):
        bake(session, "addition")

    assert list(session.workspace.root.iterdir()) == []


def test_an_edit_that_the_proof_cannot_tell_from_none_is_refused(attach: Callable[[Any], Session]) -> None:
    session = attach(make_model("gpt2"))

    with pytest.raises(BakingError, match="less than half of what steering does"):
        save_edited(session, "baked", Baking(plan_of(session, "addition", strength=1e-9), "a test"))


def test_adapters_and_quantised_weights_are_refused(attach: Callable[[Any], Session]) -> None:
    session = attach(make_model("llama"))
    engine: Any = session.engine
    model = engine.architecture.model
    plan = plan_of(session, "addition")

    model.peft_config = {}
    with pytest.raises(BakingError, match="merge_and_unload"):
        save_edited(session, "baked", Baking(plan, "a test"))
    del model.peft_config
    model.config.quantization_config = {}
    with pytest.raises(BakingError, match="quantised"):
        save_edited(session, "baked", Baking(plan, "a test"))
    del model.config.quantization_config

    assert save_edited(session, "baked", Baking(plan, "a test")).changed == 2


@pytest.mark.parametrize("dtype", [torch.int8, torch.float8_e4m3fn])
def test_a_tensor_in_a_dtype_that_cannot_be_edited_is_refused(dtype: torch.dtype, tmp_path: Path) -> None:
    save_file({"w": torch.zeros(4, 4).to(dtype)}, tmp_path / "model.safetensors")

    with pytest.raises(BakingError, match="'w' is stored as"):
        edit_checkpoint(tmp_path, CheckpointEdits({"w": Increased(torch.ones(4, 4))}))
    with pytest.raises(BakingError, match="has no tensor 'v'"):
        edit_checkpoint(tmp_path, CheckpointEdits({"v": Increased(torch.ones(4, 4))}))


@pytest.mark.parametrize("content", [b"", b"\xff" * 8, b"\x02" + bytes(7) + b"{]", b"\x10" + bytes(7) + b"{}"])
def test_a_broken_weight_file_is_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(content)

    with pytest.raises(BakingError, match="safetensors file"):
        find_tensors(tmp_path)


@pytest.mark.parametrize("name", ["../model.safetensors", "/etc/passwd", "a/b.safetensors"])
def test_an_index_that_leaves_its_folder_is_refused(name: str, tmp_path: Path) -> None:
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"w": name}}), encoding="utf-8")

    with pytest.raises(BakingError, match="in the same folder"):
        find_tensors(tmp_path)


def test_a_truncated_weight_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_file({"w": torch.zeros(64)}, path)
    path.write_bytes(path.read_bytes()[:-1])

    with pytest.raises(BakingError, match="no whole safetensors file"):
        find_tensors(tmp_path)


# Tensors


@pytest.mark.parametrize("shape", [(8,), (8, 3), (5, 8), (3, 8, 4), (2, 4, 8)])
@pytest.mark.parametrize("slice_bytes", [1, 70, 2**23])
def test_projecting_slice_by_slice_is_projecting_the_whole(
    shape: tuple[int, ...], slice_bytes: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("steer_tools.weights.tensor_edits._SLICE_BYTES", slice_bytes)
    tensor = torch.randn(shape, generator=torch.Generator().manual_seed(3))
    along = torch.nn.functional.normalize(random_direction(8).double(), dim=0)
    axis = shape.index(8)
    save_file({"w": tensor, "beside": tensor.clone()}, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text("{}", encoding="utf-8")

    edit_checkpoint(tmp_path, CheckpointEdits({"w": ProjectedOut(axis, along)}))

    found = load_file(tmp_path / "model.safetensors")
    component = torch.tensordot(tensor.double(), along, dims=([axis], [0]))
    expected = tensor.double() - component.unsqueeze(axis) * along.view(
        [8 if i == axis else 1 for i in range(len(shape))]
    )
    torch.testing.assert_close(found["w"].double(), expected, atol=1e-6, rtol=1e-5)
    assert torch.equal(found["beside"], tensor)


# Writers and names


@pytest.mark.parametrize(
    ("family", "suffix", "axis"),
    [
        ("llama", "mlp.down_proj.weight", 0),
        ("gpt2", "mlp.c_proj.weight", 1),
        ("mixtral", "mlp.experts.down_proj", 1),
        ("gpt_oss", "mlp.experts.down_proj", 2),
        ("gpt_oss", "mlp.experts.down_proj_bias", 1),
        ("qwen2_moe", "mlp.shared_expert.down_proj.weight", 0),
    ],
)
def test_what_makes_an_output_is_told_with_its_axis(
    family: str, suffix: str, axis: int, attach: Callable[[Any], Session]
) -> None:
    engine: Any = attach(build(family)).engine

    (writer,) = [w for w in engine.find_writers() if w.site == Site(1, "mlp")]

    found = {parameter.name.partition(".1.")[2]: parameter.axis for parameter in writer.parameters}
    assert found[suffix] == axis
    assert not [name for name in found if "gate" in name or "up" in name or "router" in name]


@pytest.mark.parametrize("has_idle", [True, False])
def test_a_writer_with_an_expert_that_was_never_asked_cannot_be_told(
    has_idle: bool, attach: Callable[[Any], Session]
) -> None:
    class Experts(nn.Module):
        def __init__(self, routed: nn.Module) -> None:
            super().__init__()
            self.routed, self.shared = routed, nn.Linear(WIDTH, WIDTH)
            self.idle = nn.Linear(16, WIDTH) if has_idle else None

        def forward(self, hidden: Tensor, *args: Any) -> Tensor:
            return self.routed(hidden, *args) + self.shared(hidden)

    model: Any = build("mixtral")
    model.model.layers[2].mlp.experts = Experts(model.model.layers[2].mlp.experts)
    engine: Any = attach(model.eval()).engine

    (writer,) = [w for w in engine.find_writers() if w.site == Site(2, "mlp")]

    assert writer.kind == "Experts"
    assert {p.name.partition(".experts.")[2] for p in writer.parameters} == (
        set() if has_idle else {"routed.down_proj", "shared.weight", "shared.bias"}
    )


def test_a_norm_whose_bias_alone_can_be_told_is_not_taken_for_a_linear_layer(attach: Callable[[Any], Session]) -> None:
    class Normed(nn.Module):
        def __init__(self, routed: nn.Module) -> None:
            super().__init__()
            self.routed, self.norm = routed, nn.LayerNorm(WIDTH)

        def forward(self, *args: Any) -> Tensor:
            return self.norm(self.routed(*args))

    model: Any = with_random_vectors(build("mixtral"))
    model.model.layers[2].mlp.experts = Normed(model.model.layers[2].mlp.experts)
    engine: Any = attach(with_random_vectors(model.eval())).engine

    (writer,) = [w for w in engine.find_writers() if w.site == Site(2, "mlp")]

    assert (writer.kind, writer.parameters, writer.bias) == ("LayerNorm", (), None)


def test_names_on_disk_are_those_of_the_saved_checkpoint(tmp_path: Path) -> None:
    model: Any = build("qwen3_moe")
    model.save_pretrained(tmp_path)

    stored = names_on_disk(model, OutputParameter("model.layers.0.mlp.experts.down_proj", 1), (4, WIDTH, 16))

    with safe_open(tmp_path / "model.safetensors", "pt") as file:
        assert {name: file.get_slice(name).get_shape()[axis] for name, axis in stored.items()} == {
            f"model.layers.0.mlp.experts.{expert}.down_proj.weight": WIDTH for expert in range(4)
        }


def test_the_flag_that_gives_the_last_writer_a_bias_is_found_and_no_other() -> None:
    last = "model.layers.1.mlp.down_proj.bias"
    model = LlamaForCausalLM(LlamaConfig(**make_model("llama").config.to_dict() | {"attention_bias": False}))

    flag = find_bias_flag(model, [last])

    assert flag is not None
    assert flag.name == "mlp_bias"
    assert flag.biases[last] == (WIDTH,)
    assert find_bias_flag(model, ["model.norm.bias"]) is None


def test_a_flag_that_gives_more_than_biases_is_not_taken() -> None:
    class Odd(LlamaForCausalLM):
        def __init__(self, config: LlamaConfig) -> None:
            super().__init__(config)
            if config.odd_bias:  # type: ignore[attr-defined]  # set below
                self.odd = nn.Linear(2, 2)

    config = make_model("llama").config
    config.odd_bias = False

    assert find_bias_flag(Odd(config), ["odd.bias"]) is None
    assert find_bias_flag(Odd(config), ["model.layers.0.mlp.down_proj.bias"]) is not None


# The tools


@pytest.fixture
def vector(llama_session: Session) -> str:
    return create_steering_vector(POSITIVE, NEGATIVE, 2, "v")["vector_path"]


def test_what_is_applied_is_baked_and_proved_on_the_prompts_that_are_given(vector: str, llama_session: Session) -> None:
    apply_steering_vector(vector, strength=2.0, positions="all")

    result = save_edited_model("edited", prompts=["keke", [{"role": "user", "content": "lili"}], [1, 9, 30]])

    folder = Path(result["folder"])
    assert folder == llama_session.workspace.root / "edited"
    assert (result["kind"], result["changed_tensors"], result["added_tensors"]) == ("addition", 1, 3 * LAYERS)
    assert (result["prompt_count"], result["same_tokens"]) == (3, 3)
    assert result["difference"] < 1e-4 < 0.01 < result["logit_change"]
    assert result["warnings"] == []
    assert result["undo"] == f"steer-tools undo {folder}"
    control = folder / "control_vector.gguf"
    assert result["llama_cpp"] == (
        f"llama-cli -m UNEDITED_MODEL.gguf --control-vector {control} --control-vector-layer-range 2 2"
    )
    torch.testing.assert_close(load_vector(control).directions[2], 2 * load_vector(vector).directions[2])
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert "v.safetensors at strength 2" in card
    assert "layer 2 residual" in card
    assert AutoModelForCausalLM.from_pretrained(folder).config.mlp_bias is True


def test_a_vector_is_ablated_everywhere_without_being_applied(vector: str, llama_session: Session) -> None:
    result = save_edited_model("edited", ablate=vector)

    assert (result["kind"], result["changed_tensors"], result["added_tensors"]) == ("ablation", 1 + 2 * LAYERS, 0)
    assert result["llama_cpp"] is None
    assert result["difference"] < 1e-4 < 0.01 < result["logit_change"]
    assert len(llama_session.registry) == 0
    assert "v.safetensors, layer 2" in (Path(result["folder"]) / "README.md").read_text(encoding="utf-8")


def test_which_of_several_directions_is_ablated_must_be_said(llama_session: Session) -> None:
    path = create_steering_vector(POSITIVE, NEGATIVE, [1, 2], "several")["vector_path"]

    with pytest.raises(LayerError, match=r"\[1, 2\]"):
        save_edited_model("edited", ablate=path)
    with pytest.raises(LayerError, match=r"layer is 3"):
        save_edited_model("edited", ablate=path, layer=3)

    first, last = (save_edited_model(f"at {layer}", ablate=path, layer=layer) for layer in (1, -2))
    assert [weights_of(Path(r["folder"])) for r in (first, first)] != [
        weights_of(Path(r["folder"])) for r in (first, last)
    ]


@pytest.mark.parametrize(("layer", "component"), [(0, "residual"), (2, "mlp")])
def test_the_output_of_layer_0_and_a_part_have_no_control_vector(
    layer: int, component: Any, llama_session: Session
) -> None:
    vector = SteeringVector.from_directions({layer: random_direction()}, component=component)
    save_vector(vector, "one.safetensors", workspace=llama_session.workspace)
    apply_steering_vector("one", positions="all")

    result = save_edited_model("edited")

    assert result["llama_cpp"] is None
    assert not (Path(result["folder"]) / "control_vector.gguf").exists()


def test_nothing_applied_is_refused(vector: str) -> None:
    with pytest.raises(ArgumentError, match="Nothing is applied"):
        save_edited_model("edited")


def test_what_is_applied_is_left_out_of_an_ablation_and_that_is_told(vector: str, llama_session: Session) -> None:
    alone = save_edited_model("alone", ablate=vector)
    apply_steering_vector(vector, strength=3.0)

    beside = save_edited_model("beside", ablate=vector)

    assert alone["warnings"] == []
    assert ["What is applied now is not in the weights" in warning for warning in beside["warnings"]] == [True]
    assert weights_of(Path(alone["folder"])) == weights_of(Path(beside["folder"]))
    assert len(llama_session.registry) == 1


def test_a_vector_of_a_heads_own_space_is_not_ablated(llama_session: Session) -> None:
    path = create_steering_vector(POSITIVE, NEGATIVE, 2, "head", component="attention", head=1)["vector_path"]

    with pytest.raises(BakingError, match="of a head's own space"):
        save_edited_model("edited", ablate=path)


def test_a_checkpoint_in_the_workspace_is_not_listed_among_the_vectors(vector: str) -> None:
    save_edited_model("edited", ablate=vector)

    saved = steering_status()["saved"]

    assert [(Path(one["vector_path"]).name, one["problem"]) for one in saved] == [("v.safetensors", None)]


def test_only_a_folder_that_was_baked_is_replaced(vector: str, llama_session: Session) -> None:
    root = llama_session.workspace.root
    (root / "mine").mkdir()
    (root / "mine" / "thesis.txt").write_text("mine", encoding="utf-8")

    with pytest.raises(ArgumentError, match="is there already"):
        save_edited_model("mine", ablate=vector)
    first = weights_of(Path(save_edited_model("edited", ablate=vector)["folder"]))
    apply_steering_vector(vector, positions="all")
    second = weights_of(Path(save_edited_model("edited")["folder"]))

    assert first != second
    assert (root / "mine" / "thesis.txt").read_text(encoding="utf-8") == "mine"
    assert {path.name for path in root.iterdir()} == {"edited", "mine", "v.safetensors"}


def test_the_folder_that_the_model_came_from_is_not_written_over(attach: Callable[[Any], Session]) -> None:
    folder = bake(attach(make_model("gpt2")), "addition").folder
    session = attach(AutoModelForCausalLM.from_pretrained(folder).eval())
    before = contents(folder)

    with pytest.raises(ArgumentError, match="loaded from"):
        bake(session, "addition")

    assert contents(folder) == before


def test_a_confined_workspace_writes_no_checkpoint_outside(vector: str, llama_session: Session, tmp_path: Path) -> None:
    root = llama_session.workspace.root
    llama_session.workspace = Workspace(root, is_confined=True)
    (tmp_path / "outside").mkdir()
    (root / "link").symlink_to(tmp_path / "outside")

    for folder in ("../elsewhere", str(tmp_path / "elsewhere"), "link/edited"):
        with pytest.raises(WorkspacePathError):
            save_edited_model(folder, ablate=vector)

    assert not (tmp_path / "elsewhere").exists()
    assert list((tmp_path / "outside").iterdir()) == []
    assert Path(save_edited_model("inside/edited", ablate=vector)["folder"]) == root / "inside" / "edited"


def test_a_tokenizer_that_reads_otherwise_once_it_is_saved_is_told(vector: str, llama_session: Session) -> None:
    engine: Any = llama_session.engine
    assert save_edited_model("edited", ablate=vector)["warnings"] == []
    own_save = engine.tokenizer.save_pretrained
    engine.tokenizer.save_pretrained = lambda folder: make_tokenizer(bos=False).save_pretrained(folder)

    warnings = save_edited_model("edited", ablate=vector)["warnings"]

    engine.tokenizer.save_pretrained = own_save
    assert ["tokenizer reads texts differently" in warning for warning in warnings] == [True]


def test_the_python_names_are_at_the_top() -> None:
    assert steer_tools.undo_edited_model is undo_edited_model
    assert issubclass(BakingError, SteeringError)
