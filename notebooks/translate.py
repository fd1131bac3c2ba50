"""The course in other languages: paragraphs in gettext catalogues, and the lessons and the site that are made of them.

    python notebooks/translate.py status                          # what is translated, outdated, missing, or wrong
    python notebooks/translate.py update ko                       # bring a language's catalogues up to date
    python notebooks/translate.py update ko 04_attention README   # and begin these
    python notebooks/translate.py build ko build/ko               # write the course in Korean, with site/conf.py

The English files are the one source. A catalogue (locale/ko/02_rmsnorm_swiglu.po, for any editor of PO files) has each
paragraph, heading, list item and row of a table, and what a figure shows, as one line without the marks before it. A
paragraph that has changed is found no more, so the English one is shown: `update` marks the translation as fuzzy, with
the older English text as a comment, until somebody mends it and takes the mark away. Code and outputs stay as they are;
only where a cell sets LANGUAGE, it is set to the reader's, and the notebook is run.

For translators:
- Korean in 해요체, to the reader but without a pronoun; Spanish with tú. Plain sentences, as short as the English ones.
- Terms by GLOSSARY.md: the first of several is used; where two stand for one word, the first time with the other.
- Inline code, formulas, numbers (also their commas and points), file names, targets of links, names of models, papers
  and people stay as they are; so does emphasis, mark by mark. `status` says what does not.
- What code prints and figures show is English: quote it as it is, and say what it means.
- In Korean, no letter stands directly behind ** or * if a sign stands before it ("**16비트(float16)**은" is not bold).
- A title of a lesson is written in the same words wherever it is linked.
"""

import argparse
import json
import os
import re
import shutil
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import takewhile
from pathlib import Path

import nbformat
from babel.messages.catalog import Catalog, Message
from babel.messages.pofile import read_po, write_po
from nbclient import NotebookClient

from minexaone.tasks import LANGUAGES

HERE = Path(__file__).parent.resolve()
LOCALE = HERE / "locale"
HEADER = r"""msgid ""
msgstr ""
"Language: {}\n"
"MIME-Version: 1.0\n"
"Content-Type: text/plain; charset=UTF-8\n"
"Content-Transfer-Encoding: 8bit\n"

"""
WAS = "was: "  # the comment with the older English text of a fuzzy translation
LINE = re.compile(r"(\s*(?:(?:[-*+]|\d+\.|>|#+)\s+|<\w+>|:caption: )*)(.*?)((?:</\w+>)*\s*)", re.S)
PROGRAM_WORDS = re.compile(r'^((?:project|nb_code_prompt_\w+|ANSWER) = ")(.+?)(?=")', re.M)  # those that readers see
SPOKEN = r'"LANGUAGE = \"{}\"'  # how a lesson is told in which language its reader speaks with the model, in its JSON
TARGET = re.compile(r"(?<=]\()[^)\s]+|https?://[^\s)]+")
SHARED = re.compile(rf"(`+).+?\1|\$\$.+?\$\$|\$[^$]+\$|{TARGET.pattern}|</?\w[^>]*>")  # code, formulas, links, tags
COUNTED = re.compile(r"\d+(?:[.,]\d+)*|[⁰¹²³⁴-⁹⁺⁻₀-₉]+|:?\*+|\||\{\}")  # numbers, and marks; "**When:**" asks
EMPHASIS = re.compile(r"(?<!\*)(\*+)(?!\*)(.+?)\1(?!\*)")


def sources() -> list[Path]:
    """All files that are translated."""
    return [HERE.parent / "README.md", HERE / "site" / "conf.py", HERE / "course.py", *sorted(HERE.glob("*.md")),
            *sorted(HERE.glob("[0-9]*.ipynb")), *sorted(HERE.glob("solutions/*.md")),
            *sorted(HERE.glob("solutions/*.ipynb"))]


def languages() -> list[str]:
    """Those that have catalogues."""
    return sorted(path.name for path in LOCALE.iterdir())


def place(source: Path) -> Path:
    """Where a file stands in the folder that is built; without its ending, in that of the catalogues."""
    return source.relative_to(HERE) if source.is_relative_to(HERE) else Path(source.name)


def pieces(text: str) -> list[str]:
    """Markup and paragraphs in turn, which joined are the text. Blocks of code and formulas are markup."""
    found, going_on, item, block = [""], False, False, False
    for line in text.splitlines(keepends=True):
        mark, words, end = LINE.fullmatch(line).groups()
        fence = (words.count("```") + words.count("$$")) % 2 == 1
        if fence or not words or block and ":caption:" not in mark:
            found[-1] += line
            going_on, block = False, block ^ fence
        elif going_on and not words.startswith("|") and (
                not mark.strip() or not item and re.fullmatch(r"(?!1\.)\d+\.\s+", mark)):  # "... 2 of\n60. And ..."
            found[-2:] = [found[-2] + found[-1] + mark + words, end]
        else:
            found[-1] += mark
            found += [words, end]
            item = bool(mark.strip())
            going_on = not words.startswith("|") and not re.search("[#<:]", mark)
    return found


