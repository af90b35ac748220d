"""A manifest of a dataset that is nowhere, for tests of how manifests are stored."""

from __future__ import annotations

from typing import Any

from imageshards.manifest import Manifest


def manifest(**changes: Any) -> Manifest:
    content = {
        "dataset": "pets",
        "resolution": 224,
        "fingerprint": "f" * 32,
        "sources": {"images": {"url": "https://example.org/i.tar.gz", "sha256": "a" * 64, "size_bytes": 9}},
        "index": "raw/pets/index/a.parquet",
        "index_digest": "b" * 64,
        "raw_store": "s3://raw/prefix",
        "recipe": {"fit": "center-crop"},
        "recipe_fingerprint": "c" * 64,
        "dtype": "uint8",
        "channels": 3,
        "encoding": "raw",
        "class_names": ["Abyssinian", "beagle"],
        "images": 4,
        "samples": 2,
        "rows": 2,
        "splits": {"trainval": 2},
        "classes": {"trainval": {"Abyssinian": 1, "beagle": 1}},
        "rejects": {"truncated": 1},
        "left_out": {"no-split": 1},
        "repairs": {"misnamed": 1},
        "members": {"image": 4},
        "pixels": {"mean": [1.5, 2.5, 3.5], "std": [0.1, 0.2, 0.3]},
        "shards": [
            {
                "path": "shards/pets/224/f/trainval-00000.parquet",
                "split": "trainval",
                "rows": 2,
                "size_bytes": 99,
                "sha256": "d" * 64,
                "inputs": "e" * 64,
            }
        ],
        "checks": [{"name": "accounting", "passed": True, "expected": "4", "found": "4", "examples": []}],
        "created_at": "2026-01-02T03:04:05+00:00",
        "software": {"pillow": "13.0.0"},
    }
    return Manifest.model_validate(content | changes)
