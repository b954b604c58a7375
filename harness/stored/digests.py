"""Digests in the manifest: of the prompts, of the code, and of the run's own files.

A digest beside what it covers shows a slip or an edit by hand; it can't show a forger, who would write both.
"""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from harness.job import Job
from harness.measure.prompts import digest
from harness.output.manifest import REVISION, file_digests, own_digest
from harness.output.provenance import digests_of, text_at
from harness.settings.compose import ROOT
from harness.stored.check import Check, failed, note, ok

MOST_IDS = 50_000_000
"""Token ids of all timed prompts beyond which they are not drawn again."""
WRITERS = ("harness/output/manifest.py", "harness/manifest.py")
"""Where the code that ends a run lies, and lay before."""
WRITTEN = {"files": '"files": file_digests(', "digest": '"digest": own_digest('}
"""How that code, of each commit that has it, writes these keys of a manifest."""
LATER = ("attempts",)
"""Keys that code writes which writes both of these, too: they came after them."""


def check_prompts(job: Job, manifest: Mapping[str, Any]) -> Check:
    """The timed prompts, drawn again from the seed."""
    stored = manifest.get("prompt_digest")
    sentences = [case for case, entry in job.cases.items() if entry.prompt == "sentence"]
    if sentences and not job.sentence:
        return note("prompts", f"{sentences[0]} is asked a sentence whose ids only job.json has: not drawn again")
    if not job.vocab_size and len(sentences) < len(job.cases):
        return note("prompts", "the manifest does not say how large the vocabulary is: not drawn again")
    more = 0 if job.sweep.auto else int(job.sweep.p99_iterations)
    blocks, rounds = max(map(job.blocks_of, job.cases)), job.sweep.ttft_iterations + more
    if blocks * rounds * sum(job.sweep.prompt_lengths) > MOST_IDS:
        return note("prompts", f"more than {MOST_IDS} ids: not drawn again")
    if digest(job) != stored:
        return failed(
            "prompts", "the prompts drawn from the seed have another digest than prompt_digest in manifest.json"
        )
    return ok("prompts", "drawn again from the seed, they have the digest in manifest.json")


@lru_cache(maxsize=64)
def code_of(commit: str, root: Path) -> set[str]:
    """The digests of a commit's code, which never change: several runs may name one commit."""
    return digests_of(commit, root)


def check_code(manifest: Mapping[str, Any], root: Path = ROOT) -> Check:
    """The code of the commit that the manifest names has the digest that it gives."""
    git = manifest.get("git") if isinstance(manifest.get("git"), dict) else {}
    assert isinstance(git, dict)  # noqa: S101  for the type checker
    commit = git.get("same_code_as") or (git.get("sha") if git.get("dirty") is False else None)
    if commit is None:
        return note("code", "the manifest names no commit with the code that ran")
    if not (isinstance(commit, str) and REVISION.fullmatch(commit)):
        return failed("code", f"git.same_code_as in manifest.json is '{str(commit)[:40]}', not a commit")
    try:
        found = code_of(commit, root)
    except (ValueError, OSError, subprocess.SubprocessError):
        return note("code", f"commit {commit[:8]} is not in this checkout: its code is not held against the digest")
    if manifest.get("code_digest") not in found:
        return failed("code", f"the code of commit {commit[:8]} has another digest than code_digest in manifest.json")
    return ok("code", f"that of commit {commit[:8]}, by its digest")


def check_manifest(manifest: Mapping[str, Any], root: Path = ROOT) -> Check:
    """What manifest.json says is what it said at the end of the run."""
    stored = manifest.get("digest")
    if stored is None:
        return absent("manifest", "manifest.json has no digest of itself", "digest", manifest, root)
    if stored != own_digest(manifest):
        return failed("manifest", "manifest.json is not what the run wrote: its digest differs")
    return ok("manifest", "what the run wrote, by its digest")


def check_files(folder: Path, manifest: Mapping[str, Any], root: Path = ROOT) -> Check:
    """Every CSV is the one that the harness wrote at the end of the run, byte for byte."""
    stored = manifest.get("files")
    if stored is None:
        return absent("files", "the manifest has no digest of each CSV", "files", manifest, root)
    if not (isinstance(stored, dict) and all(isinstance(text, str) for text in stored.values())):
        return failed("files", "files in manifest.json is no object of names and digests")
    found = file_digests(folder)
    if lost := sorted(set(stored) - set(found)):
        return failed("files", f"{lost[0][:60]} is missing")
    if changed := sorted(name for name, text in stored.items() if found[name] != text):
        return failed("files", f"{', '.join(changed)} is not the file that the run wrote: its digest differs")
    if added := sorted(set(found) - set(stored)):
        return failed("files", f"{added[0]} came after the run")
    return ok("files", f"all {len(stored)} CSVs are what the run wrote, by their digests")


def absent(title: str, said: str, key: str, manifest: Mapping[str, Any], root: Path) -> Check:
    """A manifest without a key for digests: of an unfinished run, or an older one, or someone took it out."""
    if manifest.get("finished") is None:
        return note(title, f"{said}: the run is unfinished, so an edit by hand may go unseen")
    if proof := written_by(key, manifest, root):
        return failed(title, f"{said}, though the run wrote it: {proof}")
    why = "either the run is older than such digests or they were taken out"
    return note(title, f"{said}: {why}, so an edit by hand may go unseen")


def written_by(key: str, manifest: Mapping[str, Any], root: Path) -> str:
    """What shows that the code of a finished run wrote this key, empty when nothing does."""
    if later := next((other for other in LATER if other in manifest), None):
        return f"the manifest has {later}, which came after such digests"
    git = manifest.get("git")
    named = [git.get("same_code_as"), git.get("sha")] if isinstance(git, dict) else []
    for commit in named:
        if isinstance(commit, str) and REVISION.fullmatch(commit) and writes(key, commit, root):
            return f"the code of commit {commit[:8]}, which the manifest names, writes them"
    return ""


@lru_cache(maxsize=64)
def writes(key: str, commit: str, root: Path) -> bool:
    """Whether a commit's code writes this key at the end of a run; False when the commit is not in this checkout."""
    try:
        return any(WRITTEN[key] in text_at(commit, path, root) for path in WRITERS)
    except (ValueError, OSError, subprocess.SubprocessError):
        return False
