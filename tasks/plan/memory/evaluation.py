"""Counts the bytes of one GPU while the evaluate task scores a model: no gradients, weights in the type as loaded.

The held-out loss and generation run one after the other, and the first frees its memory before the second. Nothing is
saved for a backward pass, so only one layer's activations exist at a time. Of a model that is divided over several GPUs
the count is that of the fullest: its weights, the keys and values of its layers, and one layer's activations and the
logits, which are on one GPU at a time.
"""

from __future__ import annotations

from tasks.plan.memory.division import LargestPart, largest_part
from tasks.plan.memory.jobs import EvaluationJob
from tasks.plan.memory.loss import cache_bytes
from tasks.plan.memory.moments import Moment
from tasks.plan.memory.states import quantized_bytes

# logits in one forward pass, and tokens whose logits are cast to 32 bits at a time: as in tasks/evaluate/likelihood.py
_MOST_LOGITS, _CHUNK_TOKENS = 2**30, 1024

LAYER = "a layer's forward pass in the held-out loss"
HEAD = "the output head in the held-out loss"
LOGITS = "the logits of the held-out loss"
PROMPTS = "the forward pass over the prompts, whose keys and values are kept"
ANSWERS = "the end of the generated answers, with all keys and values"


def evaluation_moments(job: EvaluationJob) -> list[Moment]:
    """Return the moments of held-out loss and generation that may be the peak."""
    loss_length = job.length if job.loss_length is None else job.loss_length
    moments = _loss_moments(job, loss_length) if loss_length else []
    return moments + (_generation_moments(job) if job.new_tokens else [])


def _loss_moments(job: EvaluationJob, length: int) -> list[Moment]:
    shape, size = job.shape, _number_bytes(job)
    weights, tokens = _largest_part(job).weights, job.batch_size * length
    # a single row may exceed the limit; several rows together may not
    scored = max(length, min(tokens, _MOST_LOGITS // shape.vocabulary))
    chunk = min(scored, _CHUNK_TOKENS) * shape.vocabulary
    logits = float(scored * shape.vocabulary * size)
    # the head's input: all tokens of the rows, and a copy of those that are scored
    hidden = float((tokens + scored) * shape.hidden * size)
    # a chunk's log-probabilities, and its logits cast to 32 bits unless they have 32 already
    log_probabilities = chunk * (4.0 if size == 4 else 8.0)
    return [
        Moment(LAYER, weights, 0.0, 0.0, activations=_layer_bytes(job, length), buffers=_dequantized_bytes(job)),
        Moment(HEAD, weights, 0.0, 0.0, activations=hidden, logits=logits),
        Moment(LOGITS, weights, 0.0, 0.0, logits=logits + log_probabilities),
    ]


def _generation_moments(job: EvaluationJob) -> list[Moment]:
    shape, size, part = job.shape, _number_bytes(job), _largest_part(job)
    weights, unpacked = part.weights, _dequantized_bytes(job)
    prompt = job.length if job.prompt_length is None else job.prompt_length
    width, rows = shape.key_value_width, job.batch_size
    prompt_cache = cache_bytes(part.layers, width, rows, prompt, size)
    full_cache = cache_bytes(part.layers, width, rows, prompt + job.new_tokens, size)
    # for each token, the keys and then the values of a layer are copied, one position longer
    copied = full_cache / (2 * part.layers)
    # logits of the last position only, in the model's type and in 32 bits
    last_logits = float(rows * shape.vocabulary * (size + 4))
    prompts = prompt_cache + _layer_bytes(job, prompt)
    return [
        Moment(PROMPTS, weights, 0.0, 0.0, activations=prompts, buffers=unpacked),
        Moment(ANSWERS, weights, 0.0, 0.0, activations=full_cache + copied, logits=last_logits, buffers=unpacked),
    ]


def _largest_part(job: EvaluationJob) -> LargestPart:
    """Return what the fullest GPU holds; layers count as equal."""
    shape, size = job.shape, _number_bytes(job)
    ends = (size * shape.embedding_parameters,) * (1 if shape.is_tied else 2)
    whole = float(size * shape.parameters)
    if job.linear_bits is not None:
        whole += quantized_bytes(shape, job.linear_bits) - size * shape.quantized_parameters
    if job.gpus == 1:
        return LargestPart(whole, shape.layers)
    layer = (whole - sum(ends)) / shape.layers
    return largest_part(layer, shape.layers, ends, job.gpus, job.linear_bits is not None)


def _dequantized_bytes(job: EvaluationJob) -> float:
    """Return the bytes of the largest quantized map, which bitsandbytes dequantizes to compute with it."""
    maps = [linear for linear in job.shape.linear_maps if linear.is_quantized] if job.linear_bits else []
    return float(_number_bytes(job) * max((linear.inputs * linear.outputs for linear in maps), default=0))


def _layer_bytes(job: EvaluationJob, length: int) -> float:
    """Return the largest bytes of one layer's activations for rows of `length` tokens.

    In the MLP these are the activated gate, up, and their product; in attention, the queries, keys and values before
    and after rotation. Beside them there are the embeddings, the layer's input, the residual stream, the norm's output,
    and for each position two numbers per dimension of a head. Eager attention also repeats keys and values for each
    head, and holds the scores and their softmax in 32 bits, for which it first casts scores of 16 bits.
    """
    shape, size = job.shape, _number_bytes(job)
    mlp = 3.0 * size * shape.intermediate
    attention = size * (4.0 * shape.query_width + 2 * shape.key_value_width)
    if job.has_scores:
        attention += size * 2 * shape.query_width + length * shape.heads * (8 if size == 4 else 10)
    always = size * (4 * shape.hidden + 2 * shape.query_width // shape.heads)
    return job.batch_size * length * (always + max(mlp, attention))


def _number_bytes(job: EvaluationJob) -> int:
    return 4 if job.precision == "float32" else 2
