"""`python -m minexaone bench`: how near to the speed of this machine's memory a model generates.

Decoding one token reads every weight once and, with a long context, the cache: (bytes read) / (bandwidth measured by
reading a large tensor) is the shortest time that a step can take, and that over the measured time is the share of the
roofline. Versions are measured in alternating rounds, since the speed of many machines changes from second to second.
`python -m minexaone.bench OUT.svg RESULTS.json ...` draws what the command wrote with --json.
"""

import argparse
import copy
import json
import os
import platform
import random
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from unittest.mock import patch

import numpy as np
import torch
from tqdm import tqdm

from minexaone.config_json import GLOBAL, SLIDING
from minexaone.fast import speed_up
from minexaone.files import with_temporary, write_json
from minexaone.generation import PromptCache, Sampler, prefill
from minexaone.linear import of_products, processes
from minexaone.linear.parallel import all_processes, tensor_parallel
from minexaone.linear.rounding import quantize
from minexaone.model import Config, Exaone4, KVCache, cache_bytes, pick_device
from minexaone.speculation import DraftModel

SCALING = {"rope_type": "llama3", "factor": 16.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
           "original_max_position_embeddings": 8192}
SHAPES = {  # of the published models, to be filled with random weights; room for more than the 1.2B's 65,536 tokens
    "1.2b": Config(vocab_size=102400, hidden_size=2048, intermediate_size=4096, num_hidden_layers=30,
                   num_attention_heads=32, num_key_value_heads=8, head_dim=64, layer_types=[GLOBAL] * 30,
                   rope_scaling=SCALING, max_position_embeddings=131072, tie_word_embeddings=True),
    "32b": Config(vocab_size=102400, hidden_size=5120, intermediate_size=27392, num_hidden_layers=64,
                  num_attention_heads=40, num_key_value_heads=8, head_dim=128,
                  layer_types=([SLIDING] * 3 + [GLOBAL]) * 16, sliding_window=4096, rope_scaling=SCALING,
                  max_position_embeddings=131072),
}
OURS = ("naive", "clear", "fast", "int8", "int4", "clear-parallel", "fast-parallel")  # the last two under torchrun
BITS = {"int8": 8, "int4": 4}  # of versions that are fast and quantised
THEIRS = ("transformers", "transformers-compiled", "llama.cpp")
WARM_UP = 4  # tokens not counted: they compile and record
QUESTION = 32  # tokens that a second turn adds to the history


# ------------------------------------------------------------------------------------------- ceilings of the machine


def synchronize(device):
    """Wait until the device has done what it was given."""
    if device.type != "cpu":
        getattr(torch, device.type).synchronize()


def timed(device, function, *args, **options):
    """Seconds that a call takes, with everything that it started on the device."""
    synchronize(device)
    start = time.perf_counter()
    function(*args, **options)
    synchronize(device)
    return time.perf_counter() - start


def read_bandwidth(device, repeats=5):
    """Bytes per second of reading a tensor much larger than any cache: the best of several sums."""
    big = torch.arange(2**30 if device.type == "cuda" else 2**28, device=device, dtype=torch.float32).view(2**14, -1)
    return big.nbytes / min(timed(device, big.sum, 1) for _ in range(repeats + 1))


def matmul_rate(device, dtype, size=8192, repeats=5):
    """Floating-point operations per second of a large matrix product of random numbers, in the dtype of products (see
    `of_products`)."""
    size, like = size if device.type == "cuda" else 2048, torch.empty(0, dtype=dtype, device=device)
    a, b = (torch.randn(size, size, device=device).to(of_products(like)) for _ in range(2))
    return 2 * size**3 / min(timed(device, torch.mm, a, b) for _ in range(repeats + 1))


def decode_bytes(model, context, rows=1):
    """Bytes that one step reads at least, on each device: every weight once, and each row's cache."""
    tensors = [*model.named_parameters(), *model.named_buffers(remove_duplicate=False)]  # a packed head may be tied
    weights = sum(tensor.nbytes for name, tensor in tensors if not name.startswith("embed"))
    if model.lm_head is None:
        weights += model.embed_tokens.weight.nbytes
    itemsize = model.norm.weight.dtype.itemsize
    group = processes(model.layers[0].self_attn.k_proj)
    return weights + rows * cache_bytes(model.config, context, itemsize) // (group.size() if group else 1)


