"""The steps of a flow, as Prefect tasks: each loads a block, calls one function of imageshards, logs counts."""
