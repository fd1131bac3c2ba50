"""`python -m minexaone finetune`: an adapter (LoRA) trained on a user's own conversations.

Each line of a file is a conversation in the form of the OpenAI API, {"messages": [{"role": "user", "content": "..."},
{"role": "assistant", "content": "..."}]}, with "tools", "tool_calls" and "reasoning_content" where there are some.
Every reply is learnt as the model will write it: behind the prompt that the chat template makes of what came before,
thinking if the reply has a reasoning. Some conversations, chosen by a hash, are held out, and their loss is watched.
"""

import argparse
import hashlib
import json
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from random import Random

import torch
from tqdm import tqdm

from minexaone.files import locked, read_json, resolve, write_json
from minexaone.linear.lora import CONFIG, TARGETS, add_lora, save_adapter
from minexaone.linear.packed import Packed
from minexaone.linear.rounding import quantize
from minexaone.model import Exaone4
from minexaone.scoring.rollouts import ranks
from minexaone.tokenizer import REASONING_KEYS, Tokenizer
from minexaone.tools import checked_json
from minexaone.training.loop import Recipe, fit
from minexaone.training.packing import Document, PackedModel, likelihood_loss, pack
from minexaone.training.run import prepare

ROLES = ("system", "user", "assistant", "tool")
LOOKS = 5  # at the held-out conversations while training
SAMPLE = 64  # tokens of a sample

# ---------------------------------------------------------------------------------------------- conversations


@dataclass
class Conversation:
    """One line of the file: messages and tools as the chat template takes them; key: a hash of the line."""

    line: int
    messages: list[dict]
    tools: list[dict] | None
    key: int


def read_conversations(path: Path) -> list[Conversation]:
    """All lines of a JSONL file but empty ones. `ValueError` names the file, the line and what is wrong with it."""
    found = []
    for number, line in enumerate(path.read_bytes().removeprefix(b"\xef\xbb\xbf").split(b"\n"), 1):
        if not line.strip():
            continue
        try:
            messages, tools = _conversation(line.decode("utf-8"))
        except UnicodeDecodeError as error:
            raise ValueError(f"{path}, line {number} is not UTF-8 ({error.reason}): save the file as UTF-8") from None
        except ValueError as error:
            raise ValueError(f"{path}, line {number}: {error}") from None
        key = int.from_bytes(hashlib.sha256(line.strip()).digest()[:8], "big")
        found.append(Conversation(number, messages, tools, key))
    if not found:
        raise ValueError(f'{path} is empty: each of its lines must be a conversation, {{"messages": [...]}}')
    return found


def _conversation(text):
    """(messages, tools) of a line."""
    try:
        raw = checked_json(text)
    except ValueError as error:
        raise ValueError(f"not a line of JSON ({error})") from None
    messages, tools = (raw.get(key) if isinstance(raw, dict) else None for key in ("messages", "tools"))
    if not isinstance(messages, list) or not messages:
        raise ValueError('expected {"messages": [...]}, as in the OpenAI API')
    if not (tools is None or isinstance(tools, list) and all(isinstance(tool, dict) for tool in tools)):
        raise ValueError("tools must be a list of JSON schemas, as in the OpenAI API")
    messages = [_message(message, n) for n, message in enumerate(messages, 1)]
    if not any(_learnt(messages)):
        raise ValueError("there is no assistant's message behind another one: nothing to learn")
    return messages, tools


def _message(message, n):
    """A message as it was, but for a thought within the content, which gets a key of its own."""
    role = message.get("role") if isinstance(message, dict) else None
    if role not in ROLES:
        raise ValueError(f"message {n} has the role {role!r:.40}, expected {', '.join(ROLES)}")
    content, reasoning = message.get("content"), _reasoning(message)
    if role != "tool" and not isinstance(content, str | list | None):
        raise ValueError(f"message {n} ({role}) has a content that is no text")
    if role == "assistant" and isinstance(content, str) and content.startswith("<think>") and "</think>" in content:
        reasoning, content = (part.strip() for part in content.removeprefix("<think>").split("</think>", 1))
        message = message | {"content": content, REASONING_KEYS[0]: reasoning}
    if role != "tool" and not content and not message.get("tool_calls"):
        raise ValueError(f"message {n} ({role}) is empty")
    if not isinstance(reasoning, str | None):
        raise ValueError(f"message {n} ({role}) has a reasoning that is no text")
    return message


