"""Train the shipped model from nothing: its tokenizer, its weights, its report and its model card.

    python -m minexaone.train --out assets/model

All data comes from `tasks.py`; every step draws new examples, so nothing is seen twice except by chance. An example is
one assistant turn: the conversation so far is the prompt, exactly as `Tokenizer.apply_chat_template` renders it at
inference, and the loss is on what the model must write itself.
"""

import argparse
import json
import math
import os
import re
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from random import Random

import torch
import torch.nn.functional as F
from tokenizers import AddedToken, decoders, models, pre_tokenizers, trainers
from tokenizers import Tokenizer as Backend
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from minexaone.files import SHIPPED, read_json, write_json
from minexaone.model import Config, Exaone4, pick_device
from minexaone.tasks import LANGUAGES, TEST_DICE_TOOLS, WEIGHTS, sample, verify
from minexaone.tokenizer import Tokenizer

SPECIAL = ["[PAD]", "[BOS]", "[EOS]", "[UNK]"]
TAGS = ["</tool_call>", "<tool_call>", "</tool_result>", "<tool_result>", "</think>", "<think>"]
ROLES = ["[|system|]", "[|tool|]", "[|assistant|]", "[|user|]", "[|endofturn|]"]
CONTROL = SPECIAL + TAGS + ROLES  # ids 0 to 14, in the order of the published tokenizer
NAMED = {"pad_token": "[PAD]", "bos_token": "[BOS]", "unk_token": "[UNK]", "eos_token": "[|endofturn|]"}

CUT = 0.05  # share of reasoning examples whose thinking is closed too early, as by a reasoning budget
PROMPT_WEIGHT = 0.1  # weight of a prompt's tokens in the loss, beside 1 for a reply's
LOG_EVERY = 20  # steps
MICRO_BATCHES = 2  # a step's examples, sorted by length, go through the model in so many batches


@dataclass(frozen=True)
class Preset:
    """Size of the model and of the run. tokens: of one step, all its batches together."""

    steps: int
    tokens: int
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    layers: int  # a multiple of 4: three sliding ones, then a global one
    heads: int
    kv_heads: int
    learning_rate: float
    corpus: int  # examples that the tokenizer is trained on
    evaluated: int  # test prompts for each task, language and mode


PRESETS = {
    "tiny": Preset(1800, 65536, 2560, 256, 768, 8, 8, 2, 3e-3, 30000, 50),  # 6.7M parameters, the shipped model
    "smoke": Preset(24, 4096, 640, 64, 128, 4, 2, 1, 1e-2, 800, 1),  # shows that everything runs
}


# -------------------------------------------------------------------------------------------------- tokenizer


