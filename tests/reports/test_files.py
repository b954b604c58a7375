import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib import image
from matplotlib.backends.backend_agg import FigureCanvasAgg

from reports import markup, page, plots, style
from reports.__main__ import main, tables_of, write_report
from reports.canvas import spread
from reports.run import SMOKE, load
from tests.synthetic import STORED, Spec, invent

FIGURES = ("ttft", "p99", "decode", "speedup", "ttft_ecdf")
TABLES = ("ttft", "ttft_ratio", "p99", "decode", "summary", "speedup", "effects", "headroom", "blocks", "clocks",
          "equivalence", "divergence", "status")  # fmt: skip


class Page(HTMLParser):
    """What a page asks the network for, which tags it has, and its text."""

    def __init__(self, text):
        super().__init__()
        self.links, self.tags, self.words = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.links += [value for name, value in attributes if name in ("src", "href", "srcset", "action")]

    def handle_data(self, data):
        self.words.append(data)


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    folder = shutil.copytree(STORED, tmp_path_factory.mktemp("report") / "run")
    run = load(folder)
    return write_report(run, tables_of(run)).parent


def test_every_table_and_figure_is_written(report):
    wanted = {f"{name}.{suffix}" for name in TABLES for suffix in ("md", "csv", "tex")} | {"significance.csv"}
    wanted |= {f"{name}.{suffix}" for name in FIGURES for suffix in ("png", "pdf")}
    assert {path.name for path in report.iterdir()} == wanted | {"report.html", "tables.tex"}


def test_figures_are_not_blank(report):
    for name in FIGURES:
        pixels = image.imread(report / f"{name}.png")
        assert pixels.shape[1] > 1000
        assert np.ptp(pixels[..., :3]) > 0.5


def test_the_page_needs_nothing_else(report):
    text = (report / "report.html").read_text()
    found = Page(text)
    assert found.tags.count("img") == len(FIGURES)
    assert all(link.startswith("data:image/png;base64,") for link in found.links)
    assert not {"script", "link", "iframe", "object"} & set(found.tags)
    assert not re.search(r"@import|url\(|https?://", text)
    assert SMOKE not in text


def test_every_note_of_the_page_is_pointed_to(report):
    text = " ".join(Page((report / "report.html").read_text()).words)
    assert "package tensorrt_llm is not installed: 50 % & _so_ on" in text
    assert "fails the comparison with the baseline" in text


def test_odd_titles_are_text_in_html(odd):
    drawn = plots.plots(odd)
    text = page.render(odd, tables_of(odd), drawn, {plot.name: b"" for plot in drawn})
    assert "script" not in Page(text).tags
    assert "&lt;script&gt;alert(" in text


def test_a_smoke_run_is_stamped_everywhere(odd):
    tables, drawn = tables_of(odd), plots.plots(odd)
    assert all(SMOKE in markup.markdown(table) for table in tables)
    assert all(f"\\caption{{\\textbf{{{SMOKE}.}}" in markup.latex(table) for table in tables)
    figures = [plot.figure for plot in drawn if plot.figure]
    assert len(figures) >= 4
    assert all(stamps(figure) for figure in figures)
    images = {plot.name: b"" for plot in drawn}
    assert page.render(odd, tables, drawn, images).count(SMOKE) == sum(t.shown for t in tables) + 2  # title, banner


def test_a_measurement_has_no_stamp(full):
    assert all(SMOKE not in markup.latex(table) + markup.markdown(table) for table in tables_of(full))
    assert not any(stamps(plot.figure) for plot in plots.plots(full))


def stamps(figure):
    """The watermarks of a figure's panels."""
    return [text for axes in figure.axes for text in axes.texts if text.get_text() == SMOKE]


def test_a_watermark_stays_inside_its_panel(odd):
    for plot in plots.plots(odd):
        figure = plot.figure
        if figure is None:
            continue
        FigureCanvasAgg(figure).draw()
        for text in stamps(figure):
            inside, outer = text.get_window_extent(), text.axes.get_window_extent()
            assert outer.x0 <= inside.x0
            assert inside.x1 <= outer.x1
            assert outer.y0 <= inside.y0
            assert inside.y1 <= outer.y1


@given(st.text(max_size=30))
def test_latex_leaves_no_special_character_bare(text):
    escaped = markup.latex_escape(text)
    known = re.sub(r"\\[a-zA-Z]+\{\}|\\[{}$&#%_]|\$\\(times|geq)\$", "", escaped)
    assert not set(known) & set("\\{}$&#%_^~")
    assert all(char.isprintable() for char in escaped)