def _reasoning(message):
    return next((message[key] for key in REASONING_KEYS if message.get(key)), None)


def _learnt(messages):
    """Which messages are replies to learn: those of the assistant, but for the first and those of weight 0."""
    return [n > 0 and m["role"] == "assistant" and m.get("weight", 1) != 0 for n, m in enumerate(messages)]


# --------------------------------------------------------------------------------------------------- documents


def reply_documents(conversation: Conversation, tokenizer: Tokenizer) -> list[Document]:
    """A document for each reply, of which the reply alone counts. `ValueError` if the template refuses the messages.

    As in generation, prompt and reply are encoded apart, and earlier replies stand in the prompt without their
    thoughts. A control token in the messages is text, as in `Chat`.
    """
    messages, documents = conversation.messages, []
    render = partial(tokenizer.apply_chat_template, tools=conversation.tools)
    end = tokenizer.decode([tokenizer.eos_token_id])
    for n in (n for n, learnt in enumerate(_learnt(messages)) if learnt):
        reasoning = _reasoning(messages[n])
        plain = {key: value for key, value in messages[n].items() if key not in REASONING_KEYS}
        before = render(messages[:n], tokenize=False)
        whole = render([*messages[:n], plain], tokenize=False, add_generation_prompt=False)
        text, ended, rest = whole.removeprefix(before).rpartition(end)
        if not whole.startswith(before) or not ended or rest.strip():
            raise ValueError(f"message {n + 1}: the chat template does not write the reply behind its prompt")
        reply = tokenizer.encode(f"{reasoning}\n</think>\n\n{text}" if reasoning else text, parse_special=True)
        if found := tokenizer.special_ids.intersection(reply):
            raise ValueError(f"message {n + 1} spells {tokenizer.decode([min(found)])}, which no reply may hold")
        prompt = render(messages[:n], enable_thinking=bool(reasoning), parse_special=False)
        ids = [*prompt, *reply, tokenizer.eos_token_id]
        documents.append(Document(ids, [0.0] * len(prompt) + [1.0] * (len(reply) + 1)))
    return documents


def held_out(conversations: list[Conversation], share: float) -> list[bool]:
    """Which conversations are held out: those whose hash is low, about this share, but one of several in any case.

    So equal lines are on the same side, and what was held out stays so when the file grows.
    """
    keys = [conversation.key for conversation in conversations]
    limit = max(share * 2**64, min(keys) + 1 if share and len(set(keys)) > 1 else 0)
    return [key < limit for key in keys]


def split_documents(path: Path, conversations: list[Conversation], tokenizer: Tokenizer, context: int, share: float
                    ) -> tuple[list[Document], list[Document]]:
    """(documents to learn, documents held out). `ValueError` names the line of a conversation that is too long or that
    the template refuses, or says that nothing is left to learn."""
    sides = [], []
    rows = zip(conversations, held_out(conversations, share), strict=True)
    for conversation, apart in tqdm(rows, "reading", len(conversations), unit="conversation", disable=None):
        try:
            documents = reply_documents(conversation, tokenizer)
            if (longest := max(len(document.ids) for document in documents)) > context:
                raise ValueError(f"it has {longest:,} tokens, the context holds {context:,}: shorten or remove it")
        except ValueError as error:
            raise ValueError(f"{path}, line {conversation.line}: {error}") from None
        sides[apart].extend(documents)
    if not sides[False]:
        raise ValueError(f"{path} has nothing left to train on: lower --held-out, or write more conversations")
    return sides


