"""Train everything from nothing: python -m minexaone.training --out runs/tiny

Stages that are complete are skipped, and one that was killed goes on from its last checkpoint; with another seed or
preset, or while another process trains there, a folder is refused. With several GPUs:
torchrun --nproc-per-node 2 -m minexaone.training --out runs/tiny
"""

import argparse
from functools import partial
from pathlib import Path

import torch.distributed as dist

from minexaone.training.agapo import agapo
from minexaone.training.pretrain import extend, pretrain
from minexaone.training.run import PRESETS, Run, prepare
from minexaone.training.sft import sft
from minexaone.training.simper import simper

STAGES = {"pretrain": pretrain, "extend1": partial(extend, number=1), "extend2": partial(extend, number=2), "sft": sft,
          "agapo": agapo, "simper1": partial(simper, stage=1), "simper2": partial(simper, stage=2)}


def train_all(run: Run, until="simper2"):
    """Every stage that is not complete yet, up to one."""
    with run.claimed():
        for stage, train in STAGES.items():
            if not run.is_done(stage):
                train(run)
            if stage == until:
                return


def main(argv=None):
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m minexaone.training", description="Train a small model from "
                                     "nothing: tokenizer, pre-training, longer contexts, SFT, AGAPO, SimPER.")
    parser.add_argument("--out", required=True, type=Path, help="folder of the run: new, or of a run to go on with")
    parser.add_argument("--preset", choices=PRESETS, default="tiny", help="sizes (tiny)")
    parser.add_argument("--smoke", action="store_const", const="smoke", dest="preset", help="--preset smoke")
    parser.add_argument("--until", choices=STAGES, default="simper2", help="the last stage to train")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, mps")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(argv)
    try:
        train_all(Run(args.out, PRESETS[args.preset], args.seed, prepare(args.device)), args.until)
    except (ValueError, OSError) as error:
        parser.exit(1, f"minexaone.training: {error}\n")
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()


if __name__ == "__main__":
    main()
