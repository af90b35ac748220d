"""Two nights on a real local Ray; an image changes between them.

Usage: python -m tests.imageshards.reuse_program FOLDER IMAGE_ID   prints one JSON line: how many shards there are and
were reused, those that were built, and whether the second version is what an empty store gets.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import ray

from imageshards import plan
from imageshards.ray_driver import RayBackend
from imageshards.sample import SampleSpec
from imageshards.store import open_store
from tests.imageshards.nights import next_source, night
from tests.imageshards.small_dataset import upload_drawn

FOLDER, CHANGED = Path(sys.argv[1]), sys.argv[2]


def main() -> None:
    plan.MAX_SHARD_BYTES = 32 * 32 * 4 * 5
    first = upload_drawn(FOLDER / "first", SampleSpec(per_class=2, median_long_side_px=60, faults=False))
    second = next_source(first, FOLDER / "second", changed=[CHANGED])
    out, empty = open_store(str(FOLDER / "out")), open_store(str(FOLDER / "empty"))
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, object_store_memory=100 << 20)
    night(first, out, backend=RayBackend()).publish()
    after = night(second, out, backend=RayBackend())
    from_nothing = night(second, empty, backend=RayBackend())
    ray.shutdown()
    after.publish()
    told = {"shards": after.result.shards, "reused": after.result.reused, "built": sorted(after.built())}
    print(json.dumps({**told, "same": after.files() == from_nothing.files()}))  # noqa: T201


if __name__ == "__main__":
    main()
