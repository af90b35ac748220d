"""From a raw image archive to validated, versioned, train-ready Parquet shards, every image accounted for."""
