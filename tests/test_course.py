"""The student's edition of the lessons: nothing given away, the key at full marks, mistakes found where they are."""

import ast
import builtins
import re
import shutil
import subprocess
import sys
from pathlib import Path
from unittest import mock

import matplotlib
import nbformat
import pytest

from minexaone.tasks import TASKS

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "notebooks"))

import course  # noqa: E402
import mirror  # noqa: E402
from test_notebooks import reads_and_sets  # noqa: E402


@pytest.fixture(autouse=True)
def set_back():
    """What a lesson run in this process changes, it adds tasks and sets a style, ends with the test."""
    with mock.patch.dict(TASKS), matplotlib.rc_context():
        yield


def read(path):
    return nbformat.read(path, as_version=4)


def pair(path):
    """A lesson and its solutions."""
    return read(path), read(path.parent / "solutions" / path.name)


MARKED = [path for path in mirror.notebooks() if any(map(course.marks, read(path).cells))]
NAMES = [path.name for path in MARKED]


def points_of(cells):
    """Points by grade_id."""
    return {course.marks(cell)["grade_id"]: course.marks(cell)["points"] for cell in cells
            if course.marks(cell).get("grade")}


def names(cells, kind):
    """What some code cells load or store, functions, classes and imports included, outside of functions or in them."""
    found = set()
    for cell in cells:
        for node in ast.walk(ast.parse(cell.source)) if cell.cell_type == "code" else ():
            if isinstance(node, ast.Name) and isinstance(node.ctx, kind):
                found.add(node.id)
            elif kind is ast.Store and isinstance(node, ast.FunctionDef | ast.ClassDef):
                found.add(node.name)
            elif kind is ast.Store and isinstance(node, ast.alias):
                found.add((node.asname or node.name).split(".")[0])
            elif kind is ast.Store and isinstance(node, ast.arg):
                found.add(node.arg)
    return found


# ------------------------------------------------------------------------------------------------ marks


def test_the_first_lessons_are_marked():
    first = [path.name for path in mirror.notebooks() if "01" <= path.name[:2] <= "09"]
    assert NAMES[:len(first)] == first


@pytest.mark.parametrize("path", MARKED, ids=NAMES)
def test_marks_are_nbgraders_and_whole(path):
    lesson, solutions = pair(path)
    cells = lesson.cells + solutions.cells
    ids = [course.marks(cell)["grade_id"] for cell in cells if course.marks(cell)]
    assert len(set(ids)) == len(ids)
    for cell in cells:
        mark, regions = course.marks(cell), len(course.REGION.findall(cell.source))
        assert cell.source.count(course.BEGIN) == cell.source.count(course.END) == regions
        assert bool(regions) == mark.get("solution", False), cell.source[:80]
        if mark:
            assert mark.keys() - {"points"} == {"grade", "grade_id", "locked", "schema_version", "solution", "task"}
            assert re.fullmatch(r"[\w-]+", mark.grade_id) and mark.schema_version == 3 and not mark.task
            assert mark.locked != mark.solution and ("points" in mark) == mark.grade
        if mark.get("locked"):
            asserted = re.findall(r"assert .*?, \(?\s*f?\"|msg=", cell.source, re.S)
            assert asserted, f"no message names a mistake: {cell.source[:80]}"
    assert not any(mirror.MARK.match(cell.source) for cell in cells if course.marks(cell)), "mirror.py owns such a cell"
    assert 2 <= sum(len(course.REGION.findall(cell.source)) for cell in lesson.cells) <= 5


@pytest.mark.parametrize("path", MARKED, ids=NAMES)
def test_every_exercise_has_points_minutes_and_criteria(path):
    lesson, solutions = pair(path)
    text = next(cell.source for cell in lesson.cells if "\n## Exercises" in cell.source).split("## Exercises")[1]
    wanted = re.findall(r"^(\d)\. (?:.(?!^\d\. ))*?\*\((\d+) points( by hand)?, \d+ min: [^)]+\)\*", text, re.M | re.S)
    points = points_of(solutions.cells)
    assert len(wanted) == len(re.findall(r"^\d\. ", text, re.M)) == len(points)
    for number, value, by_hand in wanted:
        assert points[f"exercise-{number}" if by_hand else f"exercise-{number}-check"] == int(value)
    rubrics = re.findall(r"\*Rubric, (\d+) points:\*(.+?)(?:\n\n|\Z)",
                         "\n\n".join(cell.source for cell in solutions.cells if cell.cell_type == "markdown"), re.S)
    by_hand = [course.marks(cell)["points"] for cell in solutions.cells
               if course.marks(cell).get("grade") and course.marks(cell)["solution"]]
    assert [int(value) for value, _ in rubrics] == by_hand
    for value, rubric in rubrics:
        assert sum(map(int, re.findall(r"\((\d)\)", rubric))) == int(value)


