"""Flyte task: quantize a merged model. The work is in the module beside this file."""

from flytekit import Cache, task
from flytekit.types.directory import FlyteDirectory

from configs.schema import ModelConfig, QuantizationMethod
from configs.versions import source_version
from images.pods import ONE_GPU, local_path, scratch_directory
from images.specs import GPU_IMAGE, POD_ENVIRONMENT


@task(
    container_image=GPU_IMAGE,
    requests=ONE_GPU,
    retries=2,
    cache=Cache(version=source_version("tasks/quantize", "tasks/models"), serialize=True),
    environment=POD_ENVIRONMENT,
)
def quantize(method: QuantizationMethod, loading: ModelConfig, model: FlyteDirectory) -> FlyteDirectory:
    """Return a copy of `model` (full precision, merged), quantized to `method`: 8bit or 4bit."""
    from tasks.quantize import bitsandbytes

    output = scratch_directory(f"quantized-{method}")
    bitsandbytes.quantize_model(method, loading, local_path(model), output)
    return FlyteDirectory(str(output))
