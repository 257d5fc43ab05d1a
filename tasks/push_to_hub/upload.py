"""Upload one artifact as one commit. The same artifact again makes no second commit."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

import httpx2
from huggingface_hub import HfApi, constants
from huggingface_hub.errors import HfHubHTTPError

from configs.errors import HubError

CONFIG_FILE = "fine_tune_config.yaml"


@dataclass(frozen=True)
class Commit:
    """Where an artifact is. `is_new` is false where the repository held the same files before."""

    url: str
    is_new: bool


def publish(directory: Path, repository: str, private: bool, token: str, card: str, config: str) -> Commit:
    """Create `repository` if need be, and upload `directory` with its card and config as one commit.

    Raises:
        HubError: the hub refuses or cannot be reached. The artifact stays where it is, for the next run.
    """
    api = HfApi(token=token)
    try:
        api.create_repo(repository, private=private, exist_ok=True)
        before = api.repo_info(repository).sha
        with tempfile.TemporaryDirectory() as folder:
            upload = Path(folder)
            for file in sorted(directory.iterdir()):
                if file.is_file() and file.name not in ("README.md", CONFIG_FILE):
                    (upload / file.name).symlink_to(file.resolve())
            (upload / "README.md").write_text(card, encoding="utf-8")
            (upload / CONFIG_FILE).write_text(config, encoding="utf-8")
            commit = api.upload_folder(
                repo_id=repository, folder_path=upload, commit_message="Upload fine-tuned model with its evidence"
            )
    except (httpx2.HTTPError, OSError, RuntimeError) as error:
        raise HubError(_failure(error, repository, directory)) from None
    return Commit(url=commit.commit_url, is_new=commit.oid != before)


def _failure(error: Exception, repository: str, directory: Path) -> str:
    # the client raises a RuntimeError for the answer of a storage server, which is its cause
    answer = error if isinstance(error, HfHubHTTPError) else error.__cause__
    fix = "run the same command again"
    if isinstance(answer, HfHubHTTPError):
        status = answer.response.status_code
        what = f"answered {status}"
        if status in (401, 403):
            fix = "use a token that may write there"
    else:
        what = f"did not take the upload ({type(error).__name__})"
    return (
        f"push_to_hub.repository={repository}: {constants.ENDPOINT} {what}; {fix}: nothing is trained again\n"
        f"the artifact is kept at {directory}"
    )
