"""Models of the Hugging Face hub: only the files that are needed, through ``huggingface_hub``.

The user's own settings hold: token, mirror (``HF_ENDPOINT``), proxies. A download that was broken
off goes on where it was; what failed is one named error that says what to do.
"""

import os
import re
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from concurrent.futures import TimeoutError as StillRunning
from contextlib import contextmanager
from dataclasses import dataclass
from errno import ENOSPC
from pathlib import Path
from typing import Final

from hearthring.protocol.errors import BadModelFile, ModelNotHere, UnknownModel
from hearthring.shards.atomic import bytes_below
from hearthring.shards.manifest import Progress

_NAME: Final = re.compile(r"([\w.-]{1,96}/[\w.-]{1,96})(?::([\w./ -]{1,200}\.gguf))?")
_NEEDED: Final = (
    *("config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja"),
    "model.safetensors.index.json",
)
_WEIGHTS: Final = re.compile(r"model(-\d{5}-of-\d{5})?\.safetensors")
_POLL: Final = 0.3
_ATTEMPT_S: Final = 20.0
_OTHERWISE: Final = "or import a file or folder that you have: `hearthring model import PATH`"


@dataclass(frozen=True, slots=True)
class HubName:
    """``org/name``, or ``org/name:file.gguf`` for a model file in it."""

    repository: str
    file: str = ""

    def __str__(self) -> str:
        """As it is typed."""
        return f"{self.repository}:{self.file}" if self.file else self.repository


def hub_name(text: str) -> HubName | None:
    """The name, if the text is one."""
    found = _NAME.fullmatch(text)
    if found is None or ".." in text:
        return None
    return HubName(found[1], found[2] or "")


def download(name: HubName, folder: Path, progress: Progress) -> Path:
    """Fetch a model's files into ``folder``; the path of its folder or of its one GGUF file.

    Raises ``UnknownModel`` when the hub has no such model, ``BadModelFile`` when it has none that
    can be imported, ``ModelNotHere`` when it can't be had now. What has come stays, to be gone on
    with; an interruption doesn't wait for the file that is on its way.
    """
    try:
        import huggingface_hub as hub
        from huggingface_hub.utils.tqdm import disable_progress_bars
    except ImportError:
        raise ModelNotHere(
            f"{name} is fetched with huggingface_hub, which isn't installed",
            mend=f"pip install huggingface_hub, {_OTHERWISE}",
        ) from None
    disable_progress_bars()
    endpoint = os.environ.get("HF_ENDPOINT")
    with _named_errors(name):
        api = hub.HfApi(endpoint=endpoint, library_name="hearthring")
        info = api.model_info(name.repository, files_metadata=True, timeout=_ATTEMPT_S)
    sizes = {file.rfilename: int(file.size or 0) for file in info.siblings or ()}
    wanted = _wanted(name, sizes)
    total = sum(sizes[file] for file in wanted)

    given_up = threading.Event()

    def fetch() -> None:
        for file in wanted:
            if given_up.is_set():
                return
            hub.hf_hub_download(
                name.repository, file, revision=info.sha, local_dir=folder, endpoint=endpoint
            )

    try:
        with _named_errors(name):
            _watched(_beside(fetch), folder, total, progress)
    finally:
        given_up.set()
    return folder / wanted[0] if wanted[0].endswith(".gguf") else folder


def _beside(work: Callable[[], None]) -> "Future[None]":
    """Do it on a thread that nobody has to wait for: a transfer can't be broken off."""
    done: Future[None] = Future()

    def run() -> None:
        try:
            work()
            done.set_result(None)
        except BaseException as error:
            done.set_exception(error)

    threading.Thread(target=run, name="hub", daemon=True).start()
    return done


def _watched(running: "Future[None]", folder: Path, total: int, progress: Progress) -> None:
    while True:
        try:
            running.result(_POLL)
        except StillRunning:
            if running.done():
                raise
            progress("downloading", min(bytes_below(folder), total), total)
        else:
            progress("downloading", total, total)
            return


def _wanted(name: HubName, sizes: dict[str, int]) -> list[str]:
    """Files to fetch: one GGUF file, or configuration, tokenizer and safetensors."""
    models = sorted(file for file in sizes if file.endswith(".gguf"))
    if name.file:
        if name.file not in sizes:
            known = ", ".join(models[:8]) or "none"
            raise UnknownModel(
                f"{name.repository} has no {name.file}", mend=f"its GGUF files: {known}"
            )
        return [name.file]
    weights = sorted(file for file in sizes if _WEIGHTS.fullmatch(file))
    if weights and "config.json" in sizes:
        return [*(file for file in _NEEDED if file in sizes), *weights]
    if len(models) == 1:
        return models
    if models:
        raise UnknownModel(
            f"{name.repository} has {len(models)} GGUF files",
            mend=f"say which, such as {name.repository}:{models[0]}",
        )
    raise BadModelFile(
        "it has neither safetensors nor GGUF files", field=name.repository, mend=_OTHERWISE
    )


@contextmanager
def _named_errors(name: HubName) -> Iterator[None]:
    """The library's errors, and those of what it uses, as ours."""
    from huggingface_hub import errors

    try:
        yield
    except errors.GatedRepoError:
        raise ModelNotHere(
            f"{name} asks for its terms to be accepted",
            mend="accept them on its page, and log in with `hf auth login`",
        ) from None
    except errors.RepositoryNotFoundError:
        raise UnknownModel(
            f"the hub has no {name}, or only for its members",
            mend=f"check the name, log in with `hf auth login`, {_OTHERWISE}",
        ) from None
    except Exception as error:  # those of its HTTP library among them
        if isinstance(error, OSError) and error.errno == ENOSPC:
            raise ModelNotHere(f"{name} doesn't fit on the disk", mend="make room") from None
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise ModelNotHere(
            f"{name} couldn't be fetched from the hub: {reason}",
            mend=f"check the connection and try again, {_OTHERWISE}",
        ) from None
