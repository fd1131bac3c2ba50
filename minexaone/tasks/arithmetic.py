"""Numbers: which of two decimals is bigger, sums column by column, and word problems.

Nothing here is hard for a person with a pencil; for a model that reads tokens the thinking is the pencil. So a thought
consists of facts about single digits, each written next to the digits that it needs.
"""

import re
from decimal import Decimal

from minexaone.tasks.base import Example, Task, ask, assistant, in_language, phrases, say, user

NUMBER = re.compile(r"(?<!\d)-?\d+(?:[.,]\d+)?")


def turn(task, language, level, question, reply, expected, thoughts, key):
    """The example of one question; thoughts are given as lists of lines."""
    thoughts = {style: "\n".join(lines) for style, lines in thoughts.items()}
    return Example(task, language, level, [user(question)], assistant(reply), expected, thoughts, key)


# --------------------------------------------------------------------------------------------------- compare

FAMOUS = (("3.12", "3.9"), ("9.11", "9.9"))  # known from model cards and talks: asked in tests, never in training
SIGNS = {"bigger": ">", "smaller": "<", "equal": "="}
GOALS = ("bigger", "bigger", "bigger", "smaller", "is_bigger", "is_bigger", "is_smaller", "is_equal")


def make_compare(rng, language, level, test):
    """Which of two decimals is bigger or smaller, or whether one is.

    level: the decimal places (at level 4: four to six), of which many are shared; from level 3 also negative numbers.
    """
    famous = test and level == 2 and rng.random() < 0.005  # few are drawn, but none of them is rejected by its key
    a, b = rng.choice(FAMOUS) if famous else decimals(rng, level)
    if rng.random() < 0.5:
        a, b = b, a
    key = compare_key(a, b)
    if rng.random() < (0.4 if language == "es" else 0.03):
        a, b = a.replace(".", ","), b.replace(".", ",")
    goal = rng.choice(GOALS)
    word, right = goal.removeprefix("is_"), sign(value(a), value(b))
    yes = right == SIGNS[word] if goal.startswith("is_") else None
    # What the reply says of the numbers, and their order in it.
    word = "equal" if right == "=" else "bigger" if word == "equal" else word
    x, y = (a, b) if right == SIGNS[word] else (b, a)
    reply = say(rng, language, f"compare.{word}.reply", x=x, y=y)
    if yes is not None:
        reply = say(rng, language, "compare.yes.reply" if yes else "compare.no.reply", s=reply)
    end = word if yes is None else "yes" if yes else "no"
    first = say(rng, language, f"compare.{goal}.goal", a=a, b=b)
    last = say(rng, language, f"compare.{end}.so", s=relation(a, b), x=x)
    steps = compare_steps(rng, language, a, b)
    thoughts = {"brief": [first, last], "steps": [first, *steps, last],
                "check": [first, *steps, say(rng, language, "compare.check.think", s=without_point(a, b)), last],
                "retry": [first, wrong_start(rng, language, a, b), *steps, last]}
    return turn("compare", language, level, ask(rng, language, f"compare.{goal}.ask", a=a, b=b), reply,
                {"numbers": [a, b], "goal": goal}, thoughts, key)


def value(number: str) -> Decimal:
    """The value of "3.12" or "3,12"."""
    return Decimal(number.replace(",", "."))


def sign(x, y) -> str:
    """How x compares to y."""
    return "<" if x < y else ">" if x > y else "="


def relation(a: str, b: str) -> str:
    """"3.12 < 3.9" """
    return f"{a} {sign(value(a), value(b))} {b}"


def compare_key(a: str, b: str) -> str:
    """The same for 3.9 and 3.90, and for both orders. (Written so, the hash holds both FAMOUS pairs out.)"""
    return "compare: " + ",".join(sorted(str(value(x).normalize()) for x in (a, b)))


