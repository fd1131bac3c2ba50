"""The published 1.2B shape at its full size, with random weights: parameters, peak memory, logits, generation."""

import json
import os
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

CONFIG = {  # the values of the published config.json
    "architectures": ["Exaone4ForCausalLM"], "attention_dropout": 0.0, "bos_token_id": 1, "dtype": "bfloat16",
    "eos_token_id": 361, "head_dim": 64, "hidden_act": "silu", "hidden_size": 2048, "initializer_range": 0.02,
    "intermediate_size": 4096, "layer_types": ["full_attention"] * 30, "max_position_embeddings": 65536,
    "model_type": "exaone4", "num_attention_heads": 32, "num_hidden_layers": 30, "num_key_value_heads": 8,
    "pad_token_id": 0, "rms_norm_eps": 1e-05,
    "rope_scaling": {"factor": 16.0, "high_freq_factor": 4.0, "low_freq_factor": 1.0,
                     "original_max_position_embeddings": 8192, "rope_type": "llama3"},
    "rope_theta": 1000000.0, "sliding_window": None, "sliding_window_pattern": None, "tie_word_embeddings": True,
    "transformers_version": "4.56.0", "use_cache": True, "vocab_size": 102400,
}
LAYER = {
    "self_attn.q_proj": (2048, 2048), "self_attn.k_proj": (512, 2048), "self_attn.v_proj": (512, 2048),
    "self_attn.o_proj": (2048, 2048), "self_attn.q_norm": (64,), "self_attn.k_norm": (64,),
    "mlp.gate_proj": (4096, 2048), "mlp.up_proj": (4096, 2048), "mlp.down_proj": (2048, 4096),
    "post_attention_layernorm": (2048,), "post_feedforward_layernorm": (2048,),
}
PARAMETERS = 1_279_391_488
IDS = [(7919 * i) % 102_000 + 400 for i in range(40)]
NEW = 4

# One process loads the model, computes the logits of IDS and a few tokens, and tells its peak of resident memory
# (VmHWM: unlike ru_maxrss, it does not start from the peak of the process that started this one).
LOAD = """
import json, sys, time
import torch
from minexaone.model import Exaone4

def peak():
    return next(int(line.split()[1]) * 1024 for line in open("/proc/self/status") if line.startswith("VmHWM"))

report = {"imported": peak()}
start = time.perf_counter()
folder, dtype, ids, new = json.loads(sys.argv[1])
model = Exaone4.from_pretrained(folder, dtype=dtype, device="cpu")
report |= {"load_s": time.perf_counter() - start, "loaded": peak(), "dtype": str(model.embed_tokens.weight.dtype)}
report["parameters"] = sum(parameter.numel() for parameter in model.parameters())
start = time.perf_counter()
with torch.inference_mode():
    logits = model(torch.tensor([ids]))[0]
report |= {"forward_s": time.perf_counter() - start}
torch.save(logits.float(), f"{folder}/{dtype}.pt")
report["new"] = model.generate(ids, max_new_tokens=new, stop_ids=[])
report["peak"] = peak()
print(json.dumps(report))
"""


def free_memory():
    return next(int(line.split()[1]) * 1024 for line in open("/proc/meminfo") if line.startswith("MemAvailable"))


