"""On-policy samples: the model's own replies to many prompts at once, judged by the tasks' verifiers."""

import re
from dataclasses import dataclass

import torch.distributed as dist
from tqdm import tqdm

from minexaone.model import Exaone4
from minexaone.reply import Reply, read_reply
from minexaone.tasks import Example, in_language, verify
from minexaone.tokenizer import Tokenizer


@dataclass
class Rollout:
    """One sampled reply, as ids and as `Chat` would read it."""

    example: Example
    prompt: list[int]
    ids: list[int]
    reply: Reply
    reward: float

    @property
    def content(self) -> str | None:
        """The answer without its calls; None if the reply was cut off or stayed in its thinking."""
        return self.reply.content if self.reply.finish_reason == "stop" else None


def rows_at_once(model: Exaone4) -> int:
    """How many replies are generated together. A row that has ended is computed on until the longest ends.

    On a CPU that costs: 12 problems a cell of `evaluate.by_task` take 184 s in batches of 1,024 and 45 s in batches of
    64 (two cores of a Xeon). CUDA keeps the size with which the shipped model was trained and scored.
    """
    return 1024 if model.device.type == "cuda" else 64


def ranks() -> tuple[int, int]:
    """(number of this process, number of processes) under torchrun, else (0, 1)."""
    return (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)


def prose(content: str) -> str:
    """An answer without its blocks of code and its quotations: what is in a language."""
    return re.sub(r"```.*?```|\"[^\"\n]*\"", "", content, flags=re.S)


def target_language(example: Example) -> str:
    """The language that the answer should have: the question's, unless the question asks for another."""
    return example.expected.get("language", example.language)


def language_kept(rollout: Rollout) -> bool:
    """Whether the answer is in the right language. A right one is: verifiers see to it, and know what it quotes."""
    return rollout.content is not None and (
        bool(rollout.reward) or in_language(prose(rollout.content), target_language(rollout.example)))


def roll_out(model: Exaone4, tokenizer: Tokenizer, examples: list[Example], seed: int | None, max_new_tokens: int,
             temperature=1.0, progress: str | None = None, prompts=None, group=1, **options) -> list[Rollout]:
    """`group` replies to each example, in their order. Under torchrun every process samples a share, and gets all.

    prompts: the ids of each prompt, if they are known already. options: as in `Exaone4.stream`.
    """
    (rank, world), size = ranks(), rows_at_once(model)
    stop_ids = options.get("stop_ids", model.config.stop_ids)
    prompts = prompts or [tokenizer.apply_chat_template(e.messages, e.tools, enable_thinking=e.reasoning)
                          for e in examples]
    examples, prompts = ([item for item in items for _ in range(group)] for items in (examples, prompts))
    # Rows of a batch wait for the longest: put prompts of about one length together.
    order = sorted(range(len(prompts)), key=lambda i: (len(prompts[i]), i))
    found, batches = {}, [order[start:start + size] for start in range(0, len(order), size)]
    for n, rows in enumerate(tqdm(batches, desc=progress, unit="batch", disable=progress is None or rank > 0)):
        if n % world != rank:
            continue
        replies = model.generate([prompts[i] for i in rows], max_new_tokens=max_new_tokens, temperature=temperature,
                                 seed=None if seed is None else seed * 1_000_003 + n * size, **options)
        for i, ids in zip(rows, replies, strict=True):
            reply = read_reply(tokenizer, ids, examples[i].reasoning, stop_ids)
            found[i] = Rollout(examples[i], prompts[i], ids, reply, float(verify(examples[i], reply)))
    if world > 1:
        parts = [None] * world
        dist.all_gather_object(parts, found)
        found = {i: rollout for part in parts for i, rollout in part.items()}
    return [found[i] for i in range(len(examples))]