def decimals(rng, level):
    """Two decimals that are not too easy: most share the integer part, many the first decimals as well."""
    def digits(n):
        return "".join(rng.choices("0123456789", k=n))

    def integer():
        return str(rng.randrange(10 ** rng.randint(1, 3)))

    places = level if level < 4 else rng.randint(4, 6)
    whole, fraction, kind = integer(), digits(places), rng.random()
    other = whole if rng.random() < 0.75 else integer()
    a = f"{whole}.{fraction}"
    if kind < 0.1:
        b = a + "0" * rng.randint(1, 2)
    elif kind < 0.15:
        b = other
    else:
        b = f"{other}.{(fraction[:rng.randrange(places)] + digits(rng.randint(1, places)))[:places]}"
    if a == b:
        b += "0"
    minus = rng.random() if level > 2 else 1
    signs = ("-", "-") if minus < 0.15 else ("-", "") if minus < 0.25 else ("", "")
    return tuple(minus + x if Decimal(x) else x for minus, x in zip(signs, (a, b), strict=True))


def split(number: str) -> tuple[str, str]:
    """"3.12" as ("3", "12"), "3" as ("3", "")."""
    whole, _, fraction = number.replace(",", ".").partition(".")
    return whole, fraction


def padded(a, b):
    """The integer parts of two numbers and their decimals, of the same length."""
    (whole, p), (whole2, q) = split(a), split(b)
    width = max(len(p), len(q))
    return whole, whole2, p.ljust(width, "0"), q.ljust(width, "0")


def compare_steps(rng, language, a, b):
    """Signs first, then integer parts, then digit by digit."""
    if a[0] == "-" and b[0] == "-":
        return [say(rng, language, "compare.both.think"), *align(rng, language, a[1:], b[1:]),
                relation(a[1:], b[1:]) + "."]
    if "-" in a + b:
        return [say(rng, language, "compare.signs.think")]
    return align(rng, language, a, b)


def align(rng, language, a, b):
    """The lines that compare two positive decimals, up to the first digit that decides."""
    whole, whole2, p, q = padded(a, b)
    lines = [say(rng, language, "compare.whole.think", s=relation(whole, whole2))]
    if whole == whole2:
        lines.append(say(rng, language, "compare.pad.think", p=p, q=q))
        for i, (x, y) in enumerate(zip(p, q, strict=True), 1):
            lines.append(say(rng, language, "compare.digit.think", i=i, s=relation(x, y)))
            if x != y:
                break
    return lines


def without_point(a, b) -> str:
    """"312 < 390" for 3.12 and 3.9: padded decimals compare as whole numbers do."""
    whole, whole2, p, q = padded(a, b)
    return relation(str(int(whole + p)), str(int(whole2 + q)))


def wrong_start(rng, language, a, b):
    """A false claim that is noticed: decimals read as whole numbers where that misleads, else a mere guess."""
    right, ((whole, p), (whole2, q)) = sign(value(a), value(b)), (split(a), split(b))
    if whole == whole2 and whole[0] != "-" and p and q and sign(int(p), int(q)) != right:
        misread = f"{p} {sign(int(p), int(q))} {q}"
        return say(rng, language, "compare.misread.think", s=misread, wrong=f"{a} {sign(int(p), int(q))} {b}")
    return say(rng, language, "compare.hasty.think", wrong=f"{a} {'>' if right == '<' else '<'} {b}")


def verify_compare(example, reply) -> bool:
    """The number asked for must come first, or "yes" or "no", and whatever else is claimed must be true.

    Right are "3.9", "3.9 > 3.12", "3.9 is bigger", and for yes or no "No, 3.12 is not bigger than 3.9".
    """
    goal, language, text = example.expected["goal"], example.language, reply.lower()
    if not text.strip() or not in_language(text, example.language):
        return False
    marks = {mark: phrases()[f"compare.{mark}.mark"][language] for mark in ("<", ">", "=", "not", "yes", "no")}
    a, b = map(value, example.expected["numbers"])
    right = sign(a, b)
    if goal.startswith("is_"):
        answer, text = re.fullmatch(r"\W*(\w*)(.*)", text, re.S).groups()
        if answer not in marks["yes" if right == SIGNS[goal[3:]] else "no"]:
            return False
    # In Korean the number before 보다, "than", is the second of a comparison wherever it stands.
    found = sorted(re.findall(rf"({NUMBER.pattern})(보다)?", text), key=lambda pair: pair[1])
    numbers = [value(number) for number, _ in found]
    signs = [mark for mark in "<>=" if any(word in text for word in marks[mark])]
    negated = any(word in text for word in marks["not"])
    if len(numbers) > 2 or len(signs) > 1 or any(number not in (a, b) for number in numbers):
        return False
    x, y = numbers if len(numbers) == 2 else (b, a) if numbers == [b] else (a, b)
    if signs and (sign(x, y) == signs[0]) == negated:
        return False
    if goal.startswith("is_"):
        return bool(signs) or not numbers
    if right == "=":
        return bool(signs) and not negated
    first = max(a, b) if goal == "bigger" else min(a, b)
    return numbers[:1] == [first] and not negated and (signs == [SIGNS[goal]] or (not signs and len(numbers) == 1))


