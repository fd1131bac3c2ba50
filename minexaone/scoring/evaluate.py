"""What a model can do: accuracy by task, language, mode and level, in long chats and texts, with budgets and tools.

    python -m minexaone evaluate [MODEL] --count 500 --json scores.json
"""

import argparse
import math
import os
from pathlib import Path
from random import Random

from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from minexaone.fast import speed_up
from minexaone.files import resolve, write_json
from minexaone.linear.lora import load_adapter, lora_layers, merge_lora
from minexaone.linear.packed import Packed
from minexaone.model import Exaone4
from minexaone.reply import read_reply
from minexaone.scoring.rollouts import Rollout, language_kept, roll_out, rows_at_once
from minexaone.tasks import ALONE, LANGUAGES, TASKS, Example, in_a_chat, retrieval, sample, tool_use
from minexaone.tasks.base import assistant, function_call, plain, tool
from minexaone.tokenizer import Tokenizer

DEPTHS = (0.0, 0.25, 0.5, 0.75, 1.0)
MAX_NEW_TOKENS = 640
BUDGETS = (0, 8, 16, 32, 64, 128, 256)
OTHERS = (0, 1, 2, 4, 8)  # questions before, in the same chat


def wilson(correct: int, total: int) -> tuple[float, float]:
    """The 95 % Wilson score interval of a share."""
    z, share = 1.96, correct / total
    centre, spread = share + z * z / (2 * total), z * math.sqrt(share * (1 - share) / total + (z / (2 * total)) ** 2)
    return (centre - spread) / (1 + z * z / total), (centre + spread) / (1 + z * z / total)


def cell(correct, total, **names) -> dict:
    """A count with its names and its interval."""
    low, high = wilson(correct, total)
    return {**names, "correct": correct, "total": total, "low": round(low, 4), "high": round(high, 4)}


def share(cell: dict) -> float:
    """The share of right ones in a cell."""
    return cell["correct"] / cell["total"]


class Prompts(Dataset):
    """Examples with their prompts, made by worker processes: item n is drawn from the seed and n alone."""

    def __init__(self, make, count: int, folder: Path, seed: int):
        self.make, self.count, self.folder, self.seed, self.tokenizer = make, count, folder, seed, None

    def __len__(self):
        return self.count

    def __getitem__(self, n) -> tuple[Example, list[int]]:
        self.tokenizer = self.tokenizer or Tokenizer.from_pretrained(self.folder)
        return self.make(n, Random(f"evaluation {self.seed} {n}"), self.tokenizer)

    def all(self, workers: int) -> tuple[list[Example], list[list[int]]]:
        """All examples, all prompts."""
        pairs = list(DataLoader(self, batch_size=None, num_workers=workers, collate_fn=_same))
        return [example for example, _ in pairs], [ids for _, ids in pairs]


def _same(item):
    return item


def _workers(count):
    return min(16, (os.cpu_count() or 1) - 1) if count > 2000 else 0


# ----------------------------------------------------------------------------------------------------- by task


