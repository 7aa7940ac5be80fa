"""The model that tools steer, with what is applied to it, its workspace and its lock: the one global of the package.

Tools look the session up and must not be known here. Whoever holds `lock` has the model to themselves; nothing
that waits for a client may hold it.
"""

import os
import sys
import threading
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch

from steer_tools import bundled_model
from steer_tools.core.positions import attention_sinks
from steer_tools.core.registry import Registry
from steer_tools.core.site import Site
from steer_tools.engines import named_models
from steer_tools.engines.base import Engine, ModelInfo, text_behind_first
from steer_tools.engines.facets import AmbientPlans, LiveModel, has, require
from steer_tools.engines.opening import DEFAULT_ENGINE, ModelSource, engine_around, open_engine, require_engine_name
from steer_tools.errors import ArgumentError, LayerError, NoModelError, SteeringError, WorkspacePathError
from steer_tools.torch_state import KeptTorchState
from steer_tools.workspace import Workspace

REQUIRE_VERIFIED = "STEER_TOOLS_REQUIRE_VERIFIED"
_Result = TypeVar("_Result")


@dataclass
class Session:
    """One model and everything that is known about its steering.

    Attributes:
        workspace: Where tools read and write.
        allowed_models: The only names that `load` takes; None allows all.
        default_engine: What runs a model that is loaded without saying by what.
        default_dtype: What "auto" means when a model is loaded.
        default_device_map: What no device map means then.
        default_template_options: What the chat template is given where no options are named.
        require_verified: Whether only vectors are applied whose certificate says that they work; None as the
            environment variable STEER_TOOLS_REQUIRE_VERIFIED says.
        lock: Held by each tool while it works.
    """

    workspace: Workspace = field(default_factory=Workspace)
    allowed_models: tuple[str, ...] | None = None
    default_engine: str = DEFAULT_ENGINE
    default_dtype: str = "auto"
    default_device_map: str | None = None
    default_template_options: Mapping[str, object] | None = None
    require_verified: bool | None = None
    registry: Registry = field(default_factory=Registry)
    lock: threading.RLock = field(default_factory=threading.RLock)
    _engine: Engine | None = None
    _from_main: bool = False
    _is_looked_at: bool = False
    _typical_norms: dict[Site, float] = field(default_factory=dict)
    _neutral_text: list[torch.Tensor] = field(default_factory=list)

    @property
    def engine(self) -> Engine:
        """The attached model; else the `model` and `tokenizer` of the main namespace, as notebooks have them.

        What its owner has changed of it (weights, dtype, device, adapters, modules, tokens, chat template) is taken up
        at the first look in each piece of work, under what is applied.

        Raises:
            NoModelError: There is neither.
            SteeringError: It was changed, and cannot be steered, or not by what is applied, as it is now.
        """
        if self._engine is None or self._from_main:
            self._attach_from_main()
        if self._engine is None:
            raise NoModelError(
                "No model is attached",
                fix="Call attach_model(model, tokenizer), or load_model(name_or_path), or define `model` and "
                "`tokenizer` in the main namespace.",
            )
        if not self._is_looked_at:
            self._take_up_changes(self._engine)
        return self._engine

    @property
    def is_proof_required(self) -> bool:
        """Whether only vectors are applied whose certificate says that they work, as they are applied."""
        if self.require_verified is not None:
            return self.require_verified
        # What is not clearly a no is a yes: a slip of the pen opens nothing.
        return os.environ.get(REQUIRE_VERIFIED, "").strip().lower() not in ("", "0", "false", "no", "off")

    @property
    def is_attached(self) -> bool:
        """Whether a model is attached, without looking for one."""
        return self._engine is not None

    @contextmanager
    def at_work(self) -> Generator["Session"]:
        """Hold the session for one piece of work, before which the model's owner may have changed it."""
        with self._alone():
            self._is_looked_at = False
            yield self

    def attach(
        self,
        model: object,
        tokenizer: Any,
        name: str | None = None,
        *,
        template_options: Mapping[str, object] | None = None,
    ) -> ModelInfo:
        """Steer `model` from now on; another model that was attached is given back as it was.

        Attaching the same model and tokenizer again changes nothing; with another tokenizer or other options of its
        chat template, such as {"enable_thinking": False}, or where the model was changed, what is applied stays.

        Whatever is refused, what was attached and applied stays as it was.

        Raises:
            ArgumentError: It is no tokenizer, or the chat template does not use an option.
            UnsupportedModelError: The model cannot be steered.
        """
        with self._alone():
            live = self._live()
            if live is None or not live.holds(model):
                engine: Engine | None = None
                try:
                    # They may share modules, as a model and its adapter do.
                    with nullcontext() if live is None else live.aside():
                        engine = engine_around(model, tokenizer, name, template_options)
                    self._replace(engine)
                except BaseException:
                    if engine is not None and engine is not self._engine:
                        engine.detach()
                    raise
            elif (
                live.tokenizer is not tokenizer
                or live.info.template_options != (template_options or {})
                or live.changes()
            ):
                self._renew(live, tokenizer, name or live.info.name, template_options)
            self._from_main = False
            return self.engine.info

    def attach_engine(self, engine: Engine) -> ModelInfo:
        """Steer the model of an engine that is ready; another model that was attached is given back as it was."""
        with self.lock:
            self._replace(engine)
            return engine.info

    def load(
        self,
        name_or_path: str,
        engine: str | None = None,
        dtype: str = "auto",
        device_map: str | None = None,
        template_options: Mapping[str, object] | None = None,
    ) -> ModelInfo:
        """Load and attach a model; "bundled" is the one that ships with the package, "smollm2" an installed one.

        Raises:
            ArgumentError: The engine or the dtype is unknown, the name is not among `allowed_models`, or the chat
                template does not use an option.
            UnsupportedModelError: It cannot be loaded or steered.
        """
        runtime = self.default_engine if engine is None else engine
        require_engine_name(runtime)
        if self.allowed_models is not None and name_or_path not in self.allowed_models:
            raise ArgumentError(
                f"This server does not load {name_or_path!r}",
                valid=", ".join(map(repr, self.allowed_models)) or "none",
                fix="The one who runs the server allows models with --model.",
            )
        source = ModelSource(
            name_or_path=_located(name_or_path, self.workspace),
            name=name_or_path,
            dtype=self.default_dtype if dtype == "auto" else dtype,
            device_map=device_map or self.default_device_map,
            template_options=self.default_template_options if template_options is None else template_options,
        )
        with self._alone():
            return self.attach_engine(open_engine(runtime, source))

    def detach(self) -> None:
        """Give the model back as it was and forget what was applied."""
        with self.lock:
            self._replace(None)

    def change(self, edit: Callable[[Registry], _Result]) -> _Result:
        """Change the registry and make the model follow; where the engine refuses, both stay as they were.

        Raises:
            UnsupportedFeatureError: The engine has no ambient plans.
        """
        with self.lock:
            return self._edited(self.engine, edit)

    def take_off(self, edit: Callable[[Registry], _Result]) -> _Result:
        """Change the registry by what only takes off, in whatever state the model is, and make it follow."""
        with self.lock:
            return self._edited(self._engine or self.engine, edit)

    @property
    def is_in_force(self) -> bool:
        """Whether what the model follows is what the registry says."""
        engine = self.engine
        if not has(engine, AmbientPlans):
            return not self.registry.entries()
        return engine.hooks_are_live() and engine.ambient() == self.registry.plan()

    def resolved_layers(self, layers: Sequence[object], name: str, valid: str) -> list[int]:
        """Return what is given as the argument `name` as layers counted from 0, once each, in their order.

        Raises:
            LayerError: There are none, or the model lacks one.
        """
        if not layers:
            raise LayerError(f"{name} is an empty list", valid=valid)
        return list(dict.fromkeys(map(self.engine.resolve_layer, layers)))

    def typical_norm(self, site: Site) -> float:
        """Return the typical norm of what is at a site: at a layer's residual stream, the unit of residual strengths.

        It is the median over the tokens of neutral prompts without the first token, other attention sinks (which have
        norms of their own) and special tokens, measured once a model, with nothing applied.
        """
        return self.typical_norms([site])[site]

    def typical_norms(self, sites: Sequence[Site]) -> dict[Site, float]:
        """Return the typical norm at each site; what was not measured yet is, in one pass over the prompts.

        The first pass goes through all blocks, since a sink may show at any, and measures the stream behind each.
        """
        with self.lock:
            engine, known = self.engine, self._typical_norms
            if new := [site for site in sites if site not in known]:
                streams = [Site(layer) for layer in engine.info.steerable_layers]
                measured = [*dict.fromkeys(new if self._neutral_text else [*streams, *new])]
                prompts = engine.neutral_prompts
                norms = [
                    {site: hidden.norm(dim=1) for site, hidden in trace.items()}
                    for trace in engine.trace(prompts, measured)
                ]
                if not self._neutral_text:
                    special = [engine.tokenize(prompt).special for prompt in prompts]
                    along = [torch.stack([own[site] for site in streams]) for own in norms]
                    self._neutral_text = text_behind_first(engine, prompts, [*map(attention_sinks, along, special)])
                for site in measured:
                    content = [own[site][is_text] for own, is_text in zip(norms, self._neutral_text, strict=True)]
                    known[site] = float(torch.cat(content).median())
            return {site: known[site] for site in sites}

    @contextmanager
    def _alone(self) -> Generator[None]:
        with self.lock, KeptTorchState():
            yield

    def _edited(self, engine: Engine, edit: Callable[[Registry], _Result]) -> _Result:
        steered, before = require(engine, AmbientPlans, "What is applied"), self.registry.entries()

        def undo() -> None:
            self.registry.restore(before)
            if steered.ambient() != self.registry.plan():
                steered.set_ambient(self.registry.plan())

        try:
            result = edit(self.registry)
            steered.set_ambient(self.registry.plan())
        except BaseException:
            undo()
            raise
        return result

    def _live(self) -> LiveModel | None:
        return self._engine if self._engine is not None and has(self._engine, LiveModel) else None

    def _attach_from_main(self) -> None:
        main = vars(sys.modules["__main__"])
        model, tokenizer, live = main.get("model"), main.get("tokenizer"), self._live()
        if live is not None and live.holds(model) and live.tokenizer is tokenizer:
            return
        if model is not None and tokenizer is not None:
            self.attach(model, tokenizer)
            self._from_main = True

    def _take_up_changes(self, engine: Engine) -> None:
        with self.lock:
            if has(engine, LiveModel) and (changes := engine.changes()):
                try:
                    self._renew(engine, engine.tokenizer, engine.info.name, engine.info.template_options)
                except SteeringError as error:
                    raise type(error)(
                        f"The attached model was changed ({'; '.join(changes)}), and is refused as it is now: {error}",
                        fix="Until then nothing else is done with it: remove_all_steering_vectors() takes off what is "
                        "applied, and detach_model() gives it back.",
                    ) from error
            self._is_looked_at = True

    def _renew(self, live: LiveModel, tokenizer: Any, name: str, template_options: Mapping[str, object] | None) -> None:
        """Put another engine of the same model in the place of this one, under what is applied; or change nothing."""
        engine = live.renewed(tokenizer, name, template_options)
        try:
            engine.set_ambient(self.registry.plan())
            self._engine, self._is_looked_at, self._typical_norms, self._neutral_text = engine, True, {}, []
            live.detach()
        except BaseException:
            (live if self._engine is engine else engine).detach()
            raise

    def _replace(self, engine: Engine | None) -> None:
        before, registry = self._engine, Registry()

        def put() -> None:
            self._engine, self.registry, self._typical_norms, self._neutral_text = engine, registry, {}, []
            self._from_main, self._is_looked_at = False, True
            if before is not None and before is not engine:
                before.detach()

        try:
            put()
        except BaseException:  # An interrupt; it is done whole.
            put()
            raise


