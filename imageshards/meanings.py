"""What the names in closed lists mean, for people: repairs, reasons of rejects, rules, kinds of members."""

from __future__ import annotations

from collections.abc import Mapping

from imageshards.decoded import Repair
from imageshards.errors import RejectReason
from imageshards.index import NO_SPLIT_RULE, TOO_LARGE_RULE

REPAIRS: Mapping[str, str] = {
    Repair.MISNAMED: "the name's suffix belongs to another format than the content's",
    Repair.JPEG_WARNING: "libjpeg warned of something that cost no pixel, such as bytes in excess",
    Repair.JPEG_UNCHECKED: "an unusual JPEG that only Pillow reads, which does not tell what libjpeg warned of",
    Repair.DECODER_WARNING: "the decoder warned of something that cost no pixel",
    Repair.KEPT_DAMAGED: "data were lost; the recipe says to keep what is left",
    Repair.FIRST_FRAME: "animated, or of several pages: the first was taken",
    Repair.BILEVEL_TO_RGB: "black and white of one bit, turned into RGB",
    Repair.GRAY_TO_RGB: "gray, turned into RGB",
    Repair.PALETTE_TO_RGB: "colors out of a palette, turned into RGB",
    Repair.CMYK_TO_RGB: "printing colors (CMYK), turned into RGB",
    Repair.YCCK_TO_RGB: "printing colors (YCCK), turned into RGB",
    Repair.YCBCR_TO_RGB: "stored as YCbCr, turned into RGB",
    Repair.LAB_TO_RGB: "stored as CIELAB, turned into RGB",
    Repair.HSV_TO_RGB: "stored as HSV, turned into RGB",
    Repair.DEPTH_SCALED: "more than 8 bits per channel, brought to 8",
    Repair.FLOAT_SCALED: "fractions instead of whole numbers, brought to 8 bits",
    Repair.ICC_TO_SRGB: "converted from its color profile to sRGB",
    Repair.ICC_BROKEN: "its color profile cannot be used: pixels as without one",
    Repair.ALPHA_COMPOSITED: "transparent, put on the recipe's background",
    Repair.EXIF_ORIENTATION: "stored turned or mirrored, made upright; box and trimap with it",
    Repair.HEAD_BOX_CLIPPED: "the annotated head box reached out of the image",
}

REJECTS: Mapping[str, str] = {
    RejectReason.EMPTY: "a file of 0 bytes",
    RejectReason.UNKNOWN_FORMAT: "no image format that is supported",
    RejectReason.UNDECODABLE: "an image that cannot be decoded",
    RejectReason.TRUNCATED: "data are missing or damaged, so that a part of the picture is lost",
    RejectReason.TOO_LARGE: "more pixels than the recipe accepts",
    RejectReason.TOO_SMALL: "it would have to be enlarged, which the recipe refuses",
    RejectReason.BAD_ANNOTATION: "its trimap or head box contradicts the image",
    RejectReason.WORKER_CRASH: "processes that decoded it died, again and again",
}

LEFT_OUT: Mapping[str, str] = {
    NO_SPLIT_RULE: "in neither of the lists trainval and test",
    TOO_LARGE_RULE: "a file larger than the archive reader accepts; counted, not stored",
}

MEMBERS: Mapping[str, str] = {
    "image": "images",
    "trimap": "trimaps",
    "annotation": "lists and head boxes",
    "appledouble": "macOS metadata (._*), ignored",
    "not-an-image": "other files among the images, ignored",
    "duplicate-member": "the same image once more, ignored",
}
