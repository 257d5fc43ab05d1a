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
    except HfHubHTTPError as error:
        status = error.response.status_code
        fix = "use a token that may write there" if status in (401, 403) else "run the same command again"
        raise HubError(_failure(repository, directory, f"answered {status}", fix)) from None
    except (httpx2.HTTPError, OSError) as error:
        fix = "run the same command again"
        raise HubError(_failure(repository, directory, f"cannot be reached ({type(error).__name__})", fix)) from None
    return Commit(url=commit.commit_url, is_new=commit.oid != before)


def _failure(repository: str, directory: Path, what: str, fix: str) -> str:
    return (
        f"push_to_hub.repository={repository}: {constants.ENDPOINT} {what}; {fix}: nothing is trained again\n"
        f"the artifact is kept at {directory}"
    )
