"""Reading a published config.json, in all the forms that it has had."""

from minexaone.files import CheckpointError, read_json

SLIDING, GLOBAL = "sliding_attention", "full_attention"  # the published names of the two kinds of layers
DTYPES = ("float32", "bfloat16", "float16")
TOKEN_IDS = ("bos_token_id", "eos_token_id", "pad_token_id")
LLAMA3 = ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings")
REQUIRED = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
            "max_position_embeddings")
SIZES = (*REQUIRED, "num_key_value_heads", "head_dim")
OTHERS = ("layer_types", "sliding_window", "rms_norm_eps", "tie_word_embeddings", "initializer_range", *TOKEN_IDS)
MOST_LAYERS = 1000  # a bound, so that a mistake in config.json cannot fill the memory
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