# ------------------------------------------------------------------------------------------------------ sums


def make_sums(rng, language, level, test):
    """a + b, a - b and, from level 2, a number times a digit.

    level: the digits of the longer number (or, times a digit, at most so many).
    """
    op = rng.choice("+-" if level == 1 else "+-×")
    shorter = rng.randint(1, level) if rng.random() < 0.3 else level
    a, b = (of_length(rng, shorter), rng.randrange(10)) if op == "×" else (of_length(rng, n) for n in (level, shorter))
    if rng.random() < (0.15 if op == "-" else 0.3):
        a, b = b, a
    elif op == "-":
        a, b = max(a, b), min(a, b)
    c = a + b if op == "+" else a - b if op == "-" else a * b
    key = f"{a}{op}{b}" if op == "-" else f"{max(a, b)}{op}{min(a, b)}"
    lines, retried = columns(rng, language, op, a, b)
    first = say(rng, language, f"sums.{op}.goal", a=a, b=b)
    last = say(rng, language, "sums.so", a=a, b=b, op=op, c=c)
    thoughts = {"brief": [say(rng, language, f"sums.{op}.brief", a=a, b=b), last],
                "steps": [first, *lines, last],
                "check": [first, *lines, say(rng, language, "sums.check.think", s=by_places(op, a, b, c)), last],
                "retry": [first, *retried, last]}
    reply = say(rng, language, "sums.reply", a=a, b=b, op=op, c=c)
    return turn("sums", language, level, ask(rng, language, f"sums.{op}.ask", a=a, b=b), reply,
                {"a": a, "op": op, "b": b, "c": c}, thoughts, key)


def of_length(rng, n) -> int:
    """A number with n digits."""
    return rng.randrange(10 ** (n - 1) if n > 1 else 0, 10 ** n)


def column(op, x, y, carry):
    """What is to know in one column: the facts in order, the digit to write and the carry to the left.

    What was borrowed is added to the lower digit, which needs no second borrowing from a zero.

    >>> column("+", 7, 6, 1)
    (['7 + 6 = 13', '13 + 1 = 14'], 4, 1)
    >>> column("-", 4, 6, 1)
    (['6 + 1 = 7', '4 < 7', '14 - 7 = 7'], 7, 1)
    """
    if op == "-":
        lower = y + carry
        facts = [f"{y} + {carry} = {lower}"] if carry else []
        borrow = int(x < lower)
        if borrow:
            facts.append(f"{x} < {lower}")
            x += 10
        return [*facts, f"{x} - {lower} = {x - lower}"], x - lower, borrow
    total = x + y if op == "+" else x * y
    facts = [f"{x} {op} {y} = {total}"]
    if carry:
        facts.append(f"{total} + {carry} = {total + carry}")
    return facts, (total + carry) % 10, (total + carry) // 10


