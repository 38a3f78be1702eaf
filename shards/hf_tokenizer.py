"""The tokenizer of a Hugging Face folder as the metadata that llama.cpp's converter would write.

Read are ``tokenizer.json`` (byte-level BPE, or BPE with byte fallback, which is how SentencePiece
vocabularies are kept there), ``tokenizer_config.json`` and the chat template. Which pre-tokenizer
it is shows in what it does: the one that cuts a text of every kind into the same words. One
for which none does, or whose ids on that text come out otherwise here, is refused: every prompt
would be read wrongly.
"""

import re
from pathlib import Path
from typing import Any, Final

import numpy as np
from tokenizers import Tokenizer as Engine

from hearthring.protocol.errors import BadModelFile
from hearthring.shards.bpe import WHOLE_WORDS, BytePairs, splitter
from hearthring.shards.gguf_header import Value
from hearthring.shards.hf_folder import read_json, read_text
from hearthring.shards.spm import SPACE, SentencePieces

_NORMAL, _UNKNOWN, _CONTROL, _USER, _UNUSED, _BYTE = 1, 2, 3, 4, 5, 6
_MAX_TOKENS: Final = 1 << 21
_BYTE_TEXT: Final = re.compile("<0x[0-9A-F]{2}>")
_SPECIAL_TEXT: Final = re.compile(r"<\|.*\|>|<｜.*｜>|<pad>|<mask>|<2mass>|\[@BOS@\]", re.DOTALL)
_CANDIDATES: Final = (
    *("llama-bpe", "dbrx", "qwen2", "smollm", "gpt-2", "tekken", "gpt-4o", "deepseek-coder"),
    "default",
)
_UNRANKED: Final = -1e6
PROBE: Final = (
    "Why is the sky blue? It's I'M they'LL don''t 'S HelloWorld fooBAR JSONData ÉcoleÉTÉ.\n"
    "In 2024, 1234567890 people paid 3.14159 or ½ or ٣٤٥.  Two   three    spaces \t\t tabs\n\n\n"
    "def f(x):\n\tif x > 1:\n\t\treturn [i**2 for i in range(x)]  # ok\r\n\r\n  "
    "https://example.org/a?b=c&d=%20#e <b>html</b>/\n $1,000.00 C++ x->y ___ ... !!!??? (a) [b]\n"
    "今天天气很好。日本語のテキスト、한국어 문장 Пусть всегда мир 🔥👩‍👩‍👧"
    " مرحبا नमस्ते สวัสดี \u00a0\u3000x   "
)
"""Everything that pre-tokenizers are known to differ in."""


def convert_tokenizer(folder: Path, config: dict[str, Any], rows: int) -> dict[str, Value]:
    """Metadata ``tokenizer.*`` for a model whose embedding has ``rows`` rows.

    Raises ``BadModelFile`` naming the file.
    """
    path = folder / "tokenizer.json"
    state, text = read_json(path), read_text(path)
    if state is None or text is None:
        sentences = (folder / "tokenizer.model").exists()
        raise BadModelFile(
            "there is no tokenizer.json in this folder"
            + (", only SentencePiece's tokenizer.model" if sentences else ""),
            field=str(folder),
            mend="make one with transformers' `AutoTokenizer.from_pretrained(...).save_pretrained`"
            + (", which takes the sentencepiece package to read it" if sentences else ""),
        )
    settings = read_json(folder / "tokenizer_config.json") or {}
    try:
        converted = _convert(state, text, rows)
        ids = {token: index for index, token in enumerate(_texts(converted))}
        converted |= _specials(state, settings, config, ids)
    except BadModelFile as error:
        error.field = error.field or str(path)
        raise
    template = _template(folder, settings)
    return converted | ({"tokenizer.chat_template": template} if template else {})


