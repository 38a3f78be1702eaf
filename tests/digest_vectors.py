"""TOPLOC's published vectors: indices, bits of bf16 values, and the digest in Base64."""

V3 = (
    "/9m0jdvY+I8kDTgXp8Xbj7FxS5ykZM3pauOvr4z89bbme+wBank248UORde2cxXcP/iEZFwgsjMHe3w8Rd5HH12V"
    "ww3DoZ73KQESC3nuCWTALgOhytXTREDdkQII92rT7KwQAUViqnbypYNT4MI5NGeXQjAmgIm3vJSxBqRLkDOVUZ09"
    "4RzyIWaiJdeSzh/xz2NYUavqmM/oT99wbv31wshcW0v4efyb6bm+ZWyAs6h+Y12uKW0Hapmg5wdy9vcqwdoJfowt"
    "5iPVmHLSbQuhdeIlI5PSXohtzn16Iym1aPXEl9TwD1wHrB+yk2sm6nUrpRU5sUpqyyW1aD/RG5K87eDX"
)
FOUR = [0x3F80, 0xC000, 0x4040, 0xC090]
VECTORS = {
    "README0": ([35, 63, 70, 79], [0x4039, 0x4019, 0xC00B, 0xC02B], "/9kbQitnukt1bQ=="),
    "README1": ([2, 6, 35, 44], [0xC018, 0xBFE4, 0xC023, 0x4022], "/9nLuJrxhiVUoA=="),
    "V1": ([3, 17, 100, 257], FOUR, "/9nGCj/JUolApw=="),
    "V2": ([5, 65502, 131000, 70000], FOUR, "/9gnTPC26zKsxA=="),
    "V3": (
        [(149 * i + 7) % 18432 for i in range(128)],
        [(0xC000 if i % 2 else 0x4000) + i for i in range(128)],
        V3,
    ),
}
