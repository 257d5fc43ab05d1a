"""Publishing through the real client to a hub on loopback: one commit, evidence, no token anywhere."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from pathlib import Path

import pytest
from huggingface_hub import ModelCard
from support.hub_server import HubServer
from support.scored import changed
from support.scored import scores as scored

from configs.artifacts import repository_of
from configs.schema import FineTuneConfig
from configs.wire import DataReport, Scores, SourceCount
from tasks.decks.card import model_card, private_paths, public_config

TOKEN = "hf_write_secret"

PUSH = """
import sys
from pathlib import Path
from tasks.push_to_hub.upload import publish
commit = publish(Path(sys.argv[1]), "me/tuned", True, "{token}", "---\\nlicense: mit\\n---\\n# Card\\n", "name: x\\n")
print(commit.url, commit.is_new)
"""


@pytest.fixture
def config() -> FineTuneConfig:
    return FineTuneConfig(
        model={"name": "/home/alice/models/base"},
        data={"sources": [{"path": "/home/alice/secret/rows.jsonl"}, {"hub": "owner/rows"}]},
        train={"method": "full"},
        push_to_hub={"repository": "me/tuned"},
        output_directory="/home/alice/out",
    )


def scores(loss: float) -> Scores:
    return scored(
        eval_loss=loss,
        perplexity=2.0,
        exact_match=0.5,
        loss_rows=10,
        loss_tokens=100,
        generated_rows=8,
        size_bytes=1000,
    )


DATA = DataReport(
    sources=[SourceCount(source="rows.jsonl", format="prompt_completion", read=12, kept=11, quarantined=1)],
    train_rows=10,
    test_rows=1,
    quarantined_rows=1,
    failures=[],
    samples=[],
    warnings=[],
)


@pytest.fixture
def artifact(tiny_model: Path) -> Path:
    return tiny_model


def push(server: HubServer, artifact: Path, home: Path, token: str = TOKEN, **env: str) -> subprocess.CompletedProcess:
    environment = {"HF_ENDPOINT": server.endpoint, "HF_HOME": str(home), "HF_HUB_DISABLE_PROGRESS_BARS": "1", **env}
    return subprocess.run(
        [sys.executable, "-c", PUSH.format(token=token), str(artifact)],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=300,
    )


def test_the_same_artifact_twice_makes_one_commit(artifact: Path, tmp_path: Path) -> None:
    with HubServer(tokens={TOKEN: "write"}) as server:
        results = [push(server, artifact, tmp_path) for _ in range(2)]
        first, second = (result.stdout.split() for result in results)
        assert first[0].startswith(server.endpoint) and first[1] == "True", results[0].stderr
        assert second[1] == "False", results[1].stderr
        # the hub's own first commit, and ours
        assert len(server.commits("me/tuned")) == 2
        files = server.files("me/tuned")
        assert files["model.safetensors"] == (artifact / "model.safetensors").read_bytes()
        assert {"README.md", "fine_tune_config.yaml", "config.json", "tokenizer.json"} <= set(files)
        assert not any(TOKEN.encode() in content for content in files.values())


@pytest.mark.parametrize("xet", ["0", "1"])
def test_a_broken_push_says_that_the_artifact_is_kept_and_a_second_one_completes(
    xet: str, artifact: Path, tmp_path: Path
) -> None:
    with HubServer(tokens={TOKEN: "write"}) as server:
        server.fail_next("commit", status=418, times=1)
        broken = push(server, artifact, tmp_path, HF_HUB_DISABLE_XET=xet)
        assert broken.returncode == 1
        last = broken.stderr.strip().splitlines()[-1]
        assert f"the artifact is kept at {artifact}" in last
        assert TOKEN not in broken.stderr
        assert push(server, artifact, tmp_path, HF_HUB_DISABLE_XET=xet).stdout.split()[1] == "True"
        assert len(server.commits("me/tuned")) == 2


@pytest.mark.parametrize("xet", ["0", "1"])
@pytest.mark.parametrize("status", [400, 403])
def test_weights_that_do_not_arrive_are_one_error_of_two_lines(
    status: int, xet: str, artifact: Path, tmp_path: Path
) -> None:
    with HubServer(tokens={TOKEN: "write"}) as server:
        server.fail_next("lfs_upload", status=status, times=20)
        broken = push(server, artifact, tmp_path, HF_HUB_DISABLE_XET=xet)
        assert broken.returncode == 1
        error = broken.stderr[broken.stderr.index("configs.errors.HubError: ") :].strip().splitlines()
        assert len(error) == 2
        assert "push_to_hub.repository=me/tuned" in error[0] and "nothing is trained again" in error[0]
        assert len(server.commits("me/tuned")) == 1


def test_a_token_that_may_not_write_is_refused_by_name(artifact: Path, tmp_path: Path) -> None:
    with HubServer(tokens={"hf_read": "read"}) as server:
        result = push(server, artifact, tmp_path, token="hf_read")
        assert "push_to_hub.repository=me/tuned" in result.stderr
        assert "use a token that may write there" in result.stderr
        assert "hf_read" not in result.stderr.replace(PUSH, "")


def test_the_card_carries_evidence_and_no_folders(config: FineTuneConfig) -> None:
    text = model_card(config, "model", DATA, {"base": scores(3.0), "tuned": scores(1.25)})
    card = ModelCard(text)
    assert card.data.datasets == ["owner/rows"]
    results = {r.metric_type: r.metric_value for r in card.data.eval_results}
    assert results == {"loss": 1.25, "perplexity": 2.0, "exact_match": 0.5}
    assert "| base | 3.0000 |" in text and "| tuned | 1.2500 |" in text
    assert "1 quarantined" in text.replace("\n", " ")
    assert "alice" not in text and "secret" not in text
    assert text == model_card(config, "model", DATA, {"base": scores(3.0), "tuned": scores(1.25)})


def test_the_card_names_the_arguments_of_the_chat_template(config: FineTuneConfig) -> None:
    all_scores = {"base": scores(3.0), "tuned": scores(1.0)}
    given = config.tokenize.model_copy(update={"template_arguments": '{"enable_thinking": false}'})
    text = model_card(config.model_copy(update={"tokenize": given}), "model", DATA, all_scores)
    line = (
        '\n- Chat template: given `{"enable_thinking": false}` in training and evaluation; pass the same to '
        "`apply_chat_template`\n\n"
    )
    assert line in text
    plain = model_card(config, "model", DATA, all_scores)
    assert "Chat template" not in plain and "removed as duplicates\n\n## Held-out scores" in plain


def test_the_card_is_the_same_in_whatever_order_the_scores_come(config: FineTuneConfig) -> None:
    """A protobuf map has another order in another process, and a push that is tried again must not commit again."""
    all_scores = {
        "base": scores(3.0),
        "tuned": scores(1.0),
        "quantized_8bit": scores(1.1),
        "quantized_4bit": scores(1.5),
    }
    texts = {model_card(config, "model", DATA, dict(order)) for order in itertools.permutations(all_scores.items())}
    [text] = texts
    lines = [line.split(" ")[1] for line in text.splitlines() if line.startswith("| ")]
    assert lines[-4:] == ["base", "tuned", "quantized_4bit", "quantized_8bit"]


def test_a_quantized_card_shows_its_own_scores(config: FineTuneConfig) -> None:
    all_scores = {"base": scores(3.0), "tuned": scores(1.0), "quantized_4bit": scores(1.5)}
    card = ModelCard(model_card(config, "4bit", DATA, all_scores))
    assert {r.metric_type: r.metric_value for r in card.data.eval_results}["loss"] == 1.5
    assert repository_of("me/tuned", "4bit") == "me/tuned-4bit"
    assert repository_of("me/tuned", "model") == "me/tuned"


def test_a_quantized_card_says_how_much_is_quantized(config: FineTuneConfig) -> None:
    own = scores(1.5).model_copy(update={"quantized_share": 0.975})
    all_scores = {"base": scores(3.0), "tuned": scores(1.0), "quantized_4bit": own}
    words = "97.5% of the weights of its linear layers are quantized"
    assert f"(NF4, bitsandbytes). {words}" in model_card(config, "4bit", DATA, all_scores)
    assert "linear layers" not in model_card(config, "model", DATA, all_scores)


def test_a_card_says_that_models_were_scored_in_4_bits(config: FineTuneConfig) -> None:
    all_scores = {"base": scores(3.0), "tuned": scores(1.0), "quantized_8bit": scores(1.1)}
    in_4_bits = config.model_copy(update={"evaluate": config.evaluate.model_copy(update={"load_in": "4bit"})})
    words = "Base and tuned model were scored with their weights in 4 bits (NF4); their files have more."
    for artifact in ("model", "8bit"):
        assert words in model_card(in_4_bits, artifact, DATA, all_scores)
        assert words not in model_card(config, artifact, DATA, all_scores)


def test_the_public_config_cuts_lists_and_addresses_too(config: FineTuneConfig) -> None:
    sources = [{"path": ["/home/alice/a.jsonl", "https://host/b.csv?key=secret"]}, {"path": "/home/alice/rows/*.jsonl"}]
    data = config.data.model_validate({"sources": sources, "contamination": [{"path": "/home/alice/eval.jsonl"}]})
    text = public_config(config.model_copy(update={"data": data}))
    for name in ("a.jsonl", "b.csv", "'*.jsonl'", "eval.jsonl"):
        assert f" {name}\n" in text
    assert "alice" not in text and "secret" not in text


def test_the_public_config_has_the_last_part_of_each_place(config: FineTuneConfig) -> None:
    values = config.model_dump()
    values["tokenize"]["chat_template"] = "http://user:secret@host/alice/t.jinja?sig=secret"
    values["train"]["tracking"] |= {"tracker": "tensorboard", "folder": "s3://user:secret@bucket/alice/curves"}
    values["train"] |= {"sharding": "zero2", "deepspeed": {"config": "/home/alice/zero.json"}}
    values["push_to_hub"]["revision"] = "a/b/c"
    full = FineTuneConfig.model_validate(values)
    text = public_config(full)
    for name in ("chat_template: t.jinja", "folder: curves", "config: zero.json", "name: base", "revision: a/b/c"):
        assert f" {name}\n" in text
    assert "alice" not in text and "secret" not in text
    assert {"/home/alice/zero.json", "/home/alice/models/base", "/home/alice/out"} <= set(private_paths(full))
    assert not any("secret@" in path for path in private_paths(full))


def test_the_public_config_keeps_settings_and_cuts_paths(config: FineTuneConfig) -> None:
    text = public_config(config)
    assert "method: full" in text and "rows.jsonl" in text and "owner/rows" in text
    assert "/home" not in text


@pytest.mark.parametrize(
    ("method", "words"),
    [
        ("lora", "The LoRA adapter alone; load it over the base model with peft."),
        ("qlora", "The LoRA adapter alone, trained over a 4-bit base (QLoRA); load"),
        ("lora_8bit", "The LoRA adapter alone, trained over an 8-bit base; load"),
        ("prompt_tuning", "The virtual tokens that prompt tuning trained, and no weight of the base; load"),
        ("prefix_tuning", "The keys and values of virtual tokens that prefix tuning trained, and no weight"),
    ],
)
def test_an_adapters_card_says_what_was_trained(method: str, words: str, config: FineTuneConfig) -> None:
    train = config.train.model_copy(update={"method": method})
    text = model_card(
        config.model_copy(update={"train": train}), "adapter", DATA, {"base": scores(3.0), "tuned": scores(1.0)}
    )
    assert words in text
    card = ModelCard(text)
    assert (card.data.library_name, card.data.pipeline_tag) == ("peft", "text-generation")
    assert {"sft", method} <= set(card.data.tags)
    assert ("LoRA" in text.split("## Configuration")[0]) == ("lora" in method)


def test_a_reward_models_card_is_of_a_classifier_with_its_preferences(config: FineTuneConfig) -> None:
    train = config.train.model_copy(update={"objective": "reward"})
    preferred = {"preference_accuracy": 0.875, "preference_margin": 1.25}
    none = {"eval_loss": None, "perplexity": None, "exact_match": None, "loss_rows": 0, "loss_tokens": 0}
    tuned = changed(scores(1.0), **none, **preferred, is_of_reward_model=True)
    text = model_card(config.model_copy(update={"train": train}), "model", DATA, {"base": scores(3.0), "tuned": tuned})
    card = ModelCard(text)
    assert card.data.pipeline_tag == "text-classification"
    assert {result.task_type for result in card.data.eval_results} == {"text-classification"}
    assert {r.metric_type: r.metric_value for r in card.data.eval_results} == preferred
    assert "The reward model in full precision. It yields one score" in text
    assert "- Objective: reward, reward model (Bradley-Terry)" in text
    assert "| tuned | - | - | - | 87.5% | 1.2500 |" in text and "| base | 3.0000 | 2 | 50.0% | - | - |" in text
    assert "Preferences compare the score of wanted and unwanted answers." in text
    assert "Loss and perplexity" not in text


def test_rewards_and_preferences_are_in_table_and_metadata_where_they_are_known(config: FineTuneConfig) -> None:
    plain = model_card(config, "model", DATA, {"base": scores(3.0), "tuned": scores(1.0)})
    assert "| model | loss | perplexity | exact match |\n|" in plain and "Preferences" not in plain
    tuned = scores(1.0).model_copy(update={"mean_reward": 0.5})
    text = model_card(config, "model", DATA, {"base": scores(3.0), "tuned": tuned})
    assert "| model | loss | perplexity | exact match | mean reward |" in text
    assert "| tuned | 1.0000 | 2 | 50.0% | 0.5000 |" in text
    assert {r.metric_type: r.metric_value for r in ModelCard(text).data.eval_results}["mean_reward"] == 0.5


LICENSE = {"license": "other", "license_name": "llama3", "license_link": "https://example.org/license"}


def test_the_metadata_say_where_the_model_comes_from(config: FineTuneConfig) -> None:
    on_hub = config.model_copy(update={"model": config.model.model_copy(update={"name": "owner/base"})})
    all_scores = {"base": scores(3.0), "tuned": scores(1.0), "quantized_8bit": scores(1.1)}
    for artifact, relation, library in (
        ("model", "finetune", "transformers"),
        ("adapter", "adapter", "peft"),
        ("8bit", "quantized", "transformers"),
    ):
        given = on_hub.model_copy(update={"train": on_hub.train.model_copy(update={"method": "lora"})})
        text = model_card(given, artifact, DATA, all_scores, LICENSE, "0123abcd")
        data = ModelCard(text).data.to_dict()
        assert data["base_model"] == "owner/base" and data["base_model_relation"] == relation
        assert {key: data[key] for key in LICENSE} == LICENSE
        assert (data["library_name"], data["pipeline_tag"]) == (library, "text-generation")
        assert "- Base model: `owner/base`, revision `0123abcd`" in text
        [entry] = data["model-index"]
        assert entry["name"] == repository_of("me/tuned", artifact).split("/")[1] and len(entry["results"]) >= 1
    # a base of this machine has no address
    local = ModelCard(model_card(config, "model", DATA, all_scores, {}, "0123abcd"))
    assert "base_model" not in local.data.to_dict()
    assert "`base`, which is on no hub; the hash of its files is `0123abcd`" in str(local)


def test_the_card_says_how_to_use_the_model(config: FineTuneConfig, artifact: Path) -> None:
    all_scores = {"base": scores(3.0), "tuned": scores(1.0)}
    text = model_card(config, "model", DATA, all_scores, {}, "", "Ask it so.")
    assert "\n\n## Use\n\nAsk it so.\n\n## Held-out scores" in text
    # a run that is not pushed has a README too
    unpushed = config.model_copy(update={"push_to_hub": config.push_to_hub.model_copy(update={"repository": None})})
    assert f"\n# {config.name}\n" in model_card(unpushed, "model", DATA, all_scores)
