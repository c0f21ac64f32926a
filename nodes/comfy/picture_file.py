"""The file behind a picture of Load Image, which ignores colour profiles, transparency and some turns."""

from __future__ import annotations

from pathlib import Path

import folder_paths
from comfy_api.latest import InputImpl
from torch import Tensor

from ...hallo3.errors import PortraitError
from ...hallo3.media.image import FULL_PIXELS, read_picture_file
from ...hallo3.messages import logger
from .workflow import running_node

LOADERS = ("LoadImage", "LoadImageOutput")
MASK_EDITOR = "clipspace"
"""Its files hold a painted mask as their transparency."""
MAX_DIFFERENCE = 2 / 255
"""Mean difference of decoders that read the same pixels; the largest seen was 1.2 / 255, in CMYK."""


def use_picture_file(image: Tensor, picture: Tensor, name: str, *, masked: bool, sized: bool) -> Tensor:
    """``picture`` [3, h, w], made of the IMAGE that the executing node gets as the input ``name``; or the
    picture in the file, as the command reads it, if the IMAGE comes straight from Load Image and is
    demonstrably what that reads from its file, which holds more.

    ``masked``: its transparency is a mask, not for white. ``sized``: a mask or box has the IMAGE's size.
    """
    path = _find_file(name)
    if path is None:
        return picture
    try:
        file = read_picture_file(path, on_white=not masked and MASK_EDITOR not in path.parts)
    except PortraitError as error:
        logger.warning(
            f"Load Image may show {path.name} otherwise than it is. Found: {error.found}. Fix: {error.fix}."
        )
        return picture
    same_size = file.pixels.shape == picture.shape
    alike = same_size and float((file.pixels - picture).abs().mean()) <= MAX_DIFFERENCE
    if (alike and not file.changes) or (sized and not same_size) or not _is_read_from(image, path):
        return picture
    logger.warning(
        f"{path.name} is read from its file, with what Load Image leaves out: "
        f"{', '.join(file.changes) or 'its orientation or all of its parts'}."
    )
    return file.pixels


def _find_file(name: str) -> Path | None:
    """The file of the Load Image node that the executing node's input is linked to."""
    if (running := running_node()) is None:
        return None
    graph, node = running
    file = graph.value_of_source(node, name, LOADERS, "image")
    if not isinstance(file, str) or not folder_paths.exists_annotated_filepath(file):
        return None
    return Path(folder_paths.get_annotated_filepath(file))


def _is_read_from(image: Tensor, path: Path) -> bool:
    """Whether an IMAGE is what Load Image reads from a file. Of a huge one, the link alone says so: it takes
    gigabytes to read."""
    if image.shape[1] * image.shape[2] > FULL_PIXELS:
        return True
    try:
        stored = InputImpl.VideoFromFile(str(path)).get_components().images
    except (OSError, ValueError, RuntimeError):  # read by Load Image in its other way
        return False
    same = stored.shape == image.shape
    return same and float((stored.float() - image.cpu().float()).abs().mean()) <= MAX_DIFFERENCE
