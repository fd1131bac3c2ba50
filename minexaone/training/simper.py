"""SimPER: preference learning without a reference model and without hyperparameters, in two stages.

Maximises exp(mean log π(chosen)) - exp(mean log π(rejected)): the inverse perplexities of a preferred and of a rejected
reply (arXiv:2502.00883; EXAONE 4.0 report, section on preference learning). Replies are the model's own, judged by
rules: stage 1 prefers the shortest right reply, stage 2 what `judge` prefers among right ones, in the right language.
Pairs are sampled anew in each round, since those of an older model say less and less about what this one does.
"""

import re
from dataclasses import replace
from random import Random

import torch
from torch import Tensor

from minexaone.model import Exaone4
from minexaone.reply import Reply
from minexaone.scoring.rollouts import Rollout, language_kept, prose, roll_out, target_language
from minexaone.tasks import TASKS, Example, in_language, sample
from minexaone.tokenizer import Tokenizer
from minexaone.training.data import maybe_in_a_chat, sampled_document
from minexaone.training.loop import fit
from minexaone.training.packing import Document, Packed, pack
from minexaone.training.run import Run

PASSES = 3  # over a round's pairs at most: 9 passes over 588 pairs broke replies that no pair was about
COST = 0.004  # of right replies, since the stage began: a dearer round is taken back, and the next is half as bold


def simper_loss(logprobs: Tensor, batch: Packed) -> Tensor:
    """Minus the mean over pairs of exp(mean log π(chosen)) - exp(mean log π(rejected)); scores are 1 and -1.

    The two terms of a pair need not lie in the same batch.
    """
    lengths = batch.per_document(torch.ones_like(logprobs)).clamp(min=1)
    return -(batch.scores * (batch.per_document(logprobs) / lengths).exp()).sum() / (batch.count / 2)


# ----------------------------------------------------------------------------------------------------- rewards


def stems(text: str) -> set[str]:
    """The numbers and words of a text, without single Latin letters; a Korean word's first two syllables, as endings
    change."""
    words = re.findall(r"\d+(?:[.,]\d+)*|[^\W\d_]{2,}|[가-힣]", text.lower())
    return {word[:2] if "가" <= word[0] <= "힣" else word for word in words}


def judge(example: Example, reply: Reply | str) -> float:
    """How good an answer is to read, 0 to 4, by rules that anyone can check. Only the answer counts, not the thinking.

    1 each for: it is in the right language; it is a sentence (begins with a capital, a digit or a Korean syllable, and
    ends with a mark); it says what it is about (shares a word or a number with the question); it does not ramble (at
    most 80 words, no line twice). Calls of tools, lists and code are no sentences: they get that point. A reply
    that was cut off, stayed in its thinking or says nothing gets 0. A text stands for a reply with this content alone.
    """
    reply = Reply(content=reply) if isinstance(reply, str) else reply
    content = reply.content
    if reply.finish_reason != "stop" or not (content or reply.tool_calls):
        return 0.0
    question = next((m["content"] for m in reversed(example.messages) if m["role"] == "user"), "")
    free = example.task in ("constraint", "write") or bool(reply.tool_calls)
    lines = [line for line in content.splitlines() if line.strip()]
    sentence = content[:1] in "¿¡-" or content[0].isdigit() or content[0].upper() == content[0]
    return float(in_language(prose(content), target_language(example)) + (free or (sentence and content[-1] in ".!?。"))
                 + (free or bool(stems(question) & stems(content)))
                 + (len(content.split()) <= 80 and (free or len(set(lines)) == len(lines))))


def concise_pair(group: list[Rollout]) -> tuple[Rollout, Rollout] | None:
    """Stage 1: the shortest right reply, and the shortest wrong one if there is any, else the longest right one.

    The shortest wrong one jumped to the result: where that is a gamble, being short must not look good.
    """
    right, wrong = (sorted((r for r in group if r.reward == reward and r.content is not None),
                           key=lambda r: len(r.ids)) for reward in (1, 0))
    if not right or (not wrong and len(right[-1].ids) == len(right[0].ids)):
        return None
    return right[0], wrong[0] if wrong else right[-1]


def preferred_pair(group: list[Rollout]) -> tuple[Rollout, Rollout] | None:
    """Stage 2: the reply that the judge likes best (of equals the shorter one), and the one it likes least."""
    ranked = sorted((r for r in group if r.content is not None),
                    key=lambda r: (r.reward + judge(r.example, r.reply), -len(r.ids)))
    if len(ranked) < 2 or not ranked[-1].reward:
        return None
    best, worst = ranked[-1], ranked[0]
    gap = best.reward + judge(best.example, best.reply) - worst.reward - judge(worst.example, worst.reply)
    return (best, worst) if gap > 0 else None


# --------------------------------------------------------------------------------------------------------- pairs


def preference_example(rng: Random, stage: int, split="train") -> Example:
    """A query: in stage 1 three of four for reasoning, in stage 2 of any kind, half of them with reasoning.

    Those of stage 1 without reasoning, of any kind, hold what it does not aim at: else short answers lose words, too.
    Tools are no part of it: a thought that only names the tool is short and nearly always right, but a chain of calls
    needs every one of them. (With tools, whole loops fell from 97 of 100 to 96 in stage 1 and to 91 in stage 2.)
    """
    reasoning = rng.random() < (0.75 if stage == 1 else 0.5)
    task = rng.choice([name for name, task in TASKS.items()
                       if task.domain != "tool use" and (stage == 2 or not reasoning or task.levels > 1)])
    return maybe_in_a_chat(rng, sample(rng, split, task, reasoning=reasoning))


