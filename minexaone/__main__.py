"""The command line: `python -m minexaone "prompt"`, and with one of `COMMANDS` as its first word."""

import argparse
import contextlib
import os
import sys
import time
from pathlib import Path

PROGRAM = "python -m minexaone"
NOTES = {"length": "the reply was cut off at --max-new-tokens or the end of the context",
         "thinking": "the answer, or a call in it, stayed inside the thinking",
         "tool_limit": "the model kept calling tools, and there are none here"}


def main(argv=None):
    """Run one command; return the exit status (0 done, 1 failed, 130 interrupted). Wrong usage exits with 2."""
    argv = sys.argv[1:] if argv is None else argv
    command = COMMANDS.get(argv[0] if argv else None, ask)
    for stream in (sys.stdout, sys.stderr):  # an answer in Korean is never cut because a pipe is said to be cp1252
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    try:
        with alone_to_speak():
            command(argv[command is not ask:])
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # the reader of our output has gone, as in `… | head`
        sys.stderr.close()
        return 1
    except (ValueError, OSError, RuntimeError) as error:
        print(f"minexaone: {str(error).splitlines()[0] if str(error) else type(error).__name__}", file=sys.stderr)
        return 1
    return 0


@contextlib.contextmanager
def alone_to_speak():
    """Of several processes that torchrun started, the first prints; errors appear from each."""
    if int(os.environ.get("RANK", 0)) == 0:
        yield
    else:
        with Path(os.devnull).open("w", encoding="utf-8") as nowhere, contextlib.redirect_stdout(nowhere), \
                contextlib.redirect_stderr(nowhere):
            yield


def ask(argv):
    """Answer one prompt."""
    parser = argparse.ArgumentParser(prog=PROGRAM, description="Answer a prompt with EXAONE 4.0 or the shipped model.",
                                     epilog="Other commands, each with its own --help: " + "; ".join(
                                         f"{name}: {function.__doc__[0].lower()}{function.__doc__[1:-1]}"
                                         for name, function in COMMANDS.items()) + ".")
    parser.add_argument("prompt", help="the question; - reads it from standard input")
    options = add_options(parser).parse_args(argv)
    prompt = sys.stdin.read() if options.prompt == "-" else options.prompt
    if not prompt.strip():
        raise ValueError("the prompt is empty: write a question")
    if options.prompt in COMMANDS and len(argv) > 1:
        raise ValueError(f"the command comes first: {PROGRAM} {options.prompt} --device cpu, say")
    print_reply(load_chat(options), prompt)


def chat(argv):
    """Hold a conversation."""
    parser = argparse.ArgumentParser(prog=f"{PROGRAM} chat", description="Talk with the model. Ctrl-D ends the "
                                     "conversation; Ctrl-C stops a reply and takes the question back; /clear begins "
                                     "anew.")
    options = add_options(parser).parse_args(argv)
    if int(os.environ.get("WORLD_SIZE", 1)) > 1:
        raise ValueError("chat runs in one process; under torchrun ask one question")
    conversation = load_chat(options)
    with contextlib.suppress(ImportError):
        import readline  # noqa: F401  (line editing and history for input())
    while True:
        try:
            prompt = input("> ")
        except EOFError:
            print()
            return
        if prompt.strip() == "/clear":
            conversation.clear()
        elif prompt.strip():
            try:
                print_reply(conversation, prompt)
            except KeyboardInterrupt:
                print(file=sys.stderr)
            except ValueError as error:  # say, a question longer than the context: the conversation goes on
                print(f"minexaone: {error}", file=sys.stderr)


