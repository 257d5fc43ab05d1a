"""Upload one artifact in one commit; the same artifact again makes no other."""

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
    """Where an artifact lies. `is_new` is false when the repository held the same files already."""

    url: str
    is_new: bool


def publish(directory: Path, repository: str, private: bool, token: str, card: str, config: str) -> Commit:
    """Make `repository` if it is not there, and upload `directory` with its card and config as one commit.

    Raises:
        HubError: the hub refuses or cannot be reached; the artifact stays where it is, for the next run.
    """
    api = HfApi(token=token)
    try:
        api.create_repo(repository, private=private, exist_ok=True)
        before = api.repo_info(repository).sha
        with tempfile.TemporaryDirectory() as folder:
            stage = Path(folder)
            for file in sorted(directory.iterdir()):
                if file.is_file() and file.name not in ("README.md", CONFIG_FILE):
                    (stage / file.name).symlink_to(file.resolve())
            (stage / "README.md").write_text(card, encoding="utf-8")
            (stage / CONFIG_FILE).write_text(config, encoding="utf-8")
            commit = api.upload_folder(
                repo_id=repository, folder_path=stage, commit_message="Upload fine-tuned model with its evidence"
            )
    except (httpx2.HTTPError, OSError, RuntimeError) as error:
        raise HubError(_failure(error, repository, directory)) from None
    return Commit(url=commit.commit_url, is_new=commit.oid != before)


def _failure(error: Exception, repository: str, directory: Path) -> str:
    # the client wraps what a storage server answers to a file in a RuntimeError
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
