"""Every Deck of the project with long values: names of models, addresses of rows, and numbers of a large run."""

from __future__ import annotations

from support.scored import scores

from configs.errors import ConfigFault
from configs.schema import FineTuneConfig
from configs.schema.align import AlignConfig
from configs.wire import (
    Balance,
    CheckCount,
    Choice,
    ColumnUse,
    CurvePoint,
    DataReport,
    Evaluation,
    FailureCase,
    Prediction,
    Published,
    Sample,
    Series,
    SetScores,
    Share,
    SourceCount,
    Span,
    TokenReport,
    TrainReport,
)
from configs.wire_evidence import ArtifactVerdict, Difference, RuleOutcome, Verdict
from configs.wire_plan import Alternative, Check, Expectation, GpuFit, Machines, MemoryUse, ModelFacts, PhasePlan, Plan
from tasks.decks.data import render_data
from tasks.decks.error import render_defect, render_error
from tasks.decks.plan import render_plan
from tasks.decks.progress import LiveTraining, render_counts, render_evaluation, render_live_training
from tasks.decks.scores import render_scores
from tasks.decks.short import render_facts, render_where
from tasks.decks.tokens import render_tokens
from tasks.models.pace import Count
from tasks.report.align import AlignmentResults, PhaseReport, render_alignment
from tasks.report.write import RunResults, render_report

GB = 10**9
MODEL = "organization-of-a-long-name/model-of-a-long-name-3.1-405b-instruct"
ADDRESS = "s3://a-bucket-of-a-team/projects/questions-and-answers/2026/train-00000-of-00128.jsonl.zst"
SENTENCE = "A sentence that a row holds, long enough to need several lines in the narrow dialog of a console. "
KNOWN = Expectation(
    step_seconds=12.5, steps=125_000, hours=434.0, tokens_per_second=1_234_567.0, price_per_hour=98.32, cost=42_670.88
)
FAULTS = [
    ConfigFault(
        "policy.train.policy.rewards[0].function", "'a function'", "is not of the form package.module:function"
    ),
    ConfigFault("train.epochs", "-1", "is not above 0; raise it"),
    ConfigFault("data.sources[1]", "", "is an empty entry; fill it in, or remove it from the list"),
]


def plan() -> Plan:
    parts = ("weights", "gradients", "optimizer", "activations", "logits", "buffers", "fragmentation", "context")
    use = MemoryUse(moment="training", fullest="the backward pass", **dict.fromkeys(parts, 123 * GB))
    phase = PhasePlan(
        name="train",
        objective="sft",
        method="full",
        trainable_parameters=405_853_388_800,
        batch_size=1920,
        micro_batch_size=8,
        accumulation=6,
        max_length=131_072,
        memory=[use, use.model_copy(update={"moment": "evaluation"})],
        machines=Machines(
            nodes=5,
            gpus=8,
            gpu="H200-SXM-141GB",
            memory_bytes=141 * GB,
            processes=8,
            cpus=192,
            memory_gib=2048,
            shared_memory_gib=64,
            disk_gib=12_000,
        ),
        expectation=KNOWN,
        fits=False,
        alternatives=[
            Alternative(
                changes=["train.method: qlora", "train.efficiency.activation_checkpointing: true"],
                keeps_result=False,
                bytes_per_gpu=123 * GB,
                gpu="H200-SXM-141GB",
                gpus=40,
                expectation=KNOWN,
            )
        ],
        gpus=[
            GpuFit(
                gpu="H200-SXM-141GB",
                memory_bytes=141 * GB,
                needed_bytes=1234 * GB,
                fits=False,
                micro_batch_size=8,
                step_seconds=12.5,
                hours=434.0,
                cost=42_670.88,
            )
        ],
    )
    model = ModelFacts(
        name=MODEL,
        family="llama",
        license="a-license-of-its-own",
        parameters=405_853_388_800,
        active_parameters=405_853_388_800,
        experts=0,
        is_tied=False,
        positions=131_072,
        source="configs/shapes",
    )
    check = Check(name="data.sources[0]", result="failed", found=f"{ADDRESS} does not exist", fix=f"look in {ADDRESS}")
    return Plan(
        model_revision="r",
        chat_template=None,
        warnings=[SENTENCE],
        model=model,
        checks=[check],
        stages=[phase],
        assumptions=[SENTENCE * 2],
    )


def data() -> DataReport:
    count = SourceCount(
        source=ADDRESS,
        role="evaluation",
        format="preference_sharegpt",
        read=123_456_789,
        kept=123_000_000,
        quarantined=400_000,
        deduplicated=56_789,
        weight=0.125,
    )
    case = FailureCase(file=ADDRESS, row=123_456, column="conversations", reason=SENTENCE, value=ADDRESS * 3)
    return DataReport(
        sources=[count, count],
        train_rows=123_000_000,
        test_rows=1000,
        quarantined_rows=400_000,
        deduplicated_rows=56_789,
        checks=[CheckCount(check="contamination", policy="quarantine", rows=12, first_rows=[f"{ADDRESS}:123456"] * 5)],
        columns=[
            ColumnUse(
                source=ADDRESS,
                place="turn",
                name="a" * 40,
                rows=123_456_789,
                of=123_456_789,
                use="carries meaning, not read",
            )
        ],
        failures=[case],
        failure_cases=9,
        samples=[Sample(row_id=f"{ADDRESS}:1", prompt=SENTENCE * 4, completion=ADDRESS * 4)],
        balance=Balance(language_rows=5000, languages=[Share(name="en", rows=4000)]),
        warnings=[SENTENCE],
    )


