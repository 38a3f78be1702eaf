"""The distilled draft: a layer or two that learnt what this very model expects."""

from dataclasses import replace

from hearthring.client.draft import Draft, Setting
from hearthring.client.draft_model import open_model
from hearthring.protocol.errors import BadDraft, BadOption
from hearthring.shards.draft_file import TARGET, draft_path
from hearthring.shards.gguf_file import GgufFile


def open_distilled(setting: Setting) -> Draft:
    """The draft that was trained for the client's model, or the file that the argument names.

    Raises ``BadOption`` where there is none, ``BadDraft`` for one of another model, and what
    ``open_model`` does.
    """
    entry = setting.model.entry
    path = setting.argument or str(draft_path(entry.model_id))
    if not setting.argument and not draft_path(entry.model_id).exists():
        raise BadOption(
            f"no draft was trained for {entry.name}",
            field="draft",
            mend=f"`hearthring draft train {entry.name}` does it",
        )
    if f"model {path}" not in setting.shared:
        meant = GgufFile(path).text(TARGET)
        if meant != entry.model_id:
            of = f"that of {meant:.12}" if meant else "of no model"
            raise BadDraft(f"the draft is {of}, not {entry.name}", field=path)
    draft = open_model(replace(setting, argument=path))
    draft.name = "distilled"
    return draft