@pytest.mark.parametrize("path", MARKED, ids=NAMES)
def test_a_check_asks_for_nothing_that_only_the_solutions_have(path):
    lesson, solutions = pair(path)
    given, answered = names(lesson.cells, ast.Store) | set(dir(builtins)), set()
    for cell in solutions.cells:
        if course.marks(cell).get("solution"):
            answer, here = names([cell], ast.Store), course.wanted(cell.source, cell.source[:cell.source.index(
                course.BEGIN)].count("\n") + 1)
            answered |= {name for name in answer if re.search(rf"\b{name}\b", here)}
        elif course.marks(cell):
            asked = names([cell], ast.Load) - names([cell], ast.Store)
            assert asked <= given | answered, f"{asked - given - answered}: not named in the starter's comment"
            assert asked & answered, "it checks nothing of the answer"


# -------------------------------------------------------------------------------------- the student's edition


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A course."""
    out = tmp_path_factory.mktemp("course")
    course.write(out)
    return out


@pytest.mark.parametrize("name", [path.name for path in mirror.notebooks()])
def test_the_students_edition_gives_nothing_away(written, name):
    lesson, solutions = pair(ROOT / "notebooks" / name)
    student, key = (read(written / folder / name) for folder in ("student", "key"))
    nbformat.validate(student)
    nbformat.validate(key)
    text = "\n".join(cell.source for cell in student.cells)
    assert course.BEGIN not in text and "(solutions/" not in text
    assert not any(cell.get("outputs") for cell in student.cells)
    cells = {course.marks(cell)["grade_id"]: cell for cell in student.cells if course.marks(cell)}
    for cell in filter(course.marks, lesson.cells + solutions.cells):
        own = cells[course.marks(cell)["grade_id"]]
        if not course.marks(cell)["solution"]:
            assert own.source == cell.source and own.metadata.editable is False
            continue
        raised = [node.exc.args[0].value for node in ast.walk(ast.parse(own.source)) if isinstance(node, ast.Raise)
                  and isinstance(node.exc, ast.Call) and node.exc.func.id == "NotImplementedError"]
        regions = re.findall(rf"{course.BEGIN}\n(.*?)^ *{course.END}", cell.source, re.M | re.S)
        assert len(raised) == len(regions) and all("to be written" not in wanted for wanted in raised)
        assert all(region not in text for region in regions)
    assert points_of(student.cells) == points_of(key.cells) == points_of(lesson.cells + solutions.cells)
    for folder, notebook in (("student", student), ("key", key)):
        linked = re.findall(r"\]\(([^)#\s]+)", "\n".join(c.source for c in notebook.cells if c.cell_type == "markdown"))
        opened = re.findall(r'"(\.\./[^"]+)"', "\n".join(c.source for c in notebook.cells if c.cell_type == "code"))
        for target in linked + opened:
            assert target.startswith("http") or (written / folder / target).exists(), target


@pytest.mark.parametrize("name", [path.name for path in mirror.notebooks()])
def test_nbgraders_source_is_the_students_edition_with_the_answers(written, name):
    source, student, key = (read(written / folder / name) for folder in (f"source/{Path(name).stem}", "student", "key"))
    assert [course.starter(cell.source) for cell in source.cells] == [cell.source for cell in student.cells]
    assert [cell.source for cell in source.cells if course.marks(cell)] == [
        cell.source for cell in key.cells if course.marks(cell)]


def test_what_is_wanted_is_said():
    head = 'def f():\n    """One\n    line."""\n'
    cell = f"{head}    ### BEGIN SOLUTION\n    return 1\n    ### END SOLUTION\n\n\nf()"
    assert course.starter(cell) == f"{head}    raise NotImplementedError('f: One line.')\n\n\nf()"
    cell = "# found: a list\n# of pairs\n### BEGIN SOLUTION\nfound = []\n### END SOLUTION"
    assert course.starter(cell).endswith("raise NotImplementedError('found: a list of pairs')")


# --------------------------------------------------------------------------------------------- the grader


def graded(out, *options):
    """{notebook: {check: (points, of, note)}} that pytest prints of a course's submitted notebooks."""
    run = subprocess.run([sys.executable, "-m", "pytest", out / "submitted", "-p", "no:cacheprovider", *options],
                         capture_output=True, text=True, encoding="utf-8", timeout=600)
    tables, rows = {}, None
    for line in run.stdout.splitlines():
        if match := re.fullmatch(r"=+ submitted/(\S+\.ipynb) =+", line):
            rows = tables[match[1]] = {}
        elif rows is not None and (match := re.match(r"(\S+) +(\d+) of +(\d+)(?:,|$|  )(.*)", line)):
            rows[match[1]] = int(match[2]), int(match[3]), match[4].strip()
    assert tables, run.stdout + run.stderr
    return tables