def prefill_flops(config, length):
    """Floating-point operations of a prompt whose last token's logits are wanted: matrices, and causal attention."""
    heads = config.num_attention_heads * config.head_dim
    per_token = config.hidden_size * (2 * heads + 2 * config.num_key_value_heads * config.head_dim
                                      + 3 * config.intermediate_size)
    seen = [length * (length + 1) / 2 if (w := config.window(layer)) is None or length <= w
            else w * (w + 1) / 2 + (length - w) * w for layer in range(config.num_hidden_layers)]
    return (2 * per_token * config.num_hidden_layers * length + 4 * heads * sum(seen)
            + 2 * config.hidden_size * config.vocab_size)


# ------------------------------------------------------------------------------------------------ versions to compare


class Ours:
    """One way to run an `Exaone4`: "naive" without a cache, "clear" as in model.py; "fast", "int8" and "int4"; and two
    that are divided among processes."""

    def __init__(self, name, model):
        self.name, self.model, self.fast = name, model, None
        if name in ("fast", "fast-parallel", *BITS):
            self.fast, model.fast = speed_up(model).fast, None

    def decode(self, prompts, new):
        """The times at which each of `new` tokens was there."""
        times = []
        if self.name == "naive":
            ids = torch.tensor(prompts, device=self.model.device)
            with torch.inference_mode():
                for _ in range(min(new, WARM_UP + 4)):  # slow enough
                    ids = torch.cat((ids, self.model(ids, logits_to_keep=1).argmax(-1)), 1)
                    ids[:, -1].tolist()
                    times.append(time.perf_counter())
            return times
        self.model.fast = self.fast
        for _ in self.model.stream(prompts, max_new_tokens=new, stop_ids=[]):
            times.append(time.perf_counter())
        self.model.fast = None
        return times

    def first_token(self, prompt, prompt_cache=None):
        """Take a prompt's first new token."""
        self.model.fast = self.fast
        next(self.model.stream(prompt, stop_ids=[], prompt_cache=prompt_cache))
        self.model.fast = None

    @torch.inference_mode()
    def prefill(self, ids):
        """Run a prompt, as generation does."""
        cache = KVCache(self.model.config, ids.shape[1] + 1)
        prefill(self.fast or self.model, ids.tolist(), cache, ids.device)


class KnownReply(Sampler):
    """Computes as its base does and then draws a given reply [B, length]: a model with random weights has many near
    ties, and the first that rounding decides otherwise would make every later guess wrong."""

    def __init__(self, reply, *args):
        super().__init__(*args)
        self.reply = reply

    def __call__(self, logits, ids=None):
        drawn = super().__call__(logits, ids)
        steps = self.step + torch.arange(1 if ids is None else 1 + ids.shape[1], device=drawn.device)
        return self.reply.gather(1, steps[:, -drawn.shape[1]:].clamp(max=self.reply.shape[1] - 1))


class Forced:
    """A draft whose guesses are right with a given probability, whatever a model says: it knows the reply.

    draft: a draft model whose guesses are computed, so that their time counts, and then replaced; None: they cost none.
    """

    def __init__(self, replies, num_tokens, rate, vocab_size, draft=None):
        self.replies, self.num_tokens, self.rate = replies, num_tokens, rate
        self.vocab_size, self.draft, self.random = vocab_size, draft, random.Random(0)

    def begin(self, model, texts, longest, choose):
        """See `minexaone.speculation`."""
        starts = [len(text) for text in texts]
        compute = self.draft.begin(model, texts, longest, choose) if self.draft else lambda: None

        def propose():
            compute()
            places = [len(text) - start for text, start in zip(texts, starts, strict=True)]
            return [[id if self.random.random() < self.rate else (id + 1) % self.vocab_size
                     for id in reply[at:at + self.num_tokens]]
                    for reply, at in zip(self.replies, places, strict=True)]

        return propose