def tokens() -> TokenReport:
    return TokenReport(
        max_length=131_072,
        template=ADDRESS,
        template_hash="a" * 64,
        train_rows=123_000_000,
        test_rows=1000,
        dropped_train_rows=12,
        dropped_test_rows=3,
        truncated_rows=4,
        split_rows=5,
        train_tokens=10**12,
        trained_tokens=10**11,
        end_token_ids=[128_009],
        lengths=[16 * n for n in range(1, 33)],
        length_counts=[1000 * n for n in range(1, 33)],
        samples=[[Span(text=SENTENCE * 5, trained=False), Span(text=ADDRESS * 5, trained=True)]],
        warnings=[SENTENCE],
    )


def training() -> TrainReport:
    steps = list(range(100, 12_500, 100))
    return TrainReport(
        method="full",
        curve=[CurvePoint(step=n, loss=300 / n, learning_rate=1e-4, grad_norm=1.0) for n in steps],
        series=[Series(name="eval_loss", steps=steps, values=[310 / n for n in steps])],
        choices=[Choice(name="attn_implementation", value="kernels-community/flash-attn3", reason=SENTENCE)],
        findings=[SENTENCE],
        best_step=12_000,
        steps=125_000,
        epochs=1.0,
        seconds=1.5e6,
        parameters=405_853_388_800,
        trainable_parameters=405_853_388_800,
        world_size=40,
        batch_size=1920,
        learning_rate=1e-4,
        device="NVIDIA H200 SXM 141GB",
        precision="bfloat16",
        peak_memory_bytes=123 * GB,
    )


def verdict() -> Verdict:
    differences = [
        Difference(
            measure="eval_loss",
            name="eval_loss",
            lower_is_better=True,
            set=ADDRESS,
            model="quantized_8bit",
            versus="few_shot",
            before=1.23,
            after=1.5,
            difference=0.27,
            low=-0.1,
            high=0.3,
            p_value=0.2,
            test="",
            rows=100_000,
            groups=10_000,
            wins=40_000,
            losses=50_000,
            ties=10_000,
        )
    ]
    rule = RuleOutcome(rule=SENTENCE, passed=False, reason=ADDRESS)
    held_back = ArtifactVerdict(model="tuned", promote=False, outcomes=[rule])
    return Verdict(headline=SENTENCE, sentences=[ADDRESS], differences=differences, artifacts=[held_back])


def evaluation() -> Evaluation:
    own = scores(
        eval_loss=1.2345,
        perplexity=12.345,
        exact_match=0.5,
        rouge_l=0.5,
        loss_rows=1000,
        loss_tokens=123_456,
        generated_rows=1000,
        size_bytes=810 * GB,
    )
    answers = [Prediction(row_id=f"{ADDRESS}:{n}", prompt=SENTENCE, expected=ADDRESS, answer=ADDRESS) for n in range(2)]
    return Evaluation(scores=own, predictions=answers, others=[SetScores(name=ADDRESS, scores=own)])


def reports() -> dict[str, str]:
    """Return the reports of a fine-tuning and of an alignment."""
    section = {"data": {"sources": [{"path": ADDRESS}]}}
    config = FineTuneConfig.model_validate({"model": {"name": MODEL}, **section})
    policy = {**section, "train": {"objective": "dpo"}}
    phases = {"sft": {**section, "train": {}}, "policy": policy}
    align = AlignConfig.model_validate({"model": {"name": MODEL}, **phases})
    published = [Published(artifact="model", repository=MODEL, commit_url=None, note=f"pushed model: {ADDRESS}")]
    made = {"base": evaluation(), "sft": evaluation(), "tuned": evaluation(), "quantized_8bit": evaluation()}
    tuned = {name: one for name, one in made.items() if name != "sft"}
    trained = [PhaseReport(name=name, data=data(), tokens=tokens(), training=training()) for name in ("sft", "policy")]
    return {
        "report": render_report(RunResults(config, plan(), data(), tokens(), training(), tuned, verdict(), published)),
        "alignment": render_alignment(AlignmentResults(align, plan(), trained, made, [], verdict(), published)),
    }


def wide_decks() -> dict[str, str]:
    """Return the HTML of every Deck, by a name."""
    count = Count("generate", 123_456, "rows")
    count.facts, count.samples = {"exact match": "81.2%"}, [(SENTENCE, ADDRESS, ADDRESS)]
    return {
        "plan": render_plan(plan(), "a-run-of-a-long-name"),
        "data": render_data(data()),
        "tokens": render_tokens(tokens()),
        "training": render_live_training(LiveTraining(report=training(), max_steps=125_000, stopped_by=ADDRESS * 2)),
        "counts": render_counts(f"evaluate {MODEL}", [count], SENTENCE),
        "evaluation": render_evaluation("tuned", evaluation(), 4),
        "scores": render_scores({"base": evaluation(), "tuned": evaluation()}, 4),
        "model": render_facts("Base model", [("model", MODEL), ("revision", "a" * 40)]),
        "where": render_where(["train", "merge", "evaluate-tuned", "quantize-8bit", "evaluate-8bit"]),
        "error": render_error("DataError", f"data.sources[0].path={ADDRESS * 2} does not exist\n{SENTENCE}"),
        "refused": render_error("ConfigError", "", FAULTS),
        "defect": render_defect("KeyError"),
        **reports(),
    }
