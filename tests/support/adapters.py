"""Adapters as peft saves them: low rank, with weights that change what the model says."""

from __future__ import annotations

from pathlib import Path


def save_adapter(model: Path, folder: Path, scale: float = 0.5) -> Path:
    """Save an adapter for the model in `model` to `folder`, without a tokenizer, and return `folder`."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(1)
    wrapped = get_peft_model(
        AutoModelForCausalLM.from_pretrained(model), LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM")
    )
    with torch.no_grad():
        for name, weight in wrapped.named_parameters():
            if "lora_B" in name:
                weight.normal_(std=scale)
    wrapped.save_pretrained(folder)
    return folder
