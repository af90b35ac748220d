"""`block:NAME`: how a flow parameter names a block, so that no secret ever is a parameter."""

from __future__ import annotations

from typing import TypeVar

from prefect.blocks.core import Block

from imageshards.errors import ConfigError

PREFIX = "block:"

B = TypeVar("B", bound=Block)


def load_block(kind: type[B], reference: str) -> B | None:
    """The block that a reference names; None where the reference is a plain value.

    Raises:
        ConfigError: There is no such block, or it was saved with other fields than it has now.
    """
    if not reference.startswith(PREFIX):
        return None
    name = reference.removeprefix(PREFIX)
    slug = kind.get_block_type_slug()
    try:
        block = kind.load(name, _sync=True)  # type: ignore[call-arg]  # also from a hook, which may run in a loop
    except ValueError as error:  # what Prefect raises for a missing block document
        raise ConfigError(
            f"there is no {slug} block named {name!r}: create it in the Prefect UI, or from the environment with "
            "`python -m blocks.from_environment`"
        ) from error
    except RuntimeError:  # what it raises for one that does not fit; its cause quotes the document
        raise ConfigError(
            f"the {slug} block {name!r} does not fit this version: open it in the Prefect UI and save it anew"
        ) from None
    if not isinstance(block, kind):
        raise ConfigError(f"{reference} is no {slug} block")
    return block
