"""The published tables and their audit: exact figures on invented rows, and known contradictions of the real ones."""

from __future__ import annotations

import shutil

import pandas as pd
import pytest

from reports.paper import audit, published, runs, tables
from reports.paper.__main__ import main
from reports.paper.audit import Claim, close


@pytest.fixture(scope="module")
def paper():
    return published.read()


def invented(paper, tmp_path, **changes):
    """The published files with other values: `changes` maps (table, quantity, case) of the draft to a value."""
    folder = tmp_path / "paper"
    shutil.copytree(published.PAPER, folder, ignore=shutil.ignore_patterns("report"))
    latency = pd.read_csv(folder / "latency.csv")
    latency["latency_ms"] = latency["case"].map(
        {"baseline": 40.0, "cuda_graph": 30.0, "jit": 20.0, "jit_cuda_graph": 10.0, "tensorrt_llm": 16.0}
    )
    latency.to_csv(folder / "latency.csv", index=False)
    return published.read(folder)


def test_figures_are_recomputed_from_the_rows(paper, tmp_path):
    found = {(claim.source, claim.what): claim.found for claim in audit.audit(invented(paper, tmp_path))}
    assert found["draft", "average TTFT, Baseline"] == 40.0
    assert found["draft", "TTFT, JIT+CUDA over Baseline"] == 4.0
    assert found["readme", "P99, JIT+CUDA over TensorRT-LLM"] == 1.6
    assert found["draft", "TTFT, CUDA Graph over Baseline"] == pytest.approx(40 / 30)
    assert found["readme", "comparisons won by JIT+CUDA"] == 18
    assert found["abstract", "largest reduction of TTFT"] == pytest.approx(37.5)
    assert found["draft", "warm TTFT, max"] == 10.0


def test_what_the_texts_contradict_themselves_in_is_found(paper):
    found = {(claim.source, claim.what): claim for claim in audit.audit(paper)}
    said = found["readme", "TTFT, JIT+CUDA over Baseline"]
    assert (said.holds, round(said.found, 2)) == (False, 1.79)
    assert said.explained == "ratio of the averages that are stated of the draft"
    average = found["draft", "average TTFT, Baseline"]
    assert (average.holds, round(average.found, 2), round(average.difference, 2)) == (False, 59.49, 10.77)
    assert [found[text, "comparisons won by JIT+CUDA"].found for text in ("readme", "draft")] == [9, 10]
    assert found["draft", "comparisons won over TensorRT-LLM"].holds
    assert found["abstract", "largest reduction of TTFT"].holds
    assert "cold starts" in found["abstract", "largest reduction of TTFT"].explained
    assert not found["draft", "ablation, lengths captured of 500"].holds
    assert found["draft", "decode, total"].holds


def test_every_stated_average_speedup_and_count_is_audited(paper):
    claims = audit.audit(paper)
    stated = paper.stated
    counted = stated["quantity"].isin(["average", "comparisons_won", "largest_reduction", "speedup"])
    counted |= stated["table"].str.startswith("speedup_of_") | (stated["table"] == "ttft_warm_summary")
    assert len([claim for claim in claims if claim.what.startswith(("average", "TTFT,", "P99,", "comparisons"))]) == (
        int((stated["quantity"].isin(["average", "comparisons_won"])).sum())
        + int(stated["table"].str.startswith("speedup_of_").sum())
    )
    assert len(claims) >= int(counted.sum())


@pytest.mark.parametrize(
    ("stated", "unit", "found", "agrees"),
    [
        ("1.42", "x", 1.4199, True), ("1.42", "x", 1.43, False), ("66.0", "%", 66.44, True), ("66.0", "%", 66.6, False),
        ("17", "of 18", 17.0, True), ("17", "of 18", 16.0, False),
        ("27.84", "ms", 27.8499, True), ("27.84", "ms", 27.86, False),
    ],
)  # fmt: skip
def test_agreement_is_to_the_last_stated_decimal(stated, unit, found, agrees):
    assert close(stated, unit, found) is agrees
    assert Claim("draft", "x", stated, unit, found, "").holds is agrees


def test_tables_hold_the_published_figures(paper):
    made = {table.name: table for table in tables.tables(paper, runs.Runs())}
    assert len([name for name in made if name.startswith("paper_")]) == 16
    row = [cell.text for cell in made["paper_ttft_readme"].rows[0]]
    assert row == ["10", "88.09", "20.77", "178.96", "24.84", "35.91", "CUDA Graph"]
    assert [cell.text for cell in made["paper_ttft_draft"].rows[-1]][:2] == ["Average", "59.49"]
    assert made["paper_ttft_draft"].rows[3][1].marks == ("1",)
    whole = [cell.text for cell in made["paper_coverage"].rows[0]]
    assert whole[:4] == ["Every length from 1 to 500", "406", "14.42", "13.00"]
    assert [cell.text for cell in made["paper_ablation"].rows[0]][:4] == ["Native Python", "52.43", "1.0", "–"]
    assert [cell.text for cell in made["paper_against_tensorrt_readme"].rows[0]][1:4] == ["24.84", "35.91", "1.45×"]
    assert len(made["paper_combined"].rows) == 18


def test_everything_is_written_and_compiles(tmp_path, capsys):
    (tmp_path / "none").mkdir()
    assert main(["--to", str(tmp_path), "--runs", str(tmp_path / "none")]) == 0
    names = {path.name for path in tmp_path.iterdir()}
    assert {"audit.md", "audit.csv", "audit.tex", "audit_experiments.md", "paper_ttft.png", "paper_decode.pdf"} <= names
    assert ("paper.pdf" in names) == (shutil.which("pdflatex") is not None)
    assert "The published claims" in capsys.readouterr().out


def test_the_committed_audit_is_that_of_the_committed_figures(paper):
    stored = published.PAPER / "report"
    for table in audit.audit_tables(paper):
        assert (stored / f"{table.name}.csv").read_text() == table.csv()


def test_missing_or_wrong_files_are_one_sentence(tmp_path, capsys):
    assert main(["--data", str(tmp_path), "--to", str(tmp_path / "to"), "--runs", str(tmp_path)]) == 2
    assert "latency.csv is missing" in capsys.readouterr().err
    (tmp_path / "latency.csv").write_text("a,b\n1,2\n")
    assert main(["--data", str(tmp_path), "--to", str(tmp_path / "to"), "--runs", str(tmp_path)]) == 2
    assert "has no column source, metric" in capsys.readouterr().err
