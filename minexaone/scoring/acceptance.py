"""How many tokens a pass brings with a draft, on the tasks: what speculative decoding can gain on this model.

    python -m minexaone.scoring.acceptance [MODEL] --count 20 --num-tokens 2,4,8 --draft-model assets/stages/base
"""

import argparse
from pathlib import Path
from random import Random

from tqdm import tqdm

from minexaone.files import resolve, write_json
from minexaone.model import Exaone4
from minexaone.speculation import DraftModel, PromptLookup
from minexaone.tasks import LANGUAGES, TASKS, sample
from minexaone.tokenizer import Tokenizer


def acceptance(model: Exaone4, tokenizer: Tokenizer, drafts: dict, count: int, tasks=None, most: int = 640,
               seed: int = 0, **options) -> list[dict]:
    """A row for each task, mode and draft (a dictionary by name): passes of the model and tokens a pass.

    The pass that reads a prompt brings its reply's first token. count: prompts of each task and mode, in the languages
    by turns; most: tokens of a reply; options: as in `Exaone4.stream`. A reply is the same with every draft.
    """
    rows, calls = [], []
    hook = model.register_forward_pre_hook(lambda _, args: calls.append(args[0].shape[1]))
    try:
        for task in tqdm(tasks or TASKS, desc="tasks"):
            for reasoning in (False, True):
                rng = Random(f"acceptance {seed} {task} {reasoning}")
                examples = [sample(rng, "test", task, LANGUAGES[n % 3], reasoning) for n in range(count)]
                prompts = [tokenizer.apply_chat_template(e.messages, e.tools, enable_thinking=reasoning)
                           for e in examples]
                for name, draft in drafts.items():
                    calls.clear()
                    tokens = sum(len(model.generate(prompt, max_new_tokens=most, seed=seed + n, draft=draft, **options))
                                 for n, prompt in enumerate(prompts))
                    rows.append({"task": task, "reasoning": reasoning, "draft": name, "tokens": tokens,
                                 "passes": len(calls), "tokens_per_pass": round(tokens / len(calls), 3)})
    finally:
        hook.remove()
    return rows


def main(argv=None):
    """Measure, print a table, and write the rows as JSON."""
    parser = argparse.ArgumentParser(prog="python -m minexaone.scoring.acceptance",
                                     description=__doc__.partition("\n")[0])
    parser.add_argument("model", nargs="?", help="folder or hub id; the shipped model if left out")
    parser.add_argument("--draft-model", help="folder or hub id of a model with the same vocabulary, to guess as well")
    parser.add_argument("--count", type=int, default=20, help="prompts of each task and mode (20)")
    parser.add_argument("--num-tokens", default="2,4,8", help="guesses in a pass (2,4,8)")
    parser.add_argument("--tasks", help=f"some of {','.join(TASKS)} (all)")
    parser.add_argument("--temperature", type=float, default=0.0, help="0 is greedy (0)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, mps")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows there too")
    args = parser.parse_args(argv)
    tasks, numbers = args.tasks and args.tasks.split(","), args.num_tokens.split(",")
    if unknown := set(tasks or ()) - set(TASKS):
        parser.error(f"unknown task {', '.join(sorted(unknown))}: choose from {', '.join(TASKS)}")
    if args.count < 1 or not all(number.isdecimal() and int(number) for number in numbers):
        parser.error("--count and --num-tokens want whole numbers from 1, as 2,4,8")
    folder = resolve(args.model)
    model = Exaone4.from_pretrained(folder, device=args.device)
    drafts = {f"lookup {number}": PromptLookup(int(number)) for number in numbers}
    if args.draft_model:
        small = Exaone4.from_pretrained(args.draft_model, device=args.device)
        drafts |= {f"model {number}": DraftModel(small, int(number)) for number in numbers}
    rows = acceptance(model, Tokenizer.from_pretrained(folder), drafts, args.count, tasks,
                      temperature=args.temperature)
    if args.json:
        write_json(args.json, {"model": args.model or "shipped", "draft_model": args.draft_model, "count": args.count,
                               "temperature": args.temperature, "rows": rows})
    print(f"tokens a pass  {'':13} " + " ".join(f"{name:>9}" for name in drafts))
    for n in range(0, len(rows), len(drafts)):
        mode = "reasoning" if rows[n]["reasoning"] else "non-reasoning"
        print(f"{rows[n]['task']:14} {mode:13} " + " ".join(
            f"{row['tokens_per_pass']:9.2f}" for row in rows[n:n + len(drafts)]))


if __name__ == "__main__":
    main()