class Drafted(Ours):
    """The fast path with a `Forced` draft; its tokens per second are those that come, not the guesses."""

    def __init__(self, name, fast, num_tokens, rate, small=None):
        self.name, self.model, self.fast = name, fast.model, fast.fast
        self.num_tokens, self.rate, self.small = num_tokens, rate, small and DraftModel(small, num_tokens)

    def decode(self, prompts, new):
        """The times at which each of `new` tokens was there: several of a pass at once."""
        self.model.fast, times, vocabulary = self.fast, [], self.model.config.vocab_size
        reply = torch.randint(vocabulary, (len(prompts), new), generator=torch.Generator().manual_seed(1))
        draft = Forced(reply.tolist(), self.num_tokens, self.rate, vocabulary, self.small)
        with patch("minexaone.generation.Sampler", partial(KnownReply, reply.to(self.model.device))):
            for _ in self.model.stream(prompts, max_new_tokens=new, stop_ids=[], draft=draft):
                times.append(time.perf_counter())
        self.model.fast = None
        return times


class Transformers:
    """The same weights, not copied, in transformers: eager, or compiled with a static cache."""

    def __init__(self, name, model):
        import transformers

        config = transformers.Exaone4Config.from_dict(model.config.to_dict())
        with torch.device("meta"):
            theirs = transformers.Exaone4ForCausalLM(config)
        state = {f"model.{key}" if not key.startswith("lm_head") else key: tensor
                 for key, tensor in model.state_dict().items()}
        theirs.load_state_dict(state, strict=False, assign=True)
        theirs.tie_weights()
        theirs.model.rotary_emb = type(theirs.model.rotary_emb)(config).to(model.device)  # has no weights to load
        left = [name for name, tensor in theirs.named_parameters() if tensor.is_meta]
        assert not left, left
        self.name, self.model = name, theirs.eval()
        options = {"eos_token_id": None, "pad_token_id": 0, "do_sample": False}
        if name == "transformers-compiled":
            options |= {"cache_implementation": "static", "compile_config": transformers.CompileConfig()}
            options["compile_config"]._compile_all_devices = True
        self.options, self.config_class = options, transformers.GenerationConfig

    def decode(self, prompts, new):
        """The times at which each of `new` tokens was there."""
        times = []

        class Clock:
            def put(self, value):
                times.append(time.perf_counter())

            def end(self):
                pass

        ids = torch.tensor(prompts, device=self.model.device)
        self.model.generate(ids, attention_mask=torch.ones_like(ids), streamer=Clock(),
                            generation_config=self.config_class(max_new_tokens=new, **self.options))
        return times[1:]  # the first call brings the prompt

    @torch.inference_mode()
    def prefill(self, ids):
        """Run a prompt, as generation does."""
        self.model(ids, use_cache=True, logits_to_keep=1)


class LlamaCpp:
    """The same GGUF file in llama.cpp on the CPU, with as many threads, for prompts and replies of `length` tokens.

    It computes on a thread of its own: its AMX kernels set a thread's tile registers up once, PyTorch's release them.
    """

    def __init__(self, name, path, length):
        import llama_cpp

        self.name, self.library, self.silent = name, llama_cpp, llama_cpp.llama_log_callback(lambda *_: None)
        llama_cpp.llama_log_set(self.silent, None)
        weights, context = llama_cpp.llama_model_default_params(), llama_cpp.llama_context_default_params()
        weights.n_gpu_layers, context.n_ctx, context.n_batch = 0, length, length
        context.n_threads = context.n_threads_batch = torch.get_num_threads()
        self.weights = llama_cpp.llama_model_load_from_file(str(path).encode(), weights)
        if not self.weights:
            raise RuntimeError(f"{path}: llama.cpp cannot open it: leave llama.cpp out, or write it by `export`")
        self.context = llama_cpp.llama_init_from_model(self.weights, context)
        self.vocabulary = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(self.weights))
        self.thread = ThreadPoolExecutor(1)

    def feed(self, ids):
        """The likeliest id after these, which follow what was fed before."""
        ids = (self.library.llama_token * len(ids))(*ids)  # named, since the batch only points to it
        batch = self.library.llama_batch_get_one(ids, len(ids))
        if self.thread.submit(self.library.llama_decode, self.context, batch).result():
            raise RuntimeError(f"llama.cpp cannot read {len(ids):,} tokens more: make --context or --prefill shorter")
        logits = self.library.llama_get_logits_ith(self.context, -1)
        return int(np.ctypeslib.as_array(logits, (self.vocabulary,)).argmax())

    def decode(self, prompts, new):
        """The times at which each of `new` tokens was there, of one prompt."""
        self.library.llama_memory_clear(self.library.llama_get_memory(self.context), True)
        (ids,), times = prompts, []
        for _ in range(new):
            ids = [self.feed(ids)]
            times.append(time.perf_counter())
        return times

    def prefill(self, ids):
        """Run a prompt."""
        self.decode(ids.tolist(), 1)


