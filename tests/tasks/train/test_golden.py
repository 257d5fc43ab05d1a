"""Loss curves of every objective with a fixed seed, beside the values of an earlier run.

`golden.json` was made by this test with GOLDEN=write on a CPU in 32 bits, with one thread; two give the same. The
tolerance is for other CPUs and other versions of PyTorch, which add in another order: a change of the data's order, the
masks, a formula or a default of a library is far above it. RLOO and GRPO sample: a probability that differs in the last
bit can choose another token, so that on other hardware their curves may have to be written anew.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

GOLDEN = Path(__file__).with_name("golden.json")
RELATIVE, ABSOLUTE = 5e-4, 2e-5
POLICY = {
    "rewards": [{"kind": "regex", "pattern": "[a-m]"}, {"kind": "exact_match", "weight": 2.0}],
    "max_new_tokens": 6,
    "num_generations": 4,
}
CASES: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    "sft": ({"method": "full"}, ()),
    "cpt": ({"method": "lora", "lora": {"rank": 4}, "learning_rate": 1e-2}, ()),
    "dpo": ({"method": "full"}, ("rewards/margins",)),
    "kto": ({"method": "full", "kto": {"undesirable_weight": 1.5}}, ()),
    "reward": ({"method": "full"}, ("accuracy",)),
    "rloo": ({"method": "full", "batch_size": 8, "policy": POLICY}, ("reward", "kl")),
    "grpo": ({"method": "lora", "learning_rate": 1e-2, "batch_size": 8, "policy": POLICY}, ("reward", "kl")),
}


@pytest.mark.parametrize("objective", CASES)
def test_the_curves_of_a_fixed_seed_are_those_of_before(objective: str, train: Any, texts: Path) -> None:
    settings, names = CASES[objective]
    defaults = {"objective": objective, "micro_batch_size": 2, "max_steps": 6, "learning_rate": 2e-3, "seed": 11}
    tokens = texts if objective == "cpt" else None
    report, _ = train("out", tokens, **{**defaults, **settings})
    curves = {"grad_norm": [point.grad_norm for point in report.curve]}
    if objective != "rloo":
        # RLOO's loss is the sum of its advantages: 0 but for rounding
        curves["loss"] = [point.loss for point in report.curve]
    curves |= {series.name: series.values for series in report.series if series.name in names}
    assert set(names) <= curves.keys()
    stored = json.loads(GOLDEN.read_text(encoding="utf-8")) if GOLDEN.exists() else {}
    if os.environ.get("GOLDEN") == "write":
        stored[objective] = {name: [float(f"{value:.7g}") for value in values] for name, values in curves.items()}
        GOLDEN.write_text(json.dumps(stored, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    for name, values in curves.items():
        assert len(values) == 6
        assert len(set(values)) > 1, f"{name} does not move"
        assert values == pytest.approx(stored[objective][name], rel=RELATIVE, abs=ABSOLUTE), name
