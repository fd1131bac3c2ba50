"""From examples to documents of token ids, and from these to the batches of every step."""

from collections.abc import Iterator
from functools import cache
from pathlib import Path
from random import Random

from torch.utils.data import DataLoader, Dataset, Subset

from minexaone.scoring.rollouts import Rollout
from minexaone.tasks import LANGUAGES, TASKS, Example, in_a_chat, retrieval, sample
from minexaone.tasks.base import plain
from minexaone.tokenizer import Tokenizer
from minexaone.training.packing import Document, Packed, pack

CUT = 0.05  # share of reasoning examples whose thinking is closed too early, as by a reasoning budget
RATIO = 1.5  # tokens of reasoning data for each token of non-reasoning data (EXAONE 4.0 report, SFT)
CHATS = 0.25  # share of examples behind other questions in the same chat
NEEDLES = (0.055, 0.16)  # share of long texts among the documents of the two rounds of SFT
SECOND_ROUND = ("code", "tool use")  # domains of the second round of SFT (report: code and tool-use reasoning)
RARER = ("math", "code", "instruction following")  # domains whose harder levels SFT leaves to AGAPO in part


# -------------------------------------------------------------------------------------------------- documents


def text_document(text: str, tokenizer: Tokenizer, context: int) -> Document:
    """A text between [BOS] and [EOS], cut to the context; every token counts."""
    ids = [tokenizer.bos_token_id, *tokenizer.encode(text), tokenizer.token_to_id("[EOS]")][:context + 1]
    return Document(ids, [1.0] * len(ids))


def turn_ids(example: Example, tokenizer: Tokenizer) -> tuple[list[int], list[int]]:
    """(prompt ids, reply ids) of an assistant's turn, the reply with its end of turn."""
    prompt = tokenizer.apply_chat_template(example.messages, example.tools, enable_thinking=example.reasoning)
    return prompt, [*tokenizer.encode(example.text, parse_special=True), tokenizer.eos_token_id]


def turn_document(example: Example, tokenizer: Tokenizer, rng: Random) -> Document:
    """An assistant's turn, of which only the reply counts, and the right replies of the turns before."""
    prompt, reply = turn_ids(example, tokenizer)
    weights = earlier_replies(prompt, tokenizer) if example.right_before else [0.0] * len(prompt)
    if example.reasoning and rng.random() < CUT:
        # A budget closes the thinking from outside, so the cut thought is prompt: it must not teach to stop early.
        thought, text = example.text.split("\n</think>\n\n", 1)
        thought = tokenizer.encode(thought)
        prompt += thought[:rng.randrange(len(thought))] + tokenizer.close_ids
        reply = [*tokenizer.encode(text, parse_special=True), tokenizer.eos_token_id]
    weights += [0.0] * (len(prompt) - len(weights))
    return Document(prompt + reply, weights + [1.0] * len(reply))


def sampled_document(rollout: Rollout, score: float) -> Document:
    """A prompt and the model's own reply, of which the reply counts."""
    weights = [0.0] * len(rollout.prompt) + [1.0] * len(rollout.ids)
    return Document(rollout.prompt + rollout.ids, weights, score)


def earlier_replies(prompt: list[int], tokenizer: Tokenizer) -> list[float]:
    """1 for each token of the replies in a prompt, which stand behind an empty thought as without reasoning; else 0."""
    close, end, gap = tokenizer.think_end_id, tokenizer.eos_token_id, len(tokenizer.encode("\n\n"))
    weights, begin = [0.0] * len(prompt), None
    for i, id in enumerate(prompt):
        if id == close:
            begin = i + 1 + gap
        elif id == end and begin is not None:
            weights[begin:i + 1] = [1.0] * (i + 1 - begin)
            begin = None
    return weights


def draw_level(rng: Random, task: str) -> int:
    """In `RARER` each level is rarer than the one below, so that something is left to learn from rewards."""
    levels, rarer = range(1, TASKS[task].levels + 1), 0.75 if TASKS[task].domain in RARER else 1
    return rng.choices(levels, [rarer**level for level in levels])[0]


def draw_task(rng: Random, domains=()) -> str:
    """A task by its weight, of these domains if any are named."""
    names = [name for name, task in TASKS.items() if not domains or task.domain in domains]
    return rng.choices(names, [TASKS[name].weight for name in names])[0]


def maybe_in_a_chat(rng: Random, example: Example) -> Example:
    """The example; in the share `CHATS` of all cases behind one to eight other questions, mostly few."""
    return in_a_chat(rng, example, log_uniform(rng, 1, 9)) if rng.random() < CHATS else example


