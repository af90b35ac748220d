"""Random recipes of every kind, for hypothesis."""

from __future__ import annotations

from hypothesis import strategies as st

from imageshards.recipe import Augment, Recipe

ranges = st.tuples(st.floats(0, 2), st.floats(0, 2)).map(lambda pair: tuple(sorted(pair)))
small_ranges = st.tuples(st.floats(0, 0.5), st.floats(0, 0.5)).map(lambda pair: tuple(sorted(pair)))
positive_ranges = st.tuples(st.floats(0.05, 1), st.floats(0.05, 1)).map(lambda pair: tuple(sorted(pair)))
colors = st.tuples(*[st.integers(0, 255)] * 3)

augments = st.builds(
    Augment,
    copies=st.just(2),
    seed=st.integers(0, 10),
    horizontal_flip=st.floats(0, 1),
    vertical_flip=st.just(0.5),
    rotation_degrees=st.floats(0, 180),
    crop_scale=positive_ranges | st.just((1.0, 1.0)),
    translate=st.floats(0, 1),
    scale=positive_ranges,
    shear_degrees=st.floats(0, 89),
    fill=colors,
    brightness=ranges,
    contrast=ranges,
    saturation=ranges,
    hue=st.floats(0, 0.5),
    blur_sigma=ranges,
    noise_sigma=small_ranges,
)


@st.composite
def recipes(draw: st.DrawFn) -> Recipe:
    """Recipes of every kind, with only those fields that have an effect."""
    fields: dict[str, object] = {
        "fit": draw(st.sampled_from(["center-crop", "letterbox", "stretch"])),
        "interpolation": draw(st.sampled_from(["bilinear", "bicubic", "lanczos", "nearest"])),
        "exact": draw(st.booleans()),
        "denoise": draw(st.sampled_from(["none", "gaussian", "median"])),
        "contrast": draw(st.sampled_from(["none", "equalize", "autocontrast", "clahe"])),
        "color": draw(st.sampled_from(["rgb", "gray", "red", "green", "blue"])),
        "dtype": draw(st.sampled_from(["uint8", "float16", "float32"])),
        "augment": draw(augments | st.just(Augment())),
    }
    if fields["fit"] == "center-crop":
        fields["crop_fraction"] = draw(st.floats(0.01, 1))
    if fields["fit"] == "letterbox":
        fields["fill"] = draw(colors)
    if fields["denoise"] == "gaussian":
        fields["gaussian_sigma"] = draw(st.floats(0.01, 20))
    if fields["denoise"] == "median":
        fields["median_size"] = draw(st.sampled_from([3, 5, 7]))
    if fields["contrast"] == "clahe":
        fields |= {"clahe_clip_limit": draw(st.floats(0.1, 100)), "clahe_tiles": draw(st.integers(1, 64))}
    if fields["color"] != "rgb":
        fields["threshold"] = draw(st.sampled_from(["none", "fixed", "otsu", "adaptive"]))
    if fields.get("threshold") == "adaptive":
        fields["adaptive_block_size"] = draw(st.integers(1, 127)) * 2 + 1
    if fields["dtype"] != "uint8":
        kinds = ["none", "unit", "given", "dataset", *(["imagenet"] if fields["color"] == "rgb" else [])]
        fields["normalize"] = draw(st.sampled_from(kinds))
    if fields.get("normalize") == "given":
        channels = 3 if fields["color"] == "rgb" else 1
        fields |= {"mean": (draw(st.floats(-10, 10)),) * channels, "std": (draw(st.floats(0.001, 1000)),) * channels}
    return Recipe(**fields)