class _Cells:
    """Example n of a list of cells, `count` of each."""

    def __init__(self, cells, count):
        self.cells, self.count = cells, count

    def __call__(self, n, rng, tokenizer):
        task, language, reasoning, level = self.cells[n // self.count]
        example = sample(rng, "test", task, language, reasoning, level)
        return example, tokenizer.apply_chat_template(example.messages, example.tools,
                                                      enable_thinking=example.reasoning)


def by_task(model: Exaone4, tokenizer: Tokenizer, folder: Path, count: int, tasks=None, levels=False, seed=0,
            temperature=0.0, modes=(False, True), budget: int | None = None) -> list[dict]:
    """One row for each task, language, mode (and with `levels` each level), on held-out problems.

    A row has the share of right replies and its interval, and of how many replies: the mode was kept (a thought in
    reasoning mode that ends, none otherwise), the answer is in the right language, calls are valid; the mean number of
    tokens, of the thinking and of the whole reply. budget: close the thinking after so many tokens.
    """
    cells = [(task, language, mode, level) for task in tasks or TASKS for language in LANGUAGES for mode in modes
             for level in (range(1, TASKS[task].levels + 1) if levels else (None,))]
    total = count * len(cells)
    examples, prompts = Prompts(_Cells(cells, count), total, folder, seed).all(_workers(total))
    options = {} if budget is None else {"reasoning_budget": budget, "think_end_id": tokenizer.think_end_id,
                                         "close_ids": tokenizer.close_ids}
    found = [None] * total
    for mode in modes:  # a budget is for reasoning alone
        chosen = [i for i in range(total) if examples[i].reasoning == mode]
        for i, rollout in zip(chosen, roll_out(
                model, tokenizer, [examples[i] for i in chosen], seed, MAX_NEW_TOKENS, temperature, "evaluate",
                [prompts[i] for i in chosen], **(options if mode else {})), strict=True):
            found[i] = rollout
    rows = []
    for n, (task, language, mode, level) in enumerate(cells):
        group = found[n * count:(n + 1) * count]
        names = {"task": task, "language": language, "reasoning": mode} | ({"level": level} if levels else {})
        rows.append(cell(sum(int(r.reward) for r in group), count, **names) | {
            "mode_kept": sum(mode_kept(r) for r in group), "language_kept": sum(language_kept(r) for r in group),
            "calls_valid": sum(r.content is not None and tool_use.valid_calls(r.example, r.reply) for r in group),
            "thinking_tokens": round(sum(_thinking_tokens(r, tokenizer) for r in group) / count, 1),
            "tokens": round(sum(len(r.ids) for r in group) / count, 1)})
    return rows


def mode_kept(rollout: Rollout) -> bool:
    """Whether a reply ended, thought if it was to think, and did not if not."""
    return rollout.content is not None and bool(rollout.reply.reasoning) == rollout.example.reasoning


def _thinking_tokens(rollout, tokenizer):
    end = tokenizer.think_end_id
    return 0 if not rollout.example.reasoning else (
        rollout.ids.index(end) if end in rollout.ids else len(rollout.ids))


def budget_curve(model: Exaone4, tokenizer: Tokenizer, folder: Path, count: int, tasks=("compare", "sums", "story"),
                 seed=0) -> list[dict]:
    """Accuracy in reasoning mode against the budget of thinking tokens (report, table 7); None: no budget."""
    curve = []
    for budget in (*BUDGETS, None):
        rows = by_task(model, tokenizer, folder, count, tasks, seed=seed, modes=(True,), budget=budget)
        for task in tasks:
            mine = [row for row in rows if row["task"] == task]
            curve.append(cell(sum(r["correct"] for r in mine), sum(r["total"] for r in mine), task=task, budget=budget))
    return curve


# ------------------------------------------------------------------------------------------------------- chats


class _Chat:
    """Example n behind other questions of the same chat: an easy one, of each task that stands alone in turn."""

    def __init__(self, grid, count):
        self.grid, self.count = grid, count

    def __call__(self, n, rng, tokenizer):
        others, reasoning = self.grid[n // self.count]
        example = in_a_chat(rng, sample(rng, "test", ALONE[n % len(ALONE)], None, reasoning, level=1), others)
        return example, tokenizer.apply_chat_template(example.messages, enable_thinking=reasoning)


def chats(model: Exaone4, tokenizer: Tokenizer, folder: Path, count: int, seed=0) -> list[dict]:
    """Right replies to an easy question behind others: a row for each mode and number of questions before it."""
    grid = [(others, reasoning) for reasoning in (False, True) for others in OTHERS]
    total = count * len(grid)
    examples, prompts = Prompts(_Chat(grid, count), total, folder, seed).all(_workers(total))
    rollouts = roll_out(model, tokenizer, examples, seed, MAX_NEW_TOKENS, 0.0, "chats", prompts)
    return [cell(sum(int(r.reward) for r in rollouts[n * count:(n + 1) * count]), count, others=others,
                 reasoning=reasoning) for n, (others, reasoning) in enumerate(grid)]


# ----------------------------------------------------------------------------------------------------- needles


class _Needle:
    """Example n of a grid of lengths and depths; in plain text for a base model, else as a conversation."""

    def __init__(self, grid, count, plain_text):
        self.grid, self.count, self.plain_text = grid, count, plain_text

    def __call__(self, n, rng, tokenizer):
        length, depth = self.grid[n // self.count]
        example = retrieval.niah(rng, LANGUAGES[n % 3], length - 64, depth,
                                 lambda text: len(tokenizer.encode(text, parse_special=True)), test=True)
        if not self.plain_text:
            return example, tokenizer.apply_chat_template(example.messages)
        text = plain(example).removesuffix(" " + example.reply["content"])
        return example, [tokenizer.bos_token_id, *tokenizer.encode(text)]


def needle_grid(model: Exaone4, tokenizer: Tokenizer, folder: Path, lengths, count: int, plain_text=False,
                depths=DEPTHS, seed=0) -> list[dict]:
    """Needles found: a cell for each length (tokens of the prompt with room for the answer) and depth of the needle."""
    grid = [(length, depth) for length in lengths for depth in depths]
    total = count * len(grid)
    examples, prompts = Prompts(_Needle(grid, count, plain_text), total, folder, seed).all(_workers(10 * total))
    stops = model.config.stop_ids + ([tokenizer.token_to_id("[EOS]"), *tokenizer.encode("\n")] if plain_text else [])
    rollouts = roll_out(model, tokenizer, examples, seed, 60, 0.0, "needles", prompts, stop_ids=stops)
    return [cell(sum(int(r.reward) for r in rollouts[n * count:(n + 1) * count]), count, length=length, depth=depth)
            for n, (length, depth) in enumerate(grid)]


# ---------------------------------------------------------------------------------------------------- episodes


def episodes(model: Exaone4, tokenizer: Tokenizer, count: int, seed=0, reasoning=False) -> list[dict]:
    """Whole tool loops, one row for each language: several calls, each needing the result of the one before."""
    rows = []
    for language in LANGUAGES:
        rng = Random(f"episodes {seed} {language}")
        drawn = [tool_use.episode(rng, language, rng.randint(1, 3), True) for _ in range(count)]
        good = run_episodes(model, tokenizer, drawn, reasoning)
        rows.append(cell(sum(good), count, language=language, reasoning=reasoning))
    return rows


def run_episodes(model: Exaone4, tokenizer: Tokenizer, drawn, reasoning: bool, rounds=8) -> list[bool]:
    """Whether the model calls what is needed, reads the results and ends with the right answer, for each episode."""
    good, conversations, made = [False] * len(drawn), [list(e.messages) for e in drawn], [[] for _ in drawn]
    running, size = list(range(len(drawn))), rows_at_once(model)
    for round in range(rounds):
        prompts = [tokenizer.apply_chat_template(conversations[i], drawn[i].tools, enable_thinking=reasoning)
                   for i in running]
        replies = [ids for start in tqdm(range(0, len(running), size), desc=f"tool loops, turn {round + 1}")
                   for ids in model.generate(prompts[start:start + size], max_new_tokens=MAX_NEW_TOKENS)]
        still = []
        for i, ids in zip(running, replies, strict=True):
            reply = read_reply(tokenizer, ids, reasoning, model.config.stop_ids)
            calls = reply.tool_calls
            if reply.finish_reason != "stop" or any(call.error for call in calls):
                continue
            if calls:
                conversations[i].append(assistant(reply.content, [
                    function_call(call.name, call.arguments) for call in calls]))
                conversations[i] += [tool(drawn[i].respond(call.name, call.arguments)) for call in calls]
                made[i] += calls
                still.append(i)
            else:
                good[i] = drawn[i].verify(reply.content, made[i])
        running = still
        if not running:
            break
    return good


# --------------------------------------------------------------------------------------------------------- main


def evaluate(source, count: int, needles: int, device="auto", seed=0, adapter=None) -> dict:
    """All of the above for a checkpoint (None: the shipped one), with a LoRA adapter if a folder of one is named.

    count and needles: prompts in a cell.
    """
    folder = resolve(source)
    tokenizer, model = Tokenizer.from_pretrained(folder), Exaone4.from_pretrained(folder, device=device)
    if adapter:
        load_adapter(model, adapter)
    if model.device.type == "cuda" and not any(isinstance(layer.base, Packed) for layer in lora_layers(model).values()):
        speed_up(merge_lora(model))
    window, context = model.config.sliding_window, model.config.max_position_embeddings
    lengths = [2**n for n in range(8, 30) if 2 * (window or 128) <= 2**n <= context]
    return {"model": str(source or "shipped"), "adapter": adapter, "count": count, "seed": seed, "window": window,
            "by_task": by_task(model, tokenizer, folder, count, seed=seed),
            "by_level": by_task(model, tokenizer, folder, max(1, count // 5), levels=True, seed=seed,
                                tasks=[name for name, task in TASKS.items() if task.levels > 1]),
            "chats": chats(model, tokenizer, folder, count, seed),
            "episodes": [row for mode in (False, True) for row in episodes(model, tokenizer, count, seed, mode)],
            "needles": needle_grid(model, tokenizer, folder, lengths, needles, seed=seed),
            "budget": budget_curve(model, tokenizer, folder, count, seed=seed)}


def main(argv=None):
    """Evaluate a model, print a table, and write everything as JSON."""
    parser = argparse.ArgumentParser(prog="python -m minexaone evaluate", description="Score a model on held-out "
                                     "problems, in every task, language and mode.")
    parser.add_argument("model", nargs="?", help="folder; the shipped model if left out")
    parser.add_argument("--adapter", metavar="FOLDER", help="a LoRA adapter, as `finetune` and PEFT write it")
    parser.add_argument("--count", type=int, default=50, help="prompts in a cell (50)")
    parser.add_argument("--needles", type=int, default=30, help="prompts in a cell of the needle grid (30)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, mps")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="file for all results")
    args = parser.parse_args(argv)
    if min(args.count, args.needles) < 1:
        raise ValueError("--count and --needles must be at least 1")
    if args.json:  # a place where nothing can be written is known before the work is done
        args.json.parent.mkdir(parents=True, exist_ok=True)
        if args.json.is_dir():
            raise ValueError(f"--json is {args.json}, a folder: name a file")
    scores = evaluate(args.model, args.count, args.needles, args.device, args.seed, args.adapter)
    if args.json:
        write_json(args.json, scores)
    print_table(scores)


def print_table(scores: dict):
    """The scores for people."""
    print(f"{'task':12} {'':13} " + " ".join(f"{language:>17}" for language in LANGUAGES))
    for task in TASKS:
        for mode in (False, True):
            rows = [r for r in scores["by_task"] if r["task"] == task and r["reasoning"] == mode]
            if rows:
                print(f"{task:12} {'reasoning' if mode else 'non-reasoning':13} " + " ".join(
                    f"{share(r):6.1%} {r['low']:.2f}-{r['high']:.2f}" for r in rows))
    for row in scores["episodes"]:
        mode = "reasoning" if row["reasoning"] else "non-reasoning"
        print(f"{'tool loops':12} {mode:13} {row['language']} {share(row):.1%}")
    print(f"easy questions behind {', '.join(map(str, OTHERS))} others in the same chat")
    for mode in (False, True):
        print(f"{'':12} {'reasoning' if mode else 'non-reasoning':13} " + " ".join(
            f"{share(r):6.1%}" for r in scores["chats"] if r["reasoning"] == mode))
    print("needles found, by length and depth")
    for length in dict.fromkeys(row["length"] for row in scores["needles"]):
        print(f"{length:7,} " + " ".join(f"{share(r):6.1%}" for r in scores["needles"] if r["length"] == length))