def _convert(state: dict[str, Any], text: str, rows: int) -> dict[str, Value]:
    model = state.get("model")
    if not isinstance(model, dict) or model.get("type", "BPE") != "BPE":
        kind = model.get("type") if isinstance(model, dict) else None
        raise BadModelFile(f"a tokenizer of type {kind!r:.40} isn't supported, only BPE")
    merges = _merges(model.get("merges"))
    tokens, types = _tokens(model, state.get("added_tokens") or [], rows)
    sentences = model.get("byte_fallback") is True
    try:
        engine = Engine.from_str(text)
        wanted = engine.encode(PROBE, add_special_tokens=False).ids
    except Exception as error:  # the library raises its errors as plain Exception
        raise BadModelFile(f"the tokenizer can't be built: {str(error)!r:.200}") from None
    ids = {token: index for index, token in enumerate(tokens)}
    if len(ids) != len(tokens):
        raise BadModelFile("a token stands there twice")
    found: dict[str, Value] = {}
    if sentences:
        ranks = {"".join(pair): -float(rank) for rank, pair in reversed([*enumerate(merges)])}
        scores = [ranks.get(token, _UNRANKED) for token in tokens]
        prefix = _prefixed(state)
        pieces = SentencePieces(ids, scores, types.index(_UNKNOWN) if _UNKNOWN in types else 0)
        if pieces.encode((" " if prefix else "") + PROBE) != wanted:
            raise BadModelFile("its ids aren't those of SentencePiece's merging")
        found["tokenizer.ggml.model"], found["tokenizer.ggml.pre"] = "llama", "default"
        found["tokenizer.ggml.scores"] = np.array(scores, np.float32)
        found["tokenizer.ggml.add_space_prefix"] = prefix
    else:
        joined = tuple(" ".join(pair) for pair in merges)
        whole = model.get("ignore_merges") is True
        found["tokenizer.ggml.model"] = "gpt2"
        pre = found["tokenizer.ggml.pre"] = _pre(engine, whole)
        if BytePairs(pre, ids, joined).encode(PROBE) != wanted:
            raise BadModelFile("its ids aren't those of byte-level merging")
        found["tokenizer.ggml.merges"] = joined
    found["tokenizer.ggml.tokens"] = tuple(tokens)
    found["tokenizer.ggml.token_type"] = np.array(types, np.int32)
    return found


def _pre(engine: Engine, whole: bool) -> str:
    """The name of the pre-tokenizer that cuts ``PROBE`` into the words the engine's own does."""
    own = engine.pre_tokenizer
    words = own.pre_tokenize_str(PROBE) if own else []
    for pre in _CANDIDATES:
        if (pre in WHOLE_WORDS) == whole and splitter(pre).pre_tokenize_str(PROBE) == words:
            return pre
    raise BadModelFile("it splits words in a way that this release doesn't know")


def _merges(found: Any) -> list[tuple[str, str]]:
    if not isinstance(found, list) or len(found) > _MAX_TOKENS:
        raise BadModelFile("its merges aren't a list")
    pairs = []
    for merge in found:
        pair = merge.split(" ") if isinstance(merge, str) else merge
        if not isinstance(pair, list) or len(pair) != 2 or not all(map(_plain, pair)):
            raise BadModelFile(f"merge {merge!r:.80} isn't a pair")
        pairs.append((pair[0], pair[1]))
    return pairs


def _tokens(model: dict[str, Any], added: Any, rows: int) -> tuple[list[str], list[int]]:
    """Text and type of every id; ids that the embedding has and the vocabulary hasn't are named
    ``[PAD7]`` as llama.cpp names them."""
    vocabulary = model.get("vocab")
    if not isinstance(vocabulary, dict) or not isinstance(added, list):
        raise BadModelFile("it has no vocabulary")
    if rows > _MAX_TOKENS:
        raise BadModelFile(f"an embedding of {rows} rows is too large for a vocabulary")
    tokens = [f"[PAD{index}]" for index in range(rows)]
    types = [_UNUSED] * rows
    unknown, sentences = model.get("unk_token"), model.get("byte_fallback") is True

    def put(token: Any, index: Any, kind: int) -> None:
        if not _plain(token) or type(index) is not int or not 0 <= index < rows:
            raise BadModelFile(
                f"token {token!r:.80} has the id {index!r:.20}, and the embedding has {rows} rows"
            )
        tokens[index], types[index] = token, kind

    for token, index in vocabulary.items():
        byte = sentences and _BYTE_TEXT.fullmatch(token)
        put(token, index, _BYTE if byte else _UNKNOWN if token == unknown else _NORMAL)
    for entry in added:
        if not isinstance(entry, dict):
            raise BadModelFile("an added token isn't an object")
        text = entry.get("content")
        if not isinstance(text, str):
            raise BadModelFile("an added token has no text")
        special = entry.get("special") is True or _SPECIAL_TEXT.fullmatch(text)
        if not special:
            put(text.replace(SPACE, " ") if sentences else text, entry.get("id"), _USER)
        else:
            put(text, entry.get("id"), _UNKNOWN if text == unknown else _CONTROL)
    return tokens, types