# --------------------------------------------------------------------------------------------------- training


def plan(documents: list[Document], tokens: int, epochs: int, seed: int) -> list[list[int]]:
    """The documents of every step: in each epoch all, in another order, as many at once as have `tokens` tokens."""
    steps = []
    for epoch in range(epochs):
        order, room = list(range(len(documents))), 0
        Random(f"finetune {seed} {epoch}").shuffle(order)
        for n in order:
            length = len(documents[n].ids) - 1
            if length > room:
                steps.append([])
                room = tokens
            steps[-1].append(n)
            room -= length
    return steps


@torch.no_grad()
def mean_loss(model: Exaone4, documents: list[Document], tokens: int) -> float:
    """Nats per token of the replies."""
    packed, total, count = PackedModel(model), 0.0, 0.0
    for batch in pack(documents, tokens, tokens):
        batch = batch.to(model.device)
        total -= float((packed(batch) * batch.weights).sum())
        count += float(batch.weights.sum())
    return total / count


def sampled(model: Exaone4, tokenizer: Tokenizer, document: Document) -> str:
    """The end of what a document asks and the beginning of the model's own reply, in one line."""
    prompt = document.ids[:document.weights.index(1.0)]
    asked, answer = (" ".join(tokenizer.decode(ids, skip_special_tokens=True).split())
                     for ids in (prompt, model.generate(prompt, max_new_tokens=SAMPLE)))
    return f"… {asked.rpartition(' <think>')[0][-60:]} → {answer}"