# The whole way, through the grader: what stands in the key, what a student wrote, and the check that must notice; the
# others must not.
MISTAKES = {
    "03_rope.ipynb": [
        ("out[t, n], out[t, n + D // 2] = turn(torch.stack((x[t, n], x[t, n + D // 2]))",
         "out[t, n], out[t, n + D // 2] = turn(torch.stack((x[t, n + D // 2], x[t, n]))", "draft-rope-check"),
        ("((1 - s) / factor + s), \"blended\"", "(s / factor + 1 - s), \"blended\"", "scaled-by-cases-check"),
        ("** (64 / 62)", "** (64 / 63)", "exercise-1-check")]}


def test_the_key_has_full_marks_the_empty_edition_none_and_mistakes_cost_where_they_are(written):
    for name, mistakes in MISTAKES.items():
        notebook = read(written / "key" / name)
        for cell in notebook.cells:
            if course.marks(cell).get("grade") and course.marks(cell)["solution"]:
                cell.source = ""  # graded by hand: it takes the longest
        for folder in ("key", "empty", "wrong"):
            (written / "submitted" / folder).mkdir(exist_ok=True)
        nbformat.write(notebook, written / "submitted" / "key" / name)
        nbformat.write(read(written / "student" / name), written / "submitted" / "empty" / name)
        for right, wrong, _ in mistakes:
            (cell,) = [cell for cell in notebook.cells if course.marks(cell).get("solution") and right in cell.source]
            cell.source = cell.source.replace(right, wrong)
        nbformat.write(notebook, written / "submitted" / "wrong" / name)
    tables = graded(written)
    for name, mistakes in MISTAKES.items():
        full = {check: value for check, value in points_of(read(written / "key" / name).cells).items()
                if check.endswith("-check")}
        total = full | {"points": sum(full.values())}
        got = {folder: {check: row[0] for check, row in tables[f"{folder}/{name}"].items()}
               for folder in ("key", "empty", "wrong")}
        assert got["key"] == total
        assert got["empty"] == dict.fromkeys(total, 0)
        lost = {check for check in full if got["wrong"][check] != full[check]}
        assert lost == {check for *_, check in mistakes}


