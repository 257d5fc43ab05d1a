"""Bytes of one GPU while the evaluate task scores a model: without gradients, in the type it is loaded in.

Held-out loss and generation come one after the other, and what one took is gone before the other. Nothing is saved for
a backward pass: of the layers only what one of them makes is there.
"""

from __future__ import annotations

from tasks.plan.memory.jobs import EvaluationJob
from tasks.plan.memory.loss import cache_bytes
from tasks.plan.memory.moments import Moment

# logits of one pass, and the tokens whose logits are made 32-bit at a time: those of tasks/evaluate/likelihood.py
_MOST_LOGITS, _CHUNK_TOKENS = 2**30, 1024

LAYER = "a layer's forward pass in the held-out loss"
HEAD = "the output head in the held-out loss"
LOGITS = "the logits of the held-out loss"
PROMPTS = "the prompts' pass through the layers, their keys and values kept"
ANSWERS = "the end of the generated answers, with all keys and values"


def evaluation_moments(job: EvaluationJob) -> list[Moment]:
    """Return the moments of held-out loss and generation that may be the fullest."""
    shape, size = job.shape, 4 if job.precision == "float32" else 2
    weights = float(size * shape.parameters)
    tokens = job.batch_size * job.length
    # a row alone may have more, rows together not
    counted = max(job.length, min(tokens, _MOST_LOGITS // shape.vocabulary))
    chunk = min(counted, _CHUNK_TOKENS) * shape.vocabulary
    logits = float(counted * shape.vocabulary * size)
    # of the head's input the rows' own, and those of the tokens that count
    hidden = float((tokens + counted) * shape.hidden * size)
    # of a chunk the log-probabilities, and before them the logits in 32 bits where they are not
    log_p = chunk * (4.0 if size == 4 else 8.0)
    found = [
        Moment(LAYER, weights, 0.0, 0.0, activations=_layer_bytes(job, tokens, size)),
        Moment(HEAD, weights, 0.0, 0.0, activations=hidden, logits=logits),
        Moment(LOGITS, weights, 0.0, 0.0, logits=logits + log_p),
    ]
    if not job.new_tokens:
        return found
    prompt = job.length if job.prompt_length is None else job.prompt_length
    width, rows = shape.key_value_width, job.batch_size
    kept = cache_bytes(shape.layers, width, rows, prompt, size)
    whole = cache_bytes(shape.layers, width, rows, prompt + job.new_tokens, size)
    # each token makes the keys, then the values, of a layer anew, one longer
    copied = whole / (2 * shape.layers)
    # of the last position alone: in the model's type and in 32 bits
    words = float(rows * shape.vocabulary * (size + 4))
    prompts = kept + _layer_bytes(job, rows * prompt, size)
    return [
        *found,
        Moment(PROMPTS, weights, 0.0, 0.0, activations=prompts),
        Moment(ANSWERS, weights, 0.0, 0.0, activations=whole + copied, logits=words),
    ]


def _layer_bytes(job: EvaluationJob, tokens: int, size: int) -> float:
    """Return what one layer makes of `tokens`: of the MLP the activated gate, up, and their product, or in attention
    queries, keys, values, and those turned by their position; beside the embeddings, the layer's input, the residual
    stream and the norm's output, and two numbers of each position for each number of a head."""
    shape = job.shape
    mlp = 3 * shape.intermediate
    attention = 4 * shape.query_width + 2 * shape.key_value_width
    beside = 4 * shape.hidden + 2 * shape.query_width // shape.heads
    return float(tokens * size * (beside + max(mlp, attention)))
