"""Builds the images and pushes them to the registry, for `make images`. Flyte's builders do the work.

Registration does the same for images that the registry lacks. But if neither docker nor the registry answers, flytekit
assumes that the image was built; here that is an error.
"""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.metadata import PackageNotFoundError

from flytekit.image_spec.image_spec import FLYTE_IMG_FAST_FAIL, ImageBuildEngine

from configs.addresses import first_line
from configs.errors import ConfigError
from configs.printable import print_text


def build() -> list[str]:
    """Build and push the images that the registry lacks; return the names of all images.

    Raises:
        ConfigError: no registry is set, there is no builder, or the build failed.
    """
    # flytekit reads this variable when an ImageSpec is constructed
    os.environ[FLYTE_IMG_FAST_FAIL] = "TRUE"
    from images.specs import BUILDER, IMAGES

    if not os.environ.get("IMAGE_REGISTRY"):
        raise ConfigError(
            "IMAGE_REGISTRY is not set; name a registry to push to, such as ghcr.io/me, or localhost:30000 (sandbox)"
        )
    names = []
    for image in IMAGES.values():
        name = image.image_name()
        try:
            ImageBuildEngine.build(image)
        except (RuntimeError, AssertionError, PackageNotFoundError, OSError, subprocess.CalledProcessError) as error:
            reason = first_line(error)
            raise ConfigError(
                f"IMAGE_BUILDER={BUILDER}: {name} was not built: {reason}\n"
                "is docker running, and are you logged in to the registry? see docs/images.md"
            ) from None
        names.append(name)
    return names


if __name__ == "__main__":
    try:
        print_text("\n".join(build()))
    except ConfigError as error:
        sys.exit(f"Error: {error}")