def info(argv):
    """Describe a model without loading its weights."""
    parser = argparse.ArgumentParser(prog=f"{PROGRAM} info", description="Print the shape of a model and the memory "
                                     "that it needs. Reads config.json only.")
    parser.add_argument("model", nargs="?", help="folder or hub id; the shipped model if left out")
    parser.add_argument("--revision", help="branch, tag or commit of a hub id")
    parser.add_argument("--context", type=int, help="tokens of context to count the cache for; the model's longest if "
                                                    "left out")
    options = parser.parse_args(argv)

    import torch

    from minexaone.config_json import GLOBAL, quantization, quantization_details, quantized_groups, read_config
    from minexaone.files import resolve
    from minexaone.model import Config, Exaone4, cache_bytes

    folder = resolve(options.model, options.revision, weights=False)
    config = Config.from_dict(raw := read_config(folder))
    context = config.max_position_embeddings if options.context is None else options.context
    if context < 1:
        raise ValueError(f"--context is {context}, expected at least 1 token")
    with torch.device("meta"):
        model = Exaone4(config)
    total = sum(parameter.numel() for parameter in model.parameters())
    embeddings = config.vocab_size * config.hidden_size * (1 if config.tie_word_embeddings else 2)
    itemsize, words = getattr(torch, config.dtype).itemsize, quantization(raw)
    stored = sum(path.stat().st_size for path in [folder, *folder.glob("model*.safetensors")] if path.is_file())
    hybrid = config.sliding_window is not None
    pattern = "".join("G" if kind == GLOBAL else "L" for kind in config.layer_types)
    rope = "every layer" if not hybrid else "sliding layers only (global layers are NoPE)"
    scaling = f", llama3 scaling × {config.rope_scaling['factor']:g}" if config.rope_scaling else ""
    all_global = itemsize * 2 * config.num_key_value_heads * config.head_dim * config.num_hidden_layers * context
    rows = {
        "model": options.model or "shipped",
        "parameters": f"{total:,} ({total - embeddings:,} without embeddings)",
        "layers": f"{config.num_hidden_layers}: {pattern} (G: global"
                  + (f", L: window of {config.sliding_window:,} tokens)" if hybrid else ")"),
        "hidden size": f"{config.hidden_size:,}, feed-forward {config.intermediate_size:,} (SwiGLU)",
        "heads": f"{config.num_attention_heads} query, {config.num_key_value_heads} key/value, size {config.head_dim}",
        "RoPE": f"theta {config.rope_theta:,.0f} on {rope}{scaling}",
        "vocabulary": f"{config.vocab_size:,}, embeddings {'tied' if config.tie_word_embeddings else 'not tied'}",
        "context": f"{config.max_position_embeddings:,} tokens",
        "weights": f"{size(total * itemsize)} in {config.dtype}" + " if they were not quantized" * bool(words),
        "KV cache": f"{size(cache_bytes(config, context, itemsize))} at {context:,} tokens"
                    + (f" ({size(all_global)} if all layers were global)" if hybrid else ""),
    }
    if words:
        groups = " and ".join(map(str, quantized_groups(quantization_details(raw))))
        rows["quantized"] = words + (f", groups of {groups} inputs" if groups else ", one group a row") \
            + (f": {size(stored)}" if stored else "")
    for name, value in rows.items():
        print(f"{name:12} {value}")


def bench(argv):
    """Measure the speed of a model on this machine."""
    from minexaone.bench import main

    main(argv)


def evaluate(argv):
    """Score a model on held-out problems."""
    from minexaone.scoring.evaluate import main

    main(argv)


def finetune(argv):
    """Train an adapter on conversations."""
    from minexaone.training.finetune import main

    main(argv)


def quantize(argv):
    """Write a model with its layers in 4 or 8 bits."""
    from minexaone.quantize import main

    main(argv)


def doctor(argv):
    """Say what this machine has, and which models fit on it."""
    from minexaone.doctor import main

    main(argv)


def export(argv):
    """Write a model as a GGUF file."""
    from minexaone.export import main

    main(argv)


def serve_check(argv):
    """Ask a running server, and say what came back wrong."""
    from minexaone.serve_check import main

    main(argv)


def size(count):
    """Bytes for people, in powers of ten as in the report: 9_400_000_000 is 9.40 GB."""
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= scale:
            return f"{count / scale:.2f} {unit}"
    return f"{count} bytes"


def add_options(parser):
    """The options that `ask` and `chat` share."""
    parser.add_argument("--model", help="folder or hub id, as LGAI-EXAONE/EXAONE-4.0-1.2B (the shipped model)")
    parser.add_argument("--revision", help="branch, tag or commit of a hub id")
    parser.add_argument("--adapter", metavar="FOLDER", help="a LoRA adapter, as `finetune` and PEFT write it; merged "
                        "for --fast, --int8, --int4")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, mps (auto)")
    parser.add_argument("--dtype", default="auto", help="float32, bfloat16, float16, auto: as stored (auto)")
    parser.add_argument("--fast", action="store_true", help="compile first, seconds on CUDA and longer on a CPU "
                        "(less the next time); then every token comes sooner")
    parser.add_argument("--int8", dest="bits", action="store_const", const=8,
                        help="round the weights to 8 bits: half the memory of bfloat16")
    parser.add_argument("--int4", dest="bits", action="store_const", const=4,
                        help="round the layers to 4 bits, embedding and head to 8: about a third")
    parser.add_argument("--draft", metavar="MODEL", help="a smaller model with the same vocabulary guesses the next "
                        "tokens, four at a time, which the model checks together; text: the text so far does. The "
                        "reply stays the same, and on CUDA with --fast comes sooner (see README)")
    parser.add_argument("--system", help="system prompt")
    parser.add_argument("--reasoning", action="store_true", help="think before answering; the thinking goes to stderr")
    parser.add_argument("--budget", type=int, metavar="N", help="close the thinking after N tokens (no limit)")
    parser.add_argument("--max-new-tokens", type=int, default=1024, metavar="N",
                        help="longest reply, thinking included (1024)")
    parser.add_argument("--temperature", type=float, help="0 is greedy (left out: the checkpoint's advice, also for "
                        "the next three; see README)")
    parser.add_argument("--top-k", type=int, help="sample from the k likeliest; 0 is all")
    parser.add_argument("--top-p", type=float, help="sample from the fewest reaching this probability")
    parser.add_argument("--presence-penalty", type=float, help="subtracted from ids already generated")
    parser.add_argument("--seed", type=int, help="makes sampling repeatable")
    return parser


