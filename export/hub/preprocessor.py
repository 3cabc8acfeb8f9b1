"""``preprocessor_config.json``: preprocessing in the format of transformers' CLIPImageProcessor.

transformers.js and fastembed read it, and so does transformers by default when the folder is on a hub. It rounds half
of an odd margin down, whereas timm, which reads ``config.json``, rounds to the even pixel.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from PIL import Image

from zoo.errors import OptionError
from zoo.formats.preprocessing import Preprocessing

_RESAMPLING = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}


def preprocessor_config(preprocessing: Preprocessing) -> dict[str, Any]:
    """Return the preprocessing in that format.

    Raises:
        OptionError: the format cannot express it.
    """
    height, width = preprocessing.input_size
    resized_height, resized_width = preprocessing.resized_size
    size: dict[str, int] = {"height": resized_height, "width": resized_width}
    if preprocessing.crop_mode == "center-floor":
        raise OptionError("Crop mode center-floor is not timm's, so layout hub cannot express it. Use layout files.")
    if preprocessing.crop_mode == "center":
        if resized_height != resized_width:
            raise OptionError(
                f"An input of {height} x {width} pixels with crop mode center has no preprocessor_config.json, which "
                "knows square sizes only. Use a square image_size, or layout files."
            )
        size = {"shortest_edge": resized_height}
    return {
        "image_processor_type": "CLIPImageProcessor",
        "do_convert_rgb": True,
        "do_resize": True,
        "size": size,
        "resample": int(_RESAMPLING[preprocessing.interpolation]),
        "do_center_crop": True,
        "crop_size": {"height": height, "width": width},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(preprocessing.mean),
        "image_std": list(preprocessing.std),
    }


def pillow_tensor(pixels: np.ndarray, config: dict[str, Any]) -> np.ndarray:
    """Preprocess an image with Pillow by the configuration, as fastembed does and transformers nearly does.

    Args:
        pixels: uint8 ``(H, W, 3)``.
        config: what :func:`preprocessor_config` returns.

    Returns:
        float32 ``(3, height, width)``.
    """
    image, size = Image.fromarray(pixels), config["size"]
    if "shortest_edge" in size:
        short, long = sorted(image.size)
        target = (size["shortest_edge"], int(size["shortest_edge"] * long / short))
        width, height = target if image.width <= image.height else target[::-1]
    else:
        width, height = size["width"], size["height"]
    resized = np.asarray(image.resize((width, height), config["resample"]))
    crop = config["crop_size"]
    top, left = (height - crop["height"]) // 2, (width - crop["width"]) // 2
    cropped = resized[top : top + crop["height"], left : left + crop["width"]]
    mean, std = (np.array(config[key], dtype=np.float32) for key in ("image_mean", "image_std"))
    scaled = cropped.astype(np.float32) * np.float32(config["rescale_factor"])
    return np.ascontiguousarray(((scaled - mean) / std).transpose(2, 0, 1))