# ------------------------------------------------------------------------------------------------------- measurements


def load(source, dtype, device):
    """(model, seconds to load, seconds of the first forward pass of 40 tokens)."""
    start = time.perf_counter()
    model = Exaone4.from_pretrained(source, dtype, device)
    synchronize(model.device)
    loaded = time.perf_counter() - start
    ids = torch.arange(40, device=model.device)[None] % model.config.vocab_size
    with torch.inference_mode():
        first = timed(model.device, model, ids)
    return model, loaded, first


def random_model(config, dtype, device):
    """A model with random weights, made where it will run."""
    default = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with device:
            model = Exaone4(replace(config, dtype=str(dtype).removeprefix("torch.")))
    finally:
        torch.set_default_dtype(default)
    return model.eval().requires_grad_(False)


def divided(model):
    """The model's slices in this process; they share its memory where they can."""
    with torch.device("meta"):
        like = Exaone4(model.config)
    like.load_state_dict(model.state_dict(), assign=True)
    return tensor_parallel(like.eval().requires_grad_(False), all_processes(model.device))


def peak_memory(device):
    """Bytes in use at most so far: of the GPU by PyTorch, or resident on the CPU; None where it is not known."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated()
    try:
        lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))
    except OSError:
        return None


def measure_decode(model, versions, context, new, rows, rounds, progress):
    """Rows of results: tokens per second after a prompt of `context` tokens, by version, in alternating rounds."""
    generator = torch.Generator().manual_seed(0)
    prompts = torch.randint(0, model.config.vocab_size, (rows, context), generator=generator).tolist()
    seconds, bandwidth = {version.name: [] for version in versions}, []
    for _ in range(rounds):
        bandwidth.append(read_bandwidth(model.device, 2))
        for version in versions:
            times = version.decode(prompts, new)
            seconds[version.name].append((times[-1] - times[WARM_UP - 1]) / (len(times) - WARM_UP))
            progress.update()
    results = []
    for version in versions:
        taken = statistics.median(seconds[version.name])
        read = decode_bytes(version.model if isinstance(version, Ours) else model, context + new // 2, rows)
        roofline = statistics.median(
            read / s / b for s, b in zip(seconds[version.name], bandwidth, strict=True))
        results.append({"what": "decode", "version": version.name, "context": context, "rows": rows,
                        "seconds": seconds[version.name], "tokens_per_s": rows / taken, "bytes": read,
                        "bytes_per_s": read / taken, "roofline_share": roofline})
    return results


def measure_prefill(model, versions, length, rounds, peak, progress):
    """Rows of results: prompt tokens per second by version, in alternating rounds."""
    ids = torch.randint(0, model.config.vocab_size, (1, length), device=model.device)
    seconds = {version.name: [] for version in versions}
    for n in range(rounds + 1):
        for version in versions:
            taken = timed(model.device, version.prefill, ids)
            if n:  # the first warms up
                seconds[version.name].append(taken)
            progress.update()
    flops = prefill_flops(model.config, length)
    return [{"what": "prefill", "version": name, "length": length, "seconds": taken,
             "tokens_per_s": length / statistics.median(taken), "flops_per_s": flops / statistics.median(taken),
             "flops_share": flops / statistics.median(taken) / peak} for name, taken in seconds.items()]


def measure_turn(model, versions, length, rounds, progress):
    """Rows of results: seconds to the first token of a chat's second turn, after a history of `length` tokens, with
    the cache of the first one kept and with everything read anew, by version, in alternating rounds."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(0, model.config.vocab_size, (length + QUESTION,), generator=generator).tolist()
    seconds = {(version.name, way): [] for version in versions for way in ("kept", "anew")}
    for n in range(rounds + 1):
        for version in versions:
            cache = PromptCache()
            version.first_token(ids[:length], cache)  # the first turn
            kept = timed(model.device, version.first_token, ids, cache)
            assert cache.reused == length, cache.reused
            del cache  # before the next one needs the memory
            anew = timed(model.device, version.first_token, ids)
            if n:  # the first warms up
                seconds[version.name, "kept"].append(kept)
                seconds[version.name, "anew"].append(anew)
            progress.update()
    return [{"what": "turn", "version": name, "way": way, "history": length, "new": QUESTION, "seconds": taken,
             "first_token_s": statistics.median(taken), "share": statistics.median(
                 a / b for a, b in zip(taken, seconds[name, "anew"], strict=True))}
            for (name, way), taken in seconds.items()]


