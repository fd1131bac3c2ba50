"""Synthetic problems in English, Korean and Spanish with exact verifiers: all that the shipped model learns from.

`sample` draws one example of one task; `verify` judges any reply to it. A tenth of all problems, by the hash of their
operands, is held out for tests, and so are some names: a score on `split="test"` is no score of memory.

>>> example = sample(Random(0), task="compare", language="en", reasoning=True)
>>> verify(example, example.answer)
True
"""

from dataclasses import replace
from random import Random

from minexaone.reply import Reply
from minexaone.tasks import arithmetic, conversation, instructions, knowledge, programs, retrieval, tool_use
from minexaone.tasks.base import LANGUAGES, STYLES, Example, Task, assistant, held_out, in_language, phrases, say

__all__ = ["ALONE", "DOMAINS", "LANGUAGES", "STYLES", "TASKS", "Example", "Task", "held_out", "in_a_chat",
           "in_language", "phrases", "sample", "verify"]

TASKS: dict[str, Task] = {}
for module in (knowledge, arithmetic, programs, instructions, retrieval, tool_use, conversation):
    TASKS |= module.TASKS
DOMAINS = tuple(dict.fromkeys(task.domain for task in TASKS.values()))
ALONE = tuple(name for name, task in TASKS.items()  # whose questions need nothing but themselves
              if task.domain not in ("tool use", "long context") and name != "recall")


def sample(rng: Random, split="train", task=None, language=None, reasoning=None, level=None, style=None) -> Example:
    """Draw one example; what is None is drawn as well. `split` is "train" or "test"."""
    task = task or rng.choices(list(TASKS), [task.weight for task in TASKS.values()])[0]
    language = language or rng.choice(LANGUAGES)
    while True:
        level_now = level or rng.randint(1, TASKS[task].levels)
        example = TASKS[task].make(rng, language, level_now, split == "test")
        if not example.key or held_out(example.key) == (split == "test"):
            break
    example.reasoning = rng.random() < 0.5 if reasoning is None else reasoning
    styles = [name for name in STYLES if name in example.thoughts]
    example.style = style if style in styles else rng.choices(styles, [STYLES[name] for name in styles])[0]
    if rng.random() < 0.1:
        system = {"role": "system", "content": say(rng, language, "system")}
        if example.messages[0]["role"] != "system":
            example.messages = [system, *example.messages]
    return example


def in_a_chat(rng: Random, example: Example, others: int) -> Example:
    """The example behind so many other questions with their right answers, of the training split, in one chat."""
    past, names = [], [name for name in ALONE if name != "unknown" or not example.tools]  # its questions are for tools
    for _ in range(others):
        language = example.language if rng.random() < 0.7 else None
        other = sample(rng, "train", rng.choice(names), language, reasoning=False)
        past += [m for m in other.messages if m["role"] != "system"] + [assistant(other.reply["content"])]
    first = int(example.messages[0]["role"] == "system")
    return replace(example, messages=[*example.messages[:first], *past, *example.messages[first:]])


def verify(example: Example, reply: Reply | str) -> bool:
    """Whether a reply to an example is right: see `Task.verify`."""
    return TASKS[example.task].verify(example, reply)
