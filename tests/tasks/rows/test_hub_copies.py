"""A damaged copy of a hub data set is named, with the command that deletes it. The real client."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from conftest import ROOT
from support.hub_server import HubServer

# loads the data set, and again after each damage to the library's copy; prints what comes
_LOAD = """
import sys
from pathlib import Path
from configs.errors import FineTuneError
from configs.schema import SourceConfig
from tasks.rows.sources import hub_records

def load():
    try:
        print(len(list(hub_records(SourceConfig(hub="owner/rows"), sys.argv[2], None))))
    except FineTuneError as error:
        print(type(error).__name__, error)

load()
for pattern in sys.argv[3:]:
    [path] = Path(sys.argv[1]).rglob(pattern)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    load()
    path.write_bytes(content)
load()
"""


def load(endpoint: str, home: Path, revision: str, *damages: str) -> list[str]:
    environment = os.environ | {"HF_ENDPOINT": endpoint, "HF_HOME": str(home), "HF_HUB_DISABLE_XET": "1"}
    command = [sys.executable, "-c", _LOAD, str(home), revision, *damages]
    result = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=100)
    assert result.returncode == 0, result.stderr
    return result.stdout.splitlines()


def test_a_damaged_copy_is_named_with_its_command(tmp_path: Path) -> None:
    lines = "".join(json.dumps({"prompt": str(n), "completion": "a"}) + "\n" for n in range(20))
    with HubServer(tokens={}) as server:
        server.add_repo("owner/rows", {"train.jsonl": lines.encode()}, repo_type="dataset")
        said = load(server.endpoint, tmp_path, "main", "rows-train.arrow", "dataset_info.json")
    copy = f"delete it: rm -rf {tmp_path}/datasets/owner___rows"
    where = "ArtifactError data set owner/rows: its copy on this machine is damaged"
    assert said == ["20", f"{where} (ArrowInvalid); {copy}", f"{where} (JSONDecodeError); {copy}", "20"]
