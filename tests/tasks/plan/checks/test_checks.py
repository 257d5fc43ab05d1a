"""Faults that are found before anything is computed: settings, model files, missing data, templates, disk."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from support.resolved import resolve_model

from configs.combinations import fault_of_heads
from configs.embedded.names import EMBEDDED_MODEL, parse_embedded_source
from configs.errors import ArtifactError, ConfigError, DataError, ModelError
from configs.schema import DataConfig, FineTuneConfig, ModelConfig, TrainConfig
from tasks.plan.checks.settings import (
    check_local_processes,
    check_output_directory,
    check_topology,
    read_chat_template,
    read_deepspeed,
)
from tasks.plan.hardware.disk import check_disks, required_disk_bytes
from tasks.plan.hardware.local_gpus import LocalGpu
from tasks.plan.resolve.data import resolve_data


@pytest.fixture
def model(tiny_model: Path, tmp_path: Path) -> Path:
    """A copy of the model that a test may damage."""
    return Path(shutil.copytree(tiny_model, tmp_path / "model"))


def resolve(path: Path | str, **settings: object):
    return resolve_model(ModelConfig(name=str(path), **settings), None)


@pytest.mark.parametrize(
    ("nodes", "processes", "max_nodes"), [(1, 1, 1), (1, 3, 1), (5, 8, 5), ("1:2", 4, 2), ("5:5", 8, 5)]
)
def test_declared_topologies_pass(nodes: int | str, processes: int, max_nodes: int) -> None:
    rows = max_nodes * processes
    check_topology(TrainConfig(nodes=nodes, processes_per_node=processes, batch_size=2 * rows, micro_batch_size=2))


@pytest.mark.parametrize("nodes", [7, "2:3"])
def test_an_undeclared_topology_lists_the_declared_ones(nodes: int | str) -> None:
    with pytest.raises(ConfigError, match=rf"train.nodes={nodes}: .*\(1, 2, .*, 1:8\)\n.*configs/topologies.py"):
        check_topology(TrainConfig(nodes=nodes, processes_per_node=3))


def test_a_batch_that_does_not_divide_names_one_that_does() -> None:
    with pytest.raises(ConfigError, match=r"train.batch_size=30 .* 8 x 2 = 16\nset train.batch_size=32"):
        check_topology(TrainConfig(batch_size=30, micro_batch_size=8, processes_per_node=2))


def test_every_number_of_machines_in_a_range_must_divide_the_batch() -> None:
    # 1, 2, 3, 4, 5 machines of 8: the least common multiple of 8, 16, 24, 32, 40 is 480
    settings = {"nodes": "1:5", "processes_per_node": 8, "micro_batch_size": 4}
    check_topology(TrainConfig(batch_size=480, **settings))
    with pytest.raises(ConfigError, match=r"batch_size=160 .* among 3 machines of 8 .*\nset train.batch_size=480, or"):
        check_topology(TrainConfig(batch_size=160, **settings))
    with pytest.raises(ConfigError, match=r"batch_size=1000 .* among 2, 3 or 4 machines .*\nset train.batch_size=960"):
        check_topology(TrainConfig(batch_size=1000, **settings))


def test_processes_that_share_their_rows_count_once() -> None:
    # four tensor-parallel processes share one model, and so the rows of one process
    check_topology(TrainConfig(method="full", sharding="tensor_parallel", processes_per_node=4, batch_size=8))
    with pytest.raises(ConfigError, match="8 x 4 = 32"):
        check_topology(TrainConfig(method="full", processes_per_node=4, batch_size=8, micro_batch_size=8))


def test_a_run_on_a_laptop_has_one_machine_and_its_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match=r"train.nodes=5 needs a cluster: .*--remote"):
        check_local_processes(TrainConfig(nodes=5))
    check_local_processes(TrainConfig(nodes="1:5", processes_per_node=4))
    gpu = LocalGpu("A10G", "GPU-1", 24 * 10**9, (8, 6))
    monkeypatch.setattr("tasks.plan.checks.settings.local_gpus", lambda: [gpu, gpu])
    check_local_processes(TrainConfig(processes_per_node=2))
    with pytest.raises(ConfigError, match=r"processes_per_node=4 needs 4 GPUs, and this machine has 2\nset it to 2"):
        check_local_processes(TrainConfig(processes_per_node=4))


def test_a_deepspeed_file_is_read_and_checked(tmp_path: Path) -> None:
    file = tmp_path / "mine.json"
    settings = {"sharding": "zero2", "deepspeed": {"config": str(file)}}
    assert read_deepspeed(TrainConfig()) == ""
    with pytest.raises(ConfigError, match=r"train.deepspeed.config=.*mine.json does not exist"):
        read_deepspeed(TrainConfig(**settings))
    file.write_text(json.dumps({"zero_optimization": {"stage": 2}}))
    assert read_deepspeed(TrainConfig(**settings)) == file.read_text()
    file.write_text(json.dumps({"zero_optimization": {"stage": 3}}))
    with pytest.raises(ConfigError, match=r"mine.json"):
        read_deepspeed(TrainConfig(**settings))


def test_a_whole_model_passes_and_its_revision_follows_its_content(model: Path) -> None:
    first = resolve(model)
    assert first.weight_bytes == (model / "model.safetensors").stat().st_size
    assert resolve(model).revision == first.revision
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps({**config, "rope_theta": 5.0}))
    assert resolve(model).revision != first.revision


def test_a_config_without_a_model_says_so() -> None:
    with pytest.raises(ConfigError, match=r"model.name is missing"):
        resolve("")


def test_a_model_without_weights_is_refused(model: Path) -> None:
    (model / "model.safetensors").unlink()
    with pytest.raises(ModelError, match="has no weights"):
        resolve(model)


def test_pickled_weights_are_refused_unless_allowed(model: Path) -> None:
    (model / "model.safetensors").unlink()
    torch.save({}, model / "pytorch_model.bin")
    with pytest.raises(ModelError, match=r"pickled weights only \(pytorch_model.bin\)(.|\n)*allow_pickled_weights"):
        resolve(model)
    assert resolve(model, allow_pickled_weights=True).weight_bytes > 0


@pytest.mark.parametrize("file", ["config.json", "tokenizer_config.json"])
def test_remote_code_is_refused_unless_allowed(file: str, model: Path) -> None:
    content = json.loads((model / file).read_text())
    (model / file).write_text(json.dumps({**content, "auto_map": {"AutoModel": "code.Model"}}))
    with pytest.raises(ModelError, match=r"Python code of its own(.|\n)*trust_remote_code"):
        resolve(model)
    resolve(model, trust_remote_code=True)


def test_a_missing_part_of_the_weights_is_named(model: Path) -> None:
    files = {"a": "model.safetensors", "b": "model-00002-of-00002.safetensors"}
    (model / "model.safetensors.index.json").write_text(json.dumps({"weight_map": files}))
    with pytest.raises(ModelError, match=r"lacks model-00002-of-00002.safetensors, which"):
        resolve(model)


def test_weights_cut_short_are_found_without_loading_them(model: Path) -> None:
    weights = (model / "model.safetensors").read_bytes()
    (model / "model.safetensors").write_bytes(weights[: len(weights) // 2])
    with pytest.raises(ModelError, match="cut short or damaged"):
        resolve(model)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda m: (m / "config.json").unlink(), "has no config.json"),
        (lambda m: (m / "config.json").rename(m / "adapter_config.json"), "holds an adapter, not a model"),
        (lambda m: (m / "config.json").write_text("{"), "not readable JSON"),
        (lambda m: (m / "tokenizer.json").unlink(), "has no tokenizer"),
    ],
)
def test_an_incomplete_model_is_named(damage, message: str, model: Path) -> None:
    damage(model)
    with pytest.raises(ModelError, match=message):
        resolve(model)


def test_names_of_no_model_are_refused_without_a_network() -> None:
    with pytest.raises(ModelError, match="no such directory, and not a hub id"):
        resolve("./models/none")
    with pytest.raises(ModelError, match=EMBEDDED_MODEL):
        resolve("embedded:other")


def sources(path: Path | str) -> list[tuple[str, str]]:
    """Return the name and content hash of each file of a source."""
    [shard] = resolve_data(DataConfig(sources=[{"path": str(path)}]), None).shards
    return [(part.name, part.sha256) for part in shard.ranges]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("none.jsonl", None, "does not exist"),
        ("empty.jsonl", b"", "is empty"),
        ("rows.docx", b"x", "ends in none of .jsonl"),
    ],
)
def test_data_that_cannot_be_read_is_named(name: str, content: bytes | None, message: str, tmp_path: Path) -> None:
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError, match=message) as caught:
        sources(path)
    assert str(caught.value).startswith("data.sources[0].path=")
    # a directory that holds nothing else is refused too
    with pytest.raises(DataError, match="is empty" if name == "empty.jsonl" else "has no file that ends in .jsonl"):
        sources(tmp_path)


def test_a_revision_depends_on_the_names_and_contents_of_files_but_not_on_their_folder(tmp_path: Path) -> None:
    def revision(**files: bytes) -> tuple[tuple[str, str], ...]:
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        folder.mkdir()
        for name, content in files.items():
            (folder / f"{name}.jsonl").write_bytes(content)
        assert (sources(folder / "a.jsonl") == sources(folder)) == (len(files) == 1)
        assert sources(folder) == sources(folder / "*.jsonl")
        return tuple(sources(folder))

    first = revision(a=b"1", b=b"2")
    assert revision(b=b"2", a=b"1") == first
    different = [revision(a=b"1"), revision(a=b"2", b=b"1"), revision(a=b"12", b=b"3"), revision(a=b"1", c=b"2")]
    assert len({first, *different}) == 5


@pytest.mark.parametrize("folder", ["/proc/nope", "{file}"])
def test_an_output_directory_that_cannot_be_written_is_named(folder: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    folder = folder.format(file=tmp_path / "file")
    config = {"model": {"name": "x"}, "data": {"sources": [{"path": "x"}]}}
    with pytest.raises(ConfigError, match=rf"output_directory={folder} cannot be written to"):
        check_output_directory(FineTuneConfig(**config, output_directory=folder))
    check_output_directory(FineTuneConfig(**config, output_directory=str(tmp_path / "new" / "folder")))
    # the folder of the run itself is made by the run
    assert not list((tmp_path / "new" / "folder").iterdir())


def test_names_of_embedded_sources_are_parsed_or_refused() -> None:
    assert parse_embedded_source("embedded:english-to-sql:50") == ("embedded:english-to-sql", 50)
    preferences = "embedded:english-to-sql-preferences"
    assert parse_embedded_source(preferences) == (preferences, 8000)
    for wrong in (
        "embedded:other",
        "embedded:english-to-sql:x",
        "embedded:english-to-sql:0",
        "embedded:english-to-sqlx",
    ):
        with pytest.raises(ConfigError):
            parse_embedded_source(wrong)


def test_too_little_disk_is_an_error_with_both_sizes(tmp_path: Path) -> None:
    free = shutil.disk_usage(tmp_path).free
    check_disks(tmp_path, free // 4, tmp_path / "new" / "outputs", free // 4)
    # on one disk, both have to fit
    for scratch, output in ((free * 2, 0), (0, free * 2), (free * 3 // 5, free * 3 // 5)):
        with pytest.raises(
            ArtifactError, match=r"GiB free; this run writes about .* GiB there\n.*TMPDIR and output_dir"
        ):
            check_disks(tmp_path, scratch, tmp_path / "new" / "outputs", output)


def test_the_output_folders_own_disk_is_checked_too(tmp_path: Path) -> None:
    other = Path("/dev/shm")
    if not other.is_dir() or other.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("this system has no second disk")
    free, scratch_free = (shutil.disk_usage(folder).free for folder in (other, tmp_path))
    check_disks(tmp_path, scratch_free // 2, other / "outputs", free // 2)
    with pytest.raises(ArtifactError, match=f"^{other} has [^\n]*\n.* set output_directory to") as error:
        check_disks(tmp_path, 1, other / "outputs", free * 2)
    assert len(str(error.value).splitlines()) == 2


def test_the_disk_a_run_needs_counts_every_copy() -> None:
    def needed(**settings: object) -> int:
        config = FineTuneConfig(model={"name": "m"}, data={"sources": [{"path": "p"}]}, **settings)
        return required_disk_bytes(1000 * 2**20, config) // 2**20 - 64

    assert needed(train={"method": "full"}, quantize={"methods": []}) == 1000
    assert needed(train={"method": "lora"}, quantize={"methods": []}) == 2000
    assert needed(train={"method": "lora"}, quantize={"methods": ["8bit", "4bit"]}) == 3500


def test_a_chat_template_file_is_read_and_checked(tmp_path: Path) -> None:
    file = tmp_path / "template.jinja"
    assert read_chat_template(None) is None
    with pytest.raises(ConfigError, match=r"^tokenize.chat_template=.*template.jinja does not exist \(looked in "):
        read_chat_template(str(file))
    file.write_text("hello")
    with pytest.raises(ConfigError, match="never reads `messages`"):
        read_chat_template(str(file))
    file.write_text("{% for m in messages %}{% endfor %}")
    assert read_chat_template(str(file)) == file.read_text()


@pytest.mark.parametrize(
    ("batch", "micro", "processes", "fix"),
    [
        # 16 rows are two parts of 8, which 4, 2 and 1 divide
        (16, 6, 2, "set train.batch_size=12, or train.micro_batch_size=4"),
        # no micro-batch divides 16 rows among 3 processes
        (16, 8, 3, "set train.batch_size=24"),
    ],
)
def test_a_batch_that_does_not_divide_names_batch_and_micro_batch_that_do(
    batch: int, micro: int, processes: int, fix: str
) -> None:
    config = TrainConfig(batch_size=batch, micro_batch_size=micro, processes_per_node=processes)
    with pytest.raises(ConfigError) as raised:
        check_topology(config)
    assert str(raised.value).splitlines()[1] == fix


def test_kto_is_not_offered_a_batch_with_passes_of_one_row() -> None:
    config = TrainConfig(objective="kto", batch_size=8, processes_per_node=8)
    with pytest.raises(ConfigError, match=r"divide evenly among 8 processes\nset train.batch_size=16$"):
        check_topology(config)
    # shares of 3 rows: only passes of a single one would divide them
    config = TrainConfig(objective="kto", batch_size=9, micro_batch_size=2, processes_per_node=3)
    with pytest.raises(ConfigError, match=r"set train.batch_size=12$"):
        check_topology(config)


def test_heads_that_tensor_parallelism_cannot_divide_are_found_by_the_plan() -> None:
    model = {"num_attention_heads": 6, "num_key_value_heads": 2}
    assert "does not divide the model's num_key_value_heads=2" in str(fault_of_heads(3, model))
    assert fault_of_heads(2, model) is None


def test_a_file_of_a_setting_has_a_bound_and_may_begin_with_a_mark(tmp_path: Path) -> None:
    path = tmp_path / "template.jinja"
    path.write_bytes(b"\xef\xbb\xbf{{ messages }}")
    assert read_chat_template(str(path)) == "{{ messages }}"
    with path.open("ab") as file:
        file.truncate(2**40)
    with pytest.raises(ConfigError, match=r"^tokenize\.chat_template=.*template\.jinja is larger than 4 MiB; name a"):
        read_chat_template(str(path))
