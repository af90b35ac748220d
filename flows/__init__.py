"""What happens, in which order: the Prefect flows."""
