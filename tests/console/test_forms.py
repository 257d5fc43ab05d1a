"""The forms of all launch plans in Flyte's console: filled by a preset, in order, and sent as a person left them."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from flytekit.core.context_manager import FlyteContextManager
from flytekit.core.type_engine import TypeEngine
from flytekit.models.literals import Literal, Scalar
from google.protobuf import json_format
from google.protobuf.struct_pb2 import Struct
from support import console_page
from support.console_dialogs import Form, registered_forms

from configs.errors import ConfigError
from configs.load import PRESETS, load_align_config, load_config
from configs.schema import FineTuneConfig, RunConfig
from configs.schema.align import AlignConfig
from configs.schema.section import Section

FINE_TUNE, ALIGN = "workflows.fine_tune.fine_tune", "workflows.align.align"
DEMO, ALIGN_DEMO = load_config(PRESETS / "demo.yaml"), load_align_config(PRESETS / "align-demo.yaml")
BOXES = ("text", "number", "checkbox", "textarea", "choice")
SOURCE = "root_data_sources_1"
FORMS = registered_forms()
Answer = dict[str, Any]

pytestmark = pytest.mark.slow

# what a person does in the form of fine_tune, one after another, and the name under which the form is read then
EDITS: list[list[str]] = [
    ["open", FINE_TUNE],
    ["type", "root_train_epochs", "3"],
    ["read", "typed"],
    ["type", "root_train_epochs", ""],
    ["read", "emptied"],
    ["type", "root_train_watch_spike_threshold", "0"],
    ["read", "off"],
    ["choose", "root_train_sharding", "zero2"],
    ["choose", "root_train_nodes__anyof_select", "text"],
    ["type", "root_train_nodes", "1:5"],
    ["read", "a range"],
    ["add", "root_data_sources"],
    ["read", "a blank source"],
    ["choose", f"{SOURCE}_path__anyof_select", "list"],
    ["add", f"{SOURCE}_path"],
    ["type", f"{SOURCE}_path_0", "s3://bucket/more.jsonl"],
    ["read", "a second source"],
]
BAD_EDITS: dict[str, list[list[str]]] = {
    "epochs -1": [["type", "root_train_epochs", "-1"]],
    "text in a number": [["type", "root_train_learning_rate", "fast"]],
    "a blank text": [["add", "root_tokenize_new_special_tokens"]],
    "a blank label": [["add", "root_train_cluster_node_selectors"]],
    "no model": [["type", "root_model_name", ""]],
    "letters in a number": [["type", "root_train_batch_size", "many"]],
    "another plan after an edit": [["type", "root_train_epochs", "5"], ["open", "llama-3-1-8b-lora"]],
}
REWARD: list[list[str]] = [
    ["open", ALIGN],
    ["read", "nothing"],
    ["choose", "root_reward__anyof_select", "settings"],
    ["read", "settings"],
    ["type", "root_reward_data_sources_0_path", "embedded:english-to-sql-preferences"],
    ["choose", "root_reward_train_objective", "reward"],
    ["choose", "root_policy_train_objective", "rloo"],
    ["read", "filled"],
]


def dialogs() -> dict[str, Any]:
    """Return all that the browser is to do."""
    played = {}
    for name, form in FORMS.items():
        steps = [step for plan in form.plans for step in (["open", plan], ["read", plan])]
        played[name] = form.dialog(*steps)
    played["edits"] = FORMS[FINE_TUNE].dialog(*EDITS)
    for name, steps in BAD_EDITS.items():
        played[name] = FORMS[FINE_TUNE].dialog(["open", FINE_TUNE], *steps, ["read", name])
    align = FORMS[ALIGN]
    played["reward"] = align.dialog(*REWARD)
    unset = {key: value for key, value in align.plans[ALIGN].items() if key != "reward"}
    without = {key: value for key, value in FORMS[FINE_TUNE].plans[FINE_TUNE].items() if key != "train"}
    incomplete = Form(FORMS[FINE_TUNE].schema, {**FORMS[FINE_TUNE].plans, "incomplete": without})
    played["incomplete"] = incomplete.dialog(["open", "incomplete"], ["open", "llama-3-1-8b-lora"], ["read", "after"])
    played["unset"] = Form(align.schema, {"unset": unset}).dialog(["open", "unset"], ["read", "unset"])
    return played


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    lacking = console_page.missing()
    if lacking is not None:
        pytest.skip(f"the forms cannot be drawn: {lacking}")
    found = console_page.play(dialogs(), tmp_path_factory.mktemp("browser"))
    assert not {name: answer["error"] for name, answer in found.items() if "error" in answer}
    return found


def test_what_is_missing_is_said_in_words(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(console_page, "PACKAGES", tmp_path)
    monkeypatch.setattr("shutil.which", lambda program: f"/usr/bin/{program}")
    assert console_page.missing() == ("the packages of the console's form are not installed; run: make console-form")
    monkeypatch.setattr("shutil.which", lambda program: "/usr/bin/node" if program == "node" else None)
    assert console_page.missing() == "no Chromium is installed"
    monkeypatch.setattr("shutil.which", lambda program: None)
    assert console_page.missing() == "node is not installed"


def received(sent: dict[str, Any], kind: type[RunConfig] = FineTuneConfig) -> Any:
    """Return the config that a run gets from what the form sends."""
    literal = Literal(scalar=Scalar(generic=json_format.Parse(json.dumps(sent), Struct())))
    return TypeEngine.to_python_value(FlyteContextManager.current_context(), literal, kind)


def changed(path: str, value: Any) -> dict[str, Any]:
    """Return the demo's config, as its form holds it, with another value at `path`."""
    content = json.loads(DEMO.model_dump_json())
    place = content
    *parents, last = path.split(".")
    for key in parents:
        place = place[key]
    place[last] = value
    return content


