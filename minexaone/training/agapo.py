"""AGAPO, reinforcement learning with verifiable rewards (EXAONE 4.0 report, reasoning RL), and GRPO beside it.

For a query, G replies are sampled, each with a reward of 0 or 1. AGAPO is a plain policy gradient without clipping,
    J = E[ (1/G) Σ_i (A_i · log π(o_i | q) - β · KL(π, π_ref)) ],
with advantages in two steps: leave-one-out in the group, then normalised over the batch. Groups that are all correct
are dropped; groups that are all wrong stay.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from random import Random

import torch
from torch import Tensor

from minexaone.model import Exaone4
from minexaone.scoring.rollouts import roll_out
from minexaone.tasks import TASKS, Example, sample
from minexaone.tokenizer import Tokenizer
from minexaone.training.data import RARER, maybe_in_a_chat, sampled_document
from minexaone.training.loop import Recipe, fit
from minexaone.training.packing import Packed, PackedModel, pack
from minexaone.training.run import Run

BETA = 0.005  # weight of the KL
DOMAINS = (*RARER, "tool use", "conversation")  # of the queries: where an answer can be worked out

# ------------------------------------------------------------------------------------------------- advantages


def leave_one_out(rewards: Tensor) -> Tensor:
    """r_i minus the mean reward of the other replies to the same query; rewards [queries, G].

    Its sum over a group is 0, so a group that is all wrong gets exactly 0, and normalising over whole groups keeps it.
    """
    G = rewards.shape[1]
    return rewards - (rewards.sum(1, keepdim=True) - rewards) / (G - 1)


def leave_one_out_smoothed(rewards: Tensor, prior=0.1) -> Tensor:
    """`leave_one_out` against the pass rate that the others suggest: (successes + prior) / (tries + 2 prior).

    This is our reading of the report's remark that replies of an all-wrong group get a small negative advantage, which
    its formula does not give: they get -prior / (G - 1 + 2 prior) before normalising. (The mean of a pass rate whose
    prior is Beta(prior, prior); Laplace's rule of succession has a prior of 1.)
    """
    G = rewards.shape[1]
    return rewards - (rewards.sum(1, keepdim=True) - rewards + prior) / (G - 1 + 2 * prior)


def normalise(advantages: Tensor) -> Tensor:
    """Minus the mean, divided by the standard deviation, over all replies of the batch; all 0 if they are equal."""
    centred = advantages - advantages.mean()
    deviation = centred.square().mean().sqrt()
    return centred / deviation if deviation > 0 else centred


def agapo_advantages(rewards: Tensor, smoothed=True) -> Tensor:
    """Both steps for the groups that stay, rewards [queries, G]."""
    return normalise((leave_one_out_smoothed if smoothed else leave_one_out)(rewards))


def grpo_advantages(rewards: Tensor) -> Tensor:
    """Group-normalised: (r_i - mean) / std of the group; 0 where all rewards are equal. (arXiv:2402.03300)"""
    centred = rewards - rewards.mean(1, keepdim=True)
    deviation = centred.square().mean(1, keepdim=True).sqrt()
    return torch.where(deviation > 0, centred / deviation.clamp(min=1e-6), 0.0)


def all_correct(rewards: Tensor) -> Tensor:
    """Which groups [queries] teach nothing any more."""
    return (rewards == 1).all(1)


# ------------------------------------------------------------------------------------------------------ losses


def agapo_loss(logprobs: Tensor, batch: Packed, beta: float) -> Tensor:
    """-J. The KL term is ½ (Σ_t log π - log π_ref)² of the sampled reply: cumulative over the sequence.

    Its gradient (log π - log π_ref) · ∇ log π is, in the mean over samples of π, the gradient of KL(π, π_ref). (That of
    log π - log π_ref itself is 0 in the mean: a common mistake.)
    """
    sequence = batch.per_document(logprobs)
    objective = batch.scores * sequence
    if beta:
        objective = objective - beta * 0.5 * (sequence - batch.per_document(batch.reference)).square()
    return -objective.sum() / batch.count


def grpo_loss(logprobs: Tensor, batch: Packed, epsilon=0.2, beta: float = 0.0) -> Tensor:
    """The clipped surrogate of PPO, mean over a reply's tokens, then over replies (arXiv:2402.03300, equation 3)."""
    advantages = batch.scores[batch.documents]
    ratio = (logprobs - batch.old).exp()
    objective = torch.minimum(ratio * advantages, ratio.clamp(1 - epsilon, 1 + epsilon) * advantages)
    if beta:  # an unbiased, never negative estimate of the KL (arXiv:2402.03300, equation 4)
        gap = batch.reference - logprobs
        objective = objective - beta * (gap.exp() - gap - 1)
    lengths = batch.per_document(torch.ones_like(logprobs)).clamp(min=1)
    return -(batch.per_document(objective) / lengths).sum() / batch.count


def clipped_loss(logprobs: Tensor, batch: Packed, beta: float, epsilon=0.2) -> Tensor:
    """`agapo_loss` with PPO's clipping of every token's ratio to the policy that sampled it: what AGAPO leaves out."""
    advantages, ratio = batch.scores[batch.documents], (logprobs - batch.old).exp()
    objective = torch.minimum(ratio * advantages, ratio.clamp(1 - epsilon, 1 + epsilon) * advantages)
    gap = batch.per_document(logprobs) - batch.per_document(batch.reference)
    return -(batch.per_document(objective) - beta * 0.5 * gap.square()).sum() / batch.count


@dataclass(frozen=True)
class Algorithm:
    """A policy gradient. advantages: of rewards [queries, G]. drops_correct: leave out groups that are all correct."""

    advantages: Callable[[Tensor], Tensor]
    loss: Callable[[Tensor, Packed], Tensor]
    drops_correct: bool = True


AGAPO = Algorithm(agapo_advantages, partial(agapo_loss, beta=BETA))
GRPO = Algorithm(grpo_advantages, grpo_loss, drops_correct=False)
ALGORITHMS = {  # by the names that results are kept under
    "agapo": AGAPO,
    "grpo": GRPO,
    "agapo without negative all-wrong groups": replace(AGAPO, advantages=partial(agapo_advantages, smoothed=False)),
    "agapo without global advantage": replace(AGAPO, advantages=leave_one_out_smoothed),
    "agapo without asymmetric sampling": replace(AGAPO, drops_correct=False),
    "agapo without unclipped gradient": replace(AGAPO, loss=partial(clipped_loss, beta=BETA)),
    "agapo without KL": replace(AGAPO, loss=partial(agapo_loss, beta=0.0)),
}


# ---------------------------------------------------------------------------------------------------- sampling


def hard_tasks() -> list[str]:
    """The tasks with a difficulty dial whose answers reasoning can work out."""
    return [name for name, task in TASKS.items() if task.levels > 1 and task.domain in DOMAINS]


def hard_example(rng: Random, split="train") -> Example:
    """A problem for reasoning from the hard half of a task's levels."""
    task = rng.choice(hard_tasks())
    levels = TASKS[task].levels
    return maybe_in_a_chat(rng, sample(rng, split, task, reasoning=True, level=rng.randint(levels // 2 + 1, levels)))


def prefilter(model: Exaone4, tokenizer: Tokenizer, queries: int, seed: int, max_new_tokens: int, tries=8):
    """(queries that the SFT model does not answer rightly `tries` times out of `tries`, share of all it drew)"""
    rng = Random(f"agapo queries {seed}")
    examples = [hard_example(rng) for _ in range(queries)]
    rollouts = roll_out(model, tokenizer, examples, seed, max_new_tokens, progress="pre-filter", group=tries)
    rewards = torch.tensor([r.reward for r in rollouts]).view(queries, tries)
    kept = [example for example, dropped in zip(examples, all_correct(rewards).tolist(), strict=True) if not dropped]
    return kept, len(kept) / queries


class Rollouts:
    """The steps of an algorithm: samples replies of the model as it is now, and cuts them into batches.

    Each round samples `group` replies to each of `queries` queries and makes `updates` steps of them.
    """

    def __init__(self, model: Exaone4, reference: Exaone4, tokenizer: Tokenizer, examples: list[Example], *,
                 algorithm: Algorithm, queries: int, group: int, updates: int, max_new_tokens: int, tokens: int,
                 longest: int, seed: int):
        self.model, self.reference, self.tokenizer, self.examples = model, reference, tokenizer, examples
        self.algorithm, self.queries, self.group, self.updates = algorithm, queries, group, updates
        self.max_new_tokens, self.tokens, self.longest, self.seed = max_new_tokens, tokens, longest, seed

    def draw(self, start: int):
        """Batches and numbers of every step from `start` on, which must be the first of a round."""
        for round in range(start // self.updates, 10**9):
            rng = Random(f"agapo {self.seed} {round}")
            examples = [rng.choice(self.examples) for _ in range(self.queries)]
            self.model.eval()
            rollouts = roll_out(self.model, self.tokenizer, examples, (self.seed + 1) * 100_000 + round,
                                self.max_new_tokens, group=self.group)
            self.model.train()
            rewards = torch.tensor([r.reward for r in rollouts]).view(self.queries, self.group)
            numbers = {"reward": rewards.mean().item(), "all_correct": all_correct(rewards).float().mean().item(),
                       "all_wrong": (rewards == 0).all(1).float().mean().item(),
                       "length": sum(len(r.ids) for r in rollouts) / len(rollouts)}
            scores, stay = torch.zeros_like(rewards), torch.ones(self.queries, dtype=torch.bool)
            if self.algorithm.drops_correct:
                stay = ~all_correct(rewards)
            if stay.any():
                scores[stay] = self.algorithm.advantages(rewards[stay])
            documents = [sampled_document(rollout, score)
                         for rollout, score in zip(rollouts, scores.flatten().tolist(), strict=True)
                         if score and len(rollout.prompt) + len(rollout.ids) <= self.longest]
            rng.shuffle(documents)
            # Where all replies deserve the same, there is nothing to learn: one that counts 0 keeps the step a step.
            documents = documents or [sampled_document(rollouts[0], 0.0)]
            # All of them now: `old` is the policy that sampled, not the one that the round's first updates left.
            for batches in [self.batches(documents[n::self.updates] or documents[:1]) for n in range(self.updates)]:
                yield batches, numbers

    @torch.no_grad()
    def batches(self, documents) -> list[Packed]:
        """The batches of one step, with the log-probabilities of the reference model and of the model as it is now."""
        batches = pack(documents, self.tokens, self.longest)
        for i, batch in enumerate(batches):
            batch = batch.to(self.model.device)
            batch.count = len(documents)
            batch.reference, batch.old = PackedModel(self.reference)(batch), PackedModel(self.model)(batch)
            batches[i] = batch
        return batches


def pass_rate(model: Exaone4, tokenizer: Tokenizer, count: int, max_new_tokens: int, seed=0) -> dict:
    """The share of right replies to held-out problems of the hard half, sampled at temperature 1 and greedy."""
    rng = Random(f"pass rate {seed}")
    examples = [hard_example(rng, "test") for _ in range(count)]
    return {name: sum(r.reward for r in roll_out(model, tokenizer, examples, seed, max_new_tokens, temperature,
                                                 "pass rate")) / count
            for name, temperature in (("sampled", 1.0), ("greedy", 0.0))}


# ------------------------------------------------------------------------------------------------------- stage


def agapo(run: Run):
    """Raise the pass rate on what the SFT model does not always get right."""
    preset = run.preset
    tokenizer = run.load_tokenizer()
    examples, kept = prefilter(run.load("sft"), tokenizer, preset.queries, run.seed, preset.max_new_tokens)
    model, log = learn_from_rewards(run, "agapo", AGAPO, examples, preset.agapo, preset.round, run.seed)
    before, after = (pass_rate(m, tokenizer, preset.evaluated, preset.max_new_tokens)
                     for m in (run.load("sft"), model))
    run.save("agapo", model, {"log": log, "queries": len(examples), "kept": round(kept, 4), "before": before,
                              "after": after})


def learn_from_rewards(run: Run, name: str, algorithm: Algorithm, examples: list[Example], recipe: Recipe,
                       round: tuple[int, int, int], seed: int) -> tuple[Exaone4, dict]:
    """(model, log) of reinforcement learning from the SFT model; round: queries, replies to each, and updates."""
    preset, model = run.preset, run.load("sft")
    rollouts = Rollouts(model, run.load("sft"), run.load_tokenizer(), examples, algorithm=algorithm, queries=round[0],
                        group=round[1], updates=round[2], max_new_tokens=preset.max_new_tokens, tokens=run.fits,
                        longest=preset.contexts[-1], seed=seed)
    return model, fit(model, rollouts.draw, algorithm.loss, recipe, run.folder, name)
