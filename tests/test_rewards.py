"""AGAPO, GRPO and SimPER as pure functions: against hand-worked numbers, proofs, and gradients worked out otherwise."""

import math
from dataclasses import replace
from random import Random
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from test_packing import random_documents, small_model

from minexaone.chat import Chat
from minexaone.reply import Reply, ToolCall
from minexaone.scoring.evaluate import mode_kept
from minexaone.scoring.rollouts import Rollout, language_kept, roll_out
from minexaone.tasks import Example, sample, verify
from minexaone.training.agapo import (
    agapo_advantages,
    agapo_loss,
    all_correct,
    clipped_loss,
    grpo_advantages,
    grpo_loss,
    leave_one_out,
    leave_one_out_smoothed,
    normalise,
)
from minexaone.training.packing import PackedModel, pack
from minexaone.training.simper import concise_pair, judge, preferred_pair, simper_loss

REWARDS = torch.tensor([[1.0, 0, 0, 0], [1, 1, 0, 0], [0, 0, 0, 0]])


def test_leave_one_out_by_hand():
    third = 1 / 3
    expected = [[1, -third, -third, -third], [1 - third, 1 - third, -2 * third, -2 * third], [0, 0, 0, 0]]
    torch.testing.assert_close(leave_one_out(REWARDS), torch.tensor(expected))


def test_smoothed_leave_one_out_by_hand():  # with a prior of 1: (successes of the other three + 1) / 5
    expected = [[0.8, -0.4, -0.4, -0.4], [0.6, 0.6, -0.6, -0.6], [-0.2, -0.2, -0.2, -0.2]]
    torch.testing.assert_close(leave_one_out_smoothed(REWARDS, prior=1), torch.tensor(expected))
    torch.testing.assert_close(leave_one_out_smoothed(REWARDS)[2], torch.full((4,), -0.1 / 3.2))


def test_normalised_by_hand():
    torch.testing.assert_close(normalise(torch.tensor([1.0, 3.0])), torch.tensor([-1.0, 1.0]))
    torch.testing.assert_close(normalise(torch.tensor([5.0, 5.0])), torch.zeros(2))


@given(st.lists(st.lists(st.sampled_from([0.0, 0.5, 1.0]), min_size=4, max_size=4), min_size=1, max_size=6))
def test_by_the_formula_alone_an_all_wrong_group_gets_exactly_zero(groups):
    """Σ A_loo = 0 in every whole group, so the batch's mean is 0, and a group of zeros stays zero when divided."""
    rewards = torch.tensor([*groups, [0.0] * 4], dtype=torch.float64)
    advantages = agapo_advantages(rewards, smoothed=False)
    torch.testing.assert_close(leave_one_out(rewards).sum(1), torch.zeros(len(rewards), dtype=torch.float64),
                               atol=1e-12, rtol=0)
    assert advantages[-1].abs().max() < 1e-12


def test_a_batch_that_splits_groups_gives_an_all_wrong_group_something_else():
    part = torch.cat((leave_one_out(REWARDS)[0, :1], leave_one_out(REWARDS)[2]))  # one right reply of the first group
    assert (normalise(part)[1:] < -0.1).all()


def test_the_smoothed_reading_is_negative_for_all_wrong_and_ranks_groups():
    advantages = agapo_advantages(REWARDS)
    assert (advantages[2] < 0).all() and (advantages[2] > advantages[1, 2:].max()).all()
    assert advantages[0, 0] > advantages[1, 0] > 0  # a success is worth more where others fail
    assert advantages.mean().abs() < 1e-6 and advantages.square().mean() == pytest.approx(1)


def test_grpo_advantages_by_hand():
    root = math.sqrt(3)
    torch.testing.assert_close(grpo_advantages(REWARDS), torch.tensor(
        [[root, -1 / root, -1 / root, -1 / root], [1, 1, -1, -1], [0, 0, 0, 0]]))


def test_only_groups_without_a_mistake_are_dropped():
    assert all_correct(torch.tensor([[1.0, 1], [1, 0.5], [0, 0]])).tolist() == [True, False, False]


@pytest.fixture
def sampled():
    """(model, batch, log-probabilities): three documents with advantages, beside an older and a reference model."""
    model, batch = small_model(), pack(random_documents((9, 20, 33)), 64, 64)[0]
    batch.scores = torch.tensor([0.7, -1.2, 0.4, 0.0][:len(batch.scores)])
    with torch.no_grad():
        batch.reference = PackedModel(small_model(1))(batch)
        batch.old = PackedModel(model)(batch) + 0.3 * torch.randn(64, generator=torch.Generator().manual_seed(0))
    batch.count = 3
    return model, batch, PackedModel(model)(batch)


def documents_of(batch):
    return [slice(int(s), int(e)) for s, e in zip(batch.starts[:3], batch.starts[1:4], strict=True)]


