"""The embedded base model: a small Llama, pretrained in seconds on a CPU, that knows the demo's text but not its task.

It sees unlabelled questions and SQL statements, never a question with its answer. Before fine-tuning its exact match is
zero, so the demo's scores come from fine-tuning alone.
"""

from __future__ import annotations

from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from tqdm import tqdm
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast, get_cosine_schedule_with_warmup

from tasks.models.quiet import quiet_libraries

END, PAD = "<|endoftext|>", "<|pad|>"
_VOCABULARY = 1024
_POSITIONS = 1024
# a block holds a few related lines, so that the model learns to copy names and numbers from earlier lines
_BLOCK_TOKENS = 128
_LINES_PER_DOCUMENT = 4
_BLOCKS_PER_STEP = 8
_STEPS = 100
# by trial: higher rates diverge at this size, lower ones learn too little in 100 steps
_LEARNING_RATE = 3e-3
_WEIGHT_DECAY = 0.1


def make_base_model(lines: list[str], directory: Path, seed: int, num_steps: int = _STEPS) -> None:
    """Write a tokenizer and a pretrained model of about 0.7 million parameters to `directory`.

    Args:
        lines: Unlabelled text, one sentence or statement a line; neighbouring lines may be related.
        directory: Where safetensors, configuration and tokenizer are written.
        seed: Of the initial weights and of the order of blocks; equal seeds give equal weights on one machine.
        num_steps: Optimizer steps, each of 8 blocks of 128 tokens.
    """
    quiet_libraries()
    tokenizer = make_tokenizer(lines)
    torch.manual_seed(seed)
    model = LlamaForCausalLM(_architecture(tokenizer))
    _pretrain(model, _blocks(lines, tokenizer), seed, num_steps)
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)


def make_tokenizer(lines: list[str]) -> PreTrainedTokenizerFast:
    """Return a byte-level BPE tokenizer of 1,024 tokens, trained on `lines`; it encodes any text without loss."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=_VOCABULARY,
        special_tokens=[PAD, END],
        # all 256 bytes, also those that the lines lack
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(lines, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        eos_token=END,
        clean_up_tokenization_spaces=False,
        model_max_length=_POSITIONS,
    )


def _architecture(tokenizer: PreTrainedTokenizerFast) -> LlamaConfig:
    return LlamaConfig(
        vocab_size=len(tokenizer),
        # multiples of 64: the block size of 4-bit quantization
        hidden_size=128,
        intermediate_size=512,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=_POSITIONS,
        tie_word_embeddings=True,
        # the usual 0.02 suits hidden sizes of thousands
        initializer_range=0.06,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )


def _blocks(lines: list[str], tokenizer: PreTrainedTokenizerFast) -> torch.Tensor:
    """Return [blocks, 128] token ids: documents of a few lines, concatenated; an incomplete last block is left out."""
    documents = [
        "\n".join(lines[start : start + _LINES_PER_DOCUMENT]) + END
        for start in range(0, len(lines), _LINES_PER_DOCUMENT)
    ]
    ids = [token for encoded in tokenizer(documents)["input_ids"] for token in encoded]
    num_blocks = len(ids) // _BLOCK_TOKENS
    return torch.tensor(ids[: num_blocks * _BLOCK_TOKENS]).view(num_blocks, _BLOCK_TOKENS)


def _pretrain(model: LlamaForCausalLM, blocks: torch.Tensor, seed: int, num_steps: int) -> None:
    """Train on the blocks in random order, on every token, with AdamW and a cosine schedule."""
    generator = torch.Generator().manual_seed(seed)
    epochs = -(-num_steps * _BLOCKS_PER_STEP // len(blocks))
    order = torch.cat([torch.randperm(len(blocks), generator=generator) for _ in range(epochs)])
    optimizer = torch.optim.AdamW(model.parameters(), lr=_LEARNING_RATE, weight_decay=_WEIGHT_DECAY, fused=True)
    schedule = get_cosine_schedule_with_warmup(optimizer, max(1, num_steps // 10), num_steps)
    model.train()
    for step in tqdm(range(num_steps), desc="pretrain", unit="step", disable=None):
        batch = blocks[order[step * _BLOCKS_PER_STEP : (step + 1) * _BLOCKS_PER_STEP]]
        model(input_ids=batch, labels=batch).loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