def import_times(rounds=5):
    """Median seconds of `import torch` and of `import minexaone`, in fresh processes by turns."""
    taken = {"torch": [], "minexaone": []}
    for _ in range(rounds + 1):
        for name, seconds in taken.items():
            code = f"import time; t = time.perf_counter(); import {name}; print(time.perf_counter() - t)"
            seconds.append(float(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True,
                                                check=True).stdout))
    return {name: statistics.median(seconds[1:]) for name, seconds in taken.items()}  # the first fills the page cache


def hardware(device):
    """The name of the device and, for a CPU, its vector instructions and how many threads are used."""
    if device.type == "cuda":
        return torch.cuda.get_device_name()
    name, vectors = platform.processor() or platform.machine(), torch.backends.cpu.get_cpu_capability()
    if Path("/proc/cpuinfo").is_file():
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
        name = next((line.split(":")[1].strip() for line in text.splitlines() if line.startswith("model name")), name)
        name = name.replace("(R)", "").replace(" Processor", "")
        vectors += " + AMX" if "amx_tile" in text else ""
    return f"{name} ({vectors}), {torch.get_num_threads()} threads"


# ------------------------------------------------------------------------------------------------------- command line


def main(argv):
    """Measure, print a table, and write the results as JSON if asked to."""
    parser = argparse.ArgumentParser(prog="python -m minexaone bench", description=__doc__.partition("\n")[0])
    parser.add_argument("model", nargs="?", help="folder or hub id; the shipped model if left out")
    parser.add_argument("--shape", choices=SHAPES, help="a published shape with random weights instead")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, mps (auto)")
    parser.add_argument("--dtype", default="bfloat16", help="bfloat16, float16, float32 (bfloat16)")
    parser.add_argument("--versions", default="clear,fast", help=f"some of {','.join(OURS)} (clear,fast); "
                        "those in parallel under torchrun, where each process also runs the others by itself")
    parser.add_argument("--against", default="", help=f"also, with the same weights: {','.join(THEIRS)}; "
                        "the last of a GGUF file, on the CPU")
    parser.add_argument("--context", default="128", help="prompt lengths for decoding, as 128,32768 (128)")
    parser.add_argument("--rows", default="1", help="batch sizes for decoding (1)")
    parser.add_argument("--prefill", default="512", help="prompt lengths for prefill (512)")
    parser.add_argument("--turn", default="", help="histories, as 4096: the time to the first token of a chat's second "
                        "turn, with the first one's cache kept and with all read anew (none)")
    parser.add_argument("--new", type=int, default=64, help="tokens to decode (64)")
    parser.add_argument("--rounds", type=int, default=3, help="alternating rounds; results are medians (3)")
    parser.add_argument("--accept", default="", help="also the fast path with guesses checked together, of which this "
                        "share is right, as 0.6,0.8: random weights cannot show how many would be")
    parser.add_argument("--draft-tokens", type=int, default=4, help="guesses in a pass (4)")
    parser.add_argument("--draft-shape", choices=SHAPES, help="count the time of a draft model of this shape, too")
    parser.add_argument("--startup", action="store_true", help="also time `import torch` and `import minexaone`")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results there too")
    options = parser.parse_args(argv)
    contexts, batches, lengths, histories = (numbers(parser, name, getattr(options, name))
                                             for name in ("context", "rows", "prefill", "turn"))
    names = [name for name in f"{options.versions},{options.against}".split(",") if name]
    if unknown := set(names) - {*OURS, *THEIRS}:
        parser.error(f"unknown version {', '.join(sorted(unknown))}: choose from {', '.join(OURS + THEIRS)}")
    if options.new < WARM_UP + 2 or options.rounds < 1:
        parser.error(f"--new must be at least {WARM_UP + 2} and --rounds at least 1")
    try:
        rates = [float(rate) for rate in options.accept.split(",") if rate]
    except ValueError:
        rates = [-1.0]
    if options.draft_tokens < 1 or not all(0 <= rate <= 1 for rate in rates):
        parser.error("--accept wants numbers from 0 to 1, as 0.6,0.8, and --draft-tokens at least 1")
    if rates and "fast" not in names:
        parser.error("--accept needs the version fast")
    if "llama.cpp" in names and (not str(options.model).endswith(".gguf") or set(batches) != {1}):
        parser.error("llama.cpp reads a GGUF file, one row at a time: give the file as model, and leave out --rows")
    if "llama.cpp" in names and find_spec("llama_cpp") is None:
        parser.error("llama.cpp is not installed: pip install llama-cpp-python builds it for this machine")
    if options.shape and options.model:
        parser.error("give a model or --shape, not both")
    if any(name.endswith("parallel") for name in names) and "WORLD_SIZE" not in os.environ:
        parser.error("a version in parallel needs torchrun --nproc-per-node 2 -m minexaone bench ...")
    device, dtype = pick_device(options.device), getattr(torch, options.dtype, None)
    if device.type == "cuda" and "LOCAL_RANK" in os.environ:
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
    if dtype not in (torch.bfloat16, torch.float16, torch.float32):
        parser.error(f"--dtype is {options.dtype!r}, expected bfloat16, float16 or float32")

    shown = [word for word in argv if word not in ("--json", str(options.json))]
    start = f"torchrun --nproc-per-node {os.environ['WORLD_SIZE']}" if "WORLD_SIZE" in os.environ else "python"
    report = {"command": f"{start} -m minexaone bench {' '.join(shown)}", "hardware": hardware(device),
              "software": {"python": platform.python_version(), "torch": torch.__version__},
              "model": options.shape or options.model or "shipped", "dtype": options.dtype, "results": []}
    if options.startup:
        report["startup_s"] = import_times()
    if options.shape == "32b":  # too large to be written to a disk first
        model = random_model(SHAPES["32b"], dtype, device)
    else:
        with tempfile.TemporaryDirectory() as folder:
            if options.shape:
                print("writing random weights ...", file=sys.stderr)
                random_model(SHAPES[options.shape], dtype, torch.device("cpu")).save_pretrained(folder)
            model, loaded, first = load(folder if options.shape else options.model, options.dtype, device)
        report |= {"load_s": loaded, "first_forward_s": first, "load_peak_bytes": peak_memory(device)}
    weights = decode_bytes(model, 0)
    peak = matmul_rate(device, dtype)
    report |= {"weight_bytes": weights, "bandwidth": read_bandwidth(device), "matmul_flops_per_s": peak}
    versions = []
    for name in names:
        start = time.perf_counter()
        like = (quantize(copy.deepcopy(model), BITS[name]) if name in BITS else
                divided(model) if name.endswith("parallel") else model)
        longest = max([length + options.new for length in contexts] + lengths)
        versions.append(Ours(name, like) if name in OURS else
                        LlamaCpp(name, options.model, longest) if name == "llama.cpp" else Transformers(name, like))
        if name in ("fast", "fast-parallel", *BITS):
            report.setdefault("prepare_s", {})[name] = time.perf_counter() - start
    small = random_model(SHAPES[options.draft_shape], dtype, device) if options.draft_shape else None
    if small:
        speed_up(small)
    fast = next((version for version in versions if version.name == "fast"), None)
    drafted = [Drafted(f"fast, {options.draft_tokens} × {rate:g}", fast, options.draft_tokens, rate, small)
               for rate in rates]
    if "llama.cpp" in names:
        report["software"]["llama-cpp-python"] = metadata.version("llama_cpp_python")
    if "transformers" in options.against:
        import transformers

        report["software"]["transformers"] = transformers.__version__
    cached = [version for version in versions if version.name not in ("naive", "transformers-compiled")]
    chatting = [version for version in cached if isinstance(version, Ours)]
    rounds, results = options.rounds, report["results"]
    total = (rounds * len(versions + drafted) * len(contexts) * len(batches)
             + (rounds + 1) * (len(cached) * len(lengths) + len(chatting) * len(histories)))
    with tqdm(total=total, unit="run", disable=None) as progress:
        for length in lengths:
            results += measure_prefill(model, cached, length, rounds, peak, progress)
        for length in histories:
            results += measure_turn(model, chatting, length, rounds, progress)
        for context in contexts:
            for rows in batches:
                results += measure_decode(model, versions + drafted, context, options.new, rows, rounds, progress)
    report["peak_bytes"] = peak_memory(device)
    print(table(report))
    if options.json and int(os.environ.get("RANK", 0)) == 0:
        write_json(options.json, report)


