"""Configuration and secrets, as Prefect blocks."""
