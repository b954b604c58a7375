"""The preparation: what it finds, and how long each stage of it took."""

from __future__ import annotations

from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from transformers import PreTrainedTokenizerFast

from cases.runtime import provision
from cases.runtime.checkpoint import digest
from cases.runtime.sentence import TEXT, sentence


def test_each_stage_has_its_seconds(tiny_model, tmp_path, monkeypatch):
    ticks = iter([10.0, 12.5, 13.0, 20.0])
    monkeypatch.setattr(provision.time, "perf_counter", lambda: next(ticks))
    monkeypatch.setattr(provision, "calibrate", lambda device, dtype: {"read_bandwidth_tb_s": 0.12345678})
    stages: list[str] = []
    spec = {"model": tiny_model, "device": "cpu", "cache": str(tmp_path), "seed": 7}
    found = provision.provision(spec, lambda stage, detail: stages.append(stage))
    assert found["seconds"] == {"checkpoint": 2.5, "digest": 0.5, "calibrate": 7.0}
    assert stages == list(found["seconds"])
    assert found["read_bandwidth_tb_s"] == 0.1235
    (folder,) = (path for path in tmp_path.iterdir() if path.is_dir())
    assert (found["checkpoint"], found["digest"]) == (str(folder), digest(folder))


def test_the_published_prompt_says_whose_ids_it_has(tmp_path):
    ours = sentence(tmp_path, 32000)
    assert (ours["sentence"][:2], ours["end_id"], ours["sentence_source"]) == ([1, 450], 2, "Llama-2's ids")
    small = sentence(tmp_path, 300)
    assert small["sentence_source"] == "Llama-2's ids modulo 300"
    assert small["sentence"][:2] == [1, 150]
    assert max(small["sentence"]) < 300
    words = {"<unk>": 0, "</s>": 1, **{word: 2 + place for place, word in enumerate(TEXT.split())}}
    model = Tokenizer(WordLevel(words, unk_token="<unk>"))
    model.pre_tokenizer = WhitespaceSplit()
    PreTrainedTokenizerFast(tokenizer_object=model, unk_token="<unk>", eos_token="</s>").save_pretrained(tmp_path)
    theirs = sentence(tmp_path, 300)
    assert theirs == {
        "sentence": [words[word] for word in TEXT.split()], "end_id": 1,
        "sentence_source": "the checkpoint's tokenizer",
    }  # fmt: skip
