"""A closed little language that looks like Python: integers, assignments, for loops, if with else, print.

Nothing a model writes ever reaches Python's own `eval`; steps, sizes and nesting are bounded, so any text may be run.
"""

import operator
import re

TOKEN = re.compile(r"[0-9]+|[^\W\d]\w*|[-+*<>=!]=|\S")
ARITHMETIC = {"+": operator.add, "-": operator.sub, "*": operator.mul}
COMPARISONS = {"<": operator.lt, ">": operator.gt, "<=": operator.le, ">=": operator.ge, "==": operator.eq,
               "!=": operator.ne}
KEYWORDS = ("for", "in", "range", "if", "else", "print")
LONGEST, WIDEST, LARGEST = 50, 100, 10**9  # lines, characters of a line (so the nesting is bounded too), a number


class ProgramError(ValueError):
    """A program is wrong or takes too long: the message names the line and what was expected there."""

    def __init__(self, line: int, expected: str):
        super().__init__(f"line {line}: expected {expected}")


class Parser:
    """Turns a text into statements (line, kind, ...); an expression is a number, a name or (sign, left, right)."""

    def __init__(self, text: str):
        self.number, self.tokens, self.lines = 1, [], []  # lines to come: (number, indentation, tokens), next one last
        for number, line in enumerate(text.splitlines(), 1):
            line = line.partition("#")[0].rstrip()
            if len(line) > WIDEST or number > LONGEST:
                raise ProgramError(number, f"at most {LONGEST} lines of {WIDEST} characters")
            if line:
                self.lines.insert(0, (number, len(line) - len(line.lstrip()), TOKEN.findall(line)))

    def program(self) -> list[tuple]:
        """All statements."""
        statements = self.block(0)
        if self.lines:
            raise ProgramError(self.lines[-1][0], "another indentation")
        return statements

    def block(self, indentation):
        """The statements that follow at this indentation."""
        statements = []
        while self.lines and self.lines[-1][1] == indentation:
            self.number, _, self.tokens = self.lines.pop()
            statements.append((self.number, *self.statement(indentation)))
        return statements

    def statement(self, indentation):
        """One statement with the blocks inside it."""
        word = self.take()
        if word == "print":
            self.take("(")
            value = self.sum()
            self.take(")")
            return "print", self.end(value)
        if word == "for":
            name = self.name(self.take())
            for expected in ("in", "range", "("):
                self.take(expected)
            times = self.sum()
            self.take(")")
            return "for", name, times, self.body(indentation)
        if word == "if":
            left, sign, right = self.sum(), self.take(*COMPARISONS), self.sum()
            then, otherwise = self.body(indentation), []
            if self.lines and self.lines[-1][1] == indentation and self.lines[-1][2][0] == "else":
                self.number, _, (_, *self.tokens) = self.lines.pop()
                otherwise = self.body(indentation)
            return "if", left, sign, right, then, otherwise
        name, sign = self.name(word), self.take("=", "+=", "-=", "*=")
        value = self.end(self.sum())
        return "set", name, value if sign == "=" else (sign[0], name, value)

    def body(self, indentation):
        """A colon at the end of the line, and the block under it."""
        self.take(":")
        self.end(None)
        if not self.lines or self.lines[-1][1] <= indentation:
            raise ProgramError(self.number, "an indented line after this one")
        return self.block(self.lines[-1][1])

    def sum(self):
        """Products with + and - between them."""
        value = self.product()
        while self.tokens[:1] in (["+"], ["-"]):
            value = (self.take(), value, self.product())
        return value

    def product(self):
        """Numbers, names, negatives and parentheses with * between them."""
        value = self.atom()
        while self.tokens[:1] == ["*"]:
            value = (self.take(), value, self.atom())
        return value

    def atom(self):
        """What a sign can stand before."""
        token = self.take()
        if token == "-":
            return "-", 0, self.atom()
        if token == "(":
            value = self.sum()
            self.take(")")
            return value
        return int(token) if token[0] in "0123456789" else self.name(token)

    def name(self, token):
        """The token, if it can name a variable."""
        if token in KEYWORDS or not token.isidentifier():
            raise ProgramError(self.number, f"a name, not {token}")
        return token

    def take(self, *expected):
        """The next token, which must be one of those expected."""
        if not self.tokens or (expected and self.tokens[0] not in expected):
            raise ProgramError(self.number, " or ".join(expected) or "something more")
        return self.tokens.pop(0)

    def end(self, value):
        """The value, if nothing else stands in the line."""
        if self.tokens:
            raise ProgramError(self.number, f"the end of the line, not {self.tokens[0]}")
        return value


def run(program: str, inputs: dict | None = None, limit=1000, log: list | None = None) -> list[int]:
    """What a program prints when it starts with the variables in `inputs` and takes at most `limit` steps.

    Raises `ProgramError`. A log gets (line, kind, values) of every step: the value that was set or printed, the two
    sides that were compared, the number of the round of a loop (from 1).

    >>> run("for _ in range(3):\\n    x += 2\\nprint(x)", {"x": 1})
    [7]
    """
    variables, output, log = dict(inputs or {}), [], [] if log is None else log

    def evaluate(line, expression):
        if isinstance(expression, str):
            if expression not in variables:
                raise ProgramError(line, f"a variable with a value, not {expression}")
            return variables[expression]
        if isinstance(expression, tuple):
            sign, left, right = expression
            expression = ARITHMETIC[sign](evaluate(line, left), evaluate(line, right))
        if abs(expression) > LARGEST:
            raise ProgramError(line, f"numbers up to {LARGEST}")
        return expression

    def step(line, kind, *values):
        if len(log) >= limit:
            raise ProgramError(line, f"at most {limit} steps")
        log.append((line, kind, values))

    def execute(block):
        for line, kind, *parts in block:
            if kind == "set":
                variables[parts[0]] = evaluate(line, parts[1])
                step(line, "set", variables[parts[0]])
            elif kind == "print":
                output.append(evaluate(line, parts[0]))
                step(line, "print", output[-1])
            elif kind == "for":
                name, times, body = parts
                for i in range(evaluate(line, times)):
                    step(line, "for", i + 1)
                    variables[name] = i
                    execute(body)
            else:
                left, sign, right, then, otherwise = parts
                left, right = evaluate(line, left), evaluate(line, right)
                step(line, "if", left, right)
                execute(then if COMPARISONS[sign](left, right) else otherwise)

    execute(Parser(program).program())
    return output
