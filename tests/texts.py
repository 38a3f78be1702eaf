"""Texts that tokenizers stumble over, and a vocabulary in two hands: ours and llama.cpp's."""

from pathlib import Path

from hearthring.shards.gguf_file import GgufFile
from hearthring.shards.tokenizer import Tokenizer
from tests.llama_cpp import LlamaVocabulary

TEXTS = [
    "",
    " ",
    "Why is the sky blue?",
    "In 2024, 1234567890 people paid 3.14159 or ½ or ٣٤٥ or Ⅻ or ²³.",
    "It's I'M they'LL we've he'd 'S 't 'twas don''t rock'n'roll",
    "🔥👩‍👩‍👧‍👦🇩🇪 emoji😀😀 end",
    "今天天气很好。日本語のテキスト、한국어 문장",
    "def f(x):\n\tif x > 1:\n\t\treturn [i**2 for i in range(x)]  # ok\n\n\n",
    "long" + " " * 70 + "run" + " " * 3 + "\t\t\t\n \n  \r\n\r\n x",
    "   leading and trailing   ",
    "\n\n\n\nfour",
    "e\u0301a\u0308\u0323 combining Z͑ͫ̓ͪ̂ͫ̽͏̴̙̤̞",
    "مرحبا بالعالم ١٢٣ شكراً",
    "नमस्ते दुनिया क्षत्रिय १२३",
    "สวัสดีชาวโลก ภาษาไทย ๑๒๓",
    "\u00a0\u2003\u3000\u200b\u2028\ufeff\u0085 odd spaces \u00a0\u00a0x",
    "\x00\x01\x1f\x7f control",
    " \x06{ \x06 a\x06b t\x06he",
    "a" * 300 + "!?" * 50 + "_" * 33,
    "https://example.org/a?b=c&d=%20#e <b>html</b> $1,000.00 C++ C# x->y",
    "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n",
    "<|endoftext|><|endoftext|> x<|im_end|>",
    "<|im_start|<|im_end|>|> <|im_ end|> <|IM_END|>",
    "\U0010ffff\ue000\ufffd\ufffe",
]


class Pair:
    """Both tokenizers of one file."""

    def __init__(self, path: Path) -> None:
        self.ours = Tokenizer.from_gguf(GgufFile(path))
        self.theirs = LlamaVocabulary(path)

    def check(self, text: str) -> None:
        for specials in (True, False):
            ids = self.ours.encode(text, specials=specials)
            assert ids == self.theirs.encode(text, specials=specials), (text, specials)
