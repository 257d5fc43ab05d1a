"""The quantize section of a config: quantized copies of the tuned model."""

from __future__ import annotations

from pydantic import Field, model_validator

from configs.artifacts import QuantizationMethod, described_quantizations
from configs.schema.section import Section


class QuantizeConfig(Section):
    """Quantized copies of the tuned model."""

    methods: list[QuantizationMethod] = Field(
        ["8bit", "4bit"],
        description=f"Copies to make: {described_quantizations()}; [] makes none.",
    )
    calibration_rows: int = Field(
        128, ge=1, description="Training rows, spread over the whole set, by which `gptq` measures its rounding error."
    )
    min_share: float = Field(
        0.5,
        ge=0.0,
        le=1.0,
        description="Smallest share of the weights of linear layers (without embeddings and output head) that "
        "bitsandbytes must quantize, in copies and in the base of `qlora` and `lora_8bit`.",
    )

    @model_validator(mode="after")
    def _no_repeats(self) -> QuantizeConfig:
        for method in self.methods:
            if self.methods.count(method) > 1:
                raise ValueError(f"methods names {method} twice; name each method once")
        return self