def load_chat(options):
    """A conversation with the model that the options name."""
    # Imported here, so that --help and wrong usage answer at once.
    from minexaone import Chat, Exaone4, Tokenizer, speed_up
    from minexaone.config_json import DTYPES, sampling_advice
    from minexaone.files import resolve
    from minexaone.model import pick_device

    pick_device(options.device)  # a wrong one is known before a long download, and so is a wrong dtype
    if options.dtype not in ("auto", *DTYPES):
        raise ValueError(f"dtype is {options.dtype!r}, expected auto, {', '.join(DTYPES)}")
    folder = resolve(options.model, options.revision)  # once: a branch may move between two downloads
    tokenizer = Tokenizer.from_pretrained(folder)
    in_parallel = int(os.environ.get("WORLD_SIZE", 1)) > 1
    if in_parallel and (options.bits or options.adapter or options.draft):
        raise ValueError("under torchrun a model stays as it is stored and has no draft: leave out --int8, --int4, "
                         "--adapter and --draft")
    draft = draft_of(options)  # first, as the smaller one: a wrong name is known soon
    if in_parallel:
        model = divided(folder, options.dtype, options.device)
        options.seed = options.seed or 0  # all processes draw the same
    else:
        model = Exaone4.from_pretrained(folder, options.dtype, options.device)
    if options.adapter:
        from minexaone.linear.lora import load_adapter, merge_lora

        load_adapter(model, options.adapter)
        if options.bits or options.fast:  # neither knows of a second product
            merge_lora(model)
    if options.bits:
        from minexaone.linear.rounding import quantize

        quantize(model, options.bits)
    if options.fast:
        start = time.perf_counter()
        speed_up(model)
        print(f"minexaone: ready for fast steps after {time.perf_counter() - start:.1f} s", file=sys.stderr)
    sampling = {name: value for name in ("temperature", "top_k", "top_p", "presence_penalty")
                if (value := getattr(options, name)) is not None}
    if options.temperature is None:
        sampling = sampling_advice(folder, options.reasoning) | sampling
    return Chat(model, tokenizer, system=options.system, reasoning=options.reasoning, reasoning_budget=options.budget,
                max_new_tokens=options.max_new_tokens, seed=options.seed, draft=draft, **sampling)


def draft_of(options):
    """What guesses the next tokens (see `speculation.py`), or None."""
    from minexaone import Exaone4, speed_up
    from minexaone.speculation import DraftModel, PromptLookup

    if options.draft in (None, "text"):
        return options.draft and PromptLookup()
    small = Exaone4.from_pretrained(options.draft, options.dtype, options.device)
    return DraftModel(speed_up(small) if options.fast else small)


def divided(folder, dtype, device):
    """This process's slices of a model (see `linear/parallel.py`), on a device of its own."""
    import torch

    from minexaone import Exaone4
    from minexaone.linear.parallel import all_processes, tensor_parallel
    from minexaone.model import pick_device

    dtype = None if dtype == "auto" else getattr(torch, dtype)
    return tensor_parallel(Exaone4.from_pretrained(folder, device="cpu"), all_processes(pick_device(device)), dtype)


def print_reply(conversation, prompt):
    """Stream the answer to standard output, and the thinking before it to standard error."""
    dim, normal = ("\033[2m", "\033[0m") if sys.stderr.isatty() else ("", "")
    before = None
    try:
        for kind, text in conversation.stream(prompt):
            if before not in (None, kind):
                print("" if before == "content" else normal, file=sys.stdout if before == "content" else sys.stderr)
            if kind == "content":
                print(text, end="", flush=True)
            else:  # thinking, and calls of tools, of which there are none here
                print(dim * (kind != before) + text, end="", file=sys.stderr, flush=True)
            before = kind
    finally:  # also when the reply is interrupted, or the terminal would stay dim
        if before:
            print(normal if before != "content" else "", file=sys.stdout if before == "content" else sys.stderr)
    if note := NOTES.get(conversation.reply.finish_reason):
        print(f"minexaone: {note}", file=sys.stderr)


COMMANDS = {"chat": chat, "info": info, "bench": bench, "evaluate": evaluate, "finetune": finetune,
            "quantize": quantize, "export": export, "serve-check": serve_check, "doctor": doctor}

if __name__ == "__main__":
    sys.exit(main())
