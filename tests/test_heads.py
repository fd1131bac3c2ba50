"""The three heads against those of transformers: logits, losses, and checkpoints in both directions."""

import json
import math
import shutil

import pytest
import torch
import torch.nn.functional as F
import transformers
from safetensors.torch import load_file, save_file

from minexaone import CheckpointError, Config, Exaone4
from minexaone.files import SHIPPED
from minexaone.heads import (
    Exaone4ForQuestionAnswering,
    Exaone4ForSequenceClassification,
    Exaone4ForTokenClassification,
    HeadConfig,
)
from minexaone.linear.rounding import quantize, round_to_nearest

SLIDING, GLOBAL = "sliding_attention", "full_attention"
LLAMA3 = {"rope_type": "llama3", "factor": 16.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
          "original_max_position_embeddings": 64}
SIZES = {"vocab_size": 96, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 8, "num_attention_heads": 4,
         "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 512, "rms_norm_eps": 1e-5,
         "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
HYBRID = SIZES | {"sliding_window": 8, "layer_types": [*[SLIDING] * 3, GLOBAL] * 2, "tie_word_embeddings": False}
PLAIN = SIZES | {"sliding_window": None, "layer_types": [GLOBAL] * 8, "tie_word_embeddings": True}
HEADS = (Exaone4ForSequenceClassification, Exaone4ForTokenClassification, Exaone4ForQuestionAnswering)
SEQUENCE, TOKEN, ANSWER = HEADS
LENGTHS = (50, 23, 1, 8)  # the first is longer than six windows
B, T = len(LENGTHS), max(LENGTHS)


def peer_of(head, values=HYBRID, **more):
    """The model of transformers, with random weights so large that everything matters."""
    torch.manual_seed(0)
    config = transformers.Exaone4Config(**values, rope_parameters={"rope_theta": 1e6} | LLAMA3, **more)
    peer = getattr(transformers, head.__name__)(config).eval()
    for parameter in peer.parameters():
        torch.nn.init.normal_(parameter, mean=float(parameter.dim() == 1), std=0.2)
    return peer


def both(head, folder, values=HYBRID, dtype=torch.float32, **more):
    """A model of transformers, and ours from the folder that it wrote."""
    peer = peer_of(head, values, **more).to(dtype)
    peer.save_pretrained(folder)
    if dtype != torch.float32:  # a model that was cast has rounded RoPE frequencies, one that was loaded has not
        peer = type(peer).from_pretrained(folder, dtype=dtype).eval()
    return peer, head.from_pretrained(folder, device="cpu")


def batch(side):
    """Rows of unequal length with their mask; side: of the padding, left or right."""
    generator = torch.Generator().manual_seed(1)
    ids, mask = torch.zeros(B, T, dtype=torch.long), torch.zeros(B, T, dtype=torch.long)
    for row, length in enumerate(LENGTHS):
        columns = slice(T - length, T) if side == "left" else slice(0, length)
        ids[row, columns] = torch.randint(3, 96, (length,), generator=generator)
        mask[row, columns] = 1
    return ids, mask


def outputs(peer, ids, mask=None, **labels):
    """(logits as ours are, loss) of transformers."""
    with torch.no_grad():
        out = peer(ids, attention_mask=mask, **labels)
    logits = torch.stack((out.start_logits, out.end_logits), -1) if "start_logits" in out else out.logits
    return logits, out.loss


def close(ours, theirs, tolerance=1e-4):
    assert ours.shape == theirs.shape and torch.isfinite(ours).all()
    assert (ours - theirs).abs().max() < tolerance * max(1, theirs.std() if theirs.dim() else 1)


# ------------------------------------------------------------------------------------------------------- logits


@pytest.mark.parametrize("values", [HYBRID, PLAIN], ids=["hybrid", "tied"])
@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("head", HEADS)
def test_logits_are_those_of_transformers(head, side, values, tmp_path):
    peer, model = both(head, tmp_path, values, num_labels=5)
    ids, mask = batch(side)
    with torch.no_grad():
        ours = model(ids, mask)
    theirs, _ = outputs(peer, ids, mask)
    close(ours, theirs)  # padding included
    if head is not SEQUENCE:
        ours = torch.nn.utils.rnn.pad_sequence([row[kept == 1] for row, kept in zip(ours, mask, strict=True)], True)
    for n, length in enumerate(LENGTHS):
        with torch.no_grad():
            alone = model(ids[n:n + 1, mask[n] == 1])
        close(ours[n:n + 1, :length] if head is not SEQUENCE else ours[n:n + 1], alone)


@pytest.mark.parametrize("side", ["left", "right"])
def test_no_query_is_without_a_key(side, monkeypatch):
    """Some kernels return NaN for one that is, and a NaN in padding reaches all tokens in the next layer."""
    real, calls = F.scaled_dot_product_attention, []

    def strict(q, k, v, attn_mask=None, **options):
        calls.append(attn_mask)
        assert attn_mask is None or attn_mask.any(-1).all()
        return real(q, k, v, attn_mask=attn_mask, **options)

    monkeypatch.setattr(F, "scaled_dot_product_attention", strict)
    TOKEN(HeadConfig(**HYBRID))(*batch(side))
    assert len(calls) == 8 and all(mask is not None for mask in calls)


@pytest.mark.parametrize("head", HEADS)
def test_without_a_mask_padding_is_read_like_any_other_token(head, tmp_path):
    peer, model = both(head, tmp_path)
    for side in ("left", "right"):
        ids, _ = batch(side)
        with torch.no_grad():
            close(model(ids), outputs(peer, ids)[0])


@pytest.mark.parametrize("head", HEADS)
def test_in_bfloat16(head, tmp_path):
    peer, model = both(head, tmp_path, dtype=torch.bfloat16)
    ids, mask = batch("left")
    with torch.no_grad():
        ours, theirs = model(ids, mask), outputs(peer, ids, mask)[0]
    assert ours.dtype == torch.bfloat16 and model.config.dtype == "bfloat16"
    close(ours.float(), theirs.float(), 0.15)


@pytest.mark.parametrize("head", HEADS)
def test_a_mask_may_have_holes_and_must_have_the_shape_of_the_ids(head, tmp_path):
    peer, model = both(head, tmp_path)
    ids, mask = batch("right")
    mask[0, 11:30:2] = 0
    with torch.no_grad():
        close(model(ids, mask), outputs(peer, ids, mask)[0])
    with pytest.raises(ValueError, match=r"attention_mask is \[50\], but input_ids \[4, 50\]"):
        model(ids, mask[0])


def test_the_last_token_is_the_last_one_that_is_no_padding(tmp_path):
    """By its id, as in transformers: also where a row is padding alone, has padding inside, or no mask is given."""
    peer, model = both(SEQUENCE, tmp_path, num_labels=3)
    ids = torch.tensor([[5, 6, 0, 7, 0, 0], [0, 0, 0, 0, 0, 0], [0, 0, 9, 8, 7, 6], [4, 0, 0, 0, 0, 0]])
    with torch.no_grad():
        close(model(ids), outputs(peer, ids)[0])


def test_a_model_without_a_pad_token_takes_one_row(tmp_path):
    peer, model = both(SEQUENCE, tmp_path, HYBRID | {"pad_token_id": None})
    ids = batch("right")[0][:1]
    with torch.no_grad():
        close(model(ids), outputs(peer, ids)[0])
    with pytest.raises(ValueError, match="2 rows, but the model has no pad_token_id.*one text at a time"):
        model(ids.repeat(2, 1))
    with pytest.raises(ValueError, match="no padding token"):
        peer(ids.repeat(2, 1))


# -------------------------------------------------------------------------------------------------------- losses

G = torch.Generator().manual_seed(2)
CLASSES = torch.randint(0, 3, (B,), generator=G)
IGNORED = torch.tensor([2, -100, 0, -100])
SEVERAL = torch.randint(0, 2, (B, 3), generator=G).float()
NUMBERS = torch.randn(B, 3, generator=G)
LOSSES = {  # id: (classes, problem_type, labels)
    "single label": (3, None, CLASSES),
    "single label, named": (3, "single_label_classification", CLASSES),
    "single label, a column": (3, None, CLASSES[:, None]),
    "single label, some ignored": (3, None, IGNORED),
    "two labels": (2, None, CLASSES.clamp(max=1)),
    "several labels": (3, None, SEVERAL),
    "several labels, named": (3, "multi_label_classification", SEVERAL),
    "one number": (1, None, NUMBERS[:, 0]),
    "one number, a column": (1, "regression", NUMBERS[:, :1]),
    "three numbers": (3, "regression", NUMBERS),
}


@pytest.mark.parametrize("name", LOSSES)
def test_losses_of_sequence_classification(name, tmp_path):
    count, problem, labels = LOSSES[name]
    peer, model = both(SEQUENCE, tmp_path, num_labels=count, problem_type=problem)
    assert model.config.problem_type == problem and len(model.config.labels) == count
    ids, mask = batch("left")
    theirs, expected = outputs(peer, ids, mask, labels=labels)
    logits = model(ids, mask)
    close(logits.detach(), theirs)
    loss = model.loss(logits, labels)
    close(loss.detach(), expected)
    loss.backward()
    assert model.embed_tokens.weight.grad.abs().max() > 0


def test_loss_of_token_classification(tmp_path):
    peer, model = both(TOKEN, tmp_path, num_labels=4)
    ids, mask = batch("right")
    labels = torch.randint(0, 4, (B, T), generator=G).masked_fill(mask == 0, -100)
    labels[0, 3:9] = -100
    expected = outputs(peer, ids, mask, labels=labels)[1]
    close(model.loss(model(ids, mask), labels).detach(), expected)


@pytest.mark.parametrize("positions", [[[3, 7], [0, 0], [0, 0], [5, 6]], [[40, T], [9, T + 30], [0, 0], [T, T]],
                                       [[-5, 2], [1, -1], [0, 0], [2, 2]]], ids=["inside", "cut off", "negative"])
def test_loss_of_question_answering(positions, tmp_path):
    peer, model = both(ANSWER, tmp_path)
    ids, mask = batch("right")
    labels = torch.tensor(positions)
    expected = outputs(peer, ids, mask, start_positions=labels[:, 0], end_positions=labels[:, 1])[1]
    close(model.loss(model(ids, mask), labels).detach(), expected)


def test_padding_takes_part_in_the_loss_of_question_answering_unless_it_is_filled_up(tmp_path):
    """Of one text alone there is no padding: the loss that it has there is the one that filling up gives."""
    peer, model = both(ANSWER, tmp_path)
    ids, mask = batch("right")
    labels = torch.tensor([[10, 12]])
    with torch.no_grad():
        padded, alone = model(ids[1:2], mask[1:2]), model(ids[1:2, :LENGTHS[1]])
    filled = padded.masked_fill(mask[1:2, :, None] == 0, -math.inf)
    expected = outputs(peer, ids[1:2, :LENGTHS[1]], start_positions=labels[:, 0], end_positions=labels[:, 1])[1]
    close(model.loss(filled, labels), expected)
    close(model.loss(alone, labels), expected)
    assert model.loss(padded, labels) > expected + 0.1


def test_gradients_are_those_of_transformers(tmp_path):
    peer, model = both(SEQUENCE, tmp_path, num_labels=3)
    ids, mask = batch("left")
    model.loss(model(ids, mask), CLASSES).backward()
    peer(ids, attention_mask=mask, labels=CLASSES).loss.backward()
    theirs = {name.removeprefix("model."): parameter.grad for name, parameter in peer.named_parameters()}
    for name, parameter in model.named_parameters():
        assert (parameter.grad - theirs[name]).norm() < 1e-4 * theirs[name].norm(), name


def test_dropout_stands_before_the_head_of_token_classification_and_only_in_training(tmp_path):
    _, model = both(TOKEN, tmp_path, classifier_dropout=0.5)
    assert model.dropout.p == 0.5
    x = torch.ones(2000, 32)
    plain, model = model.head(x[:1]), model.train()
    drawn = model.head(x)
    assert drawn.std(0).min() > 0
    # Half of the inputs at twice their size: the mean stays, and the variance is the sum of squared weights.
    assert ((drawn.mean(0) - plain).abs() < 5 * model.score.weight.norm(dim=1) / 2000**0.5).all()
    for more, expected in (({}, 0.1), ({"hidden_dropout": 0.3}, 0.3), ({"classifier_dropout": 0.0}, 0.0)):
        peer, model = both(TOKEN, tmp_path, **more)
        assert peer.dropout.p == model.dropout.p == expected


# --------------------------------------------------------------------------------------------- reading and writing

NAMES = {0: "ko", 1: "en", 2: "es"}


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("values", [HYBRID, PLAIN], ids=["untied", "tied"])
def test_checkpoints_go_both_ways(head, values, tmp_path):
    names = {"id2label": NAMES, "label2id": {name: n for n, name in NAMES.items()}}
    peer, model = both(head, tmp_path / "theirs", values, problem_type="single_label_classification", **names)
    assert model.config.labels == ["ko", "en", "es"] and not model.training
    with torch.no_grad():
        getattr(model, model.layer).weight.mul_(2)  # so that the written files are not the ones that were read
    model.save_pretrained(tmp_path / "ours")
    back, notes = type(peer).from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert not any(notes.values()), notes
    assert back.config.id2label == NAMES and back.config.label2id == names["label2id"]
    assert back.config.num_labels == 3 and back.config.problem_type == "single_label_classification"
    assert back.config.architectures == [head.__name__]
    ids, mask = batch("left")
    with torch.no_grad():
        theirs, ours = outputs(back.eval(), ids, mask)[0], model(ids, mask)
        close(ours, theirs)
        again = head.from_pretrained(tmp_path / "ours", device="cpu")
        assert torch.equal(again(ids, mask), ours) and again.config == model.config
    # The same names in the same shapes as transformers writes, and no others.
    stored, expected = (load_file(tmp_path / name / "model.safetensors") for name in ("ours", "theirs"))
    assert {n: t.shape for n, t in stored.items()} == {n: t.shape for n, t in expected.items()}


def test_in_shards_and_in_another_dtype(tmp_path):
    peer_of(ANSWER).save_pretrained(tmp_path, max_shard_size="20KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 3
    model = ANSWER.from_pretrained(tmp_path, dtype="bfloat16", device="cpu")
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}


@pytest.mark.parametrize("head", HEADS)
def test_a_language_model_gets_a_new_head_when_that_is_asked_for(head, tmp_path):
    with pytest.raises(CheckpointError, match=r"architectures is \['Exaone4ForCausalLM'\], expected \['" + head.__name__
                       + r"'\].*from_language_model.*still to be trained") as error:
        head.from_pretrained(SHIPPED, device="cpu")
    assert "\n" not in str(error.value)
    torch.manual_seed(3)
    model = head.from_language_model(SHIPPED, ["a", "b", "c"], device="cpu", dtype="float32")
    body = Exaone4.from_pretrained(SHIPPED, device="cpu", dtype="float32")
    stored = dict(model.named_parameters())
    for name, parameter in body.named_parameters():
        assert torch.equal(stored.pop(name), parameter)
    layer = getattr(model, head.layer)
    assert all(parameter is getattr(layer, name.split(".")[1]) for name, parameter in stored.items())
    assert layer.weight.shape == (2 if head is ANSWER else 3, 256) and 0.015 < layer.weight.std() < 0.025
    assert layer.bias is None or not layer.bias.any()
    torch.manual_seed(3)
    again = getattr(head.from_language_model(SHIPPED, ["a", "b", "c"], device="cpu"), head.layer).weight
    assert again.dtype == torch.bfloat16 and 0.015 < again.float().std() < 0.025
    model.save_pretrained(tmp_path)
    peer, notes = getattr(transformers, head.__name__).from_pretrained(tmp_path, output_loading_info=True)
    assert not any(notes.values()), notes
    ids = torch.randint(20, 2500, (1, 300))  # longer than two windows of 128
    with torch.no_grad():
        close(model(ids), outputs(peer.eval(), ids)[0])


def test_a_new_model_is_drawn_as_the_language_model_is():
    config = HeadConfig(**HYBRID, labels=["a", "b"])
    for head in HEADS:
        model = head(config)
        assert model.lm_head is None and model.config.architectures == [head.__name__]
        assert 0.01 < getattr(model, head.layer).weight.std() < 0.03 and not model.norm.weight.std()


def change(folder, **values):
    raw = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    (folder / "config.json").write_text(json.dumps({k: v for k, v in (raw | values).items() if v != "absent"}))


BAD = {  # what is wrong: (keys of config.json, the error)
    "another head": ({"architectures": [TOKEN.__name__]}, "architectures is .*TokenClassification.*expected"),
    "no number of labels": ({"id2label": None, "num_labels": "3"}, "num_labels is '3', expected an integer from 1"),
    "no labels": ({"id2label": {}}, "labels is .*expected"),
    "too many labels": ({"id2label": None, "num_labels": 10**9}, "num_labels is 1000000000, expected"),
    "a gap in the labels": ({"id2label": {"0": "a", "2": "b"}}, "id2label is .*expected names for 0, 1"),
    "a list of labels": ({"id2label": ["a", "b"]}, "id2label is .*expected names for 0, 1"),
    "labels that are no text": ({"id2label": {"0": 1, "1": 2, "2": 3}}, "labels is .*name of each class"),
    "an unknown problem": ({"problem_type": "ranking"}, "problem_type is 'ranking', expected null or regression"),
    "a dropout of one": ({"classifier_dropout": 1.0}, "classifier_dropout is 1.0, expected 0 to below 1"),
    "fewer labels than weights": ({"id2label": {"0": "a", "1": "b"}}, r"score.weight is \[3, 32\].*expected \[2, 32\]"),
    "a bad size": ({"vocab_size": 0}, "vocab_size is 0, expected"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_wrong_is_said_in_one_line(name, tmp_path):
    values, words = BAD[name]
    peer_of(SEQUENCE, num_labels=3).save_pretrained(tmp_path)
    change(tmp_path, **values)
    with pytest.raises(CheckpointError, match=words) as error:
        SEQUENCE.from_pretrained(tmp_path, device="cpu")
    assert "\n" not in str(error.value)


def test_every_tensor_is_used_and_every_parameter_filled(tmp_path):
    peer_of(TOKEN, num_labels=3).save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    for name in ("score.weight", "score.bias", "model.norm.weight"):
        save_file({key: tensor for key, tensor in tensors.items() if key != name}, tmp_path / "model.safetensors")
        with pytest.raises(CheckpointError, match=f"missing {name}; not in the model: none"):
            TOKEN.from_pretrained(tmp_path, device="cpu")
    save_file(tensors | {"score.more": torch.zeros(3)}, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match="missing none; not in the model: score.more"):
        TOKEN.from_pretrained(tmp_path, device="cpu")


@pytest.mark.parametrize("head", HEADS)
def test_a_language_model_is_not_read_from_a_head(head, tmp_path):
    """Also where the embedding is the head, so that nothing but the head's own weights is too much."""
    for values in (HYBRID, PLAIN):
        peer_of(head, values).save_pretrained(tmp_path)
        with pytest.raises(CheckpointError, match=f"not in the model: {head.layer}.*{head.__name__}.*minexaone.heads"):
            Exaone4.from_pretrained(tmp_path, device="cpu")


def test_a_head_writes_no_text():
    model = SEQUENCE(HeadConfig(**HYBRID))
    for call in (model.generate, model.stream):
        with pytest.raises(TypeError, match="Exaone4ForSequenceClassification writes no text: load an Exaone4"):
            call([1, 2], max_new_tokens=1)


# ------------------------------------------------------------------------------------------------------- quantized


@pytest.mark.parametrize("head", HEADS)
def test_packed_layers_stay_packed_and_are_saved_with_the_head(head, tmp_path):
    """From a packed language model to a head, to a folder, and back; the reference unpacks every matrix."""
    torch.manual_seed(0)
    language = Exaone4(Config(**HYBRID))
    for layer in language.layers:
        for block, name in ((layer.self_attn, "q_proj"), (layer.mlp, "down_proj")):
            setattr(block, name, round_to_nearest(getattr(block, name).weight, 4, 16))
    language.save_pretrained(tmp_path / "language")
    model = head.from_language_model(tmp_path / "language", ["a", "b", "c"], device="cpu")
    dense = head(model.config)
    state = {name: tensor for name, tensor in model.state_dict().items() if name in dict(dense.named_parameters())}
    for name, module in model.named_modules():
        if hasattr(module, "unpacked"):
            state[f"{name}.weight"] = module.unpacked(torch.float32)
    dense.load_state_dict(state)
    ids, mask = batch("left")
    with torch.no_grad():
        expected = dense.eval()(ids, mask)
        close(model(ids, mask), expected)
        model.save_pretrained(tmp_path / "head")
        again = head.from_pretrained(tmp_path / "head", device="cpu")
        close(again(ids, mask), expected)
    assert type(again.layers[0].mlp.down_proj) is type(language.layers[0].mlp.down_proj)


def test_what_cannot_be_saved_is_refused(tmp_path):
    model = quantize(SEQUENCE(HeadConfig(**HYBRID)))
    with pytest.raises(ValueError, match="cannot be saved: save it before"):
        model.save_pretrained(tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_a_head_of_a_copied_folder_without_architectures_is_told_by_its_weights(tmp_path):
    peer_of(SEQUENCE, num_labels=3).save_pretrained(tmp_path / "a")
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    change(tmp_path / "b", architectures="absent")
    assert SEQUENCE.from_pretrained(tmp_path / "b", device="cpu").config.architectures == [SEQUENCE.__name__]
    with pytest.raises(CheckpointError, match="missing score.bias"):
        TOKEN.from_pretrained(tmp_path / "b", device="cpu")