def log_uniform(rng: Random, low: int, high: int) -> int:
    """An integer from `low` to below `high`, as many from each doubling."""
    return int(low * (high / low) ** rng.random())


def pretraining_documents(rng: Random, tokenizer: Tokenizer, context: int) -> Iterator[Document]:
    """Endless plain texts: problems with answers, and pages that refer back to what they said far above.

    Half of all tokens are problems at every context, so that longer texts do not drive out the short ones.
    """
    tokens = {True: 0, False: 0}
    while True:
        problem = tokens[True] <= tokens[False]
        if problem:
            task = draw_task(rng)
            text = plain(sample(rng, task=task, level=draw_level(rng, task)))
        elif rng.random() < 0.6:
            language = rng.choice(LANGUAGES)
            length = log_uniform(rng, context // 4, context) * characters_per_token(tokenizer, language)
            text = retrieval.document(rng, language, int(length))
        else:
            text = plain(needle(rng, tokenizer, context))
        document = text_document(text, tokenizer, context)
        tokens[problem] += len(document.ids)
        yield document


def needle(rng: Random, tokenizer: Tokenizer, context: int, reasoning=False) -> Example:
    """A long text with up to eight needles at any depth, asked for in one question or one after the other."""
    longest, language = context * 19 // 20, rng.choice(LANGUAGES)
    length, size = log_uniform(rng, min(256, longest // 2), longest), characters_per_token(tokenizer, language)
    turns, count = rng.random() < 0.7, rng.randint(1, min(8, max(1, length // 150)))
    return retrieval.niah(rng, language, length, rng.random(), lambda text: len(text) / size, reasoning,
                          count if turns else min(count, 2), turns)


@cache
def characters_per_token(tokenizer: Tokenizer, language: str) -> float:
    """Of a long text: to count a training text's tokens exactly would cost more than all else about it."""
    text = " ".join(retrieval.haystack(Random(0), language, 10_000))
    return len(text) / len(tokenizer.encode(text))


def sft_documents(rng: Random, tokenizer: Tokenizer, context: int, second=False, ratio=RATIO) -> Iterator[Document]:
    """Endless assistant turns in both modes, at `ratio` tokens of reasoning for one of non-reasoning.

    second: the second round, mostly reasoning about code and tools, with some of everything so that nothing is lost.
    """
    tokens = {True: 0.0, False: 0.0}
    while True:
        long = rng.random() < NEEDLES[second]
        special = second and not long and rng.random() < 0.7
        reasoning = special or tokens[True] < ratio * tokens[False]
        if long:
            example = needle(rng, tokenizer, context, reasoning)
        else:
            task = draw_task(rng, SECOND_ROUND if special else ())
            example = sample(rng, task=task, reasoning=reasoning, level=draw_level(rng, task))
            example = maybe_in_a_chat(rng, example)
        document = turn_document(example, tokenizer, rng)
        if len(document.ids) <= context:
            tokens[reasoning] += 0 if special else len(document.ids)
            yield document


# ---------------------------------------------------------------------------------------------------- batches


class Steps(Dataset):
    """Step n's batches, drawn from the name, the seed and n alone: the same with any number of worker processes.

    documents(rng, tokenizer): an endless iterator. rows, tokens: a step has so many rows of so many tokens. fits: or,
    where memory holds no more, the same documents in more rows of so many tokens.
    """

    def __init__(self, folder: Path, documents, name: str, seed: int, steps: int, rows: int, tokens: int, longest: int,
                 fits: int | None = None):
        self.folder, self.documents, self.name, self.seed, self.steps = folder, documents, name, seed, steps
        self.rows, self.tokens, self.longest, self.fits, self.tokenizer = rows, tokens, longest, fits, None

    def __len__(self):
        return self.steps

    def __getitem__(self, step) -> tuple[list[Packed], dict]:
        """The step's batches, their weights scaled to a sum of 1, and nothing to log."""
        self.tokenizer = self.tokenizer or Tokenizer.from_pretrained(self.folder)
        rng = Random(f"{self.name} {self.seed} {step}")
        batches = pack(self.documents(rng, self.tokenizer), self.tokens, self.longest, self.rows, self.fits)
        total = sum(batch.weights.sum() for batch in batches)
        for batch in batches:
            batch.weights /= total
        return batches, {}

    def draw(self, start: int, workers: int):
        """The steps from `start` on, made by worker processes ahead of time."""
        return DataLoader(Subset(self, range(start, len(self))), batch_size=None, num_workers=workers,
                          prefetch_factor=4 if workers else None)