def draw_queries(stage: int, count: int, seed: int) -> list[Example]:
    """The queries of a round of this seed; in stage 2 a quarter are stage 1's, which the report reuses, too."""
    again = draw_queries(1, count // 4, seed) if stage == 2 else []
    rng = Random(f"simper {stage} {seed}")
    return again + [preference_example(rng, stage) for _ in range(count - len(again))]


def sample_pairs(model: Exaone4, tokenizer: Tokenizer, stage: int, queries: int, group: int, seed: int,
                 max_new_tokens: int) -> tuple[list[tuple[Document, Document]], dict]:
    """Pairs of (chosen, rejected) from `group` on-policy replies to each query, and what was found."""
    examples = draw_queries(stage, queries, seed)
    rollouts = roll_out(model, tokenizer, examples, seed * 10 + stage, max_new_tokens,
                        progress=f"replies for SimPER stage {stage}", group=group)
    choose = concise_pair if stage == 1 else preferred_pair
    groups = [rollouts[i:i + group] for i in range(0, len(rollouts), group)]
    pairs = [pair for group in groups if (pair := choose(group))]
    found = {"queries": len(examples), "pairs": len(pairs), "reward": sum(r.reward for r in rollouts) / len(rollouts)}
    return [(sampled_document(chosen, 1.0), sampled_document(rejected, -1.0)) for chosen, rejected in pairs], found


def draw_pairs(pairs, pairs_per_step: int, tokens: int, longest: int, seed: int):
    """A function for `fit`: the batches of every step from a start on, the pairs shuffled anew in each epoch."""
    pairs = [pair for pair in pairs if max(len(document.ids) for document in pair) <= longest]
    per_epoch = max(1, len(pairs) // pairs_per_step)

    def draw(start):
        for step in range(start, 10**9):
            epoch, n = divmod(step, per_epoch)
            order = list(range(len(pairs)))
            Random(f"simper order {seed} {epoch}").shuffle(order)
            chosen = [pairs[i] for i in order[n * pairs_per_step:(n + 1) * pairs_per_step]]
            batches = pack([document for pair in chosen for document in pair], tokens, longest)
            for batch in batches:
                batch.count = 2 * len(chosen)
            yield batches, {}

    return draw


# ------------------------------------------------------------------------------------------------------- stage


def held_out(model: Exaone4, tokenizer: Tokenizer, stage: int, count: int, max_new_tokens: int,
             split="test") -> list[Rollout]:
    """Greedy replies to queries of a stage's kind: of the test split, which no training and no decision sees."""
    rng = Random(f"simper held out {stage}")
    return roll_out(model, tokenizer, [preference_example(rng, stage, split) for _ in range(count)], 0, max_new_tokens,
                    0.0, "held out" if split == "test" else "what the round cost")


def summary(replies: list[Rollout], tokenizer: Tokenizer) -> dict:
    """Means over replies: right, the judge's points, in the right language, thinking tokens (of those that think)."""
    thoughts = [len(tokenizer.encode(r.reply.reasoning)) for r in replies if r.example.reasoning]
    means = {"right": [r.reward for r in replies], "judge": [judge(r.example, r.reply) for r in replies],
             "language": [language_kept(r) for r in replies], "thinking_tokens": thoughts}
    return {name: round(sum(values) / len(values), 4) if values else 0.0 for name, values in means.items()}


def win_rate(ours: list[Rollout], theirs: list[Rollout]) -> float:
    """How often the judge likes our reply to a query better than theirs; as good counts half."""
    points = [[judge(r.example, r.reply) for r in replies] for replies in (ours, theirs)]
    return round(sum((a > b) + (a == b) / 2 for a, b in zip(*points, strict=True)) / len(ours), 4)


def simper(run: Run, stage: int):
    """Stage 1: right and short. Stage 2: pleasant and in the right language, on some of stage 1's queries too."""
    preset, tokenizer = run.preset, run.load_tokenizer()
    rounds, queries, group, pairs_per_step = preset.pairs
    model = run.load("agapo" if stage == 1 else "simper1")

    def measured(split):
        return held_out(model, tokenizer, stage, preset.evaluated, preset.max_new_tokens, split)

    before, start, logs, found = measured("test"), summary(measured("train"), tokenizer)["right"], [], []
    recipe = preset.simper
    for round in range(rounds):
        weights, seed = {name: tensor.clone() for name, tensor in model.state_dict().items()}, 100 * run.seed + round
        pairs, numbers = sample_pairs(model, tokenizer, stage, queries, group, seed, preset.max_new_tokens)
        draw = draw_pairs(pairs, pairs_per_step, run.fits, preset.contexts[-1], seed)
        steps = min(preset.simper.steps, max(1, PASSES * len(pairs) // pairs_per_step))
        logs.append(fit(model, draw, simper_loss, replace(recipe, steps=steps), run.folder, f"simper{stage}.{round}"))
        found.append({**numbers, "learning_rate": recipe.learning_rate, **summary(measured("train"), tokenizer)})
        found[-1]["kept"] = found[-1]["right"] >= start - COST
        if not found[-1]["kept"]:
            model.load_state_dict(weights)
            recipe = replace(recipe, learning_rate=recipe.learning_rate / 2)
    after = measured("test")
    run.save(f"simper{stage}", model, {"logs": logs, "start": start, "rounds": found,
                                       "before": summary(before, tokenizer), "after": summary(after, tokenizer),
                                       "win_rate": win_rate(after, before)})