def values(answer: Answer) -> dict[str, Any]:
    """Return what each box and choice of the form holds, as text, by its id."""
    return {box["id"]: box["value"] for box in answer["shown"] if box["kind"] in BOXES}


def as_text(value: Any) -> Any:
    """Return how a box shows a value: a small number without an exponent, a line break not at all."""
    if isinstance(value, float):
        return f"{Decimal(repr(value)):f}".removesuffix(".0")
    return {None: "", "\n": ""}.get(value, value if isinstance(value, bool) else str(value))


def boxes_of(value: Any, id: str = "root") -> Iterator[tuple[str, Any]]:
    """Yield (id, text) of the boxes that hold a config."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from boxes_of(inner, f"{id}_{key}")
    elif isinstance(value, list):
        for number, inner in enumerate(value):
            yield from boxes_of(inner, f"{id}_{number}")
    elif id != "root_reward":
        yield id, as_text(value)


PLANS = [(name, plan) for name, form in FORMS.items() for plan in form.plans]


def test_all_presets_have_a_form() -> None:
    presets = {path.stem.replace(".", "-") for path in PRESETS.glob("*.yaml")}
    assert presets | {f"plan-{preset}" for preset in presets} <= {plan for _, plan in PLANS}
    assert {FINE_TUNE, ALIGN, "workflows.plan.plan", "workflows.prepare_data.prepare_data"} <= {
        name for name, plan in PLANS if name == plan
    }


@pytest.mark.parametrize(("name", "plan"), PLANS)
def test_a_plan_fills_the_form_and_sends_its_preset(name: str, plan: str, answers: dict[str, Any]) -> None:
    """The form was opened on the workflow's own plan, and then on others; nothing may be kept from one to the next."""
    answer, preset = answers[name][plan], FORMS[name].plans[plan]
    assert not answer["is_kept"] and answer["sent"] == preset
    expected = dict(boxes_of(preset))
    choices = {box: text for box, text in values(answer).items() if box.endswith("__anyof_select")}
    assert {box: text for box, text in values(answer).items() if box not in choices} == expected
    path = PRESETS / f"{plan.removeprefix('plan-')}.yaml"
    if path.is_file():
        config = load_align_config(path) if plan.removeprefix("plan-").startswith("align") else load_config(path)
        assert received(answer["sent"], type(config)) == config


