"""Tokenizers: nothing is lost, and the ids are those of the package `tokenizers`."""

import json
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from lmjax.data import BPE, Bytes, embedded
from lmjax.data.bpe import BPECodec, in_pieces, learn
from lmjax.data.tokenizer import ByteCodec
from lmjax.errors import FieldError, InputError

SAMPLE = [text for _, text in zip(range(12), embedded.python_docs().values(), strict=False)]
LLAMA_3 = (  # the pattern of its tokenizer.json: case, digits by three, punctuation with newlines
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)


@pytest.fixture(scope="module")
def description() -> str:
    return learn(SAMPLE, 600)


@pytest.fixture(scope="module")
def codec(description) -> BPECodec:
    return BPECodec(description, "learnt")


@given(st.binary(max_size=300) | st.text(max_size=100).map(str.encode))
@settings(max_examples=150, deadline=None)
def test_nothing_is_lost(codec, content):
    for one in (codec, ByteCodec()):
        ids = one.encode(content)
        assert one.decode(ids.tolist()) == content
        assert all(number < one.vocab_size for number in ids.tolist())


@given(st.text(max_size=200))
@settings(max_examples=100, deadline=None)
def test_ids_are_those_of_the_package(codec, description, text):
    theirs = Tokenizer.from_str(description).encode(text, add_special_tokens=False).ids
    assert codec.encode(text).tolist() == theirs
    assert b"".join(codec.pieces[number] for number in theirs) == text.encode()


def test_bytes_are_their_own_ids():
    codec = Bytes().build(lambda: [])
    assert codec.encode("caf\u00e9").tolist() == list("caf\u00e9".encode())
    assert codec.end_of_text is None
    assert (codec.vocab_size, codec.dtype) == (256, np.uint8)


def other(pattern: str) -> str:
    """A tokenizer.json that splits by another pattern than GPT-2's."""
    library = Tokenizer(models.BPE())
    library.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(pattern), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    library.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=600,
        special_tokens=["<|end_of_text|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    library.train_from_iterator([text.decode() for text in SAMPLE], trainer)
    return library.to_str()


@pytest.mark.parametrize("kind", ["gpt2", "llama3"])
def test_a_long_document_in_pieces_has_the_ids_of_the_whole(monkeypatch, description, kind):
    monkeypatch.setattr("lmjax.data.bpe.PIECE", 40)
    text = SAMPLE[3] + SAMPLE[4]
    written = description if kind == "gpt2" else other(LLAMA_3)
    codec = BPECodec(written, kind)
    whole = Tokenizer.from_str(written).encode(text.decode(), add_special_tokens=False).ids
    assert len(list(in_pieces(text))) > len(text) / 200
    assert codec.encode(text).tolist() == whole
    monkeypatch.setattr("lmjax.data.bpe.SEAM", re.compile("(?s)(?=.)"))  # cuts anywhere do show
    assert codec.encode(text).tolist() != whole


def test_documents_end_with_the_end_of_text(codec):
    first, second = codec.encode_documents([b"one two", b"three"])
    assert codec.end_of_text is not None
    assert first.tolist() == [*codec.encode("one two").tolist(), codec.end_of_text]
    assert second[-1] == codec.end_of_text
    assert codec.decode(first.tolist()) == b"one two"  # it stands for no byte


def test_a_text_that_spells_the_end_of_text_is_only_text(codec, description):
    text = "a <|endoftext|> b"
    ids = codec.encode(text).tolist()
    assert codec.end_of_text not in ids
    assert codec.decode(ids) == text.encode()
    assert codec.end_of_text in Tokenizer.from_str(description).encode(text).ids


def test_the_same_text_makes_the_same_vocabulary(monkeypatch, codec, description):
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "false")
    again = BPECodec(learn(SAMPLE, 600), "again")
    assert again.digest == codec.digest
    assert BPECodec(learn(SAMPLE[1:], 600), "other").digest != codec.digest
    assert again.vocab_size == 600
    assert Tokenizer.from_str(description).get_vocab_size() == 600


def test_a_file_is_read_and_its_digest_is_of_its_content(tmp_path, codec, description):
    path = tmp_path / "tokenizer.json"
    path.write_text(description)
    read = BPE(path=str(path)).build(lambda: pytest.fail("nothing is learnt"))
    assert read.digest == codec.digest
    assert read.encode("hello world").tolist() == codec.encode("hello world").tolist()
    path.write_text(description.replace('"version"', ' "version"'))
    assert BPE(path=str(path)).build(lambda: []).digest != codec.digest


def changed(description: str, **fields: object) -> str:
    return json.dumps(json.loads(description) | fields)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda text: "{", "not a tokenizer.json"),
        (lambda text: "[]", "not a tokenizer.json"),
        (lambda text: changed(text, pre_tokenizer=None), "not a byte-level BPE"),
        (lambda text: changed(text, normalizer={"type": "Lowercase"}), "would change the text"),
        (
            lambda text: changed(
                text,
                pre_tokenizer={
                    "type": "ByteLevel",
                    "add_prefix_space": True,
                    "trim_offsets": True,
                    "use_regex": True,
                },
            ),
            "would change the text",
        ),
        (
            lambda text: changed(
                text, model={"type": "BPE", "vocab": {"a": 0, "b": 1}, "merges": []}
            ),
            "of the 256 bytes have no token",
        ),
    ],
)
def test_a_vocabulary_that_loses_text_is_refused(description, change, told):
    with pytest.raises(InputError, match=told) as error:
        BPECodec(change(description), "a.json")
    assert str(error.value).startswith("a.json: ")
    assert "\n" not in str(error.value)


def test_bytes_of_a_command_line_that_are_no_text_are_bytes(description):
    for codec in (ByteCodec(), BPECodec(description, "a.json")):
        assert codec.decode(codec.encode("a\udcff").tolist()) == b"a\xff"
        with pytest.raises(InputError, match=r"'\\ud800' at character 1 is no text"):
            codec.encode("a\ud800")


def test_no_more_ids_are_learnt_than_a_text_has():
    with pytest.raises(FieldError, match="vocab_size = 1000000: must be <= 260: a text of 3 bytes"):
        BPE(vocab_size=10**6).build(lambda: [b"ab", b"c"])


def test_settings_are_checked(tmp_path):
    with pytest.raises(FieldError, match="vocab_size = 256: must be >= 257"):
        BPE(vocab_size=256).validate()
    with pytest.raises(FieldError, match="cannot be read"):
        BPE(path=str(tmp_path / "none.json")).build(lambda: [])
