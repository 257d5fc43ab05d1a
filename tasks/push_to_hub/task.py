"""Flyte task: publish one artifact, full or quantized, or say why not.

It has no Deck: it runs as the entry of a map, which the console shows without one; the report has its outcome.
"""

from flytekit import task
from flytekit.types.directory import FlyteDirectory

from configs.artifacts import PushedArtifact, repository_of
from configs.schema import FineTuneConfig
from configs.wire import DataReport, Evaluation, Published
from images.specs import CPU_IMAGE, POD_ENVIRONMENT
from tasks.runtime.pods import CPU, local_path
from tasks.runtime.secrets import HUB_TOKEN, HUB_TOKEN_SOURCES, read_hub_token
from tasks.runtime.shown_errors import shows_errors


@task(
    container_image=CPU_IMAGE,
    requests=CPU,
    retries=5,
    secret_requests=[HUB_TOKEN],
    environment=POD_ENVIRONMENT,
)
@shows_errors
def push_to_hub(
    config: FineTuneConfig,
    artifact: PushedArtifact,
    directory: FlyteDirectory,
    data: DataReport,
    base: Evaluation,
    tuned: Evaluation,
    quantized: list[Evaluation],
) -> Published:
    """Upload `directory` with a model card, or return why not: a model that is not better is published only if told so.

    `quantized` are the evaluations of the quantized copies, in the order of `quantize.methods`. Not cached: uploading
    the same files again makes no second commit.
    """
    assert config.push_to_hub.repository is not None
    from configs.errors import HubError
    from tasks.decks.verdict import is_better, why_not_better
    from tasks.push_to_hub import card, upload

    repository = repository_of(config.push_to_hub.repository, artifact)
    objective = config.train.objective
    if config.push_to_hub.only_if_better and not is_better(objective, base.scores, tuned.scores):
        note = (
            f"not pushed to {repository}: {why_not_better(objective, base.scores, tuned.scores)}; "
            "set push_to_hub.only_if_better=false to push it anyway"
        )
        print(note)
        return Published(artifact=artifact, repository=repository, commit_url=None, note=note)
    token = read_hub_token()
    if token is None:
        raise HubError(f"push_to_hub.repository={repository} needs a hub token; looked in {HUB_TOKEN_SOURCES}")
    text = card.model_card(config, artifact, data, card.all_scores(config.quantize.methods, base, tuned, quantized))
    path = local_path(directory)
    commit = upload.publish(path, repository, config.push_to_hub.private, token, text, card.public_config(config))
    note = f"pushed {artifact}: {commit.url}" if commit.is_new else f"{artifact} was pushed before: {commit.url}"
    print(note)
    return Published(artifact=artifact, repository=repository, commit_url=commit.url, note=note)