def _plain(found: Any) -> bool:
    """A text that UTF-8 can hold and no bound is against."""
    if not isinstance(found, str) or not found or len(found) > 1 << 12:
        return False
    return not any("\ud800" <= char <= "\udfff" for char in found)


def _texts(converted: dict[str, Value]) -> tuple[str, ...]:
    tokens = converted["tokenizer.ggml.tokens"]
    assert isinstance(tokens, tuple)
    return tokens


def _prefixed(state: dict[str, Any]) -> bool:
    """Whether a text gets a space in front: by the normaliser, or by a Metaspace step."""
    for step in _steps(state.get("normalizer"), "normalizers"):
        if step.get("type") == "Prepend":
            return True
    for step in _steps(state.get("pre_tokenizer"), "pretokenizers"):
        if step.get("type") == "Metaspace":
            scheme = step.get("prepend_scheme")
            return scheme != "never" if scheme else step.get("add_prefix_space") is not False
    return False


def _steps(found: Any, inner: str) -> list[dict[str, Any]]:
    """The steps of a part of the tokenizer, whether it has one or several."""
    if not isinstance(found, dict):
        return []
    several = found.get(inner)
    return (
        [step for step in several if isinstance(step, dict)]
        if isinstance(several, list)
        else [found]
    )


def _specials(
    state: dict[str, Any], settings: dict[str, Any], config: dict[str, Any], ids: dict[str, int]
) -> dict[str, Value]:
    """Ids of the tokens with a part to play, and whether a prompt begins with one."""
    found: dict[str, Value] = {}
    for name, key in (("bos", "bos"), ("eos", "eos"), ("unk", "unknown"), ("pad", "padding")):
        token = settings.get(f"{name}_token")
        token = token.get("content") if isinstance(token, dict) else token
        index = ids.get(token) if isinstance(token, str) else None
        if index is None:
            listed: Any = config.get(f"{name}_token_id")
            index = listed[0] if isinstance(listed, list) and listed else listed
        if type(index) is int and 0 <= index < len(ids):
            found[f"tokenizer.ggml.{key}_token_id"] = index
    asked = settings.get("add_bos_token")
    first = asked if isinstance(asked, bool) else _begins_with_bos(state)
    found["tokenizer.ggml.add_bos_token"] = first and "tokenizer.ggml.bos_token_id" in found
    found["tokenizer.ggml.add_eos_token"] = False
    return found


def _begins_with_bos(state: dict[str, Any]) -> bool:
    for step in _steps(state.get("post_processor"), "processors"):
        single = step.get("single")
        if step.get("type") == "TemplateProcessing" and isinstance(single, list) and single:
            return isinstance(single[0], dict) and "SpecialToken" in single[0]
    return False


def _template(folder: Path, settings: dict[str, Any]) -> str | None:
    """The chat template: a file of its own, else in the settings, where there may be several."""
    own = read_text(folder / "chat_template.jinja")
    if own:
        return own
    found = settings.get("chat_template")
    if isinstance(found, list):
        named = {one.get("name"): one.get("template") for one in found if isinstance(one, dict)}
        found = named.get("default")
    if not isinstance(found, str) or not found:
        return None
    try:
        found.encode()
    except UnicodeEncodeError:
        field = str(folder / "tokenizer_config.json")
        raise BadModelFile("the chat template isn't Unicode", field=field) from None
    return found
