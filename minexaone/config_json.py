"""Reading and checking what comes from outside: config.json, in all its published forms, and generation options."""

from minexaone.files import CheckpointError, read_json

SLIDING, GLOBAL = "sliding_attention", "full_attention"  # the published names of the two kinds of layers
DTYPES = ("float32", "bfloat16", "float16")
TOKEN_IDS = ("bos_token_id", "eos_token_id", "pad_token_id")
LLAMA3 = ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings")
REQUIRED = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
            "max_position_embeddings")
SIZES = (*REQUIRED, "num_key_value_heads", "head_dim")
OTHERS = ("layer_types", "sliding_window", "rms_norm_eps", "tie_word_embeddings", "initializer_range", *TOKEN_IDS)
MOST_LAYERS = 1000  # bounds, so that a mistake in config.json cannot fill the memory
MOST = 2**20
ONLY = {"model_type": "exaone4", "hidden_act": "silu", "attention_dropout": 0, "quantization_config": None}


def read_config(folder):
    """The object in config.json, with the token ids of generation_config.json where that has some."""
    raw = read_json(folder / "config.json")
    generation = folder / "generation_config.json"
    overrides = read_json(generation) if generation.is_file() else {}
    for file, value in (("config.json", raw), (generation.name, overrides)):
        if not isinstance(value, dict):
            raise CheckpointError(f"{folder / file} holds no JSON object: download it again")
    return raw | {key: overrides[key] for key in TOKEN_IDS if overrides.get(key) is not None}


def config_values(raw):
    """Arguments for `Config` from a config.json in its older form (`rope_theta` and `rope_scaling` at the top level,
    `torch_dtype`) or its newer one (`rope_parameters`, `dtype`). Raises `CheckpointError` naming the key."""
    for key, only in ONLY.items():
        if raw.get(key, None if key == "model_type" else only) != only:
            raise CheckpointError(f"config.json: {key} is {raw.get(key)!r}, but only {only!r} can be loaded: choose an "
                                  "unquantized EXAONE 4.0 checkpoint")
    values = {key: raw[key] for key in (*SIZES, *OTHERS) if key in raw}
    try:
        values |= {key: raw[key] for key in (*REQUIRED, "sliding_window")}
        if raw.get("num_key_value_heads") is None:
            values["num_key_value_heads"] = raw["num_attention_heads"]
        if raw.get("head_dim") is None:
            values["head_dim"] = raw["hidden_size"] // raw["num_attention_heads"]
        if raw.get("layer_types") is None:  # where given, it is the truth and the pattern is not asked
            values["layer_types"] = _layer_types(raw)
        rope = {**(raw.get("rope_parameters") or raw.get("rope_scaling") or {})}
        rope.setdefault("rope_type", rope.pop("type", "default"))
        values["rope_theta"] = rope.pop("rope_theta") if "rope_theta" in rope else raw["rope_theta"]
        values["rope_scaling"] = None if rope["rope_type"] == "default" else rope
        values["dtype"] = raw.get("dtype") or raw.get("torch_dtype") or "float32"
    except KeyError as error:
        raise CheckpointError(f"config.json: {error.args[0]} is missing: download it again") from None
    except (TypeError, ZeroDivisionError) as error:
        raise CheckpointError("config.json: a size, rope_parameters or rope_scaling is not of the published kind "
                              f"({error}): download it again") from None
    return values


def _layer_types(raw):
    """sliding_window_pattern spelled out: an integer n makes every n-th layer global, a string such as LLLG repeats."""
    pattern = raw.get("sliding_window_pattern") if raw["sliding_window"] is not None else "G"
    if type(pattern) is int and 0 < pattern <= MOST_LAYERS:
        pattern = "L" * (pattern - 1) + "G"
    if not isinstance(pattern, str) or not pattern or set(pattern) - set("LG"):
        raise CheckpointError(f"config.json: sliding_window_pattern is {pattern!r}, expected a positive integer or a "
                              "string of L and G: correct it or add layer_types")
    kinds = {"L": SLIDING, "G": GLOBAL}
    return [kinds[pattern[i % len(pattern)]] for i in range(min(raw["num_hidden_layers"], MOST_LAYERS))]


def check_config(config):
    """Raise `CheckpointError`, naming the key, its value and what was expected, unless a model can be built so."""
    def check(key, good, expected):
        if not good:
            raise CheckpointError(f"config.json: {key} is {getattr(config, key)!r}, expected {expected}")

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
    check("layer_types", isinstance(config.layer_types, list) and len(config.layer_types) == config.num_hidden_layers
          and all(kind in (SLIDING, GLOBAL) for kind in config.layer_types),
          f"a list of {SLIDING!r} or {GLOBAL!r} for each of num_hidden_layers = {config.num_hidden_layers}")
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


def check_generation(config, prompts, **options):
    """Raise `ValueError` for a prompt or a sampling option that cannot be used."""
    for name, good, expected in (
            ("max_new_tokens", lambda n: type(n) is int and n >= 1, "a whole number from 1"),
            ("temperature", lambda t: 0 <= t < float("inf"), "0 (greedy) or more"),
            ("top_k", lambda k: type(k) is int and k >= 0, "a whole number, 0 for all"),
            ("top_p", lambda p: 0 < p <= 1, "above 0 and at most 1"),
            ("presence_penalty", lambda p: -2 <= p <= 2, "between -2 and 2"),
            ("reasoning_budget", lambda n: n is None or type(n) is int and n >= 0, "a whole number of tokens")):
        if not good(options[name]):
            raise ValueError(f"{name} is {options[name]}, expected {expected}")
    longest = config.max_position_embeddings - 1
    for prompt in prompts or [()]:
        if not prompt:
            raise ValueError("a prompt is empty: it needs at least one token")
        if len(prompt) > longest:
            raise ValueError(f"the prompt has {len(prompt)} tokens, at most {longest} fit the context with room for "
                             "a reply: shorten it")
        if not all(type(token) is int for token in prompt):
            raise ValueError("the prompt must be token ids: encode text with the tokenizer first")
        if not all(0 <= token < config.vocab_size for token in prompt):
            raise ValueError(f"the prompt holds ids outside 0 ... {config.vocab_size - 1}: it was encoded with the "
                             "tokenizer of another model")
