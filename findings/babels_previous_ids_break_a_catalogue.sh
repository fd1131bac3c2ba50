#!/usr/bin/env bash
# Guess (of a translated course): a gettext catalogue that babel writes with include_previous, which keeps the older
# English text of a fuzzy entry as "#| msgid", can be read by other tools, and by babel itself.
#
# Babel 2.18.0: a text longer than a line is written as several quoted strings, and these are then wrapped as if they were
# a comment in prose, so that a line ends inside of a string. polib 1.2.0 (and GNU msgfmt) refuse the whole file; babel
# reads it, and has forgotten the older text. Short texts pass.
# Seen: with a text of 40 characters polib reads it back; with one of 140: "Syntax error in po file"; babel: [].
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q babel==2.18.0 polib==1.2.0
cat > "$folder/check.py" <<'PYTHON'
import io
import sys
from importlib.metadata import version
from pathlib import Path

import polib
from babel.messages.catalog import Catalog
from babel.messages.pofile import read_po, write_po

assert (version("babel"), version("polib")) == ("2.18.0", "1.2.0")
file = Path(sys.argv[1]) / "es.po"


def written(older: str) -> bytes:
    catalog, buffer = Catalog(locale="es"), io.BytesIO()
    catalog.add("A new sentence.", "Una frase.", flags=["fuzzy"], previous_id=[older])
    write_po(buffer, catalog, include_previous=True, omit_header=True)
    file.write_bytes(buffer.getvalue())
    return buffer.getvalue()


short = "A sentence that has been rewritten since."
written(short)
assert polib.pofile(str(file))[0].previous_msgid == short
long = "A position keeps its own key and those of the window before it, and nothing that is further away than that, however long the text is."
text = written(long)
try:
    polib.pofile(str(file))
except OSError as error:
    assert "Syntax error in po file" in str(error)
else:
    raise SystemExit("polib reads it now: the behaviour has changed")
(entry,) = [message for message in read_po(io.BytesIO(text)) if message.id]
assert list(entry.previous_id) == [], "babel remembers the older text now"
print(f"babel {version('babel')}: a short older text is read back; of a long one polib says 'Syntax error', babel reads []")
PYTHON
"$folder/venv/bin/python" "$folder/check.py" "$folder"
