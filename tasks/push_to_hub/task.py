"""Flyte task: publish one artifact, full or quantized, or say why not.

It has no Deck: it runs as the entry of a map, which the console shows without one; the report has its outcome.
"""

from flytekit import task
from flytekit.types.directory import FlyteDirectory

from configs.artifacts import PushedArtifact, repository_of, scores_name
from configs.printable import print_line
from configs.schema import FineTuneConfig
from configs.wire import DataReport, Evaluation, Published
from configs.wire_evidence import Verdict
from images.specs import CPU_IMAGE, POD_ENVIRONMENT
from tasks.runtime.artifacts import address_of, local_path
from tasks.runtime.pods import CPU
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
    verdict: Verdict,
    base_revision: str,
    approvals: list[bool],
) -> Published:
    """Upload `directory` with a model card, or return why not: what is not better is published only if told so.

    `quantized` are the evaluations of the quantized copies, in the order of `quantize.methods`; `base_revision` is the
    commit of the base, or the hash of its files. `approvals` has the answer of the person who was asked; empty if
    nobody was. Not cached: uploading the same files again makes no second commit.
    """
    assert config.push_to_hub.repository is not None
    from configs.errors import HubError
    from tasks.decks import card
    from tasks.decks.readme import artifact_readme
    from tasks.push_to_hub import gate, upload

    repository = repository_of(config.push_to_hub.repository, artifact)
    own = verdict.of(scores_name(artifact))
    reason = gate.why_not_pushed(config.push_to_hub, own, approvals)
    if reason:
        note = f"not pushed to {repository}: {reason}"
        print_line(note)
        return Published(artifact=artifact, repository=repository, commit_url=None, note=note)
    token = read_hub_token()
    if token is None:
        raise HubError(f"push_to_hub.repository={repository} needs a hub token; looked in {HUB_TOKEN_SOURCES}")
    copies: dict[PushedArtifact, Evaluation] = dict(zip(config.quantize.methods, quantized, strict=True))
    scored = copies.get(artifact, tuned)
    gate.check_scored(artifact, scored, address_of(directory))
    path = local_path(directory)
    verdict = gate.with_approval(verdict, approvals)
    text = artifact_readme(config, artifact, path, repository, data, base, tuned, quantized, verdict, base_revision)
    commit = upload.publish(
        path,
        repository,
        config.push_to_hub.private,
        token,
        text,
        card.public_config(config),
        config.push_to_hub.revision,
        base=card.public_base(config, base_revision),
        paths=card.private_paths(config),
        rows=[text for prediction in tuned.predictions for text in (prediction.prompt, prediction.expected)],
    )
    pushed = f"pushed {artifact}" if commit.is_new else f"{artifact} was pushed before"
    approved = ", approved in Flyte's console" if approvals else ""
    note = f"{pushed}{approved}: {commit.url}"
    print_line(note)
    return Published(artifact=artifact, repository=repository, commit_url=commit.url, note=note)
