"""Build the images and push them to the registry: `make images`. Flyte's builders do it; here is which, and in words.

Registration does the same for images that its registry lacks. Where neither docker nor the registry can be asked,
flytekit takes an image for built and goes on; here that is an error.
"""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.metadata import PackageNotFoundError

from flytekit.image_spec.image_spec import FLYTE_IMG_FAST_FAIL, ImageBuildEngine

from configs.errors import ConfigError


def build() -> list[str]:
    """Build what the registry lacks, push it, and return the names of all images.

    Raises:
        ConfigError: there is no registry to push to, no builder, or it failed.
    """
    # flytekit reads it when a spec is made
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
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise ConfigError(
                f"IMAGE_BUILDER={BUILDER}: {name} was not built: {reason}\n"
                "is docker running, and are you logged in to the registry? see docs/images.md"
            ) from None
        names.append(name)
    return names


if __name__ == "__main__":
    try:
        print("\n".join(build()))
    except ConfigError as error:
        sys.exit(f"Error: {error}")
