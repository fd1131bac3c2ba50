"""The checks of a model's configuration and of generation options, with errors that say what is wrong."""

import math
import reprlib
from collections.abc import Iterable, Mapping

from minexaone.config_json import DTYPES, GLOBAL, LLAMA3, MOST_LAYERS, SAMPLING, SIZES, SLIDING
from minexaone.files import CheckpointError

MOST = 2**20  # bounds every size, so that a mistake in config.json cannot fill the memory


def check_config(config):
    """Raise `CheckpointError`, naming the key, its value and what was expected, unless a model can be built so."""
    def check(key, good, expected):
        if not good:
            raise CheckpointError(f"{key} is {getattr(config, key)!r:.200}, expected {expected}")

    def count(value, most=MOST):
        return type(value) is int and 0 < value <= most

    def positive(value):
        return type(value) in (int, float) and 1e-12 <= value <= 1e12

    for key in SIZES:
        check(key, count(getattr(config, key)), f"an integer from 1 to {MOST}")
    check("num_hidden_layers", count(config.num_hidden_layers, MOST_LAYERS), f"at most {MOST_LAYERS}")
    for key in ("rope_theta", "rms_norm_eps", "initializer_range"):
        check(key, positive(getattr(config, key)), "a positive number")
    check("sliding_window", config.sliding_window is None or count(config.sliding_window), f"null or 1 to {MOST}")
    check("num_attention_heads", config.num_attention_heads % config.num_key_value_heads == 0,
          f"a multiple of num_key_value_heads = {config.num_key_value_heads}")
    check("head_dim", config.head_dim % 2 == 0, "an even number, because RoPE rotates pairs")
    kinds = config.layer_types
    check("layer_types", isinstance(kinds, list) and all(kind in (SLIDING, GLOBAL) for kind in kinds),
          f"a list of {SLIDING!r} or {GLOBAL!r} for each layer")
    if len(kinds) != config.num_hidden_layers:
        raise CheckpointError(f"layer_types has {len(kinds)} entries, but num_hidden_layers = "
                              f"{config.num_hidden_layers}: give one for each layer")
    scaling = config.rope_scaling
    check("rope_scaling", scaling is None or isinstance(scaling, dict) and scaling.get("rope_type") == "llama3"
          and all(positive(scaling.get(key)) for key in LLAMA3)
          and scaling["low_freq_factor"] < scaling["high_freq_factor"],
          f"null, or rope_type llama3 with positive {', '.join(LLAMA3)}, low below high")
    for key in ("bos_token_id", "pad_token_id"):
        value = getattr(config, key)
        check(key, value is None or type(value) is int and 0 <= value < config.vocab_size, "a token id or null")
    stops = config.stop_ids
    check("eos_token_id", stops and all(type(i) is int and 0 <= i < config.vocab_size for i in stops), "token ids")
    check("tie_word_embeddings", type(config.tie_word_embeddings) is bool, "true or false")
    check("dtype", config.dtype in DTYPES, f"one of {', '.join(DTYPES)}")


def as_rows(prompts) -> tuple[list[list[int]], bool]:
    """(prompts as lists of ids, whether it was a single one) of lists, tuples, arrays or tensors of ids, a list of
    these, or the dictionary that a tokenizer of transformers returns, whose padding is left out."""
    if isinstance(prompts, Mapping):
        if "input_ids" not in prompts:
            raise ValueError(f"the prompt is a dictionary of {', '.join(map(str, prompts))}, expected input_ids in it")
        rows, single = as_rows(prompts["input_ids"])
        mask = prompts.get("attention_mask")
        masks, _ = as_rows([[1] * len(row) for row in rows] if mask is None else mask)
        if [len(mask) for mask in masks] != [len(row) for row in rows]:
            raise ValueError("attention_mask must have the shape of input_ids")
        return [[id for id, kept in zip(row, mask, strict=True) if kept]
                for row, mask in zip(rows, masks, strict=True)], single
    plain = prompts.tolist() if hasattr(prompts, "tolist") else prompts
    if isinstance(plain, str | bytes | bytearray | memoryview) or not isinstance(plain, Iterable):
        raise ValueError(f"the prompt is of type {type(prompts).__name__}, but must be token ids: encode text with the "
                         "tokenizer first")
    plain = [item.tolist() if hasattr(item, "tolist") else item for item in plain]
    if plain and all(isinstance(item, Iterable) and not isinstance(item, str | bytes) for item in plain):
        parts = [as_rows(item) for item in plain]
        if all(single for _, single in parts):
            return [row for rows, _ in parts for row in rows], False
    if not all(type(item) is int for item in plain):
        raise ValueError("the prompt must be token ids, or a list of prompts: encode text with the tokenizer first")
    return [plain], True


def check_generation(config, prompts, **options):
    """Raise `ValueError` for prompts (lists of ids) or an option that cannot be used."""
    def whole(value, most=math.inf):
        return type(value) is int and 0 <= value <= most

    def ids(values):
        return (isinstance(values, list | tuple | set | frozenset | range)
                and all(whole(id, config.vocab_size - 1) for id in values))

    rules = SAMPLING | {
        "max_new_tokens": (lambda n: whole(n) and n, "a whole number from 1"),
        "seed": (lambda n: n is None or whole(n, 2**62 - 1), "a whole number below 2**62, or None"),
        "stop_ids": (lambda s: s is None or ids(s), "token ids of this model, or None for the checkpoint's"),
        "reasoning_budget": (lambda n: n is None or whole(n), "a whole number of tokens, or None"),
        "think_end_id": (lambda n: n is None or ids([n]), "a token id of this model"),
        "close_ids": (ids, "token ids of this model"),
        "draft": (lambda d: d is None or callable(getattr(d, "begin", None)),
                  "a PromptLookup or a DraftModel of minexaone.speculation, or None")}
    for name, (good, expected) in rules.items():
        if not good(options[name]):
            raise ValueError(f"{name} is {reprlib.repr(options[name])}, expected {expected}")
    if options["reasoning_budget"] is not None and (options["think_end_id"] is None or not options["close_ids"]):
        raise ValueError("reasoning_budget needs think_end_id and close_ids: the ids that end the thinking")
    longest = config.max_position_embeddings - 1
    for prompt in prompts:
        if not prompt:
            raise ValueError("a prompt is empty: it needs at least one token")
        if len(prompt) > longest:
            raise ValueError(f"the prompt has {len(prompt)} tokens, at most {longest} fit the context with room for "
                             "a reply: shorten it")
        if not all(0 <= token < config.vocab_size for token in prompt):
            raise ValueError(f"the prompt holds ids outside 0 ... {config.vocab_size - 1}: it was encoded with the "
                             "tokenizer of another model")


def check_guesses(config, guesses, rows, most):
    """Raise `ValueError` unless a draft gave for each row a list of at most so many ids of the vocabulary."""
    if len(guesses) != rows or not all(len(guess) <= most and all(
            type(id) is int and 0 <= id < config.vocab_size for id in guess) for guess in guesses):
        raise ValueError(f"the draft gave {reprlib.repr(guesses)}, expected for each of {rows} rows at most {most} "
                         "token ids of this model")
