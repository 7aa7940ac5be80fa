"""The tool that loads a model."""

from typing import Annotated, Any, Literal

from typing_extensions import TypedDict

from steer_tools.tools import arguments as given
from steer_tools.tools.argument_checks import checked
from steer_tools.tools.card import Card
from steer_tools.tools.choices import EngineName
from steer_tools.tools.resolving import locked_session
from steer_tools.tools.results import ModelStatus, model_status

ModelName = Annotated[
    str,
    given.Doc("A folder with a transformers checkpoint, a .gguf file, a name on the model hub, smollm2, or bundled."),
]
Runtime = Annotated[EngineName, given.Doc("What runs the model.")]
Dtype = Annotated[Literal["auto", "float32", "bfloat16", "float16"], given.Doc("auto keeps the checkpoint's own.")]
DeviceMap = Annotated[str | None, given.Doc("For instance auto, cuda or cpu.")]
TemplateOptions = Annotated[
    dict[str, Any] | None,
    given.Doc("What the model's chat template is given in every chat, such as enable_thinking or reasoning_effort."),
]


class LoadResult(TypedDict):
    """The model that is attached now; `dropped` counts the vectors that were applied before."""

    success: bool
    model: ModelStatus
    dropped: int
    warnings: list[str]


@checked
def load_model(
    name_or_path: ModelName,
    engine: Runtime = "huggingface",
    dtype: Dtype = "auto",
    device_map: DeviceMap = None,
    template_options: TemplateOptions = None,
) -> LoadResult:
    """Load a causal language model and steer it from now on; whatever is applied is dropped."""
    with locked_session() as session:
        before = len(session.registry)
        info = session.load(name_or_path, engine, dtype, device_map, template_options)
        return LoadResult(success=True, model=model_status(info), dropped=before, warnings=list(info.warnings))


def items(_: LoadResult) -> tuple[Any, Any]:
    """Return the model and the tokenizer, as those who call it by hand unpack them."""
    from steer_tools.session.session import loaded_model

    return loaded_model()


TOOL = Card("Load another model", "edit", is_repeatable=True, reaches_out=True, needs_model=False, items=items).tool(
    load_model
)
