"""Tables as text: Markdown for GitHub, LaTeX with booktabs."""

from __future__ import annotations

import re
import unicodedata

from reports.run import SMOKE
from reports.table import Cell, Column, Table

TEX = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "$": r"\$", "&": r"\&", "#": r"\#", "%": r"\%", "_": r"\_",
    "^": r"\textasciicircum{}", "~": r"\textasciitilde{}", "<": r"\textless{}", ">": r"\textgreater{}",
    "|": r"\textbar{}", '"': "''", "†": r"\textdagger{}", "‡": r"\textdaggerdbl{}",
    "×": r"$\times$", "−": "$-$", "–": "--", "≥": r"$\geq$",
    "\n": " ",
}  # fmt: skip
PREAMBLE = r"""\documentclass{article}
\usepackage[utf8]{inputenc}
\usepackage[a4paper,margin=2cm]{geometry}
\usepackage{booktabs,graphicx,array}
"""


def markdown_escape(text: str) -> str:
    """Text that GitHub shows as it stands, inside a table too."""
    plain = text.replace("\n", " ").replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"([\\`*_\[\]|~$])", r"\\\1", plain)


def markdown(table: Table, level: int = 3) -> str:
    """The table under its heading, with facts and footnotes."""
    stamp = f"**{SMOKE}.** " if table.smoke else ""
    lines = [f"{'#' * level} {markdown_escape(table.title)}", ""]
    lines += [markdown_row([column.head for column in table.columns])]
    lines += ["|" + "|".join("---:" if column.align == "right" else ":---" for column in table.columns) + "|"]
    lines += [markdown_row(row) for row in table.rows]
    lines += ["", f"{stamp}{markdown_escape(table.facts)}"]
    # Two spaces at the end of a line break it in Markdown; a backslash does so without being invisible.
    notes = [f"<sup>{mark}</sup> {markdown_escape(text)}" for mark, text in table.notes.lines()]
    return "\n".join([*lines, *(["", "\\\n".join(notes)] if notes else [])]) + "\n"


def markdown_row(cells: list[Cell]) -> str:
    """One line of a Markdown table."""
    return "| " + " | ".join(markdown_cell(cell) for cell in cells) + " |"


def markdown_cell(cell: Cell) -> str:
    """Text in bold where it won, with its marks raised."""
    text = markdown_escape(cell.text)
    bold = f"**{text}**" if cell.bold else text
    return bold + (f" <sup>{','.join(cell.marks)}</sup>" if cell.marks else "")


def latex_escape(text: str) -> str:
    """Text for pdflatex; a character that its Latin fonts lack is named by its code point."""
    return "".join(TEX.get(char) or latex_character(char) for char in unicodedata.normalize("NFC", text))


def latex_character(char: str) -> str:
    """A character that pdflatex's default encoding can set as it is, any other by its code point."""
    latin = "À" <= char <= "ÿ" and char not in "ÐðÞþ÷"
    return char if latin or " " <= char <= "~" else f"[U+{ord(char):04X}]"


def latex(table: Table) -> str:
    """A float to be \\input: needs booktabs, graphicx and array. Wider tables than the line are scaled down."""
    stamp = rf"\textbf{{{SMOKE}.}} " if table.smoke else ""
    body = [("\\midrule\n" if place in table.rules else "") + latex_row(row) for place, row in enumerate(table.rows)]
    notes = [
        rf"\textsuperscript{{{latex_escape(mark)}}}~{latex_escape(text)}\par" for mark, text in table.notes.lines()
    ]
    return "\n".join(
        [
            r"% needs \usepackage{booktabs,graphicx,array}",
            r"\begin{table}[htbp]",
            r"\centering\small\setlength{\belowcaptionskip}{6pt}",
            rf"\caption{{{stamp}{latex_escape(table.title)}}}",
            rf"\label{{tab:{table.name.replace('_', '-')}}}",
            rf"\setbox0=\hbox{{\begin{{tabular}}{{@{{}}{''.join(map(latex_column, table.columns))}@{{}}}}",
            r"\toprule",
            latex_row([column.head for column in table.columns]),
            r"\midrule",
            *body,
            r"\bottomrule",
            r"\end{tabular}}%",
            r"\ifdim\wd0>\linewidth\resizebox{\linewidth}{!}{\box0}\else\box0\fi",
            r"\par\medskip",
            r"\begin{minipage}{\linewidth}\footnotesize",
            rf"{latex_escape(table.facts)}\par",
            *notes,
            r"\end{minipage}",
            r"\end{table}",
            "",
        ]
    )


def latex_column(column: Column) -> str:
    """The column's letter; wide text is wrapped."""
    return r">{\raggedright\arraybackslash}p{5cm}" if column.wide else {"left": "l", "right": "r"}[column.align]


def latex_row(cells: list[Cell]) -> str:
    """One line of a tabular."""
    return " & ".join(latex_cell(cell) for cell in cells) + r" \\"


def latex_cell(cell: Cell) -> str:
    """Text in bold where it won, with its marks raised."""
    text = latex_escape(cell.text)
    bold = rf"\textbf{{{text}}}" if cell.bold else text
    # A row that begins with a bracket would be read as the optional argument of the \\ before it.
    guard = "{}" if bold.startswith(("[", "*")) else ""
    return guard + bold + (rf"\textsuperscript{{{latex_escape(','.join(cell.marks))}}}" if cell.marks else "")


def latex_document(tables: list[Table]) -> str:
    """A whole document that inputs the tables from its own folder."""
    inputs = "\n".join(rf"\input{{{table.name}.tex}}" for table in tables)
    return f"{PREAMBLE}\\begin{{document}}\n{inputs}\n\\end{{document}}\n"
