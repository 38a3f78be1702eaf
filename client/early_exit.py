"""The early-exit draft: the target's own first layers, read through its head (LayerSkip).

Only for checkpoints that were trained to be read so (Elhoushi et al., "LayerSkip", ACL 2024, arXiv
2404.16710), which their manifest says: of others, the first layers say nothing of what the last
ones will. The client runs these layers itself, so it needs them on its disk.
"""

from typing import TYPE_CHECKING, Final

from hearthring.client.draft import Setting
from hearthring.client.draft_model import ModelDraft
from hearthring.client.local_model import LocalModel
from hearthring.client.local_text import LocalText
from hearthring.protocol.errors import BadOption
from hearthring.shards.ends import open_ends
from hearthring.shards.engines import load_engine
from hearthring.shards.parts import window_parts

if TYPE_CHECKING:
    from hearthring.client.request import PromptModel

NAME: Final = "early-exit"


def exit_parts(model: "PromptModel") -> tuple[str, ...]:
    """Parts that a client needs of a model for this draft.

    Raises ``BadOption`` for a model that wasn't trained for it.
    """
    manifest = model.entry.manifest
    if not manifest.early_exit:
        raise BadOption(
            f"{model.entry.name} wasn't trained to be read early, and would guess badly",
            field="draft",
            mend="its manifest has no early_exit; another draft will do better",
        )
    return window_parts(0, manifest.early_exit)


def open_early_exit(setting: Setting) -> ModelDraft:
    """The draft, whose layers are loaded once for all texts of a client.

    Raises ``BadOption``, and ``ModelNotHere`` when the setting's file lacks the layers.
    """
    manifest, model = setting.model.entry.manifest, setting.model
    exit_parts(model)
    if NAME not in setting.shared:
        say = setting.explain or (lambda words: None)
        gguf, residual = setting.layers or model.gguf, manifest.residual
        window = 0, manifest.early_exit
        engine = load_engine("auto", gguf, window, residual, setting.threads, say=say)
        ends = open_ends("auto", gguf, residual, setting.threads, say)
        name = f"{model.entry.name}, {manifest.early_exit} layers"
        setting.shared[NAME] = LocalModel(name, engine, ends, model.tokenizer)
    text = LocalText(setting.shared[NAME], model.shape.context)
    draft = ModelDraft.of(setting, text, model.tokenizer.vocabulary)
    draft.name = NAME
    return draft