def finetune(source, data: Path, out: Path, *, rank=16, alpha=32.0, targets=TARGETS, bits: int | None = None, epochs=3,
             tokens=512, learning_rate=1e-3, share=0.1, seed=0, device="auto") -> str:
    """Train an adapter, write it to `out` in PEFT's form, and say in a line what came of it. See `main`.

    A run that was killed goes on from its last checkpoint, with the same arguments.
    """
    conversations, folder = read_conversations(data), resolve(source)
    tokenizer, device = Tokenizer.from_pretrained(folder), prepare(device)
    if ranks()[1] > 1:
        raise ValueError("finetune trains in one process: start it without torchrun")
    model = Exaone4.from_pretrained(folder, "bfloat16" if device.type == "cuda" else "float32", device)
    learnt, watched = split_documents(data, conversations, tokenizer, model.config.max_position_embeddings, share)
    tokens = max(tokens, *(len(document.ids) - 1 for document in learnt + watched))
    steps = plan(learnt, tokens, epochs, seed)
    if bits and any(isinstance(module, Packed) for module in model.modules()):
        raise ValueError("the model is quantized already: leave --bits out")
    if bits:
        quantize(model, bits)
    torch.manual_seed(seed)
    add_lora(model, rank, alpha, targets)
    told = (f"{len(conversations)} conversations: {len(learnt)} replies to learn in {len(steps)} steps of up to "
            f"{tokens:,} tokens, {len(watched)} held out by a hash of their lines")
    identity = {"model": str(source or "shipped"), "data": hashlib.sha256(data.read_bytes()).hexdigest(), "rank": rank,
                "alpha": alpha, "targets": list(targets), "bits": bits, "epochs": epochs, "tokens": tokens,
                "learning_rate": learning_rate, "held_out": share, "seed": seed}
    with locked(out):
        _begin(out, identity)
        loss = before = mean_loss(model, watched, tokens) if watched else None
        tqdm.write(told + (f"; their loss before: {before:.4f}" if watched else ""))

        def draw(start):
            nonlocal loss
            for step in range(start, len(steps)):
                if watched and step and step % max(1, len(steps) // LOOKS) == 0:
                    loss = mean_loss(model, watched, tokens)
                    sample = sampled(model, tokenizer, watched[0])
                    tqdm.write(f"after {step} steps: held-out loss {loss:.4f}; {sample}")
                batch, = pack([learnt[n] for n in steps[step]], tokens, tokens)
                batch.weights /= batch.weights.sum()
                yield [batch], {"held_out": loss} if watched else {}

        recipe = Recipe(len(steps), learning_rate, weight_decay=0.0, save_every=max(1, len(steps) // LOOKS))
        log = fit(model, draw, likelihood_loss, recipe, out, "finetune")
        after = mean_loss(model, watched, tokens) if watched else None
        write_json(out / "finetune.json", identity | {"held_out_before": before, "held_out_after": after, "log": log})
        save_adapter(model, out, None if source is None else str(source))  # last: it says that the run is complete
        (out / "finetune.state.safetensors").unlink()
    if watched:
        tqdm.write(sampled(model, tokenizer, watched[0]))
    fall = f"held-out loss {before:.4f}, now {after:.4f}; " if watched else ""
    return f"{out}: {fall}{log['tokens'] / max(log['seconds'], 0.1):,.0f} tokens/s; use it with --adapter {out}"


def _begin(out, identity):
    """Claim the folder. `ValueError` if it holds something else than a run with these arguments to go on with."""
    begun = out / "finetune.json"
    if (out / CONFIG).exists():
        raise ValueError(f"--out is {out}, which holds an adapter: name a new folder")
    if not begun.is_file() and any(path.name != ".lock" for path in out.iterdir()):
        raise ValueError(f"--out is {out}, which exists: name a new folder")
    was = read_json(begun) if begun.is_file() else {}
    for key, value in json.loads(json.dumps(identity)).items() if was else ():
        if was.get(key) != value:
            raise ValueError(f"{out} was begun with {key} {was.get(key)!s:.40}, not {value!s:.40}: go on with that, or "
                             "name another folder")
    write_json(begun, identity)


def main(argv=None):
    """Train an adapter."""
    parser = argparse.ArgumentParser(prog="python -m minexaone finetune", description="Train a LoRA adapter on "
                                     "conversations, and write it in PEFT's form. Run again, it goes on where it was.")
    parser.add_argument("model", nargs="?", help="folder or hub id; the shipped model if left out")
    parser.add_argument("--data", type=Path, required=True, help='a conversation a line: {"messages": [...]} with '
                        "roles system, user, assistant, tool; only the assistant's replies are learnt")
    parser.add_argument("--out", type=Path, required=True, help="folder of the adapter: new, or to go on with")
    parser.add_argument("--rank", type=int, default=16, help="of the update of a matrix (16)")
    parser.add_argument("--alpha", type=float, default=32, help="the update counts alpha / rank times (32)")
    parser.add_argument("--targets", default=",".join(TARGETS), help="which projections learn (all seven of a layer)")
    parser.add_argument("--bits", type=int, choices=(4, 8), help="round the frozen weights first, to save memory")
    parser.add_argument("--epochs", type=int, default=3, help="passes over the conversations (3)")
    parser.add_argument("--tokens", type=int, default=512, help="in a step, but at least the longest reply with its "
                        "prompt; more are quicker on a GPU (512)")
    parser.add_argument("--learning-rate", type=float, default=1e-3, help="at its peak, after a warm-up (0.001)")
    parser.add_argument("--held-out", type=float, default=0.1, metavar="SHARE", help="of the conversations, never "
                        "learnt; 0 is none (0.1)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, mps")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(argv)
    if min(args.epochs, args.tokens) < 1 or not 0 <= args.held_out < 1 or not 0 < args.learning_rate < 1:
        raise ValueError("--epochs and --tokens must be at least 1, --held-out from 0 to below 1, --learning-rate "
                         "between 0 and 1")
    print(finetune(args.model, args.data, args.out, rank=args.rank, alpha=args.alpha,
                   targets=[target for target in args.targets.split(",") if target], bits=args.bits,
                   epochs=args.epochs, tokens=args.tokens, learning_rate=args.learning_rate, share=args.held_out,
                   seed=args.seed, device=args.device))