@given(st.text(max_size=30))
def test_a_markdown_cell_stays_one_cell(text):
    escaped = markup.markdown_escape(text)
    assert "\n" not in escaped
    assert "<" not in escaped
    assert not re.search(r"(?<!\\)(\\\\)*\|", escaped)


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="no pdflatex on this machine")
@pytest.mark.parametrize("which", ["odd", "stored"])
def test_latex_compiles(which, request, tmp_path):
    tables = tables_of(request.getfixturevalue(which))
    for table in tables:
        (tmp_path / f"{table.name}.tex").write_text(markup.latex(table), encoding="utf-8")
    (tmp_path / "tables.tex").write_text(markup.latex_document(tables), encoding="utf-8")
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "tables.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, errors="replace", check=False)
    assert done.returncode == 0, done.stdout[-2000:]
    assert "Overfull \\hbox" not in done.stdout


def test_markdown_tables_have_equal_columns(stored):
    for table in tables_of(stored):
        rows = [line for line in markup.markdown(table).splitlines() if line.startswith("|")]
        assert len(rows) == len(table.rows) + 2
        assert {len(re.findall(r"(?<!\\)\|", row)) for row in rows} == {len(table.columns) + 1}


def test_looks_are_fixed_by_name_and_differ():
    known = style.looks(["jit", "baseline"])
    assert known["jit"] == style.LOOKS["jit"]
    assert style.looks(["baseline", "jit", "sglang"])["sglang"] == style.looks(["sglang"])["sglang"]
    assert len(set(style.looks([*style.LOOKS, "exllama", "sglang", "gguf"]).values())) == len(style.LOOKS) + 3
    assert len({look.colour for look in style.LOOKS.values()}) == len(style.LOOKS)
    assert sorted(style.ORDER) == sorted(style.LOOKS), "each of them has its place"


@pytest.mark.parametrize("cases", [("transformers_compile", "vllm", "jit_cuda_graph", "mine", "baseline"),
                                   ("vllm_covering", "mine", "vllm")])  # fmt: skip
def test_any_set_of_cases_is_reported_in_an_order_that_their_names_fix(tmp_path, cases):
    titles = {case: f"The case {case}" for case in cases}
    spec = Spec(cases=cases, missing=("mine",), wrong=(), titles=titles, iterations=4, context_ranges=((10, 60),))
    run = load(invent(tmp_path / "run", spec))
    wanted = [titles[case] for case in (*style.ORDER, "mine") if case in cases]
    assert list(run.cases.values()) == wanted
    table = next(table for table in tables_of(run) if table.name == "ttft")
    heads = [column.head.text for column in table.columns]
    assert [head for head in heads if head in wanted] == wanted
    figure = next(plot.figure for plot in plots.plots(run) if plot.name == "ttft")
    drawn = {line.get_color() for line in figure.axes[0].lines}
    assert {style.LOOKS[case].colour for case in cases if case != "mine"} <= drawn


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8).map(sorted))
def test_labels_are_spread_in_order(places):
    moved = spread(places, 0.05)
    assert all(b - a >= 0.05 - 1e-9 for a, b in pairwise(moved))
    if all(b - a >= 0.05 for a, b in pairwise(places)):
        assert moved == pytest.approx(places)


def test_a_figure_without_values_says_why(tmp_path):
    spec = Spec(cases=("jit",), missing=(), wrong=(), lengths=(10,), context=10, context_ranges=())
    run = load(invent(tmp_path / "run", spec))
    drawn = {plot.name: plot for plot in plots.plots(run)}
    assert drawn["ttft"].figure is not None
    assert drawn["decode"].reason == "no case has decode samples"
    assert drawn["speedup"].reason == "there is no case to compare with the baseline"
    assert "no case has decode samples" in write_report(run, tables_of(run)).read_text()
    assert not (tmp_path / "run" / "report" / "decode.png").exists()


def test_the_command_writes_the_report_and_ends_with_its_path(run_dir, capsys):
    assert main([str(run_dir)]) == 0
    printed = capsys.readouterr().out
    assert "JIT+CUDA" in printed
    assert printed.strip().splitlines()[-1] == f"Report: {run_dir / 'report' / 'report.html'}"


def test_terminal_prints_all_tables_and_writes_nothing(run_dir, capsys):
    assert main([str(run_dir), "--terminal"]) == 0
    printed = capsys.readouterr().out
    assert all((table.title in printed) == table.shown for table in tables_of(load(run_dir)))
    assert not (run_dir / "report").exists()


def test_readme_is_filled_between_its_markers(run_dir, tmp_path, capsys):
    readme = tmp_path / "README.md"
    readme.write_text("# Above\n<!-- results:begin -->\nstale words\n<!-- results:end -->\nbelow\n")
    assert main([str(run_dir), "--readme", str(readme)]) == 0
    once = readme.read_text()
    assert "Software: " in once
    assert "of this repository." in once
    assert once.startswith("# Above\n<!-- results:begin -->\nRun `synthetic`")
    assert once.endswith("<!-- results:end -->\nbelow\n")
    assert "stale words" not in once
    assert once.count("### ") == 6
    main([str(run_dir), "--readme", str(readme)])
    assert readme.read_text() == once
    readme.write_text("no markers")
    assert main([str(run_dir), "--readme", str(readme)]) == 2
    assert "needs the markers" in capsys.readouterr().err