def changed(source: Path, change: Callable[[str, str], str]) -> str:
    """A file's text with change(paragraph, id of its cell) in the place of every paragraph."""
    def markdown(text: str, cell: str) -> str:
        parts = pieces(text)
        parts[1::2] = [change(paragraph, cell) for paragraph in parts[1::2]]
        return "".join(parts)

    text = source.read_text(encoding="utf-8")
    if source.suffix == ".py":
        return PROGRAM_WORDS.sub(
            lambda match: match[1] + json.dumps(change(match[2], ""), ensure_ascii=False)[1:-1], text)
    if source.suffix == ".md":
        return markdown(text, "")
    notebook = json.loads(text)
    for cell in notebook["cells"]:
        image = cell["metadata"].get("mystnb", {}).get("image", {})
        if image.get("alt"):
            image["alt"] = change(image["alt"], cell["id"])
        if cell["cell_type"] == "markdown":
            cell["source"] = markdown("".join(cell["source"]), cell["id"]).splitlines(keepends=True)
    return json.dumps(notebook, indent=1, ensure_ascii=False) + "\n"


def unwrapped(paragraph: str) -> str:
    """As one line, so that a paragraph that is only wrapped anew is the same."""
    return " ".join(paragraph.split())


def messages(source: Path) -> Catalog:
    """The paragraphs in which there is something to translate."""
    found = Catalog()

    def add(paragraph: str, cell: str) -> str:
        if re.search(r"[^\W\d_]", SHARED.sub("", paragraph)):
            found.add(unwrapped(paragraph), locations=[(cell or place(source).name, None)])
        return paragraph

    changed(source, add)
    return found


def catalogue(source: Path, language: str) -> Path:
    """The file of a language's catalogue."""
    return LOCALE / language / place(source).with_suffix(".po")


def stored(source: Path, language: str) -> Catalog:
    """A catalogue as it is; empty if there is none."""
    path = catalogue(source, language)
    if not path.is_file():
        return Catalog(locale=language)
    with path.open("rb") as file:
        return read_po(file, locale=language)


def current(source: Path, language: str) -> Catalog:
    """A catalogue brought up to date with its source; what is like an older paragraph takes its translation, fuzzy."""
    found = stored(source, language)
    found.update(messages(source))
    return found


def remember(catalog: Catalog, language: str):
    """Give a paragraph without a translation the one that another file has of the same words."""
    known = words(language, sources())
    for message in catalog:
        if message.id in known and (message.fuzzy or not message.string):
            message.string = known[message.id]
            message.flags.discard("fuzzy")


def translated(catalog: Catalog) -> Iterator[Message]:
    """What counts: no fuzzy translation, no empty one."""
    return (message for message in catalog if message.id and message.string and not message.fuzzy)


def words(language: str, files: list[Path]) -> dict[str, str]:
    """The translations of some files."""
    return {message.id: message.string for file in files for message in translated(stored(file, language))}


def write(catalog: Catalog, path: Path):
    """Write a catalogue; the same one gives the same bytes."""
    for message in catalog:
        message.flags -= {"python-format", "python-brace-format"}  # babel's guess at every % and {
        comments = [*takewhile(lambda line: not line.startswith(WAS), message.user_comments)]
        if message.fuzzy and message.previous_id:
            message.user_comments = [*comments, WAS + message.previous_id[0]]  # babel breaks the lines of "#| msgid"
        elif not message.fuzzy:
            message.user_comments = comments
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        file.write(HEADER.format(catalog.locale).encode())
        write_po(file, catalog, width=100, omit_header=True, ignore_obsolete=True)


def faults(message: Message) -> list[str]:
    """What a translation changes that it must not, and emphasis that Markdown would not see."""
    def kept(text: str) -> Counter:
        return Counter([match[0] for match in SHARED.finditer(text)] + COUNTED.findall(SHARED.sub(" ", text)))

    wanted, found = kept(message.id), kept(message.string)
    wrong = [f"without {text}" for text in wanted - found] + [f"with {text}" for text in found - wanted]
    if message.string != unwrapped(message.string):
        wrong.append("not one line without spaces around it")
    text = SHARED.sub(lambda match: "`" if match[1] else "x", message.string)
    for match in EMPHASIS.finditer(text):
        before, after = text[:match.start()][-1:], text[match.end():][:1]
        if re.match(r"\w\W", before + match[2][0]) or re.match(r"\W\w", match[2][-1] + after):
            wrong.append(f"{match[0]} between letters: no emphasis in Markdown")
    return wrong


def anchors(source: Path, words: dict[str, str]) -> dict[str, str]:
    """The anchors of a page's headings, English to translated, as the site and GitHub make them."""
    def slug(text: str) -> str:
        return re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-")

    parts = pieces(source.read_text(encoding="utf-8")) if source.suffix == ".md" else []
    return {slug(text): slug(words.get(text, text)) for mark, text in zip(parts[::2], parts[1::2], strict=False)
            if mark.endswith("# ")}