PLANTED = {  # what stands in the key, what a student wrote, the check that must notice, and what it must say
    "04_attention.ipynb": [
        ("y.repeat_interleave(self.heads // self.kv_heads, dim=2)", "y.repeat(1, 1, self.heads // self.kv_heads, 1)",
         "draft-attention-check", "repeat_interleave, not repeat"),
        ("kv_heads * head_dim + 2 * head_dim", "kv_heads * head_dim", "exercise-1-check", "head_dim gains each")],
    "08_kv_cache.ipynb": [
        ("last - (last - torch.arange(size)) % size", "torch.arange(size) + last // size * size",
         "ring-positions-check", "a slot that is still empty must be negative"),
        ("last - (last - torch.arange(size)) % size", "last - torch.arange(size)",
         "ring-positions-check", "the newest token of which the remainder is s")],
    "08b_second_turn.ipynb": [
        ("if p < read - size]", "if p < read - window]", "missing-check", "the ring holds"),
        ("zip(ids, prompt[:-1], strict=False)", "zip(ids, prompt, strict=False)",
         "shared-check", "the last id of the prompt must be read")],
    "09_weights_and_generation.ipynb": [
        ("offset=start + begin", "offset=begin", "read-by-hand-check", "offsets count from `start`"),
        ("top_p * probs[kept].sum()", "top_p", "shaped-check", "shares of what top_k has left"),
        ("think_end_id in ids[:budget]", "think_end_id in ids", "draft-take-check", "close_ids follow the first")],
    "10_chat_and_tools.ipynb": [
        ("{text}[|endofturn|]", "{text}\\n[|endofturn|]", "turn-check", "stands right behind the text"),
        ('"description": text', '"description": inspect.getdoc(function)', "draft-schema-check", "before Args"),
        ('message["content"], parse_special=False', 'message["content"], parse_special=True',
         "guarded-prompt-check", "encode a message's content with parse_special=False")],
    "14_agapo.ipynb": [
        ("(sum(rewards) - reward) / others", "sum(rewards) / len(rewards)",
         "leave-one-out-check", "the other one's reward"),
        ("agapo_advantages(rewards[stay])", "agapo_advantages(rewards)[stay]",
         "round-scores-check", "normalise over the groups that stay")],
    "15_simper.ipynb": [
        ("((chosen - ref_chosen) - (rejected - ref_rejected))", "(chosen - rejected)",
         "dpo-loss-check", "where the policy is the reference"),
        ("((chosen - ref_chosen) - (rejected - ref_rejected))", "((rejected - ref_rejected) - (chosen - ref_chosen))",
         "dpo-loss-check", "the loss falls as the chosen reply gets likelier")],
    "16_evaluation.ipynb": [
        ("math.sqrt(share * (1 - share) / total)", "share * (1 - share) / total",
         "normal-check", "the root of its variance"),
        ("min(1.0, 2 * sum(", "min(1.0, sum(", "sign-test-check", "two sides")],
    "17_lab.ipynb": [
        ("model(ids[:, :-1])[known], ids[:, 1:][known]", "model(ids[:, :-1]).flatten(0, 1), ids[:, 1:].flatten()",
         "known-loss-check", "only known ones count"),
        ("distance < (window or T)", "distance <= (window or T)", "looked-at-check", "the position itself and the one"),
        (".mT / q.shape[-1] ** 0.5", ".mT", "looked-at-check", "scores are divided by √D")],
    "18_quantization.ipynb": [
        ("low, high) * scale", "low, high)", "to-list-check", "weights come back"),
        ("grid(groups, bits, symmetric)", "grid(groups, bits)", "rounded-check", "pass `symmetric` on"),
        ("wanted[rest] - torch", "row[rest] - torch", "draft-gptq-module-check", "each move starts from `wanted`")],
    "19_heads.ipynb": [
        ("(torch.arange(ids.shape[1]) * (ids != pad)).amax(1)", "(ids != pad).sum(1) - 1",
         "last-columns-check", "a column is wanted, not a number of tokens"),
        ('f" {text.lower()} "', "text.lower()", "baseline-check", "a space on either side")],
    "20_data.ipynb": [
        ("rest ^ 0xFFFFFFFF", "~rest", "crc32-check", "the last step inverts them"),
        ("len(ids) - LENGTH + 1)}", "len(ids) - LENGTH)}", "leak-tests-check", "the last one counts too"),
        (" and in_language(reply, example.language)", "", "right-next-check", "a reply in another language is wrong")]}


def steps(nodes):
    """Statements in the order in which they set names: what a loop, `with` or `if` begins with, then what is in it."""
    for node in nodes:
        if isinstance(node, ast.For):
            yield ast.Assign([node.target], node.iter)
        elif isinstance(node, ast.With):
            yield from (ast.Assign([item.optional_vars], item.context_expr) if item.optional_vars else
                        ast.Expr(item.context_expr) for item in node.items)
        elif isinstance(node, ast.If | ast.While):
            yield ast.Expr(node.test)
        else:
            yield node
            continue
        yield from steps([*node.body, *getattr(node, "orelse", ())])


