"""Hostile input for Hypothesis: the edge cases of decoders."""

import json
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st

LONG = 5_000
"""Past Python's own bound on the digits of a number (4,300), and past any field of ours."""

thorough = settings(max_examples=settings().max_examples // 2)
"""Half as many examples as the profile says (`--hypothesis-profile=long`: 200)."""

NUMBERS = st.one_of(
    st.integers(),
    st.floats(),
    st.sampled_from(
        [0, -1, 2**31, 2**53, 2**63 - 1, 2**63, 2**64, -(2**63) - 1, 10**30, 1e308, 5e-324]
    ),
)
NUMERALS = st.one_of(
    st.integers().map(str),
    st.floats().map(str),
    st.sampled_from(
        ["9" * LONG, "-" + "9" * LONG, "0" * LONG, "1." + "0" * LONG, "1e999", "1e-999", "NaN",
         "Infinity", "0x10", "1_0", "٣", "²", "+1", " 1", "1 ", "", "-", "--1"]
    ),
)  # fmt: skip
TEXTS = st.one_of(
    st.text(),
    st.text(st.characters(categories=("Cc", "Cf", "Cs", "Co", "Zl", "Zp", "Sk"))),
    NUMERALS,
    st.sampled_from(
        ["\x00", "\ud800", "\udcff", "\ufeff", "\r\nX: y", "\x1b[31m", "../" * 9, "%2e%2e%2f",
         "%00", "a" * LONG, "{" * LONG, "👩‍🚀" * 99, "'; DROP TABLE agents; --",
         "<script>", "${x}", "{0}"]
    ),
)  # fmt: skip
"""Any text, lone surrogates too: that is what bytes that are no UTF-8 become in Python."""


def nested(depth: int, opening: str = "[", closing: str = "]") -> str:
    return opening * depth + closing * depth


VALUES: st.SearchStrategy[Any] = st.recursive(
    st.one_of(st.none(), st.booleans(), NUMBERS, TEXTS),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(TEXTS, inner, max_size=4)),
    max_leaves=12,
)


def _json(value: Any) -> bytes:
    """JSON as Python writes it: NaN, Infinity and lone surrogates included."""
    return json.dumps(value).encode()


JSON_TEXTS = st.one_of(
    VALUES.map(_json),
    st.binary(),
    TEXTS.map(lambda text: text.encode(errors="surrogatepass")),
    st.sampled_from(
        [
            nested(2_000).encode(),
            nested(2_000, '{"a":', "}").encode(),
            nested(900).encode(),
            b'{"a": ' + b"9" * LONG + b"}",
            b"\xef\xbb\xbf{}",
            b'{"a": 1, "a": 2}',
            b'{"a": "\\ud800"}',
            b'{"a": "\\u0000"}',
            "{}".encode("utf-16"),
            b"[" * LONG,
        ]
    ),
)


def mangled(example: dict[str, Any]) -> st.SearchStrategy[bytes]:
    """A valid document with some of its values replaced, left out or added to."""
    names = st.sampled_from(sorted(example))

    def changed(changes: dict[str, Any], gone: set[str], more: dict[str, Any]) -> bytes:
        remaining = {name: value for name, value in example.items() if name not in gone}
        return _json({**remaining, **more, **changes})

    return st.builds(
        changed,
        st.dictionaries(names, VALUES, max_size=2),
        st.sets(names, max_size=1),
        st.dictionaries(TEXTS, VALUES, max_size=1),
    )