def test_an_incomplete_default_would_be_kept_when_another_plan_is_chosen(answers: dict[str, Any]) -> None:
    """So a workflow's own plan needs a whole config; here the page shows that it would notice."""
    answer = answers["incomplete"]["after"]
    assert answer["is_kept"] and answer["sent"]["name"] == "demo"
    # not the demo's 2, nor the preset's
    assert answer["sent"]["train"]["epochs"] == 1


def in_order(kind: type[Section], id: str) -> Iterator[str]:
    """Yield the ids of the fields of a section and of all sections below it, as the classes declare them."""
    for name, field in kind.model_fields.items():
        yield f"{id}_{name}"
        if isinstance(field.annotation, type) and issubclass(field.annotation, Section):
            yield from in_order(field.annotation, f"{id}_{name}")


@pytest.mark.parametrize(("name", "plan"), PLANS)
def test_sections_and_fields_come_in_the_order_of_the_classes(name: str, plan: str, answers: dict[str, Any]) -> None:
    kind = AlignConfig if "align" in name else FineTuneConfig
    declared = list(in_order(kind, "root"))
    # of a union the choice comes first, of a section or list the title
    shown = dict.fromkeys(box["id"].removesuffix("__anyof_select") for box in answers[name][plan]["shown"])
    assert [box for box in shown if box in declared] == declared


def test_what_is_changed_first_comes_first(answers: dict[str, Any]) -> None:
    shown = list(dict.fromkeys(box["id"] for box in answers[FINE_TUNE][FINE_TUNE]["shown"]))
    sections = ["name", "model", "data", "train", "evaluate", "quantize", "push_to_hub", "tokenize", "plan"]
    assert [id for id in shown if id.removeprefix("root_") in sections] == [f"root_{name}" for name in sections]
    first = [id for id in shown if id.startswith("root_train_")][:5]
    assert first == [f"root_train_{name}" for name in ("objective", "method", "epochs", "learning_rate", "batch_size")]


def test_a_union_is_one_choice_and_one_box(answers: dict[str, Any]) -> None:
    seen = set()
    for name, plan in PLANS:
        shown = answers[name][plan]["shown"]
        ids = [box["id"] for box in shown if box["kind"] in BOXES]
        assert len(ids) == len(set(ids))
        for box in shown:
            if box["id"].endswith("__anyof_select"):
                id = box["id"].removesuffix("__anyof_select")
                assert ids.count(id) == (1 if box["value"] in ("text", "number") else 0), id
                seen.add((id.rpartition("_")[2], box["value"]))
    assert seen == {("path", "text"), ("nodes", "number"), ("reward", "nothing"), ("reward", "settings")}


def test_a_typed_value_is_sent_and_nothing_else_changes(answers: dict[str, Any]) -> None:
    assert answers["edits"]["typed"]["sent"] == changed("train.epochs", 3)


def test_an_emptied_field_sends_no_key_so_that_its_default_applies(answers: dict[str, Any]) -> None:
    sent = answers["edits"]["emptied"]["sent"]
    assert "epochs" not in sent["train"]
    # the demo's is 2
    assert received(sent) == received(changed("train.epochs", 1))


def test_zero_turns_off_what_cannot_be_emptied(answers: dict[str, Any]) -> None:
    assert received(answers["edits"]["off"]["sent"]).train.watch.largest_deviation is None


def test_a_choice_of_text_takes_a_range(answers: dict[str, Any]) -> None:
    sent = answers["edits"]["a range"]["sent"]
    assert sent["train"]["nodes"] == "1:5" and received(sent).train.fewest_nodes == 1


