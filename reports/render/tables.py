"""Tables as data, and their text in markdown, HTML and LaTeX; text from models and data is escaped in each."""

from __future__ import annotations

import html
import re
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Cell:
    """A cell's text; `marks` are numbers of footnotes."""

    text: str
    bold: bool = False
    marks: tuple[int, ...] = ()


@dataclass(frozen=True)
class Table:
    """A table: all rows as long as the header; the first column is a label. `notes` are numbered from 1."""

    title: str
    header: tuple[Cell, ...]
    rows: tuple[tuple[Cell, ...], ...]
    notes: tuple[str, ...] = ()


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


def markdown(table: Table) -> str:
    """A markdown table as the card writes it: label left, the rest centred, bold as `**x**`."""

    def cell(cell: Cell) -> str:
        text = markdown_text(cell.text)
        marks = f" [{','.join(map(str, cell.marks))}]" if cell.marks else ""
        return (f"**{text}**" if cell.bold else text) + marks

    grid = [[cell(one) for one in row] for row in (table.header, *table.rows)]
    widths = [max(3, *(len(row[k]) for row in grid)) for k in range(len(table.header))]
    rule = ["-" * width for width in widths]
    rule = [f":{rule[0]}-", *(f":{dashes}:" for dashes in rule[1:])]
    lines = [
        "| " + " | ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)) + " |"
        for row in grid
    ]
    lines.insert(1, f"|{'|'.join(rule)}|")
    notes = [f"- [{number}] {markdown_text(text)}" for number, text in enumerate(table.notes, 1)]
    blocks = [f"## {markdown_text(table.title)}", "\n".join(lines)] + ["\n".join(notes)] * bool(notes)
    return "\n\n".join(blocks) + "\n"


def html_text(table: Table) -> str:
    """A table as an HTML fragment without scripts, styles or references."""

    def cell(cell: Cell, tag: str) -> str:
        text = html.escape(one_line(cell.text))
        marks = f"<sup>{','.join(map(str, cell.marks))}</sup>" if cell.marks else ""
        return f"<{tag}>{f'<strong>{text}</strong>' if cell.bold else text}{marks}</{tag}>"

    head = "".join(cell(one, "th") for one in table.header)
    body = "\n".join(
        "<tr>" + cell(row[0], "th") + "".join(cell(one, "td") for one in row[1:]) + "</tr>"
        for row in table.rows
    )
    notes = "".join(f"<li>{html.escape(one_line(text))}</li>" for text in table.notes)
    title = html.escape(one_line(table.title))
    head = f"<caption>{title}</caption>\n<thead><tr>{head}</tr></thead>"
    return f"<table>\n{head}\n<tbody>\n{body}\n</tbody>\n</table>\n" + (
        f"<ol>{notes}</ol>\n" if notes else ""
    )


_LATEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "±": r"$\pm$",
    "−": r"$-$",
    "≥": r"$\geq$",
    "–": "--",
} | {char: f"\\{char}" for char in "&%$#_{}"}


def latex_text(text: str) -> str:
    """Text that LaTeX prints as it is."""
    return "".join(_LATEX.get(char, char) for char in one_line(text))


def latex(table: Table) -> str:
    """A LaTeX table (packages booktabs and threeparttable); numbers centred, bold as textbf."""

    def cell(cell: Cell) -> str:
        text = latex_text(cell.text)
        marks = rf"\tnote{{{','.join(map(str, cell.marks))}}}" if cell.marks else ""
        return (rf"\textbf{{{text}}}" if cell.bold else text) + marks

    def line(row: Sequence[Cell]) -> str:
        return " & ".join(cell(one) for one in row) + r" \\"

    notes = [rf"\item[{number}] {latex_text(text)}" for number, text in enumerate(table.notes, 1)]
    return "\n".join(
        [
            r"\begin{table}",
            r"\begin{threeparttable}",
            rf"\caption{{{latex_text(table.title)}}}",
            rf"\begin{{tabular}}{{l{'c' * (len(table.header) - 1)}}}",
            r"\toprule",
            line(table.header),
            r"\midrule",
            *(line(row) for row in table.rows),
            r"\bottomrule",
            r"\end{tabular}",
            *([r"\begin{tablenotes}", *notes, r"\end{tablenotes}"] if notes else []),
            r"\end{threeparttable}",
            r"\end{table}",
            "",
        ]
    )


RENDERERS = {"md": markdown, "html": html_text, "latex": latex}
