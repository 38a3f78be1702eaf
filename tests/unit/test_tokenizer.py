"""Tokenizer: the ids llama.cpp gives, and streams that add up."""

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hearthring.protocol.errors import BadModelFile, BadOption
from hearthring.shards.gguf_file import GgufFile
from hearthring.shards.store import ModelEntry
from hearthring.shards.tokenizer import StreamDecoder, Tokenizer
from tests.texts import TEXTS, Pair
from tests.tiny import SPECIALS, write_tiny_gguf

PRE = ["smollm", "gpt-2", "default", "llama-bpe", "qwen2", "tekken", "gpt-4o", "deepseek-coder"]

# Letters and digits new in Unicode 15.1 and 16, and assigned symbols of theirs: llama.cpp's tables
# are older than those of `tokenizers`.
NEW = [
    *[(0x1B4E, 0x1B4F), (0x1B7F, 0x1B7F), (0x1C89, 0x1C8A), (0xA7CB, 0xA7CD), (0xA7DA, 0xA7DC)],
    *[(0x105C0, 0x105F3), (0x10D40, 0x10D8F), (0x10EC2, 0x10EC4), (0x11380, 0x113E2)],
    *[(0x116D0, 0x116E3), (0x11BC0, 0x11BF9), (0x13460, 0x143FA), (0x16100, 0x16139)],
    *[(0x16D40, 0x16D79), (0x18CFF, 0x18CFF), (0x1CCF0, 0x1CCF9), (0x1E5D0, 0x1E5FF)],
]


def known_to_both(text: str) -> bool:
    return not any(low <= ord(char) <= high for char in text for low, high in NEW)


PIECES = st.sampled_from([*SPECIALS, " ", "  ", "\n", "\t", "'s", "'LL", "12", "the", " a", "é"])
RANDOM_TEXT = (
    st.lists(st.one_of(PIECES, st.text(st.characters(exclude_categories=["Cs"]), max_size=8)))
    .map("".join)
    .filter(known_to_both)
)


@pytest.fixture(scope="module")
def real(smollm2: ModelEntry) -> Pair:
    return Pair(smollm2.path)


@pytest.fixture(scope="module", params=PRE)
def tiny(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    pre = request.param
    return Pair(write_tiny_gguf(tmp_path_factory.mktemp(pre) / "tiny.gguf", pre=pre, layers=1))


@pytest.fixture(scope="module")
def tokenizer(tiny_gguf: Path) -> Tokenizer:
    return Tokenizer.from_gguf(GgufFile(tiny_gguf))


@pytest.mark.model
def test_real_model_has_llama_cpps_ids(real: Pair) -> None:
    for text in TEXTS:
        real.check(text)
    assert real.ours.eos_ids == real.theirs.ends()
    assert (real.ours.bos_id, real.ours.eos_id, real.ours.add_bos) == (1, 2, False)


@pytest.mark.model
@given(RANDOM_TEXT)
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_real_model_has_llama_cpps_ids_for_any_text(real: Pair, text: str) -> None:
    real.check(text)


def test_every_pre_tokenizer_has_llama_cpps_ids(tiny: Pair) -> None:
    for text in TEXTS:
        tiny.check(text)
    assert tiny.ours.eos_ids == tiny.theirs.ends()


@given(RANDOM_TEXT)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_every_pre_tokenizer_has_llama_cpps_ids_for_any_text(tiny: Pair, text: str) -> None:
    tiny.check(text)


def test_specials_are_tokens_only_where_they_may_be(tokenizer: Tokenizer) -> None:
    assert tokenizer.encode("<|im_start|>\n<|im_end|>", specials=True) == [1, 3 + 10, 2]
    plain = tokenizer.encode("<|im_end|>", specials=False)
    assert not set(plain) & {0, 1, 2}
    assert tokenizer.decode(plain) == "<|im_end|>"


def test_control_tokens_render_as_nothing(tokenizer: Tokenizer) -> None:
    assert [tokenizer.token_bytes(token) for token in range(3)] == [b"", b"", b""]
    assert tokenizer.token_text(2) == "<|im_end|>"
    assert b"".join(map(tokenizer.token_bytes, range(3, 259))) == bytes(range(256))
    assert (tokenizer.vocabulary, tokenizer.eos_ids) == (300, {0, 2})


@pytest.mark.parametrize("token", [-1, 300, 1 << 40])
def test_an_id_outside_the_vocabulary_is_refused(tokenizer: Tokenizer, token: int) -> None:
    with pytest.raises(BadOption, match="token id"):
        tokenizer.token_bytes(token)
    decoder = StreamDecoder(tokenizer)
    assert decoder.feed(3 + 0xC3) == ""
    with pytest.raises(BadOption):
        decoder.feed(token)
    assert decoder.feed(3 + 0xA9) == "é"


def test_a_text_that_isnt_unicode_is_refused(tokenizer: Tokenizer) -> None:
    with pytest.raises(BadOption, match="prompt"):
        tokenizer.encode("a\ud800b", specials=True)


def test_a_stream_holds_back_what_isnt_whole(tokenizer: Tokenizer) -> None:
    decoder = StreamDecoder(tokenizer)
    pieces = [decoder.feed(3 + byte) for byte in "aé😀".encode()]
    assert pieces == ["a", "", "é", "", "", "", "😀"]
    assert decoder.flush() == ""
    assert decoder.feed(3 + 0xF0) == ""
    assert decoder.flush() == "\ufffd"
    assert decoder.flush() == ""


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_plain_text_comes_back_whole(tokenizer: Tokenizer, text: str) -> None:
    # Where the vocabulary has all bytes; SmolLM2's lacks some control characters.
    assert tokenizer.decode(tokenizer.encode(text, specials=False)) == text


@given(st.lists(st.one_of(st.integers(0, 299), st.integers(0x80, 0xFF).map(lambda b: b + 3))))
def test_a_stream_adds_up_to_decode(tokenizer: Tokenizer, ids: list[int]) -> None:
    decoder = StreamDecoder(tokenizer)
    assert "".join(map(decoder.feed, ids)) + decoder.flush() == tokenizer.decode(ids)


@pytest.mark.parametrize(("old", "new"), [(b"gpt2", b"bert"), (b"smollm", b"future")])
def test_an_unknown_tokenizer_is_named(
    tiny_gguf: Path, tmp_path: Path, old: bytes, new: bytes
) -> None:
    path = tmp_path / "other.gguf"
    path.write_bytes(tiny_gguf.read_bytes().replace(old, new, 1))
    with pytest.raises(BadModelFile, match=new.decode()):
        Tokenizer.from_gguf(GgufFile(path))


@pytest.mark.parametrize(
    ("old", "new"),
    [(b"\xc4\xa0 t", b"\xc4\xa0xt"), (b"h e", b"h Z"), (b"\xc4\xa0and", b"\xc4\xa0the")],
)
def test_a_tokenizer_that_contradicts_itself_is_refused(
    tiny_gguf: Path, tmp_path: Path, old: bytes, new: bytes
) -> None:
    data = tiny_gguf.read_bytes()
    assert old in data
    path = tmp_path / "bad.gguf"
    path.write_bytes(data.replace(old, new))
    with pytest.raises(BadModelFile, match=r"bad\.gguf"):
        Tokenizer.from_gguf(GgufFile(path))
