"""Train the byte-level BPE tokenizer on the project's own data.

    python -m minexaone.training.tokenizer --out FOLDER
"""

import argparse
import json
import re
from pathlib import Path
from random import Random

from tokenizers import AddedToken, decoders, models, pre_tokenizers, trainers
from tokenizers import Tokenizer as Backend

from minexaone.tasks import LANGUAGES, sample
from minexaone.tasks.retrieval import document
from minexaone.tokenizer import TEMPLATE, Tokenizer

SPECIAL = ["[PAD]", "[BOS]", "[EOS]", "[UNK]"]
TAGS = ["</tool_call>", "<tool_call>", "</tool_result>", "<tool_result>", "</think>", "<think>"]
ROLES = ["[|system|]", "[|tool|]", "[|assistant|]", "[|user|]", "[|endofturn|]"]
CONTROL = SPECIAL + TAGS + ROLES  # ids 0 to 14, in the order of the published tokenizer
NAMED = {"pad_token": "[PAD]", "bos_token": "[BOS]", "unk_token": "[UNK]", "eos_token": "[|endofturn|]"}


def train_tokenizer(vocab_size: int, examples: int, seed: int = 0) -> Tokenizer:
    """Byte-level BPE of vocab_size tokens, learnt from rendered examples. Digits and newlines never merge."""
    template = TEMPLATE.read_text(encoding="utf-8")

    def make(vocab, merges):
        backend = Backend(models.BPE(vocab, merges))
        backend.add_special_tokens([AddedToken(token, normalized=False) for token in SPECIAL + ROLES])
        backend.add_tokens([AddedToken(token, normalized=False) for token in TAGS])
        backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        backend.decoder = decoders.ByteLevel()
        return Tokenizer(backend, NAMED, template, TEMPLATE)

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    number = {token: id for id, token in enumerate(CONTROL)}
    renderer = make(number | {byte: len(number) + id for id, byte in enumerate(alphabet)}, [])
    control = re.compile("|".join(map(re.escape, CONTROL)))
    rng = Random(f"tokenizer {seed}")

    def corpus():
        for i in range(examples):
            example = sample(rng)
            text = renderer.apply_chat_template(example.messages, example.tools, tokenize=False)
            yield from control.split(text + example.text)
            if i % 10 == 0:
                yield document(rng, rng.choice(LANGUAGES), 600)

    learner = Backend(models.BPE())
    # Split before merging is learnt: no token of two digits, and none of two newlines, which would make the
    # tokens of "\n\n" depend on what follows. At inference GPT-2's splitting alone is enough.
    learner.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.Split("\n", "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False)])
    learner.train_from_iterator(corpus(), trainers.BpeTrainer(
        vocab_size=vocab_size - len(CONTROL), initial_alphabet=alphabet, show_progress=False))
    learnt = json.loads(learner.to_str())["model"]
    vocab = {token: len(number) + id for token, id in learnt["vocab"].items()}
    return make(number | vocab, [tuple(merge) for merge in learnt["merges"]])


def main():
    """Train and write a tokenizer."""
    parser = argparse.ArgumentParser(description="Train the byte-level BPE tokenizer on the project's own data.")
    parser.add_argument("--out", required=True, type=Path, help="folder to write")
    parser.add_argument("--vocab-size", type=int, default=2560)
    parser.add_argument("--examples", type=int, default=30000, help="examples to learn from")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    train_tokenizer(args.vocab_size, args.examples, args.seed).save_pretrained(args.out)


if __name__ == "__main__":
    main()