def test_agapo_loss_by_hand(sampled):
    model, batch, logp = sampled
    beta, total = 0.1, 0.0
    for d, span in enumerate(documents_of(batch)):
        sequence = sum(p * w for p, w in zip(logp[span].tolist(), batch.weights[span].tolist(), strict=True))
        reference = (batch.reference[span] * batch.weights[span]).sum().item()
        total += batch.scores[d].item() * sequence - beta * 0.5 * (sequence - reference) ** 2
    assert agapo_loss(logp, batch, beta).item() == pytest.approx(-total / 3, rel=1e-5)


def test_agapo_gradient_is_the_policy_gradient(sampled):
    """∇J = 1/n Σ (A - β · log π/π_ref) · ∇ log π(o), each sequence's gradient taken alone."""
    model, batch, logp = sampled
    beta = 0.1
    agapo_loss(logp, batch, beta).backward()
    ours = [p.grad.clone() for p in model.parameters()]
    expected = [torch.zeros_like(p) for p in model.parameters()]
    for d, span in enumerate(documents_of(batch)):
        logp = PackedModel(model)(batch)
        sequence = (logp[span] * batch.weights[span]).sum()
        factor = batch.scores[d] - beta * (sequence - (batch.reference[span] * batch.weights[span]).sum()).detach()
        for total, gradient in zip(expected, torch.autograd.grad(sequence, list(model.parameters())), strict=True):
            total -= factor * gradient / 3
    for a, b in zip(ours, expected, strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-3)


def test_clipping_changes_nothing_at_the_policy_that_sampled_and_stops_tokens_that_moved(sampled):
    model, batch, logp = sampled
    here = replace(batch, old=logp.detach())
    gradients = [torch.autograd.grad(loss, list(model.parameters()), retain_graph=True)
                 for loss in (agapo_loss(logp, here, 0.1), clipped_loss(logp, here, 0.1))]
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-4)
    gradient, = torch.autograd.grad(clipped_loss(logp, batch, 0.0), logp)
    ratio, advantages = (logp - batch.old).exp(), batch.scores[batch.documents]
    stopped = ((advantages > 0) & (ratio > 1.2)) | ((advantages < 0) & (ratio < 0.8)) | (batch.weights == 0)
    assert stopped.any() and not stopped.all()
    expected = torch.where(stopped, 0.0, -ratio * advantages * batch.weights / 3)
    torch.testing.assert_close(gradient, expected.detach(), atol=1e-6, rtol=1e-4)


def test_the_kl_term_is_the_kl_in_the_mean():
    """Over all replies of one token the gradient is that of KL(π, π_ref), which autograd takes from the full sum."""
    logits, other = torch.randn(5, dtype=torch.float64, requires_grad=True), torch.randn(5, dtype=torch.float64)
    log_p, log_q = logits.log_softmax(0), other.log_softmax(0)
    exact, = torch.autograd.grad((log_p.exp() * (log_p - log_q)).sum(), logits, retain_graph=True)
    ours = sum(log_p[i].exp().detach() * torch.autograd.grad(0.5 * (log_p[i] - log_q[i]) ** 2, logits,
                                                             retain_graph=True)[0] for i in range(5))
    naive = sum(log_p[i].exp().detach() * torch.autograd.grad(log_p[i] - log_q[i], logits, retain_graph=True)[0]
                for i in range(5))
    torch.testing.assert_close(ours, exact)
    assert naive.abs().max() < 1e-12 < 1e-3 < exact.abs().max()


def test_grpo_loss_by_hand_and_clipping_stops_the_gradient(sampled):
    model, batch, logp = sampled
    total, clipped = 0.0, torch.zeros(64, dtype=torch.bool)
    for d, span in enumerate(documents_of(batch)):
        part, count, advantage = 0.0, batch.weights[span].sum().item(), batch.scores[d].item()
        for t in range(span.start, span.stop):
            ratio = math.exp(logp[t].item() - batch.old[t].item())
            bounded = min(max(ratio, 0.8), 1.2)
            part += batch.weights[t].item() * min(ratio * advantage, bounded * advantage)
            clipped[t] = bounded * advantage < ratio * advantage
        total += part / count
    loss = grpo_loss(logp, batch)
    assert loss.item() == pytest.approx(-total / 3, rel=1e-4)
    gradient, = torch.autograd.grad(loss, logp)
    counts = batch.weights > 0
    assert 3 < (clipped & counts).sum() and (gradient[clipped] == 0).all() and (gradient[counts & ~clipped] != 0).all()
    plain, = torch.autograd.grad(agapo_loss(logp, batch, 0.0), logp)
    assert (plain[counts] != 0).all()  # without clipping every token keeps its gradient


def test_simper_loss_by_hand(sampled):
    _, batch, logp = sampled
    batch = replace(batch, scores=torch.tensor([1.0, -1.0, 0.0, 0.0][:len(batch.scores)]), count=2)
    means = [((logp[s] * batch.weights[s]).sum() / batch.weights[s].sum()).item() for s in documents_of(batch)]
    perplexity = [math.exp(-mean) for mean in means]
    assert simper_loss(logp, batch).item() == pytest.approx(-(1 / perplexity[0] - 1 / perplexity[1]), rel=1e-5)


