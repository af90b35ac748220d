"""The flow's parameters as fields of the run form in the Prefect UI: titles, choices and ranges.

Help texts come from the flow's docstring, the order from its signature. Titles go straight into the JSON schema, for
Prefect overwrites a field's own with the parameter's name. Ranges are in the schema alone: the server holds to them
each run that is asked for, by form or API, and `python -m flows.pets` gets the flow's own message.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from imageshards.recipe import Recipe


def _field(title: str, **keywords: Any) -> Any:
    return Field(json_schema_extra={"title": title, **keywords})


def _tab(title: str, **keywords: Any) -> Any:
    """One choice of a field that may be empty: the form shows each as a tab."""
    return _field(title, **keywords)


_Digest = Annotated[str, _tab("Given", pattern="^[0-9a-fA-F]{64}$")] | Annotated[None, _tab("Not given")]
_AtLeastNone = Annotated[int, _tab("At most", minimum=0)] | Annotated[None, _tab("Any number")]
_AtLeastOne = Annotated[int, _tab("The newest", minimum=1)] | Annotated[None, _tab("All")]
_OtherStore = Annotated[str, _tab("Another store")] | Annotated[None, _tab("The same store")]

Resolution = Literal[224, 299, 336, 384, 448, 512, 600]

Images = Annotated[str, _field("Images archive")]
Annotations = Annotated[str, _field("Annotations archive")]
ImagesDigest = Annotated[_Digest, _field("SHA-256 of the images archive")]
AnnotationsDigest = Annotated[_Digest, _field("SHA-256 of the annotations archive")]
StoreReference = Annotated[str, _field("Store")]
RawStoreReference = Annotated[_OtherStore, _field("Store of the raw images")]
Resolutions = Annotated[list[Resolution], _field("Resolutions", minItems=1)]
RayReference = Annotated[str, _field("Ray cluster")]
RecipeForm = Annotated[Recipe, _field("Recipe")]
RejectLimit = Annotated[float, _field("Highest share of rejects", minimum=0, maximum=1)]
LeakLimit = Annotated[_AtLeastNone, _field("Duplicates across splits")]
KeepUnlisted = Annotated[bool, _field("Keep images that are in no split")]
VersionsKept = Annotated[_AtLeastOne, _field("Versions to keep")]
