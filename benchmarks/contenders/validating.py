"""This package's validation of what a job built."""

from __future__ import annotations

import argparse
from pathlib import Path

from benchmarks.stopwatch import Stopwatch
from imageshards.index import read_index_info
from imageshards.job import JobResult, JobSpec
from imageshards.store import open_store
from imageshards.validate import Subject, validate_version


def main() -> None:
    """Validate the first version."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--spec", type=Path, required=True, help="the job's spec")
    parser.add_argument("--result", type=Path, required=True, help="the job's result")
    options = parser.parse_args()
    spec = JobSpec.from_json(options.spec.read_bytes(), uri=str(options.spec))
    result = JobResult.from_json(options.result.read_bytes())
    raw_store, store = open_store(spec.raw_store), open_store(spec.store)
    with Stopwatch() as stopwatch:
        subject = Subject(
            spec.dataset,
            read_index_info(raw_store, spec.index_key),
            spec.recipe,
            result.versions[0],
            spec.keep_unlisted,
        )
        findings = validate_version(subject, raw_store=raw_store, store=store)
        stopwatch.images = findings.rows
        stopwatch.facts = {"failed": [check.name for check in findings.checks if not check.passed]}


if __name__ == "__main__":
    main()
