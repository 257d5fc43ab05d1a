"""Every objective with every method: it trains, merges and reloads to what was trained, or the config says why not."""

from __future__ import annotations

import hashlib
import os
from itertools import product
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from learning.tasks import LOADING, Run, Tokens, make_model, style_preferences, successors, tokenize, train, words
from peft import PeftModel
from pydantic import ValidationError
from support.token_rows import Row

from configs.combinations import REFUSED
from configs.objectives import Objective
from configs.schema.train import PROMPT_METHODS, QUANTIZED_METHODS, Method, TrainConfig
from tasks.models.load import is_reward_model, load_model, load_reward_model
from tasks.train import fit as fit_module

OBJECTIVES: tuple[Objective, ...] = get_args(Objective)
METHODS: tuple[Method, ...] = get_args(Method)
STEPS = 3
DOCS = Path(__file__).parent.parent.parent / "docs" / "methods.md"
BEGIN, END = "<!-- combinations: made by tests/learning/test_combinations.py -->", "<!-- end of combinations -->"


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def tokens_of(base: Path, tmp_path_factory: pytest.TempPathFactory):
    """Return a function from an objective to the tokens of eight rows of its kind, and of four held-out ones."""
    made: dict[str, Tokens] = {}

    def tokens(objective: Objective) -> Tokens:
        if objective not in made:
            rows = rows_for(objective)
            made[objective] = tokenize(
                objective, base, rows[:8], rows[8:12], tmp_path_factory.mktemp(objective) / "tokens"
            )
        return made[objective]

    return tokens


def rows_for(objective: Objective) -> list[Row]:
    texts = words(12, 4, seed=0)
    if objective == "cpt":
        return [f"{text} {text}" for text in texts]
    if objective in ("dpo", "reward", "kto"):
        return style_preferences(texts)
    return [(text, successors(text)) for text in texts]


class Watched:
    """The trainer of a run, and all its parameters as they were before the first step."""

    trainer: Any = None
    start: dict[str, torch.Tensor]


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> Watched:
    result, make_trainer = Watched(), fit_module.make_trainer

    def make(*arguments: Any, **settings: Any) -> Any:
        result.trainer = make_trainer(*arguments, **settings)
        parameters = result.trainer.model.named_parameters()
        result.start = {name: parameter.detach().clone() for name, parameter in parameters}
        return result.trainer

    monkeypatch.setattr(fit_module, "make_trainer", make)
    return result


def config_for(objective: Objective, method: Method) -> TrainConfig:
    return TrainConfig(
        objective=objective,
        method=method,
        max_steps=STEPS,
        batch_size=4,
        micro_batch_size=4,
        learning_rate=1e-2,
        logging_steps=1,
        lora={"rank": 4, "alpha": 8},
        prompt={"num_virtual_tokens": 4},
        # a random model begins about half of its answers with a letter
        policy={"rewards": [{"kind": "regex", "pattern": "^[a-jA-J]"}], "max_new_tokens": 4},
        watch={"evaluations": 1},
    )


@pytest.mark.parametrize(
    ("objective", "method"), [pair for pair in product(OBJECTIVES, METHODS) if pair not in REFUSED]
)
def test_it_trains_and_what_was_saved_loads_as_what_was_trained(
    objective: Objective, method: Method, base: Path, tokens_of, watched: Watched, tmp_path: Path
) -> None:
    files = digests(base)
    run = train(config_for(objective, method), base, tokens_of(objective), tmp_path)
    assert run.report.steps == STEPS
    assert all(torch.isfinite(torch.tensor(point.loss)) for point in run.report.curve)
    assert_only_the_method_changed(method, watched)
    assert digests(base) == files
    assert is_reward_model(run.model) == (objective == "reward")
    assert_reloads(objective, method, run, base, watched)


@pytest.mark.parametrize(("objective", "method"), REFUSED)
def test_what_does_not_go_together_is_refused_with_the_reason(objective: Objective, method: Method) -> None:
    with pytest.raises(ValidationError) as error:
        TrainConfig(objective=objective, method=method)
    message = error.value.errors()[0]["msg"]
    assert f"train.method={method} with train.objective={objective}" in message
    assert REFUSED[objective, method] in message


def cell(objective: Objective, method: Method) -> str:
    """Return what the two tests above show of a pair: between them they try every one."""
    if (objective, method) in REFUSED:
        return f"refused: {REFUSED[objective, method].partition(';')[0]}"
    return "works"


def test_the_table_in_the_docs_says_what_is_tried_here() -> None:
    rows = [[objective, *(cell(objective, method) for method in METHODS)] for objective in OBJECTIVES]
    lines = [f"| | {' | '.join(METHODS)} |", "|---" * (len(METHODS) + 1) + "|"]
    table = "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows)])
    text = DOCS.read_text(encoding="utf-8")
    before, rest = text.split(f"{BEGIN}\n")
    written, after = rest.split(f"\n{END}")
    if os.environ.get("UPDATE_DOCS"):
        DOCS.write_text(f"{before}{BEGIN}\n{table}\n{END}{after}", encoding="utf-8")
        return
    assert written == table, f"run with UPDATE_DOCS=1, or write to docs/methods.md:\n{table}"


def digests(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}


def assert_only_the_method_changed(method: Method, watched: Watched) -> None:
    """All that is trained has other numbers, and all else, the base under an adapter, the very same."""
    after = dict(watched.trainer.model.named_parameters())
    trained = {name for name, parameter in after.items() if parameter.requires_grad}
    changed = {name for name, parameter in after.items() if not torch.equal(parameter.detach(), watched.start[name])}
    assert changed == trained
    if method == "full":
        assert trained == set(after)
        return
    adapter = {name for name in trained if ("prompt_encoder" if method in PROMPT_METHODS else "lora_") in name}
    # a reward model's head is new, and trained by every method
    assert adapter and all(name.endswith("score.modules_to_save.default.weight") for name in trained - adapter)


@torch.no_grad()
def outputs(model: Any) -> torch.Tensor:
    ids = torch.tensor([[5, 6, 7, 8, 9, 10], [20, 21, 22, 23, 24, 25]])
    return model.eval()(input_ids=ids, attention_mask=torch.ones_like(ids)).logits.float()


def assert_reloads(objective: Objective, method: Method, run: Run, base: Path, watched: Watched) -> None:
    load: Any = load_reward_model if objective == "reward" else load_model
    again = outputs(load(LOADING, run.model))
    if method not in QUANTIZED_METHODS:
        torch.testing.assert_close(again, outputs(watched.trainer.model), atol=1e-4, rtol=1e-4)
        return
    # the adapter is merged into the base as published: the same adapter over it, unmerged, gives the same outputs,
    # and what was trained, over a quantized base, differs from them by less than quantization does
    settings = {"new_head": True} if objective == "reward" else {}
    unmerged = PeftModel.from_pretrained(load(LOADING, base, **settings), run.saved)
    torch.testing.assert_close(again, outputs(unmerged), atol=1e-4, rtol=1e-4)
    error = (again - outputs(watched.trainer.model)).norm() / again.norm()
    assert error < (0.25 if method == "qlora" else 0.03)