def test_an_added_entry_opens_with_its_defaults(answers: dict[str, Any]) -> None:
    answer = answers["edits"]["a blank source"]
    box = {id.removeprefix(SOURCE): value for id, value in values(answer).items() if id.startswith(SOURCE)}
    assert box["_split"] == "train" and box["_format"] == box["_role"] == "auto" and box["_weight"] == "1"
    assert box["_path__anyof_select"] == "text" and box["_path"] == box["_hub"] == box["_columns_prompt"] == ""
    with pytest.raises(ConfigError) as error:
        received(answer["sent"])
    assert str(error.value) == (
        "config: data.sources[1]: names no rows; give exactly one of `path` and `hub`, or remove the entry"
    )


def test_a_filled_entry_is_sent(answers: dict[str, Any]) -> None:
    sources = received(answers["edits"]["a second source"]["sent"]).data.sources
    assert sources[0] == DEMO.data.sources[0] and sources[1].path == ["s3://bucket/more.jsonl"]


@pytest.mark.parametrize("case", ["unset", "nothing"])
def test_no_reward_is_shown_as_nothing(case: str, answers: dict[str, Any]) -> None:
    answer = answers["unset" if case == "unset" else "reward"][case]
    found = {id: value for id, value in values(answer).items() if id.startswith("root_reward")}
    assert found == {"root_reward__anyof_select": "nothing"}
    assert received(answer["sent"], AlignConfig) == ALIGN_DEMO


def test_a_reward_of_settings_opens_a_form_with_defaults(answers: dict[str, Any]) -> None:
    shown = values(answers["reward"]["settings"])
    assert shown["root_reward_train_epochs"] == "1" and shown["root_reward_train_lora_rank"] == "16"
    assert shown["root_reward_data_test_fraction"] == "0.1" and shown["root_reward_data_sources_0_split"] == "train"
    filled = received(answers["reward"]["filled"]["sent"], AlignConfig)
    assert filled.reward is not None and filled.phases() == ["sft", "reward", "policy"]
    content = copy.deepcopy(ALIGN_DEMO.model_dump())
    content["policy"]["train"]["objective"] = "rloo"
    source = {"path": "embedded:english-to-sql-preferences"}
    content["reward"] = {"data": {"sources": [source]}, "train": {"objective": "reward"}}
    assert filled == AlignConfig.model_validate(content)


@pytest.mark.parametrize(
    ("case", "message"),
    [
        ("epochs -1", "train.epochs=-1 is not above 0; raise it"),
        ("text in a number", "train.learning_rate='fast' is not a number; write one with a point, such as 0.0001"),
        (
            "a blank text",
            "tokenize.new_special_tokens[0] is an empty entry; fill it in, or remove it from the list",
        ),
        (
            "a blank label",
            "train.cluster.node_selectors[0]: key and value are missing; they have no default: set them, or remove the "
            "entry",
        ),
    ],
)
def test_bad_input_is_refused_with_one_line(case: str, message: str, answers: dict[str, Any]) -> None:
    with pytest.raises(ConfigError) as error:
        received(answers[case][case]["sent"])
    assert str(error.value) == f"config: {message}"


def test_an_emptied_model_is_refused_by_the_plan(answers: dict[str, Any]) -> None:
    from tasks.plan.resolve.models import find_model

    sent = answers["no model"]["no model"]["sent"]
    assert "name" not in sent["model"]
    with pytest.raises(ConfigError, match=r"^config: model.name is missing; it has no default: set it"):
        find_model(received(sent).model, token=None)


def test_a_box_of_numbers_takes_no_letters(answers: dict[str, Any]) -> None:
    """Chromium empties it, so that the default applies."""
    answer = answers["letters in a number"]["letters in a number"]
    assert values(answer)["root_train_batch_size"] == "" and "batch_size" not in answer["sent"]["train"]


def test_an_edit_is_kept_when_another_plan_is_chosen(answers: dict[str, Any]) -> None:
    """This is the console's: choose the plan first, then edit (docs/cluster.md)."""
    answer = answers["another plan after an edit"]["another plan after an edit"]
    assert answer["is_kept"] and received(answer["sent"]) == received(changed("train.epochs", 5))
    assert values(answer)["root_name"] == "demo"
