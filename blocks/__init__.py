"""Configuration and secrets, as Prefect blocks. `prefect block register -m blocks` registers the two."""

from blocks.dataset_store import DatasetStore
from blocks.ray_cluster import RayCluster

__all__ = ["DatasetStore", "RayCluster"]