def rests_on(cells, check):
    """The cells that a check rests on, itself the last: each is the last to set a name that one behind it reads."""
    wanted, found = set(), []
    for cell in reversed(cells):
        needs, done = set(), set()
        for node in steps(ast.parse(cell.source).body):
            read, sets = reads_and_sets(ast.unparse(ast.fix_missing_locations(node)))
            needs |= (read | sets if isinstance(node, ast.AugAssign) else read) - done
            done |= sets
        if course.marks(cell).get("grade_id") == check or done & wanted:
            wanted = wanted - done | needs
            found.insert(0, cell)
    return found


@pytest.mark.parametrize("name, right, wrong, check, said", [
    pytest.param(name, *planted, id=f"{name[:3]}{planted[2]}-{n}") for name in PLANTED
    for n, planted in enumerate(PLANTED[name])])
def test_a_check_names_the_mistake(written, monkeypatch, name, right, wrong, check, said):
    """Runs, in this process, only what the check rests on: lessons take minutes."""
    cells = rests_on([cell for cell in read(written / "key" / name).cells if cell.cell_type == "code"], check)
    (at,) = [n for n, cell in enumerate(cells) if course.marks(cell).get("solution") and right in cell.source]
    monkeypatch.chdir(written / "key")
    names = {"__name__": "__main__"}

    def run(part):
        for cell in part:
            exec(compile(cell.source, cell.id, "exec"), names)

    run(cells)  # the key passes
    cells[at].source = cells[at].source.replace(right, wrong)
    run(cells[at:-1])
    with pytest.raises(AssertionError, match=re.escape(said)):
        run(cells[-1:])


def test_all_later_lessons_have_planted_mistakes():
    assert {*NAMES} - {*PLANTED, *MISTAKES} <= {name for name in NAMES if name < "08" or name[:2] in ("11", "12", "13")}


def cell_of(id, source, points=None):
    mark = {"grade": points is not None, "grade_id": id, "locked": points is not None, "schema_version": 3,
            "solution": points is None, "task": False} | ({} if points is None else {"points": points})
    return nbformat.v4.new_code_cell(source, id=id, metadata={"nbgrader": mark})


def test_the_grader_survives_what_students_write(tmp_path):
    shutil.copy(ROOT / "notebooks" / "grader.py", tmp_path / "conftest.py")
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    checks = [cell_of(f"{name}-check", f"assert {name} == 1", 1) for name in "abcdef"]
    stuck = "import time\nwhile True:\n    try: time.sleep(1)\n    except BaseException: pass"
    answers = {"goes-on": ["a = 1", "b = 2 / 0", "c = int(input())", "d = 1\nwhile True: pass", "e = 2", "f = 1"],
               "exits": ["a = 1", "b = 1\nimport os\nos._exit(0)", "c = 1"], "stuck": ["a = 1", stuck, "c = 1"]}
    for folder in ("key", "submitted"):
        (tmp_path / folder).mkdir()
    for name, texts in answers.items():
        nbformat.write(nbformat.v4.new_notebook(cells=checks[:len(texts)]), tmp_path / "key" / f"{name}.ipynb")
        cells = [cell for n, (text, check) in enumerate(zip(texts, checks, strict=False))
                 for cell in (cell_of(str(n), text), nbformat.from_dict(check))]
        if name == "goes-on":
            cells[9].source = "pass"  # the check of e
            cells.pop()  # the check of f
        nbformat.write(nbformat.v4.new_notebook(cells=cells), tmp_path / "submitted" / f"{name}.ipynb")
    tables = graded(tmp_path, "--cell-seconds", "10")  # on a busy machine an assignment takes seconds, too
    got = {name: [tables[f"{name}.ipynb"][f"{check}-check"][0] for check in "abcdef"[:len(texts)]]
           for name, texts in answers.items()}
    assert got == {"goes-on": [1, 0, 0, 1, 0, 0], "exits": [1, 0, 0], "stuck": [1, 0, 0]}
    assert "AssertionError" in tables["goes-on.ipynb"]["e-check"][2]
    assert all("ended the kernel" in tables[f"{name}.ipynb"]["c-check"][2] for name in ("exits", "stuck"))
