"""SentencePiece vocabularies: the ids of llama.cpp, and of the model's own tokenizer."""

from pathlib import Path

import pytest
import tokenizers
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hearthring.protocol.errors import BadModelFile, BadOption
from hearthring.shards.gguf_file import GgufFile
from hearthring.shards.spm import SentencePieces
from hearthring.shards.tokenizer import StreamDecoder, Tokenizer
from tests.sentences import CORPUS, SPECIALS, USER, normalizer, train, write_sentences_gguf
from tests.texts import TEXTS, Pair

OURS = [
    *(*TEXTS, *CORPUS, "▁▁ a ▁b", "<s>Why</s> is<|end|>\n \t the", "<0x0A><0x41>"),
    *(f"the {USER}sky{USER} ", "<|user|>\nHi<|end|>\n<|user|>", "thethethe sky skyskysky"),
]
PIECES = st.sampled_from([*SPECIALS, USER, " ", "  ", "\n", "▁", "the", " sky", "light", "ес", "é"])
ANY_TEXT = st.lists(
    st.one_of(PIECES, st.text(st.characters(exclude_categories=["Cs"]), max_size=8))
).map("".join)


@pytest.fixture(scope="module")
def trained() -> tokenizers.Tokenizer:
    return train()


@pytest.fixture(scope="module", params=["llama", "gemma", "phi-3"])
def case(
    request: pytest.FixtureRequest,
    trained: tokenizers.Tokenizer,
    tmp_path_factory: pytest.TempPathFactory,
) -> Pair:
    path = tmp_path_factory.mktemp(request.param) / "tiny.gguf"
    prefix = False if request.param == "gemma" else None
    return Pair(write_sentences_gguf(path, trained, prefix=prefix, name=f"Tiny {request.param}"))


def test_ids_are_llama_cpps(case: Pair) -> None:
    for text in OURS:
        case.check(text)
    assert case.ours.eos_ids == case.theirs.ends()
    assert (case.ours.bos_id, case.ours.eos_id, case.ours.add_bos) == (1, 2, True)


@given(ANY_TEXT)
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_ids_are_llama_cpps_for_any_text(case: Pair, text: str) -> None:
    case.check(text)


def test_ids_are_the_models_own(trained: tokenizers.Tokenizer, case: Pair) -> None:
    theirs = tokenizers.Tokenizer.from_str(trained.to_str())
    theirs.normalizer = normalizer(prefix=case.ours._space_first)
    for text in TEXTS:
        if text and "\u2581" not in text and not any(special in text for special in SPECIALS):
            found = case.ours.encode(text, specials=False)
            assert found == theirs.encode(text, add_special_tokens=False).ids, text


def test_text_comes_back(case: Pair) -> None:
    for text in (*CORPUS, "\x00\U0010ffff 🔥"):
        ids = case.ours.encode(text, specials=False)
        space = " " if case.ours._space_first else ""
        assert case.ours.decode(ids) == space + text
        decoder = StreamDecoder(case.ours)
        assert "".join(map(decoder.feed, ids)) + decoder.flush() == space + text
    assert case.ours.token_bytes(7 + 0xC3) == b"\xc3"
    assert [case.ours.token_bytes(token) for token in range(6)] == [b""] * 6
    with pytest.raises(BadOption, match="isn't Unicode"):
        case.ours.encode("a\ud800", specials=True)


def test_the_best_pair_goes_first_and_among_equals_the_leftmost() -> None:
    ids = {token: index for index, token in enumerate(["a", "b", "ab", "ba", "aba", "aa"])}
    scores = [0.0, 0.0, -1.0, -0.5, -2.0, -0.7]
    pieces = SentencePieces(ids, scores, unknown=99)
    assert pieces.encode("aba") == [4]
    assert pieces.encode("abab") == [4, 1]
    assert pieces.encode("aab") == [5, 1]
    assert pieces.encode("aaaaa") == [5, 5, 0]
    assert pieces.encode("é") == [99, 99]
    assert pieces.encode("") == []


def test_scores_that_are_missing_are_an_error(
    trained: tokenizers.Tokenizer, tmp_path: Path
) -> None:
    path = write_sentences_gguf(tmp_path / "tiny.gguf", trained)
    data = path.read_bytes()
    path.write_bytes(data.replace(b"tokenizer.ggml.scores", b"tokenizer.ggml.scorez"))
    with pytest.raises(BadModelFile, match=r"tiny\.gguf: there isn't a score for each token"):
        Tokenizer.from_gguf(GgufFile(path))
