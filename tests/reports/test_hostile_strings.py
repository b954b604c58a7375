"""A run whose every text is hostile: the whole report is made, and nothing of it is more than text."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from html.parser import HTMLParser

import pandas as pd
import pytest

from reports import terminal
from reports.__main__ import main, tables_of
from reports.run import load
from tests.synthetic import Spec, invent

MARKUP = "<script>alert(1)</script><img src=x onerror=y>\"'><b a={{7*7}}{% raw %}${7*7}&lt;"
TEX = r"\input{/etc/passwd}\write18{id}$x_1^2$%#~{}&\\"
MARKDOWN = "|a|`b`*c*[d](javascript:e)![f](//g)\n# h\n\n---\n<!-- results:end -->"
SHELL = "=cmd|' /C calc'!A0;$(id);../../../etc/passwd;%s%n{0}{run}"
CONTROL = "\x1b[31m\x1b]0;t\x07\u202e\u2066\u200f\ud800\x00\r\x85\u2028"
HOSTILE = MARKUP + TEX + MARKDOWN + SHELL + CONTROL
SHORT = [MARKUP, TEX, MARKDOWN, SHELL, CONTROL]
OWN_TAGS = {
    "html", "head", "meta", "title", "style", "body", "div", "header", "h1", "p", "main", "h2", "figure", "img",
    "figcaption", "strong", "table", "thead", "tbody", "tr", "th", "td", "sup", "ul", "li", "code", "dl", "dt", "dd",
    "details", "summary", "pre",
}  # fmt: skip
OWN_ATTRIBUTES = {"lang", "charset", "name", "content", "class", "role", "id", "src", "alt"}


class Page(HTMLParser):
    """Elements and attributes of a page."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.attributes, self.values = set(), set(), []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attributes}
        self.values += [value for name, value in attributes if name in ("src", "class", "id")]