def write_random_checkpoint(folder):
    """Random weights in the published format, cut from one pool, since a billion normal draws would take a minute."""
    shapes = {"model.embed_tokens": (102_400, 2048), "model.norm": (2048,)}
    shapes |= {f"model.layers.{n}.{name}": shape for n in range(30) for name, shape in LAYER.items()}
    header, end = {"__metadata__": {"format": "pt"}}, 0
    for name, shape in shapes.items():
        start, end = end, end + 2 * torch.Size(shape).numel()
        header[f"{name}.weight"] = {"dtype": "BF16", "shape": shape, "data_offsets": [start, end]}
    assert end == 2 * PARAMETERS
    head = json.dumps(header).encode()
    head += b" " * (-len(head) % 8)
    # The pool's length is prime, so that it comes round at another place in a row each time and no two rows are equal.
    pool = torch.randn(16_000_057, generator=torch.Generator().manual_seed(0)) * CONFIG["initializer_range"]
    matrices = memoryview(pool.bfloat16().view(torch.int16).numpy()).cast("B")
    norms = memoryview((1 + 10 * pool[:10_007]).bfloat16().view(torch.int16).numpy()).cast("B")
    with open(folder / "model.safetensors", "wb") as file:
        file.write(struct.pack("<Q", len(head)) + head)
        place = 0
        for shape in shapes.values():
            source, left = norms if len(shape) == 1 else matrices, 2 * torch.Size(shape).numel()
            while left:
                place %= len(source)
                written = file.write(source[place:place + left])
                left, place = left - written, place + written
    (folder / "config.json").write_text(json.dumps(CONFIG))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    if not sys.platform.startswith("linux"):
        pytest.skip("peak memory is read from /proc")
    folder = tmp_path_factory.mktemp("full")
    if shutil.disk_usage(folder).free < 8e9 or free_memory() < 8e9:
        pytest.skip("needs 8 GB of free disk and 8 GB of free memory")
    write_random_checkpoint(folder)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def reports(folder):
    """What a fresh process tells about each dtype, and the logits it computed."""
    reports = {}
    for dtype in ("auto", "float32"):
        done = subprocess.run([sys.executable, "-c", LOAD, json.dumps([str(folder), dtype, IDS, NEW])], text=True,
                              capture_output=True, cwd=Path(__file__).parents[1], env=os.environ, timeout=300)
        assert done.returncode == 0, done.stderr
        reports[dtype] = json.loads(done.stdout.splitlines()[-1]) | {"logits": torch.load(folder / f"{dtype}.pt")}
    return reports


@pytest.mark.parametrize("dtype, size", [("auto", 2), ("float32", 4)])
def test_peak_memory(dtype, size, reports):
    """At most 1.15 × the weights in the dtype asked for, plus 400 MiB; the imported libraries are part of the sum.

    Weights in the file's own dtype are mapped from it and become resident when they are first used, so the peak is
    taken after a forward pass and a few generated tokens, not only after loading.
    """
    report = reports[dtype]
    print({key: value for key, value in report.items() if key != "logits"})
    assert report["parameters"] == PARAMETERS
    assert report["dtype"] == {"auto": "torch.bfloat16", "float32": "torch.float32"}[dtype]
    assert report["loaded"] <= report["peak"] <= 1.15 * size * PARAMETERS + 400 * 2**20


def test_logits_and_greedy_tokens_equal_transformers(folder, reports):
    reference = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    assert sum(parameter.numel() for parameter in reference.parameters()) == PARAMETERS
    exact, rounded = reports["float32"], reports["auto"]
    with torch.inference_mode():
        expected, after = reference(torch.tensor([IDS + exact["new"]])).logits[0].split([len(IDS), NEW])
    difference = (exact["logits"] - expected).abs().max() / expected.std()
    print(f"float32: largest difference {difference:.1e} of the logits' standard deviation")
    assert difference < 1e-3
    assert exact["new"] == [expected[-1].argmax(), *after[:-1].argmax(-1)]  # each follows greedily from those before
    # bfloat16 keeps 8 bits: an error of some percent of the spread, and another greedy token where two nearly tie.
    errors = (rounded["logits"] - expected) / expected.std()
    top = expected.topk(2).values / expected.std()
    clear = top[:, 0] - top[:, 1] > 0.2
    print(f"bfloat16: error {errors.std():.3f}, largest {errors.abs().max():.3f}; {clear.sum()} clear greedy tokens")
    assert errors.std() < 0.05 and clear.sum() >= 10
    assert torch.equal(rounded["logits"].argmax(-1)[clear], expected.argmax(-1)[clear])
