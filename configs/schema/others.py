"""The settings of other models that answer the same rows, such as the one that a tuned model is to replace."""

from __future__ import annotations

from pydantic import Field, model_validator

from configs.schema.measures import check_server
from configs.schema.section import Name, Section

_OWN_NAMES = ("base", "sft", "tuned", "few_shot", "chance", "reward_model")
"""Names of the models of a run, which no other model may have."""


class OtherModelConfig(Section):
    """Another model whose answers and scores stand beside those of base and tuned model.

    It is a model, an adapter for the run's own base model, or a model behind an OpenAI-compatible endpoint, which gives
    answers and no losses. The endpoint's key comes from the secret `endpoint/api_key`.
    """

    title: str = Field(
        pattern=r"^[a-z][a-z0-9_]{0,30}$", description="Its name in tables and gate rules, such as `previous`."
    )
    model: Name = Field("", description="Folder, address or hub id of a model, which is scored with its own tokenizer.")
    adapter: Name = Field(
        "", description="Folder, address or hub id of an adapter (peft), which is merged into the run's base model."
    )
    endpoint: str | None = Field(None, description="Address of an API, such as https://host/v1.")
    revision: str | None = Field(None, description="Branch, tag or commit of a model or adapter of the hub.")
    endpoint_model: str = Field("", description="Name of the model at the endpoint.")
    max_calls: int = Field(
        2000, ge=1, description="Most calls to the endpoint in one run; on a laptop, cached answers cost none."
    )
    concurrency: int = Field(4, ge=1, le=64, description="Calls to the endpoint at the same time.")
    timeout_seconds: float = Field(60.0, gt=0.0, le=600.0, description="Longest wait for one answer, in seconds.")

    @property
    def node(self) -> str:
        """Its title as a part of a node's name."""
        return self.title.replace("_", "-")

    @model_validator(mode="after")
    def _one_place(self) -> OtherModelConfig:
        if self.title in _OWN_NAMES or self.title.startswith("quantized"):
            raise ValueError(f"title={self.title} is the name of a model of this run; choose another")
        if sum(map(bool, (self.model, self.adapter, self.endpoint))) != 1:
            raise ValueError(f"{self.title}: give exactly one of `model`, `adapter` and `endpoint`")
        if self.endpoint is not None:
            check_server("endpoint", self.endpoint)
            if not self.endpoint_model:
                raise ValueError(f"{self.title}: `endpoint` needs `endpoint_model`, the name of the model there")
            if self.revision:
                raise ValueError(f"{self.title}: `revision` is for `model` and `adapter`; remove it")
        elif self.endpoint_model:
            raise ValueError(f"{self.title}: `endpoint_model` is read with `endpoint`; remove it")
        return self