def train_tokenizer(preset: Preset, seed: int = 0) -> Tokenizer:
    """Byte-level BPE on the rendered examples. Digits and newlines never merge."""
    file = SHIPPED / "chat_template.jinja"
    template = file.read_text(encoding="utf-8")

    def make(vocab, merges):
        backend = Backend(models.BPE(vocab, merges))
        backend.add_special_tokens([AddedToken(token, normalized=False) for token in SPECIAL + ROLES])
        backend.add_tokens([AddedToken(token, normalized=False) for token in TAGS])
        backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        backend.decoder = decoders.ByteLevel()
        return Tokenizer(backend, NAMED, template, file)

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    number = {token: id for id, token in enumerate(CONTROL)}
    renderer = make(number | {byte: len(number) + id for id, byte in enumerate(alphabet)}, [])
    control = re.compile("|".join(map(re.escape, CONTROL)))
    rng = Random(f"tokenizer {seed}")

    def corpus():
        for _ in range(preset.corpus):
            example = sample(rng)
            text = renderer.apply_chat_template(example.messages, example.tools, tokenize=False)
            yield from control.split(text + example.text)

    learner = Backend(models.BPE())
    # Split before merging is learnt: no token of two digits, and none of two newlines, which would make the
    # tokens of "\n\n" depend on what follows. At inference GPT-2's splitting alone is enough.
    learner.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.Split("\n", "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False)])
    learner.train_from_iterator(corpus(), trainers.BpeTrainer(
        vocab_size=preset.vocab_size - len(CONTROL), initial_alphabet=alphabet, show_progress=False))
    learnt = json.loads(learner.to_str())["model"]
    vocab = {token: len(number) + id for token, id in learnt["vocab"].items()}
    return make(number | vocab, [tuple(merge) for merge in learnt["merges"]])


# ------------------------------------------------------------------------------------------------------- data


def encode(example, tokenizer: Tokenizer, rng: Random) -> tuple[list[int], list[int]]:
    """(prompt ids, reply ids) of one example, the reply with its end of turn."""
    prompt = tokenizer.apply_chat_template(example.messages, example.tools, enable_thinking=example.reasoning)
    text = example.text
    if example.reasoning and rng.random() < CUT:
        # A budget closes the thinking from outside, so the cut thought is prompt: it must not teach to stop early.
        thought, text = example.text.split("\n</think>\n\n", 1)
        thought = tokenizer.encode(thought)
        prompt += thought[:rng.randrange(len(thought))] + tokenizer.encode("\n</think>\n\n")
    return prompt, [*tokenizer.encode(text), tokenizer.eos_token_id]


class Steps(Dataset):
    """Step n's batches, drawn from the seed and n alone: the same with any number of worker processes."""

    def __init__(self, folder: Path, preset: Preset, seed: int):
        self.folder, self.preset, self.seed, self.tokenizer = folder, preset, seed, None

    def __len__(self):
        return self.preset.steps

    def __getitem__(self, step):
        """[(ids [B, T + 1], weights [B, T] of the predictions of ids[:, 1:])], padded on the right."""
        self.tokenizer = self.tokenizer or Tokenizer.from_pretrained(self.folder)
        rng, rows, budget = Random(f"{self.seed} {step}"), [], self.preset.tokens
        while budget > 0:
            rows.append(encode(sample(rng), self.tokenizer, rng))
            budget -= sum(map(len, rows[-1]))
        rows.sort(key=lambda row: sum(map(len, row)))
        share = math.ceil(self.preset.tokens / MICRO_BATCHES)
        batches, start = [], 0
        while start < len(rows):
            end = start + 1
            while end < len(rows) and (end + 1 - start) * sum(map(len, rows[end])) <= share * 1.05:
                end += 1
            batches.append(collate(rows[start:end]))
            start = end
        return batches


def collate(rows):
    """(ids, weights) of rows of about one length, padded on the right."""
    # A multiple of 8 (and one, since inputs and targets are shifted) suits the attention kernels.
    width = math.ceil((max(len(p) + len(r) for p, r in rows) - 1) / 8) * 8 + 1
    ids, weights = torch.zeros(len(rows), width, dtype=torch.long), torch.zeros(len(rows), width - 1)
    for i, (prompt, reply) in enumerate(rows):
        ids[i, :len(prompt) + len(reply)] = torch.tensor(prompt + reply)
        weights[i, :len(prompt) - 1] = PROMPT_WEIGHT
        weights[i, len(prompt) - 1:len(prompt) + len(reply) - 1] = 1
    return ids, weights


# --------------------------------------------------------------------------------------------------- training


def build(preset: Preset, tokenizer: Tokenizer) -> Exaone4:
    """An untrained model of the preset's size."""
    layers = ["full_attention" if i % 4 == 3 else "sliding_attention" for i in range(preset.layers)]
    model = Exaone4(Config(
        vocab_size=tokenizer.vocab_size, hidden_size=preset.hidden_size, intermediate_size=preset.intermediate_size,
        num_hidden_layers=preset.layers, num_attention_heads=preset.heads, num_key_value_heads=preset.kv_heads,
        head_dim=preset.hidden_size // preset.heads, layer_types=layers, sliding_window=128, rope_theta=10_000.0,
        max_position_embeddings=2048, tie_word_embeddings=True, bos_token_id=tokenizer.bos_token_id,
        pad_token_id=tokenizer.pad_token_id, eos_token_id=tokenizer.eos_token_id))
    # The norm at a block's end makes its output as large as its gain, while embeddings begin at 0.02: with gains of 1
    # the blocks drown the token itself. (Mean loss of a small model after 120 steps: 3.17 with 1, 2.25 with 0.02.)
    for layer in model.layers:
        for norm in (layer.post_attention_layernorm, layer.post_feedforward_layernorm):
            torch.nn.init.constant_(norm.weight, model.config.initializer_range)
    return model


def schedule(step: int, steps: int) -> float:
    """Linear warm-up over 5 % of the steps, then a cosine down to 2 %."""
    warm_up = max(1, steps // 20)
    return min((step + 1) / warm_up, 0.51 + 0.49 * math.cos(math.pi * max(0, step - warm_up) / (steps - warm_up)))


def train(model: Exaone4, steps: Steps, workers: int) -> dict:
    """AdamW; returns the losses of the replies, as (step, mean over the step's tokens), and the speed.

    On a GPU the model computes in bfloat16, as it will be shipped, and the optimizer moves a float32 copy of the
    weights, because bfloat16's 8 bits would round small steps away.
    """
    device, preset = model.device, steps.preset
    masters = [torch.nn.Parameter(p.detach().float().clone()) for p in model.parameters()]
    model.to(torch.bfloat16 if device.type == "cuda" else torch.float32)
    weights_of_model = [p.data for p in model.parameters()]
    matrices, gains = ([p for p in masters if (p.dim() == 2) == kind] for kind in (True, False))
    optimizer = torch.optim.AdamW([{"params": matrices, "weight_decay": 0.1}, {"params": gains, "weight_decay": 0.0}],
                                  lr=preset.learning_rate, betas=(0.9, 0.95), fused=device.type == "cuda")
    rate = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: schedule(step, preset.steps))
    loader = DataLoader(steps, batch_size=None, shuffle=False, num_workers=workers)
    losses, step, tokens, start = [], 0, 0, time.time()
    model.train()
    for batches in (bar := tqdm(loader, desc="train", unit="step")):
        total, reply_loss, replies = sum(weights.sum() for _, weights in batches), 0.0, 0
        for ids, weights in batches:
            ids, weights = ids.to(device, non_blocking=True), weights.to(device, non_blocking=True)
            logits = model(ids[:, :-1])
            loss = F.cross_entropy(logits.float().flatten(0, 1), ids[:, 1:].flatten(), reduction="none")
            loss = loss.view_as(weights)
            ((loss * weights).sum() / total).backward()
            is_reply = weights == 1
            reply_loss, replies = reply_loss + (loss.detach() * is_reply).sum(), replies + is_reply.sum()
            tokens += int(ids.numel())
        for master, parameter in zip(masters, model.parameters(), strict=True):
            master.grad, parameter.grad = parameter.grad.float(), None
        torch.nn.utils.clip_grad_norm_(masters, 1.0)
        optimizer.step()
        torch._foreach_copy_(weights_of_model, [master.data for master in masters])
        rate.step()
        step += 1
        if step == 1 or step % LOG_EVERY == 0 or step == preset.steps:  # reading a loss waits for the device
            losses.append((step, round(float(reply_loss / replies), 4)))
            bar.set_postfix(loss=losses[-1][1], tokens_per_s=f"{tokens / (time.time() - start):,.0f}")
    seconds = time.time() - start
    return {"losses": losses, "tokens": tokens, "seconds": round(seconds, 1),
            "tokens_per_second": round(tokens / seconds)}


# ------------------------------------------------------------------------------------------------- evaluation


def wilson(correct: int, total: int) -> tuple[float, float]:
    """The 95 % Wilson score interval of a share."""
    z, share = 1.96, correct / total
    centre, spread = share + z * z / (2 * total), z * math.sqrt(share * (1 - share) / total + (z / (2 * total)) ** 2)
    return (centre - spread) / (1 + z * z / total), (centre + spread) / (1 + z * z / total)


def replies(model: Exaone4, tokenizer: Tokenizer, examples, batch=256, **options) -> list[str]:
    """What the model answers to each example after its thinking, greedily; "" if the thinking never ends."""
    prompts = [tokenizer.apply_chat_template(e.messages, e.tools, enable_thinking=e.reasoning) for e in examples]
    order, texts = sorted(range(len(prompts)), key=lambda i: len(prompts[i])), [""] * len(prompts)
    for start in tqdm(range(0, len(order), batch), desc="evaluate", unit="batch"):
        rows = order[start:start + batch]
        for i, ids in zip(rows, model.generate([prompts[i] for i in rows], **options), strict=True):
            text = tokenizer.decode(ids).removesuffix("[|endofturn|]")
            texts[i] = text.partition("</think>")[2].strip() if examples[i].reasoning else text
    return texts


@torch.inference_mode()
def evaluate(model: Exaone4, tokenizer: Tokenizer, count: int, seed: int = 0) -> list[dict]:
    """Greedy accuracy on held-out prompts: one row for each task, language and mode."""
    model.eval()
    rng = Random(f"evaluation {seed}")
    cells = [(task, language, mode) for task in WEIGHTS for language in LANGUAGES for mode in (False, True)]
    # Four times as many of what matters most.
    examples = [sample(rng, "test", *cell) for cell in cells
                for _ in range(count * (4 if cell[0] in ("compare", "call") else 1))]
    scores = {}
    for example, reply in zip(examples, replies(model, tokenizer, examples, max_new_tokens=200), strict=True):
        names = {tool["function"]["name"] for tool in example.tools} if example.task == "call" else set()
        task = "call, unseen tool" if names & set(TEST_DICE_TOOLS) else example.task
        scores.setdefault((task, example.language, example.reasoning), []).append(verify(example, reply))
    rows = []
    for (task, language, reasoning), good in scores.items():
        low, high = wilson(sum(good), len(good))
        rows.append({"task": task, "language": language, "reasoning": reasoning, "correct": sum(good),
                     "total": len(good), "low": round(low, 3), "high": round(high, 3)})
    return rows


# ------------------------------------------------------------------------------------------------- model card


def model_card(report: dict, config: Config) -> str:
    """The README.md beside the weights."""
    lines = [f"| {r['task']} | {r['language']} | {'reasoning' if r['reasoning'] else 'non-reasoning'} | "
             f"{r['correct']} / {r['total']} | {r['correct'] / r['total']:.1%} | {r['low']:.1%} to {r['high']:.1%} |"
             for r in report["scores"]]
    return f"""---
license: apache-2.0
language: [en, ko, es]
---

# minexaone, a very small EXAONE-4-shaped model

The offline stand-in of the minexaone project: the EXAONE 4.0 architecture in its hybrid form, with
{report["parameters"]:,} parameters ({config.num_hidden_layers} layers, hidden size {config.hidden_size}, window
{config.sliding_window}, {config.vocab_size:,} tokens), **trained from scratch on synthetic data that this project
generates** (`minexaone/tasks.py`). No tokenizer, weight or output of any other model went into it. It is not EXAONE
and was not made by LG AI Research. License: Apache-2.0, as the project.

It knows a small closed world in English, Korean and Spanish: greetings, a few facts, small sums, comparing decimals
step by step, calling tools and reading their results. To everything else it should answer that it does not know.
Training conversations have 190 tokens on average and at most about 1,000. It is for teaching, not for use.

## Recipe

`python -m minexaone.train --preset {report["preset"]} --steps {report["steps"]} --seed {report["seed"]} --out FOLDER`

{report["steps"]:,} steps, {report["tokens"]:,} tokens with padding, {report["seconds"]:,} s on {report["hardware"]}
(torch {report["torch"]}), {report["tokens_per_second"]:,} tokens/s, last loss {report["losses"][-1][1]}. AdamW, peak
learning rate {report["learning_rate"]}, cosine. The seed fixes the data; a GPU's sums still differ in the last bits.

## Scores

Greedy decoding on held-out prompts: operands of sums, comparisons, rolls and results that training never saw, and for
"call, unseen tool" also names of tools that it never saw. Exceptions: the questions of "chat" were seen, and a fact
is held out only in its wording, since an unseen fact cannot be known. Intervals: Wilson, 95 %.

| task | language | mode | correct | share | interval |
|---|---|---|---|---|---|
""" + "\n".join(lines) + "\n"


# -------------------------------------------------------------------------------------------------------- main


def run(out: Path, preset_name="tiny", steps=None, device="auto", seed=0, workers=None) -> dict:
    """Train and write the checkpoint with its report into `out`, which is replaced at the very end, as a whole."""
    preset = PRESETS[preset_name]
    if steps is not None:
        preset = Preset(**vars(preset) | {"steps": steps})
    if preset.steps < 2:
        raise ValueError(f"--steps is {steps}, expected at least 2")
    device, out = pick_device(device), Path(out).resolve()
    if out.exists() and not (out / "training_report.json").is_file() and (out.is_file() or any(out.iterdir())):
        raise ValueError(f"{out} holds other files than a model trained by this command, and would be replaced: name "
                         "another folder")
    workers = max(0, (os.cpu_count() or 1) - 1) if workers is None else workers
    torch.manual_seed(seed)
    torch.set_float32_matmul_precision("high")
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # the workers are parallel enough
    part = out.with_name(f".{out.name}.{os.getpid()}.part")
    part.mkdir(parents=True)
    try:
        tokenizer = train_tokenizer(preset, seed)
        tokenizer.save_pretrained(part)
        model = build(preset, tokenizer).to(device)
        parameters = sum(p.numel() for p in model.parameters())
        print(f"{parameters:,} parameters, {tokenizer.vocab_size:,} tokens, {device}, {workers} workers", flush=True)
        report = train(model, Steps(part, preset, seed), workers)
        model.to(torch.bfloat16).save_pretrained(part)
        name = torch.cuda.get_device_name() if device.type == "cuda" else f"{os.cpu_count()} CPU cores"
        report = {"preset": preset_name, "steps": preset.steps, "seed": seed, "learning_rate": preset.learning_rate,
                  "parameters": parameters, "hardware": name, "torch": torch.__version__, **report}
        write_json(part / "training_report.json", report)
        old = part.with_suffix(".old")
        if out.exists():
            out.rename(old)
        part.rename(out)
        shutil.rmtree(old, ignore_errors=True)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return report


def score(folder: Path, device="auto") -> dict:
    """Evaluate a trained checkpoint, add the scores to its report and write its model card."""
    model, tokenizer = Exaone4.from_pretrained(folder, device=device), Tokenizer.from_pretrained(folder)
    report = read_json(folder / "training_report.json")
    report["scores"] = evaluate(model, tokenizer, PRESETS[report["preset"]].evaluated, report["seed"])
    write_json(folder / "training_report.json", report)
    (folder / "README.md").write_text(model_card(report, model.config), encoding="utf-8")
    return report


def main():
    """Train, then evaluate."""
    parser = argparse.ArgumentParser(description="Train the shipped model from scratch.")
    parser.add_argument("--out", required=True, type=Path, help="folder to write (an older model there is replaced)")
    parser.add_argument("--evaluate", action="store_true", help="only evaluate the model that is in the folder")
    parser.add_argument("--preset", choices=PRESETS, default="tiny", help="size of the model and of the run")
    parser.add_argument("--steps", type=int, help="number of steps, instead of the preset's")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, mps")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, help="processes that draw data (default: all cores but one)")
    args = parser.parse_args()
    try:
        if not args.evaluate:
            run(args.out, args.preset, args.steps, args.device, args.seed, args.workers)
        scores = score(args.out, args.device)["scores"]
    except (ValueError, OSError) as error:
        parser.exit(1, f"minexaone.train: {error}\n")
    for r in scores:
        mode = "reasoning" if r["reasoning"] else "non-reasoning"
        print(f"{r['task']:17} {r['language']} {mode:13} {r['correct']:4}/{r['total']:<4}"
              f" {r['low']:.3f} to {r['high']:.3f}")


if __name__ == "__main__":
    main()
