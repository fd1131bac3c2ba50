#!/usr/bin/env bash
# Guess: of one reply to every question, score_answer of a data set of reasoning-gym gives 1.0 where this reply is
# right, and less elsewhere: its rewards are verifiable, and its README scores right answers with 1.0.
#
# reasoning-gym 0.1.25, three of its data sets:
# - game_of_life_halting compares bool(reply) with bool(answer), and both are texts: whatever is not empty gets 1.0.
# - puzzle24 asks for four numbers of its range that make 24, and never looks at the numbers of the question.
# - coin_flip divides the length of the common beginning by that of the shorter text: "0" gets 1.0 for "0.3125".
# Seen, 500 items of each with seed 0: "I do not know" gets 1.0 for all 500 of game_of_life_halting, as "True" (right
# for 246) and "False" (for 254) do; "6*4*1*1" for all 500 of puzzle24, right for 9; "0" for 461 of coin_flip, right to
# 0.0001 for 8. One reply to all of gcd or of syllogism gets 1.0 where it is right, 167 and 341 times.
# A policy that is paid so finds such a reply, and an average over data sets starts above 0.
# A way out: reply.strip() == entry["answer"]; the numbers of a reply, sorted, against entry["metadata"]["numbers"];
# abs(float(reply) - float(entry["answer"])) <= 1e-4 (as Fraction, where replies are fractions).
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q reasoning-gym==0.1.25
cat > "$folder/check.py" <<'PYTHON'
from importlib.metadata import version

import reasoning_gym

SIZE = 500


def same_numbers(reply, item):
    numbers = sorted(int(number) for number in reply.replace("*", " ").split())
    return numbers == sorted(item["metadata"]["numbers"])


RIGHT = {"game_of_life_halting": lambda reply, item: reply == item["answer"],
         "puzzle24": same_numbers,
         "coin_flip": lambda reply, item: abs(float(reply) - float(item["answer"])) <= 1e-4}
found = {}
for name, reply in [("game_of_life_halting", "True"), ("game_of_life_halting", "False"),
                    ("game_of_life_halting", "I do not know"), ("puzzle24", "6*4*1*1"), ("coin_flip", "0"),
                    ("gcd", "2"), ("bitwise_arithmetic", "0x0"), ("syllogism", "Yes")]:
    data = reasoning_gym.create_dataset(name, seed=0, size=SIZE)
    right = RIGHT.get(name, lambda reply, item: reply == item["answer"])
    found[name, reply] = (sum(data.score_answer(reply, item) == 1 for item in data),
                          sum(right(reply, item) for item in data))
    assert all(data.score_answer(item["answer"], item) == 1 for item in data)
    print(f"reasoning-gym {version('reasoning-gym')}, {name}: {reply!r} to {SIZE} items gets 1.0 for "
          f"{found[name, reply][0]}, is right for {found[name, reply][1]}")
for reply in ("True", "False", "I do not know"):
    assert found["game_of_life_halting", reply][0] == SIZE, "the behaviour has changed"
assert found["puzzle24", "6*4*1*1"][0] == SIZE and found["puzzle24", "6*4*1*1"][1] < 20, "the behaviour has changed"
assert found["coin_flip", "0"][0] > 0.85 * SIZE and found["coin_flip", "0"][1] < 20, "the behaviour has changed"
for key in (("gcd", "2"), ("bitwise_arithmetic", "0x0"), ("syllogism", "Yes")):  # the control
    assert found[key][0] == found[key][1], key
PYTHON
"$folder/venv/bin/python" "$folder/check.py" 2> "$folder/err" || { tail -n 20 "$folder/err" >&2; exit 1; }