def columns(rng, language, op, a, b):
    """The lines of the columns from the right, and the same with one column that first gets a wrong carry.

    Each line begins with what is left of both numbers, so that the next digits stand at their ends, and says what is
    written so far, so that nothing is to put together at the end.
    """
    carries = "borrow" if op == "-" else "carry"

    def line(carry):
        """The line of this column with that carry, its digit and its own carry."""
        facts, digit, out = column(op, left % 10, right % 10, carry)
        key = f"sums.{carries}.think" if out else "sums.column.think"
        return say(rng, language, key, left=f"{left} {op} {right}", facts=", ".join(facts), digit=digit, carry=out,
                   written=f"{digit}{written}"), digit, out

    lines = []
    if op == "-" and a < b:
        lines.append(say(rng, language, "sums.negative.think", a=a, b=b))
    left, right, carry, written = max(a, b), min(a, b), 0, ""
    slips = []  # (the number of the line, the same with a wrong carry, the right carry)
    for _ in str(left):
        text, digit, out = line(carry)
        slips.append((len(lines), line(0 if carry else 1)[0], carry))
        lines.append(text)
        left, right, written, carry = left // 10, right if op == "×" else right // 10, f"{digit}{written}", out
    if carry:
        written = f"{carry}{written}"
        lines.append(say(rng, language, "sums.left.think", carry=carry, written=written))
    if written != str(int(written)):
        lines.append(say(rng, language, "sums.zeros.think", c=int(written)))
    # Forgetting a carry is the usual slip; without any carry, one is imagined.
    i, wrong, carry = rng.choice([slip for slip in slips if slip[2]] or slips)
    wait = say(rng, language, f"sums.{carries}.wait", carry=carry)
    return lines, [*lines[:i], wrong, wait, *lines[i:]]


def by_places(op, a, b, c) -> str:
    """Another way to the same: one number goes to the other place by place; a difference is added to what was taken.

    >>> by_places("+", 478, 365, 843)
    '478 + 300 = 778, 778 + 60 = 838, 838 + 5 = 843'
    >>> by_places("×", 47, 6, 282)
    '40 × 6 = 240, 7 × 6 = 42, 240 + 42 = 282'
    """
    if op == "-":
        a, b = abs(c), min(a, b)
    a, b = max(a, b), min(a, b)
    number = str(a if op == "×" else b)
    places = [int(digit) * 10 ** i for i, digit in zip(range(len(number))[::-1], number, strict=True) if digit != "0"]
    total, facts = 0 if op == "×" else a, []
    for place in places or [0]:
        if op == "×":
            facts.append(f"{place} × {b} = {place * b}")
            place *= b
        if op != "×" or total:
            facts.append(f"{total} + {place} = {total + place}")
        total += place
    return ", ".join(facts)


def verify_sums(example, reply) -> bool:
    """The result in plain digits, alone or after the two numbers; before an equation it may be said as well."""
    expected = example.expected
    a, op, b, c = (expected[name] for name in ("a", "op", "b", "c"))
    text = re.sub(r"(?<=\d) ?[x*] ?(?=\d)", " × ", reply.lower()).replace("−", "-")
    if not in_language(text, example.language):
        return False
    if found := re.search(r"(\d+) ?([-+×/÷]) ?(\d+) ?=", text):
        x, operator, y = found.groups()
        if operator != op or (int(x), int(y)) not in ([(a, b)] if op == "-" else [(a, b), (b, a)]):
            return False
        said, text = NUMBER.findall(text[:found.start()]), text[found.end():]
        return said in ([], [str(c)]) and NUMBER.findall(text) == [str(c)]
    return NUMBER.findall(text) in ([str(c)], [str(a), str(b), str(c)])


# ----------------------------------------------------------------------------------------------------- story

LARGEST = 200  # no number of a story is larger
APPLY = {"+": lambda x, y: x + y, "-": lambda x, y: x - y, "×": lambda x, y: x * y}
INVERSE = {"+": "-", "-": "+", "×": "÷"}
MISTAKEN = {"+": "-", "-": "+", "×": "+"}


def make_story(rng, language, level, test):
    """How many things somebody has, or how many people are somewhere, after some of them came and went.

    level: the number of operations.
    """
    events, operations = plot(rng, level)
    result = operations[-1][-1]
    theme = rng.choice(("own", "own", "place"))
    # `count` is the word to count with: the Korean counter, the Spanish "cuántos" in the gender of the noun.
    noun, _, count = rng.choice(phrases()[f"story.{theme}.things"][language]).partition(":")
    name, friend = rng.sample(phrases()["story.name"][language], 2)
    names = {"noun": noun, "count": count, "name": name, "friend": friend, "place": say(rng, language, "story.places")}
    told = [say(rng, language, f"story.{theme}.{event}", **names, **numbers) for event, numbers in events]
    question = ask(rng, language, "story.ask", s=" ".join(told),
                   q=say(rng, language, f"story.{theme}.question", **names))
    reply = say(rng, language, f"story.{theme}.reply", n=result, **names)
    return turn("story", language, level, question, reply, {"last": result},
                story_thoughts(rng, language, events, told, operations, names), story_key(events))


