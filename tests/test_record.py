"""The board of records: entries that stand, and entries that do not."""

import json

import pytest

from minexaone.files import SHIPPED
from minexaone.scoring import evaluate, record

FOUND = {"score": 0.5, "low": 0.48, "high": 0.52, "parameters": 250_000, "weights": "abc"}
ENTRY = {"track": "cpu", "seconds": 299, "score": 0.51, "weights": "abc", "command": "python -m x", "commit": "1",
         "sources": "2", "hardware": "a laptop", "parameters": 250_000, "low": 0.48, "high": 0.54}


@pytest.mark.parametrize("entry, found, why", [
    ({}, {}, ""),
    ({"track": "tpu"}, {}, "track 'tpu', expected one of gpu, cpu"),
    ({}, {"parameters": 300_001}, "300,001 parameters, at most 300,000"),
    ({"seconds": 301}, {}, "301 seconds of two CPU cores, at most 300"),
    ({"commit": "", "seconds": None}, {}, "it has no commit, seconds: write down what was used"),
    ({"weights": "abd"}, {},
     "these are other weights than the entry's: it is checked with the checkpoint that it was measured on"),
    ({"score": 0.53}, {}, "score 0.53, measured 0.5 (0.48 to 0.52)"),
    ({"track": "gpu", "seconds": 1200}, {"parameters": 5_900_000}, "")])
def test_what_stands(entry, found, why):
    assert record.refused(ENTRY | entry, FOUND | found) == why


@pytest.mark.parametrize("file", sorted((SHIPPED.parent / "records").glob("*.json")), ids=lambda file: file.name)
def test_the_boards_entries_are_complete_and_stand(file):
    entry = json.loads(file.read_text(encoding="utf-8"))
    assert record.refused(entry, entry) == "" and len(entry["weights"]) == 64


def test_a_checkpoint_is_measured_and_its_entry_checked(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(evaluate, "MAX_NEW_TOKENS", 2)  # what is measured is the way, not the model
    monkeypatch.setattr(record, "by_task", lambda *args, **options: evaluate.by_task(*args, ["chat", "compare"],
                                                                                     **options))
    file = tmp_path / "entry.json"
    options = [str(SHIPPED), "--count", "1", "--device", "cpu"]
    record.main([*options, "--json", str(file)])
    entry = json.loads(file.read_text()) | {name: ENTRY[name] for name in record.TOLD}
    with pytest.raises(SystemExit):
        record.main([*options, "--check", str(file)])
    assert "it has no command, commit, sources, hardware, seconds: " in capsys.readouterr().err
    file.write_text(json.dumps(entry))
    assert 5_800_000 < entry["parameters"] < 6_000_000 and len(entry["weights"]) == 64
    record.main([*options, "--check", str(file)])
    assert "as the entry says" in capsys.readouterr().out
    file.write_text(json.dumps(entry | {"score": 0.99}))
    with pytest.raises(SystemExit) as end:
        record.main([*options, "--check", str(file)])
    assert end.value.code == 1 and "does not stand: score 0.99" in capsys.readouterr().err