def run(page: Path):
    """Run a notebook and store what comes out: in another language the model gives other replies."""
    print(f"running {page}", flush=True)
    notebook = nbformat.read(page, as_version=4)
    own = {name: value for name, value in os.environ.items() if name not in ("MINEXAONE_MODEL", "MPLBACKEND")}
    NotebookClient(notebook, coalesce_streams=True, record_timing=False, startup_timeout=300,  # busy machines too
                   resources={"metadata": {"path": page.parent}}).execute(env=own)  # the shipped model, and figures
    nbformat.write(notebook, page)


def build(language: str, out: Path):
    """Write the course in a language, with what lies beside it; lessons that speak with the model speak it too."""
    out = out.resolve()
    shutil.copytree(HERE, out, dirs_exist_ok=True, ignore=shutil.ignore_patterns(
        "locale", "mirror.py", "translate.py", ".ipynb_checkpoints", "__pycache__"))
    spoken = []

    for source in sources():
        page, known = out / place(source), words(language, [source])

        def led(match: re.Match, source=source, page=page) -> str:
            """Where a link leads, from the page: the same file, translated if it is one of the course."""
            file, _, anchor = match[0].partition("#")
            path = (source.parent / file).resolve() if file else source
            if "://" in file or not path.exists():
                return match[0]
            if file and not (source.is_relative_to(HERE) and path.is_relative_to(HERE)):
                inside = path.is_relative_to(HERE)
                file = Path(os.path.relpath(out / path.relative_to(HERE) if inside else path, page.parent)).as_posix()
            return file + (anchor and "#" + anchors(path, words(language, [path])).get(anchor, anchor))

        text = changed(source, lambda text, _, known=known, led=led: TARGET.sub(led, known.get(unwrapped(text), text)))
        if source.suffix == ".py":
            text = text.replace('\nlanguage = "en"\n', f'\nlanguage = "{language}"\n')
        elif SPOKEN.format("en") in text and language in LANGUAGES:  # the model's
            text = text.replace(SPOKEN.format("en"), SPOKEN.format(language))
            spoken.append(page)
        page.write_text(text, encoding="utf-8", newline="\n")
    for page in spoken:
        run(page)


def status(languages: list[str]) -> list[str]:
    """Print counts for every file and language, and what is outdated; what is wrong, a line each."""
    wrong, outdated = [], []
    print(f"{'':36} translated  outdated  missing")
    for language in languages:
        total = Counter()
        for source in sources():
            catalog, name = current(source, language), f"{language}/{place(source).with_suffix('').as_posix()}"
            good = list(translated(catalog))
            old = [f"outdated: {name}: {message.id[:60]!r}" for message in catalog if message.id and message.fuzzy]
            count, outdated = Counter(done=len(good), outdated=len(old)), outdated + old
            count["missing"] = len(catalog) - count.total()
            total += count
            print(f"{name:36} {count['done']:10} {count['outdated']:9} {count['missing']:8}")
            wrong += [f"{name}: {message.id[:60]!r}: {fault}" for message in good for fault in faults(message)]
        print(f"{language:36} {total['done']:10} {total['outdated']:9} {total['missing']:8}")
    print(*outdated, sep="\n", end="\n" * bool(outdated))
    return wrong


def main(argv=None):
    """Show, update, or build."""
    parser = argparse.ArgumentParser(description="The course in other languages.")
    commands = parser.add_subparsers(dest="command", required=True)
    shown = commands.add_parser("status", help="count what is translated, outdated and missing, and check it")
    shown.add_argument("language", nargs="*", help="of locale/ (all)")
    updated = commands.add_parser("update", help="bring catalogues up to date with the English files")
    updated.add_argument("language", help="as ko")
    updated.add_argument("name", nargs="*", help="files without a catalogue that are to get one, as 04_attention")
    built = commands.add_parser("build", help="write the course in a language")
    built.add_argument("language", help="of locale/")
    built.add_argument("out", type=Path, help="folder, new or one that this command wrote before")
    args = parser.parse_args(argv)
    if args.command == "status":
        sys.exit("\n".join(status(args.language or languages())) or 0)
    if args.command == "build":
        if args.language not in languages():
            parser.error(f"there is no {args.language} in {LOCALE}")
        return build(args.language, args.out)
    named = {place(source).with_suffix("").as_posix(): source for source in sources()}
    if unknown := set(args.name) - named.keys():
        parser.error(f"there is no {', '.join(sorted(unknown))}: take of {', '.join(named)}")
    for name, source in named.items():
        if name in args.name or catalogue(source, args.language).is_file():
            remember(catalog := current(source, args.language), args.language)
            write(catalog, catalogue(source, args.language))


if __name__ == "__main__":
    main()
