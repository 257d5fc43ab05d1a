"""The model section of a config: the base model, and how its weights are loaded."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from configs.schema.section import Name, Section


class ModelConfig(Section):
    """The base model."""

    name: Name = Field(
        "",
        description="The base model: a hub id, a directory, the address of a folder (s3://bucket/model), or "
        "`embedded:english-to-sql` for the small model that the project makes itself.",
    )
    revision: Name | None = Field(
        None, description="Branch, tag or commit of a hub model; when not set, the default branch."
    )
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        "auto",
        description="Number format in which weights are loaded; `auto` is bfloat16 on a GPU that computes in it, else "
        "float32.",
    )
    attn_implementation: Literal["auto", "eager", "sdpa", "flash_attention_2"] = Field(
        "auto",
        description="Attention kernel; `auto` is flash_attention_2 on a GPU where flash-attn is installed, else sdpa.",
    )
    allow_pickled_weights: bool = Field(
        False, description="Allow weights in `.bin` and `.pt` files. Loading such a file runs any code that it holds."
    )
    trust_remote_code: bool = Field(False, description="Allow the Python code in the model's repository to run.")
