"""A job to give to the driver."""

from __future__ import annotations

import os
from pathlib import Path

from imageshards.index import read_index
from imageshards.job import JobSpec
from imageshards.recipe import Recipe
from imageshards.sample import SampleArchives
from tests.imageshards.built_version import uploaded_archives

SPEC_KEY, RESULT_KEY = "runs/test/spec.json", "runs/test/result.json"


def write_endless_job(folder: Path, sample: SampleArchives) -> list[str]:
    """Upload a sample into a store below the folder and describe a job on it that never ends by itself.

    One of its images is a named pipe that nobody writes to: who reads it waits for ever.

    Returns:
        The driver's arguments.
    """
    info, _, store = uploaded_archives(folder, sample.images, sample.annotations)
    path = store.local_path(read_index(store, info.key, columns=["source_key"])["source_key"][0].as_py())
    assert path is not None
    path.unlink()
    os.mkfifo(path)
    spec = JobSpec(
        dataset=info.dataset,
        index_key=info.key,
        raw_store=store.spec,
        store=store.spec,
        resolutions=(224,),
        recipe=Recipe(),
        result_key=RESULT_KEY,
    )
    store.put(SPEC_KEY, spec.model_dump_json().encode())
    return ["--spec", store.uri(SPEC_KEY)]
