"""This machine → the models that load without a network, and what people read of them. It must not load any."""

from contextlib import suppress
from pathlib import Path
from typing import cast

from huggingface_hub import CachedRepoInfo, scan_cache_dir
from huggingface_hub.errors import CacheNotFound
from typing_extensions import TypedDict

from steer_tools.bundled_model import NAME as BUNDLED
from steer_tools.engines.named_models import SMOLLM2, SMOLLM2_INSTALLS, find_smollm2, has_smollm2
from steer_tools.errors import SteeringError
from steer_tools.limits import parsed_json
from steer_tools.tools.rendering import Shown, table

_WEIGHTS = (".safetensors", ".bin")


class LocalModel(TypedDict):
    """`megabytes` on the disk, null for what lies in the package or is not installed."""

    name: str
    about: str
    megabytes: float | None


class LocalModels(TypedDict):
    """The models with names of their own first, then those of the Hugging Face cache by name."""

    models: list[LocalModel]


def find_models() -> LocalModels:
    """Return the bundled model, SmolLM2 and the models in the Hugging Face cache that have a config and weights."""
    bundled = LocalModel(
        name=BUNDLED, about="the small chat model that ships with steer-tools; the default", megabytes=None
    )
    models = [bundled, _smollm2()]
    with suppress(CacheNotFound):
        for repository in sorted(scan_cache_dir().repos, key=lambda repository: repository.repo_id):
            models += _described(repository)
    return LocalModels(models=models)


def model_table(found: LocalModels) -> Shown:
    """Render one line a model."""
    rows = [
        (model["name"], model["about"], "" if (size := model["megabytes"]) is None else f"{size:,.1f}")
        for model in found["models"]
    ]
    return table({"model": "fold", "what it is": "fold", "MB": "right"}, rows)


def _smollm2() -> LocalModel:
    about = "SmolLM2-135M-Instruct, small and real"
    if not has_smollm2():
        return LocalModel(name=SMOLLM2, about=f"{about}; not installed: {SMOLLM2_INSTALLS}", megabytes=None)
    return LocalModel(name=SMOLLM2, about=about, megabytes=round(find_smollm2().stat().st_size / 1e6, 1))


def _described(repository: CachedRepoInfo) -> list[LocalModel]:
    """Return the newest revision with a config and weights, if there is one."""
    revisions = repository.revisions if repository.repo_type == "model" else ()
    for revision in sorted(revisions, key=lambda revision: revision.last_modified, reverse=True):
        files = {file.file_name: file.file_path for file in revision.files}
        if "config.json" in files and any(name.endswith(_WEIGHTS) for name in files):
            about, megabytes = _architecture_in(files["config.json"]), round(revision.size_on_disk / 1e6, 1)
            return [LocalModel(name=repository.repo_id, about=about, megabytes=megabytes)]
    return []


def _architecture_in(config: Path) -> str:
    try:
        found = parsed_json(config.read_bytes(), str(config))
    except (OSError, SteeringError):
        return "its config.json cannot be read"
    named = cast(dict[str, object], found).get("architectures") if isinstance(found, dict) else None
    return ", ".join(map(str, cast(list[object], named) if isinstance(named, list) else ())) or "no architecture named"