def test_a_part_of_another_name_is_brief_and_leaves_the_rest(run_dir, tmp_path, capsys):
    readme = tmp_path / "README.md"
    rest = "<!-- results:begin -->\nmain\n<!-- results:end -->\n"
    readme.write_text(f"{rest}<!-- engines:begin -->\nstale words\n<!-- engines:end -->\nbelow\n")
    assert main([str(run_dir), "--readme", str(readme), "--part", "engines"]) == 0
    text = readme.read_text()
    assert text.startswith(f"{rest}<!-- engines:begin -->\nRun `synthetic`")
    assert text.endswith("<!-- engines:end -->\nbelow\n")
    assert "stale words" not in text
    assert (text.count("### "), text.count("![")) == (2, 1)
    assert main([str(run_dir), "--readme", str(readme), "--part", "floor"]) == 2
    assert "needs the markers <!-- floor:begin -->" in capsys.readouterr().err
    assert main([str(run_dir), "--readme", str(readme), "--part", "a -->"]) == 2
    assert "must be small letters, digits and underscores" in capsys.readouterr().err
    assert readme.read_text() == text
    with pytest.raises(SystemExit):
        main([str(run_dir), "--part", "engines"])
    assert "--readme is not given" in capsys.readouterr().err


def spoil_manifest(run_dir, **changes):
    manifest = json.loads((run_dir / "manifest.json").read_text()) | changes
    kept = {key: value for key, value in manifest.items() if value != "remove"}
    (run_dir / "manifest.json").write_text(json.dumps(kept))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda run: shutil.rmtree(run), "there is no folder"),
        (lambda run: (run / "samples.csv").unlink(), "samples.csv is missing"),
        (lambda run: (run / "manifest.json").write_text("{"), "is not valid JSON"),
        (lambda run: spoil_manifest(run, smoke="remove"), "has no smoke"),
        (
            lambda run: spoil_manifest(run, config={"run": [], "cases": {}, "sweep": {}}),
            "no config.sweep.prompt_lengths",
        ),
        (lambda run: spoil_manifest(run, model=None), "has no model.name"),
        (lambda run: append(run / "p99.csv", "vllm,10,4,1,1,1,1,1,1,perhaps"), "supported is 'perhaps', not True"),
        (lambda run: (run / "p99.csv").write_text(""), "p99.csv is not a readable CSV"),
        (lambda run: (run / "p99.csv").write_text("case,n\na,1,2,3\n"), "p99.csv"),
        (lambda run: (run / "ttft.csv").write_text("case,n\n"), "has no column prompt_length"),
        (lambda run: append(run / "ttft.csv", "jit,10,x"), "line 17: n is 'x', not a number"),
        (lambda run: append(run / "ttft.csv", "jit,10,4"), "two rows with the same case, prompt_length"),
        (lambda run: append(run / "status.csv", "vllm,0,ok"), "names the case vllm"),
    ],
)
def test_bad_input_is_one_sentence_and_exit_code_2(run_dir, capsys, spoil, message):
    spoil(run_dir)
    assert main([str(run_dir)]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.startswith("reports: ")
    assert error.count("\n") == 1


def test_a_misspelt_command_is_told_which_it_may_be(capsys):
    assert main(["compar", "a", "b"]) == 2
    assert capsys.readouterr().err == "reports: compar is no command and no run; did you mean 'compare'?\n"


def test_what_the_file_system_refuses_is_told_by_its_path(run_dir, capsys):
    shutil.rmtree(run_dir / "report", ignore_errors=True)
    (run_dir / "report" / "ttft.csv").mkdir(parents=True)
    assert main([str(run_dir)]) == 2
    assert capsys.readouterr().err == f"reports: {run_dir / 'report' / 'ttft.csv'}: Is a directory\n"


def append(path, line):
    """A row more, its last fields empty."""
    fields = path.read_text().partition("\n")[0].count(",")
    with path.open("a") as file:
        file.write(line + "," * (fields - line.count(",")) + "\n")


def test_two_tables_give_the_same_median():
    """An even number of samples has two middle ones; every table takes the lower."""
    from reports.clocks import clocks_frame
    from reports.run import load

    run = load(STORED)
    clocks = clocks_frame(run).set_index(["case", "prompt_length"])["client_ms"]
    ttft = run.ttft.set_index(["case", "prompt_length"])["p50_ms"]
    assert len(ttft)
    assert (clocks.reindex(ttft.index) - ttft).abs().max() < 1e-9
