#!/usr/bin/env bash
# Guess (of a converter for a site's formulas): latex2mathml writes well-formed MathML for what it reads, and raises for
# an environment that it does not know.
#
# latex2mathml 3.81.1: align* becomes a table. aligned, the form inside of a formula, passes without an error and without
# a table: each & stays in the text as it is, which is not well-formed XML, and the rows become breaks of one line.
# Seen: align* is parsed and has a table; aligned fails to parse ("invalid token"), and holds "<mi>&</mi>".
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q latex2mathml==3.81.1
cat > "$folder/check.py" <<'PYTHON'
import xml.etree.ElementTree as ET
from importlib.metadata import version

from latex2mathml.converter import convert

assert version("latex2mathml") == "3.81.1"
table, aligned = (convert(rf"\begin{{{name}}} a &= b \\ c &= d \end{{{name}}}") for name in ("align*", "aligned"))
assert any(element.tag.endswith("mtable") for element in ET.fromstring(table).iter()), "align* is no table any more"
try:
    ET.fromstring(aligned)
except ET.ParseError as error:
    print(f"latex2mathml {version('latex2mathml')}: align* is a table; aligned is not well-formed XML: {error}")
else:
    raise SystemExit("aligned is well-formed now: the behaviour has changed")
assert "<mi>&</mi>" in aligned and "<mtable" not in aligned and 'linebreak="newline"' in aligned
PYTHON
"$folder/venv/bin/python" "$folder/check.py"