def _located(name_or_path: str, workspace: Workspace) -> str:
    """Return where a model lies that has a name of its own here, or lies in the workspace; else what was given."""
    match name_or_path:
        case bundled_model.NAME:
            return str(bundled_model.CHECKPOINT)
        case named_models.SMOLLM2:
            return str(named_models.find_smollm2())
        case _:
            with suppress(WorkspacePathError):
                saved = workspace.resolve(name_or_path)
                return str(saved) if saved.exists() else name_or_path
            return name_or_path


_session = Session()


def current_session() -> Session:
    """Return the session that all tools share."""
    return _session


def attach_model(
    model: object,
    tokenizer: Any,
    name: str | None = None,
    *,
    template_options: Mapping[str, object] | None = None,
) -> ModelInfo:
    """Make the tools steer a model that you hold; see `Session.attach`."""
    return _session.attach(model, tokenizer, name, template_options=template_options)


def loaded_model() -> tuple[Any, Any]:
    """Return the model and the tokenizer that the tools steer, as they are: what `load_model` made or you attached.

    The model is steered by what is applied, however it is called.

    Raises:
        NoModelError: There is none.
        UnsupportedFeatureError: The engine holds no model of this process.
    """
    with _session.at_work():
        live = require(_session.engine, LiveModel, "loaded_model()")
        return live.module, live.tokenizer


def detach_model() -> None:
    """Give the attached model back exactly as it was."""
    _session.detach()