def story_key(events) -> str:
    """The events and their numbers: "story: start 5, gain 3"."""
    return "story: " + ", ".join(" ".join(map(str, (event, *numbers.values()))) for event, numbers in events)


def plot(rng, level):
    """What happens, [(event, its numbers)], and the operations that it takes, [(op, x, y, result)].

    Nothing is ever counted once, so every noun is plural.
    """
    top = 10 * (level + 1)
    k, m, n = rng.randint(2, 9), rng.randint(2, 9), rng.randint(2, top)
    if rng.random() < 0.35:
        events, operations, total = [("packs.start", {"k": k, "m": m})], [("×", k, m, k * m)], k * m
    else:
        events, operations, total = [("start", {"n": n})], [], n
    while len(operations) < level:
        event = rng.choice([event for event, possible in {
            "gain": total <= LARGEST - 2, "lose": total >= 2, "times": 2 <= total <= LARGEST // 2,
            "packs": level - len(operations) >= 2 and total <= LARGEST - 81}.items() if possible])
        k, m = rng.randint(2, 9), rng.randint(2, 9)
        if event == "gain":
            numbers = {"n": rng.randint(2, min(top, LARGEST - total))}
            done = [("+", total, numbers["n"])]
        elif event == "lose":
            n = rng.randint(2, min(top, total))
            numbers = {"n": n + (total - n == 1)}
            done = [("-", total, numbers["n"])]
        elif event == "times":
            numbers = {"k": rng.randint(2, min(9, LARGEST // total))}
            done = [("×", total, numbers["k"])]
        else:
            numbers = {"k": k, "m": m}
            done = [("×", k, m), ("+", total, k * m)]
        events.append((event, numbers))
        operations += [(op, x, y, APPLY[op](x, y)) for op, x, y in done]
        total = operations[-1][-1]
    return events, operations


def story_thoughts(rng, language, events, told, operations, names):
    """A line for each operation, behind the sentence that asks for it; the check undoes them from last to first."""
    def line(op, x, y):
        return say(rng, language, f"story.{op}.think", s=f"{x} {op} {y} = {APPLY[op](x, y)}")

    lines = [line(op, x, y) for op, x, y, _ in operations]
    begin, n = [say(rng, language, "story.goal", **names)], 0
    for (event, _), sentence in zip(events, told, strict=True):
        if event == "start":
            begin.append(f"{sentence} {say(rng, language, 'story.start.think', s=events[0][1]['n'])}")
        else:
            lines[n] = f"{sentence} {lines[n]}"
            n += 2 if event == "packs" else 1
    last = say(rng, language, "story.so", n=operations[-1][-1], **names)
    undone = ", ".join(f"{result} {INVERSE[op]} {y} = {x}" for op, x, y, result in reversed(operations))
    i = rng.randrange(len(operations))
    op, x, y, _ = operations[i]
    wrong = [line(MISTAKEN[op], x, y), say(rng, language, f"story.{op}.wait")]
    return {"brief": [begin[0], last], "steps": [*begin, *lines, last],
            "check": [*begin, *lines, say(rng, language, "story.check.think", s=undone), last],
            "retry": [*begin, *lines[:i], *wrong, *lines[i:], last]}


def verify_story(example, reply) -> bool:
    """The last number is the answer."""
    return in_language(reply, example.language) and NUMBER.findall(reply)[-1:] == [str(example.expected["last"])]


TASKS = {"compare": Task(make_compare, verify_compare, "math", 14, 4),
         "sums": Task(make_sums, verify_sums, "math", 14, 5),
         "story": Task(make_story, verify_story, "math", 10, 4)}
