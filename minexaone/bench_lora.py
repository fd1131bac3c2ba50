"""What training an adapter needs, in time and memory, beside PEFT: python -m minexaone.bench_lora 1.2b --json OUT.json

Random weights and tokens, rank 16 beside all seven projections of a layer. `ours` is the loop of `finetune`, `int4` the
same with the frozen weights in 4 bits, `peft` the adapter of PEFT in the model of transformers, eager, with the same
optimizer. Every version runs in a process of its own, so that its peak of memory is its own.
"""

import argparse
import json
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path

import torch

from minexaone.bench import SHAPES, hardware, numbers, peak_memory, random_model, synchronize
from minexaone.config_json import read_config
from minexaone.files import resolve, write_json
from minexaone.linear.lora import TARGETS, add_lora
from minexaone.linear.rounding import quantize
from minexaone.model import Config
from minexaone.training.loop import Recipe, fit
from minexaone.training.packing import Document, likelihood_loss, pack
from minexaone.training.run import prepare

RANK, ALPHA, RATE = 16, 32, 1e-3
WARM_UP = 3  # steps not counted: they compile


def ours(config: Config, ids: torch.Tensor, steps: int, device: torch.device, bits: int | None):
    """Train on ids [rows, length + 1]; yields the time at the begin of each step but the first ones."""
    model, times = random_model(config, torch.bfloat16 if device.type == "cuda" else torch.float32, device), []
    if bits:
        quantize(model, bits)
    add_lora(model, RANK, ALPHA)
    rows, length = ids.shape[0], ids.shape[1] - 1
    batch, = pack([Document(row, [1.0] * len(row)) for row in ids.tolist()], rows * length, length)
    batch.weights /= batch.weights.sum()

    def draw(start):
        for _ in range(steps):
            synchronize(device)
            times.append(time.perf_counter())
            yield [batch], {}

    with tempfile.TemporaryDirectory() as folder:  # the last step writes a checkpoint, after the times were taken
        log = fit(model, draw, likelihood_loss, Recipe(steps, RATE, weight_decay=0.0, save_every=steps), Path(folder),
                  "bench")
    return times, log["steps"][-1]["loss"]


def theirs(config: Config, ids: torch.Tensor, steps: int, device: torch.device):
    """As `ours`, of PEFT and transformers."""
    import transformers
    from peft import LoraConfig, get_peft_model

    torch.set_default_dtype(torch.bfloat16 if device.type == "cuda" else torch.float32)
    with device:
        model = transformers.Exaone4ForCausalLM(transformers.Exaone4Config.from_dict(config.to_dict()))
    torch.set_default_dtype(torch.float32)
    model = get_peft_model(model, LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=list(TARGETS)))
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=RATE, betas=(0.9, 0.95), weight_decay=0.0,
                                  fused=device.type == "cuda")
    ids, times = ids.to(device), []
    for _ in range(steps):
        synchronize(device)
        times.append(time.perf_counter())
        loss = model(input_ids=ids[:, :-1], labels=ids[:, :-1], use_cache=False).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad()
    return times, loss.item()


VERSIONS = {"ours": lambda *args: ours(*args, None), "int4": lambda *args: ours(*args, 4), "peft": theirs}


def measure(name: str, config: Config, rows: int, length: int, steps: int, device: torch.device) -> dict:
    """A row of results. peak_bytes: everything, from the weights on."""
    torch.manual_seed(0)
    ids = torch.randint(0, config.vocab_size, (rows, length + 1), generator=torch.Generator().manual_seed(0))
    times, loss = VERSIONS[name](config, ids, steps, device)
    seconds = [after - before for before, after in zip(times[WARM_UP:], times[WARM_UP + 1:], strict=False)]
    return {"version": name, "rows": rows, "length": length, "seconds": seconds, "loss": loss,
            "tokens_per_s": rows * length / statistics.median(seconds), "peak_bytes": peak_memory(device)}


def main(argv=None):
    """Measure, print a table, and write the results as JSON if asked to."""
    parser = argparse.ArgumentParser(prog="python -m minexaone.bench_lora", description="Time and memory of training "
                                     "an adapter, with random weights.")
    parser.add_argument("shape", help=f"{', '.join(SHAPES)}, or a folder with a config.json")
    parser.add_argument("--versions", default="ours,int4", help=f"some of {','.join(VERSIONS)} (ours,int4)")
    parser.add_argument("--rows", default="4", help="texts in a step (4)")
    parser.add_argument("--length", default="1024", help="tokens of a text (1024)")
    parser.add_argument("--steps", type=int, default=20, help=f"of which the first {WARM_UP} are not counted (20)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, mps")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results there too")
    parser.add_argument("--alone", action="store_true", help=argparse.SUPPRESS)  # one version, its row as JSON
    options = parser.parse_args(argv)
    names, device = options.versions.split(","), prepare(options.device)
    if unknown := set(names) - VERSIONS.keys():
        parser.error(f"unknown version {', '.join(sorted(unknown))}: choose from {', '.join(VERSIONS)}")
    if options.steps < WARM_UP + 2:
        parser.error(f"--steps must be at least {WARM_UP + 2}")
    batches, lengths = (numbers(parser, name, getattr(options, name)) for name in ("rows", "length"))
    try:
        config = SHAPES.get(options.shape) or Config.from_dict(read_config(resolve(options.shape, weights=False)))
        software = {name: version(name) for name in ("torch", *(("peft", "transformers") if "peft" in names else ()))}
    except (ValueError, ImportError) as error:
        parser.exit(1, f"minexaone.bench_lora: {error}\n")
    if options.alone:
        print(json.dumps(measure(names[0], config, batches[0], lengths[0], options.steps, device)))
        return
    shown = [word for word in (sys.argv[1:] if argv is None else argv) if word not in ("--json", str(options.json))]
    report = {"command": f"python -m minexaone.bench_lora {' '.join(shown)}",
              "hardware": hardware(device), "software": {"python": platform.python_version(), **software},
              "model": options.shape, "config": asdict(config), "rank": RANK, "results": []}
    for rows in batches:
        for length in lengths:
            for name in names:
                done = subprocess.run([sys.executable, "-m", "minexaone.bench_lora", options.shape, "--alone",
                                       "--versions", name, "--rows", str(rows), "--length", str(length), "--steps",
                                       str(options.steps), "--device", str(device)], stdout=subprocess.PIPE, text=True)
                if done.returncode:  # out of memory is a result, too
                    report["results"].append({"version": name, "rows": rows, "length": length, "failed": True})
                    print(f"{rows} × {length:,} {name}: failed, see above")
                    continue
                row = json.loads(done.stdout.splitlines()[-1])
                report["results"].append(row)
                memory = f", peak {row['peak_bytes'] / 1e9:.2f} GB" if row["peak_bytes"] else ""
                print(f"{rows} × {length:,} {name:5} {row['tokens_per_s']:>10,.0f} tokens/s{memory}", flush=True)
    if options.json:
        write_json(options.json, report)


if __name__ == "__main__":
    main()