def test_simper_gradient_by_autograd_of_the_definition(sampled):
    model, batch, logp = sampled
    batch = replace(batch, scores=torch.tensor([1.0, -1.0, 0.0, 0.0][:len(batch.scores)]), count=2)
    ours, = torch.autograd.grad(simper_loss(logp, batch), logp, retain_graph=True)
    means = [(logp[s] * batch.weights[s]).sum() / batch.weights[s].sum() for s in documents_of(batch)]
    expected, = torch.autograd.grad(-(means[0].exp() - means[1].exp()), logp)
    torch.testing.assert_close(ours, expected)


def example(**changes):
    values = dict(task="sums", language="en", level=1, messages=[{"role": "user", "content": "What is 2 + 2?"}],
                  reply={"content": "2 + 2 = 4."}, expected={}, thoughts={"steps": ""}, reasoning=True)
    return Example(**values | changes)


def rollout(content, reward, length):
    """One whose content is None is cut off."""
    reply = Reply(content=content or "", finish_reason="length" if content is None else "stop")
    return Rollout(example(), [1], [0] * length, reply, reward)


def test_pairs():
    short, long, wrong, cut = (rollout("2 + 2 = 4.", 1.0, 9), rollout("2 + 2 = 4.", 1.0, 30),
                               rollout("2 + 2 = 5.", 0.0, 5), rollout(None, 0.0, 99))
    assert concise_pair([long, short]) == (short, long)
    assert concise_pair([long, wrong, short]) == (short, wrong)
    assert concise_pair([rollout("2 + 2 = 6.", 0.0, 40), long, wrong, short]) == (short, wrong)
    assert concise_pair([wrong, cut]) is None and concise_pair([short, short]) is None
    assert preferred_pair([long, wrong, short]) == (short, wrong)
    assert preferred_pair([wrong, cut]) is None
    assert preferred_pair([long, short]) is None  # the judge sees no difference


@pytest.mark.parametrize("content, score", [
    ("The answer to 2 + 2 is 4.", 4), ("the answer to 2 + 2 is 4", 3), ("2 더하기 2는 4예요.", 3), ("", 0), (None, 0),
    ("Four!", 3), ("I cannot say.", 3), ("The sum of 2 and 2 is 4.\nThe sum of 2 and 2 is 4.", 3)])
def test_judge(content, score):
    assert judge(example(), rollout(content, 0.0, 9).reply) == score


def test_the_judge_asks_no_sentence_of_a_call():
    assert judge(example(), Reply(tool_calls=[ToolCall("add", {"a": 2})])) == 4


def test_no_reply_that_training_shows_rambles():
    replies = [sample(Random(n)).reply["content"] for n in range(3000)]
    assert max(len(reply.split()) for reply in replies) <= 80  # the judge's limit


@pytest.mark.parametrize("content, reward, kept", [
    ("4 is the answer.", 0.0, True), ("La respuesta es 4.", 0.0, False), ("답은 4예요.", 0.0, False),
    (None, 0.0, False), ('In Korean, "milk" is "우유".', 0.0, True), ("s, a, l, y", 0.0, True),
    ("The error: servicio caído.", 1.0, True)])
def test_quotations_and_spelled_letters_have_no_language(content, reward, kept):
    assert language_kept(rollout(content, reward, 9)) == kept


@pytest.mark.parametrize("control", [True, False])
def test_a_call_is_rewarded_where_chat_would_run_it(toy_tokenizer, control):
    """Spelled with ordinary tokens it looks the same as text, and calls nothing."""
    asked = sample(Random(0), task="call", language="en", reasoning=False)
    ids = [*toy_tokenizer.encode(asked.text, parse_special=control), toy_tokenizer.eos_token_id]
    assert toy_tokenizer.decode(ids) == asked.text + "[|endofturn|]"

    class Script:
        device = torch.device("cpu")
        config = SimpleNamespace(stop_ids=[toy_tokenizer.eos_token_id], max_position_embeddings=10_000)

        def generate(self, prompts, **options):
            return [ids for _ in prompts]

        def stream(self, prompt, **options):
            return iter(ids)

    (found,) = roll_out(Script(), toy_tokenizer, [asked], 0, 99)
    assert found.reward == control and (found.reply == asked.answer) == control
    assert bool(Chat(Script(), toy_tokenizer, max_rounds=0).send("go").tool_calls) == control


@pytest.mark.parametrize("finish_reason", ["length", "thinking", "tool_limit"])
def test_a_reply_that_did_not_end_is_never_right(finish_reason):
    asked = sample(Random(1), task="sums", reasoning=True)
    assert verify(asked, asked.answer) and not verify(asked, replace(asked.answer, finish_reason=finish_reason))


@pytest.mark.parametrize("reply, kept", [
    (Reply("2 and 2", "4"), True), (Reply("", "4"), False), (Reply("2 and 2", "4", [], "length"), False),
    (Reply("4", "", [], "thinking"), False)])
def test_the_mode_is_kept_if_thinking_is_there_and_ends(reply, kept):
    assert mode_kept(Rollout(example(), [1], [0], reply, 0.0)) == kept
