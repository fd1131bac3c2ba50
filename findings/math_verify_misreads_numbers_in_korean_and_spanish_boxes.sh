#!/usr/bin/env bash
# Guess: Math-Verify reads a number within \boxed{} or $ $ as it reads it outside: "3,5" and "12 345" of a Spanish reply
# are 3.5 and 12345 in plain text, "42개" (42 of them) of a Korean one is 42, and \boxed{42 apples} is 42 as well.
#
# math-verify 0.9.0 with latex2sympy2_extended 1.11.0 and the defaults of parse; within LaTeX
# - a comma makes a set unless three digits follow, and {,}, as LaTeX wants decimal commas, becomes a comma first: 3,5
#   is {3, 5}. It does not equal 3.5, it does equal 5,3, and a minus in front of a 0 is lost;
# - numbers side by side are added, as a mixed fraction is (convert_postfix_list): 12\,345 and 12 345, the thousands of
#   the SI and of Spanish, are 357, and a group of zeros makes the product 0;
# - a Korean counter leaves the text as it is, which equals no number. Only units of a list in English are taken away.
# Seen: 0 of these 8 boxed replies equal their numbers, and all 6 of their plain or English forms do; the gold answer
# 3,5 accepts 5,3 and the gold answer 0,5 accepts -0,5, both wrong.
# A way out: rewrite a reply first, (?<=\d)(\{,\}|,)(?=\d) to a point and a space between digits to nothing where the
# language is known; have the model box the number alone, or the counter in \text{}.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q math-verify==0.9.0 "latex2sympy2_extended[antlr4_13_2]==1.11.0"
cat > "$folder/check.py" <<'PYTHON'
import re
from importlib.metadata import version

from math_verify import parse, verify


def show(gold, reply):
    answer = parse(reply)
    right = verify(parse(gold), answer)
    print(f"math-verify {version('math-verify')}: {gold:6} against {reply!r}: {right}, read as {answer[0]}")
    return right


BOXED = [("3.5", r"\boxed{3,5}"), ("3.5", r"\boxed{3{,}5}"), ("3.5", "La respuesta es $3,5$."),
         ("12345", r"\boxed{12\,345}"), ("12345", r"\boxed{12 345}"), ("12000", r"\boxed{12\,000}"),
         ("42", r"정답은 \boxed{42개}입니다."), ("3000", r"\boxed{3000원}")]
PLAIN = [("3.5", "La respuesta es 3,5."), ("12345", "La respuesta es 12 345."), ("42", "정답은 42개입니다."),
         ("12345", r"\boxed{12,345}"), ("42", r"\boxed{42 apples}"), ("42", r"정답은 \boxed{42\text{개}}입니다.")]
assert not any([show(gold, reply) for gold, reply in BOXED]), "the behaviour has changed"
assert all([show(gold, reply) for gold, reply in PLAIN])  # the control
WRONG = [("$3,5$", r"\boxed{5,3}"), ("$0,5$", r"\boxed{-0,5}"), ("357", r"\boxed{12\,345}"), ("0", r"\boxed{12\,000}")]
assert all([show(gold, reply) for gold, reply in WRONG]), "the behaviour has changed"


def rewritten(reply):
    reply = re.sub(r"(?<=\d)(\{,\}|,)(?=\d)", ".", reply)
    return re.sub(r"(?<=\d)(\\,| )(?=\d{3})", "", reply)


assert all([show(gold, rewritten(reply)) for gold, reply in BOXED[:6]])  # the way out
PYTHON
"$folder/venv/bin/python" "$folder/check.py" 2> "$folder/err" || { tail -n 20 "$folder/err" >&2; exit 1; }