def numbers(parser, name, text):
    """The whole numbers of "1,32"."""
    try:
        values = [int(part) for part in text.split(",") if part]
    except ValueError:
        values = [0]
    if any(value < 1 for value in values):
        parser.error(f"--{name} is {text!r}, expected whole numbers from 1, as 128,1024")
    return values


def table(report):
    """The results for people."""
    gb = 1e9
    lines = [f"{report['model']}, {report['dtype']}, {report['weight_bytes'] / gb:.2f} GB read per token; "
             f"{report['hardware']}, torch {report['software']['torch']}",
             f"memory reads at most {report['bandwidth'] / gb:,.1f} GB/s (roofline "
             f"{report['bandwidth'] / report['weight_bytes']:,.1f} tokens/s), a large product reaches "
             f"{report['matmul_flops_per_s'] / 1e12:.1f} TFLOP/s"]
    if startup := report.get("startup_s"):
        lines.append(f"import torch {startup['torch']:.2f} s, import minexaone {startup['minexaone']:.2f} s "
                     f"({startup['minexaone'] / startup['torch']:.2f} ×)")
    if "load_s" in report:
        memory = f", peak {report['load_peak_bytes'] / gb:.2f} GB" if report["load_peak_bytes"] else ""
        lines.append(f"load {report['load_s']:.2f} s, first forward {report['first_forward_s']:.2f} s{memory}")
    for name, seconds in report.get("prepare_s", {}).items():
        lines.append(f"{name}: {seconds:.1f} s to prepare")
    for row in report["results"]:
        if row["what"] == "prefill":
            lines.append(f"prefill {row['length']:>7,}      {row['version']:22} {row['tokens_per_s']:>10,.1f} tokens/s "
                         f"{row['flops_per_s'] / 1e12:7.1f} TFLOP/s {row['flops_share']:6.1%} of a large product's")
        elif row["what"] == "turn":
            lines.append(f"turn after {row['history']:>7,}   {row['version']:17} {row['way']:4} "
                         f"{row['first_token_s'] * 1000:>10,.1f} ms to the first token {row['share']:9.3f} of anew")
        else:
            lines.append(f"decode {row['context']:>7,} × {row['rows']:<3} {row['version']:22} "
                         f"{row['tokens_per_s']:>10,.1f} tokens/s {row['bytes_per_s'] / gb:8.1f} GB/s "
                         f"{row['roofline_share']:6.1%} of the roofline")
    return "\n".join(lines)


