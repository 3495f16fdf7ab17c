"""Tables as data, and their text: markdown by tabulate, HTML by jinja2, LaTeX, CSV by pandas.

Text from models and data is escaped in each.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Cell:
    """A cell's text; `marks` are numbers of footnotes."""

    text: str
    bold: bool = False
    marks: tuple[int, ...] = ()


@dataclass(frozen=True)
class Table:
    """A table: all rows as long as the header; the first column is a label.

    `notes` are numbered from 1; `remarks` say how to read the whole table.
    """

    title: str
    header: tuple[Cell, ...]
    rows: tuple[tuple[Cell, ...], ...]
    notes: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()


def cells(*texts: str) -> tuple[Cell, ...]:
    """Plain cells of these texts."""
    return tuple(map(Cell, texts))


class Footnotes:
    """Numbers texts in the order in which they are first asked for."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def mark(self, text: str) -> int:
        """The number of a text, the same each time."""
        if text not in self.texts:
            self.texts.append(text)
        return self.texts.index(text) + 1


def one_line(text: str) -> str:
    """Text without line ends, tabs or other control characters."""
    return " ".join(re.sub(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]", " ", text).split())


def markdown_text(text: str) -> str:
    """Text that markdown shows as it is."""
    escaped = re.sub(r"([\\`*|\[\]~])", r"\\\1", one_line(text))
    return escaped.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _markdown_cell(cell: Cell) -> str:
    text = markdown_text(cell.text)
    marks = f" [{','.join(map(str, cell.marks))}]" if cell.marks else ""
    return (f"**{text}**" if cell.bold else text) + marks


def markdown(table: Table) -> str:
    """A markdown table as the card writes it: label left, the rest centred, bold as `**x**`."""
    from tabulate import tabulate  # a gate's verdict needs none of it

    head, *body = ([_markdown_cell(cell) for cell in row] for row in (table.header, *table.rows))
    align = ("left", *["center"] * (len(head) - 1))
    grid = tabulate(body, head, "pipe", colalign=align if body else None, disable_numparse=True)
    notes = [f"- [{number}] {markdown_text(text)}" for number, text in enumerate(table.notes, 1)]
    notes += [f"- {markdown_text(text)}" for text in table.remarks]
    blocks = [f"## {markdown_text(table.title)}", grid] + ["\n".join(notes)] * bool(notes)
    return "\n\n".join(blocks) + "\n"


_HTML = """\
{% macro cell(one, tag) -%}
<{{ tag }}>{% if one.bold %}<strong>{{ one.text|one_line }}</strong>{% else %}{{ one.text|one_line }}{% endif %}
{%- if one.marks %}<sup>{{ one.marks|join(",") }}</sup>{% endif %}</{{ tag }}>
{%- endmacro -%}
<table>
<caption>{{ table.title|one_line }}</caption>
<thead><tr>{% for one in table.header %}{{ cell(one, "th") }}{% endfor %}</tr></thead>
<tbody>
{% for row in table.rows -%}
<tr>{% for one in row %}{{ cell(one, "th" if loop.first else "td") }}{% endfor %}</tr>
{% endfor -%}
</tbody>
</table>
{% if table.notes %}<ol>{% for note in table.notes %}<li>{{ note|one_line }}</li>{% endfor %}</ol>
{% endif %}
{%- if table.remarks %}<ul>{% for note in table.remarks %}<li>{{ note|one_line }}</li>{% endfor %}</ul>
{% endif %}"""


def html_text(table: Table) -> str:
    """A table as an HTML fragment without scripts, styles or references."""
    from jinja2 import Environment

    environment = Environment(autoescape=True)
    environment.filters["one_line"] = one_line
    return environment.from_string(_HTML).render(table=table) + "\n"


_LATEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "±": r"$\pm$",
    "−": r"$-$",
    "≥": r"$\geq$",
    "≤": r"$\leq$",
    "–": "--",
} | {char: f"\\{char}" for char in "&%$#_{}"}
PREAMBLE = r"% in the preamble: \usepackage{booktabs} and \usepackage{threeparttable}"


def latex_text(text: str) -> str:
    """Text that LaTeX prints as it is."""
    return "".join(_LATEX.get(char, char) for char in one_line(text))


def _latex_line(row: Sequence[Cell]) -> str:
    def one(cell: Cell) -> str:
        text = latex_text(cell.text)
        marks = rf"\tnote{{{','.join(map(str, cell.marks))}}}" if cell.marks else ""
        return (rf"\textbf{{{text}}}" if cell.bold else text) + marks

    return " & ".join(map(one, row)) + r" \\"


def latex(table: Table) -> str:
    """A LaTeX table, under a comment that names the packages it needs; numbers centred, bold as textbf."""
    notes = [rf"\item[{number}] {latex_text(text)}" for number, text in enumerate(table.notes, 1)]
    notes += [rf"\item {latex_text(text)}" for text in table.remarks]
    lines = [
        PREAMBLE,
        r"\begin{table}",
        r"\begin{threeparttable}",
        rf"\caption{{{latex_text(table.title)}}}",
        rf"\begin{{tabular}}{{l{'c' * (len(table.header) - 1)}}}",
        r"\toprule",
        _latex_line(table.header),
        r"\midrule",
        *map(_latex_line, table.rows),
        r"\bottomrule",
        r"\end{tabular}",
        *([r"\begin{tablenotes}", *notes, r"\end{tablenotes}"] if notes else []),
        r"\end{threeparttable}",
        r"\end{table}",
    ]
    return "\n".join(lines) + "\n"


RENDERERS = {"md": markdown, "html": html_text, "latex": latex}


def json_text(data: Any) -> str:
    """Data as JSON; a number that is none is an error here, not in who reads it."""
    return json.dumps(data, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def csv_text(records: Iterable[Mapping[str, Any]], columns: Sequence[str]) -> str:
    """The columns of these records as CSV, numbers unrounded; no text can turn into a spreadsheet's formula."""
    import pandas

    lines = [[_harmless(record.get(name)) for name in columns] for record in records]
    frame = pandas.DataFrame(lines, columns=list(columns), dtype=object)
    return str(frame.to_csv(index=False, lineterminator="\n"))


def _harmless(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    text = one_line(value)
    return f"'{text}" if text[:1] in ("=", "+", "-", "@") else text