def poisoned(value, key=""):
    """Every text of a JSON value that is no name by which the harness finds things."""
    if isinstance(value, dict):
        return {name: poisoned(one, name) for name, one in value.items()}
    if isinstance(value, list):
        return [one if key in ("run", "order") else poisoned(one, key) for one in value]
    if not isinstance(value, str) or key in ("warmup", "clock", "workload", "dtype", "p99_iterations"):
        return value
    return SHORT[len(key) % len(SHORT)][:190] if key in ("name", "title", "weights", "run", "started") else HOSTILE


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The folder of the run, with its report in it."""
    titles = dict(zip(("baseline", "jit", "jit_cuda_graph", "tensorrt_llm"), SHORT[:4], strict=True))
    spec = Spec(cases=tuple(titles), missing=("tensorrt_llm",), wrong=("jit",), lengths=(10, 40), iterations=6,
                context=14, context_ranges=((10, 12),), titles=titles)  # fmt: skip
    folder = invent(tmp_path_factory.mktemp("hostile") / "a" / "b" / "run", spec)
    stored = poisoned(json.loads((folder / "manifest.json").read_text()))
    stored["warnings"] = SHORT
    stored["no_energy"] = HOSTILE
    stored["versions"] = {HOSTILE: HOSTILE}
    (folder / "manifest.json").write_text(json.dumps(stored))
    for name, columns in (("status", ("reason", "engine")), ("equivalence", ("reason",)), ("samples", ("throttle",))):
        frame = pd.read_csv(folder / f"{name}.csv", keep_default_na=False)
        text = HOSTILE.replace("\0", "").replace("\ud800", "")
        for column in columns:
            frame[column] = [text] * len(frame) if column != "throttle" else [*[text] * 3, *frame[column][3:]]
        frame.to_csv(folder / f"{name}.csv", index=False)
    before = {path for path in folder.parents[2].rglob("*") if folder not in path.parents}
    assert main([str(folder)]) == 0
    readme = folder / "README.md"
    readme.write_text("# Above\n<!-- results:begin -->\n<!-- results:end -->\nbelow\n")
    assert main([str(folder), "--readme", str(readme)]) == 0
    assert {path for path in folder.parents[2].rglob("*") if folder not in path.parents} == before
    return folder


def test_the_page_has_the_elements_that_the_harness_wrote_and_no_other(made, fault):
    row = fault("Files", "every text of a run hostile: HTML, LaTeX, Markdown, templates, paths, control characters")
    text = (made / "report" / "report.html").read_text()
    page = Page(text)
    assert page.tags <= OWN_TAGS
    assert page.attributes <= OWN_ATTRIBUTES
    assert all(value.startswith("data:image/png;base64,") or re.fullmatch(r"[\w -]+", value) for value in page.values)
    assert "{{7*7}}" in text
    row.happened("the report is made, and every hostile text is text in it; no file outside the run's folder")


def test_nothing_of_a_report_has_a_character_that_a_terminal_obeys(made, capsys):
    for path in [*(made / "report").glob("*.md"), *(made / "report").glob("*.tex"), made / "report" / "report.html"]:
        odd = {letter for letter in path.read_text() if not letter.isprintable() and letter not in "\n\t"}
        assert odd == set(), path.name
    console = terminal.console()
    for table in tables_of(load(made)):
        terminal.show(table, console)
    assert {letter for letter in capsys.readouterr().out if not letter.isprintable()} <= {"\n"}


def test_file_names_are_the_harness_own(made):
    names = {path.name for path in (made / "report").iterdir()}
    assert all(re.fullmatch(r"[a-z0-9_]+\.(md|csv|tex|png|pdf|html)", name) for name in names)
    assert not any(path.is_dir() for path in (made / "report").iterdir())


def test_latex_has_no_command_from_a_file(made, tmp_path):
    escaped = r"\textbackslash{}input\{/etc/passwd\}"
    texts = [path.read_text() for path in (made / "report").glob("*.tex")]
    for text in texts:
        assert r"\input{/" not in text
        assert "write18" not in re.findall(r"\\([A-Za-z0-9]+)", text)
    assert any(escaped in text for text in texts)


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="no pdflatex on this machine")
def test_hostile_latex_compiles(made, tmp_path):
    shutil.copytree(made / "report", tmp_path / "tex", ignore=shutil.ignore_patterns("*.png", "*.pdf"))
    call = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "-no-shell-escape", "tables.tex"]
    done = subprocess.run(call, cwd=tmp_path / "tex", capture_output=True, text=True, errors="replace", check=False)
    assert done.returncode == 0, done.stdout[-2000:]


def test_markdown_stays_one_table_a_file(made):
    for path in (made / "report").glob("*.md"):
        lines = path.read_text().splitlines()
        assert sum(line.startswith("#") for line in lines) == 1, path.name
        assert not any("<script" in line or "<img" in line or "<!--" in line for line in lines), path.name
        assert not re.search(r"(?<!\\)\]\(", "\n".join(lines)), path.name
    text = (made / "README.md").read_text()
    assert (text.count("<!-- results:begin -->"), text.count("<!-- results:end -->")) == (1, 1)
    assert "<script" not in text
    assert not re.search(r"(?<!\\)\]\(javascript", text)


def test_values_of_a_csv_are_data_as_they_stand(made):
    """No sign is put before `=`: what reads the file back must get what was measured and said."""
    frame = pd.read_csv(made / "report" / "status.csv", keep_default_na=False)
    assert all("=cmd|' /C calc'!A0" in reason for reason in frame["reason"])


LINKED = ("ttft.csv", "ttft.md", "ttft.png", "ttft.pdf", "tables.tex", "report.html")


def test_links_in_a_run_do_not_lead_a_report_outside(made, tmp_path, fault):
    row = fault("Files", "a link to outside under the name of a report's file")
    run = shutil.copytree(made, tmp_path / "run")
    for name in LINKED:
        (tmp_path / name).write_text("kept")
        (run / "report" / name).unlink()
        (run / "report" / name).symlink_to(tmp_path / name)
    assert main([str(run)]) == 0
    assert {(tmp_path / name).read_text() for name in LINKED} == {"kept"}
    assert not any(path.is_symlink() for path in (run / "report").iterdir())
    row.happened("the link is replaced, what it named is kept", times=len(LINKED))


def test_a_report_folder_that_is_a_link_is_refused(made, tmp_path, fault, capsys):
    row = fault("Files", "a link to outside under the name of the report's folder")
    run = shutil.copytree(made, tmp_path / "run")
    shutil.rmtree(run / "report")
    (tmp_path / "outside").mkdir()
    (run / "report").symlink_to(tmp_path / "outside")
    assert main([str(run)]) == 2
    assert "is a link" in capsys.readouterr().err
    assert list((tmp_path / "outside").iterdir()) == []
    row.happened("refused in one sentence, nothing is written")