def plot(files, out):
    """Draw how fast every version decodes at the shortest context, beside its roofline; one panel for each file."""
    import matplotlib.pyplot as plt

    reports = [json.loads(Path(file).read_text(encoding="utf-8")) for file in files]
    figure, panels = plt.subplots(1, len(reports), figsize=(5.2 * len(reports), 3.1), squeeze=False)
    for panel, report in zip(panels[0], reports, strict=True):
        rows = [row for row in report["results"] if row["what"] == "decode" and row["rows"] == 1]
        rows = [row for row in rows if row["context"] == min(r["context"] for r in rows)][::-1]
        colours = ["#b5651d" if row["version"].startswith("transformers") else "#2a6f97" for row in rows]
        names = [f"{row['version']}: {row['tokens_per_s']:,.3g}" for row in rows]
        bars = panel.barh(names, [row["tokens_per_s"] for row in rows], color=colours)
        for row, bar in zip(rows, bars, strict=True):  # every version's own roofline: int8 reads half the bytes
            limit = row["tokens_per_s"] / row["roofline_share"]
            panel.plot([limit, limit], [bar.get_y(), bar.get_y() + bar.get_height()], color="#444444", lw=2)
        panel.set(title=f"{report['model'].upper()}, {report['hardware']}".replace(" (", "\n("),
                  xlabel="tokens per second (dark line: roofline)")
        panel.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    with_temporary(out, lambda part: figure.savefig(part, format=Path(out).suffix[1:], metadata={"Date": None}))
    plt.close(figure)


if __name__ == "__main__":
    plot(sys.argv[2:], sys.argv[1])
