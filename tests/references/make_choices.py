"""Writes choices.json: how lm-evaluation-harness scores and splits, by its own code.

    pip install torch==2.13.0 transformers==5.24.0 lm_eval==0.4.13 tokenizers==0.23.3
    python make_choices.py pretrained/gpt2 choices.json

on Python 3.11, on the CPU, in float32.

questions  contexts and choices, and their log-likelihoods under the GPT-2 of make_pretrained.py,
           which has 24 positions; its tokens are the bytes, by a tokenizer without merges
tokenizer  a tokenizer.json with 44 merges and <|endoftext|>
pairs      contexts and choices, and the ids that this tokenizer makes of each
"""

# pyright: reportMissingImports=false
import argparse
import json
from pathlib import Path
from typing import Any

import torch
import transformers
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

END = "<|endoftext|>"
TEXT = "the other then there and another this that these those what when where which who why " * 9
QUESTIONS: list[dict[str, Any]] = [
    {"context": "A b", "choices": [" c", " dd", "e"], "answer": 0},
    {"context": "ends in a space ", "choices": ["x", "yy"], "answer": 1},
    {"context": "and in more \n ", "choices": ["x", " yy", "\nz"], "answer": 2},
    {"context": "café, naïve", "choices": [" ä", "öö", "u", "日本"], "answer": 3},
    {
        "context": "far longer than four and twenty bytes",
        "choices": [" so", " cut it"],
        "answer": 0,
    },
    {"context": "x", "choices": ["just as long as a model.", " short"], "answer": 1},
]
PAIRS = [
    ("the", " other"),
    ("the ", "other"),
    ("th", "ere"),  # one token lies across
    ("wha", "t is that"),
    ("the \n ", "\n other"),
    ("where", "  "),
    ("", "the other"),
    ("", " who"),
    ("naïve caf", "é"),
    ("a 日本", "語 <|endoftext|>"),
]


def letters() -> dict[str, int]:
    """Letter of GPT-2's alphabet -> byte."""
    visible = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = [byte for byte in range(256) if byte not in visible]
    return {chr(byte): byte for byte in visible} | {chr(256 + n): b for n, b in enumerate(hidden)}


def wrapped(tokenizer: Tokenizer, **options: Any) -> transformers.PreTrainedTokenizerFast:
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, **options)


def harness(model: Any, tokenizer: Any, prefix: int) -> HFLM:
    """With the id that an empty context becomes."""
    return HFLM(
        pretrained=model, tokenizer=tokenizer, prefix_token_id=prefix, batch_size=1, device="cpu"
    )


def requests(pairs: list[tuple[str, str]]) -> list[Instance]:
    return [Instance("loglikelihood", {}, pair, number) for number, pair in enumerate(pairs)]


def score(model: Any) -> None:
    """Puts the log-likelihoods into QUESTIONS."""
    tokenizer = wrapped(Tokenizer(models.BPE(vocab=letters(), merges=[])))
    bytewise = harness(model, tokenizer, 0)  # no context here is empty
    for question in QUESTIONS:
        pairs = [(question["context"], choice) for choice in question["choices"]]
        found = bytewise.loglikelihood(requests(pairs), disable_tqdm=True)
        question["log_likelihoods"] = [value for value, _ in found]


def learnt() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=301,
        special_tokens=[END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([TEXT], trainer)
    return tokenizer


def split(model: Any, tokenizer: Tokenizer) -> list[dict[str, Any]]:
    """The ids that the harness would run the model on."""
    seen: list[Any] = []
    fast = wrapped(tokenizer, bos_token=END, eos_token=END, split_special_tokens=True)
    mine = harness(model, fast, fast.eos_token_id)
    mine._loglikelihood_tokens = lambda found, **_: seen.extend(found)
    mine.loglikelihood(requests(PAIRS), disable_tqdm=True)
    return [
        {"context": context, "choice": choice, "before": before, "after": after}
        for (context, choice), (_, before, after) in zip(PAIRS, seen, strict=True)
    ]


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description="Write choices.json.")
    parser.add_argument("model", type=Path, help="pretrained/gpt2")
    parser.add_argument("output", type=Path, help="choices.json")
    given = parser.parse_args()
    torch.set_num_threads(1)
    model = transformers.GPT2LMHeadModel.from_pretrained(given.model, dtype="float32").eval()
    score(model)
    tokenizer = learnt()
    pairs = split(model, tokenizer)
    content = {"questions": QUESTIONS, "tokenizer": tokenizer.to_str(), "pairs": pairs}
    given.output.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
