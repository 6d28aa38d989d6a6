"""What TRL is made to do is what we say it does: reference, order, rate, weights; and the same bytes each time."""

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from math import log
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers.integrations import integration_utils

from tutorloop.agents.roles import Canary, Job, RoleSpec, largest_difference
from tutorloop.agents.trl_learner import TrlLearner
from tutorloop.agents.trl_rows import TokenRows
from tutorloop.evals.records import State
from tutorloop.policies.records import Example

Lessons = Callable[..., list[Example]]


@pytest.fixture
def learner(spec: Callable[..., RoleSpec]) -> TrlLearner:
    return TrlLearner(spec("learner"))


@pytest.fixture
def job(learner: TrlLearner, tmp_path: Path, lessons: Lessons, rows: Callable[..., Any]) -> Callable[..., Job]:
    """`job("sft", ...)`: from the base, on 24 lessons."""

    def make(loss: Any = "sft", examples: list[Example] | None = None, **changes: Any) -> Job:
        base = learner.hello().base
        plain = Job(
            loss=loss,
            start=base,
            reference=base if loss == "dpo" else None,
            examples=rows(tmp_path, lessons() if examples is None else examples),
            name=f"student-r0001-{loss}",
        )
        return replace(plain, **changes)

    return make


def totals(learner: TrlLearner, state: State, examples: list[Example], reply: str) -> list[float]:
    """Log-probability of each example's `completion` or `rejected`, summed over its tokens."""
    canaries = [Canary(messages=e.prompt, completion=getattr(e, reply)) for e in examples]
    return [sum(row) for row in learner.read(state, canaries)]


@pytest.mark.parametrize("reference", ["start", "base", "other"])
def test_the_first_dpo_loss_is_the_one_computed_by_hand(
    learner: TrlLearner, job: Callable[..., Job], lessons: Lessons, reference: str
) -> None:
    """-log sigmoid(beta * ((pi(w) - ref(w)) - (pi(l) - ref(l)))), the mean over all pairs; ln 2 if ref is pi."""
    start = learner.train(job()).state
    # Another rank than the start's: its tensors would not fit into TRL's copy.
    other = learner.train(job(name="student-other", seed=7, lora={"r": 4, "lora_alpha": 8})).state
    ref = {"start": start, "base": learner.hello().base, "other": other}[reference]
    pi_w, pi_l = (totals(learner, start, lessons(), reply) for reply in ("completion", "rejected"))
    ref_w, ref_l = (totals(learner, ref, lessons(), reply) for reply in ("completion", "rejected"))
    ratios = torch.tensor(pi_w) - torch.tensor(ref_w) - torch.tensor(pi_l) + torch.tensor(ref_l)
    by_hand = -torch.nn.functional.logsigmoid(0.1 * ratios).mean().item()
    trained = learner.train(job("dpo", start=start, reference=ref))
    assert trained.first_loss == pytest.approx(by_hand, abs=1e-5)
    assert (trained.first_loss == pytest.approx(log(2), abs=1e-6)) == (reference == "start")


def test_the_reference_is_not_trained_and_not_published(learner: TrlLearner, job: Callable[..., Job]) -> None:
    start = learner.train(job()).state
    other = learner.train(job(name="student-other", seed=7)).state
    full = job("dpo", start=start, reference=other, settings={"learning_rate": 1e-2, "num_train_epochs": 3})
    state = learner.train(full).state
    _, model = learner._trained
    reference = {n.replace(".ref.", "."): p for n, p in model.named_parameters() if ".ref." in n}
    assert len(reference) == 28
    for name, tensor in learner._load(other).named_parameters():
        if ".default." in name:
            assert torch.equal(tensor, reference[name.replace(".default.", ".")])
    folder = learner.base.weights(state)
    assert sorted(f.name for f in folder.iterdir()) == ["adapter_config.json", "adapter_model.safetensors"]


def test_dpo_says_how_the_right_and_the_wrong_answers_moved(
    learner: TrlLearner, job: Callable[..., Job], lessons: Lessons
) -> None:
    start, pairs = learner.train(job()).state, lessons(16)
    settings = {"learning_rate": 1e-3, "per_device_train_batch_size": 7}  # read in batches of seven, too
    trained = learner.train(job("dpo", pairs, start=start, reference=start, settings=settings))
    for note, reply in (("logp_chosen_change", "completion"), ("logp_rejected_change", "rejected")):
        after, before = (sum(totals(learner, state, pairs, reply)) for state in (trained.state, start))
        assert trained.notes[note] == pytest.approx((after - before) / len(pairs), abs=1e-3)


ALONE = """
import sys
from pathlib import Path
from tutorloop.agents.roles import Job, RoleSpec
from tutorloop.agents.trl_learner import TrlLearner
from tutorloop.evals.rows import Rows

root, model, stored = Path(sys.argv[1]), sys.argv[2], eval(sys.argv[3])
learner = TrlLearner(RoleSpec(role="learner", engine="transformers", root=root, model=model))
base, rows = learner.hello().base, Rows(**{**stored, "root": root.parent})
sft = learner.train(Job(loss="sft", start=base, reference=None, examples=rows, name="a"))
dpo = learner.train(Job(loss="dpo", start=sft.state, reference=base, examples=rows, name="b"))
print(sft.state.digest, dpo.state.digest)
"""


def test_the_same_jobs_in_two_fresh_processes_give_the_same_digests_and_files(
    job: Callable[..., Job], tiny: Path, tmp_path: Path
) -> None:
    stored = repr({**vars(job().examples), "root": ""})
    running: list[subprocess.Popen[str]] = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        args = [sys.executable, "-c", ALONE, str(tmp_path / name), str(tiny), stored]
        environment = {**os.environ, "PYTHONHASHSEED": str(len(running))}
        running.append(subprocess.Popen(args, stdout=subprocess.PIPE, text=True, env=environment))
    one, two = (process.communicate()[0].split() for process in running)
    assert [process.returncode for process in running] == [0, 0]
    assert len(one) == 2
    assert one == two
    files = sorted(p.relative_to(tmp_path / "one") for p in (tmp_path / "one").rglob("*") if p.is_file())
    assert len(files) == 4
    assert all((tmp_path / "one" / f).read_bytes() == (tmp_path / "two" / f).read_bytes() for f in files)


def test_a_training_that_is_repeated_after_a_crash_finds_its_own_folder(
    learner: TrlLearner, job: Callable[..., Job], spec: Callable[..., RoleSpec], tmp_path: Path
) -> None:
    first = learner.train(job())
    (tmp_path / "states" / ".student-r0001-sft.part").mkdir()  # what a killed process leaves
    assert TrlLearner(spec("learner")).train(job()) == first
    assert os.listdir(tmp_path / "states") == [first.state.name]


def test_what_the_trainer_reads_in_memory_is_what_lies_on_disk(
    learner: TrlLearner, job: Callable[..., Job], spec: Callable[..., RoleSpec], canaries: tuple[Canary, ...]
) -> None:
    start = learner.train(job()).state
    state = learner.train(job("dpo", start=start, reference=start, settings={"learning_rate": 1e-3})).state
    assert learner._trained[0] == state.digest
    assert learner.read(state, canaries) == TrlLearner(spec("learner")).read(state, canaries)


@pytest.mark.parametrize("loss", ["sft", "dpo"])
def test_the_rate_of_the_round_multiplies_the_learning_rate(
    learner: TrlLearner, job: Callable[..., Job], canaries: tuple[Canary, ...], loss: str
) -> None:
    start = learner.train(job()).state
    plain = job(loss, start=start, reference=start if loss == "dpo" else None, name="student-plain")
    tiny = learner.train(replace(plain, rate=1e-9, name="student-tiny"))
    before = learner.read(start, canaries)
    assert largest_difference(learner.read(tiny.state, canaries), before) < 1e-5
    assert largest_difference(learner.read(learner.train(plain).state, canaries), before) > 1e-3


def test_rows_are_trained_on_in_the_order_of_the_job(
    learner: TrlLearner, job: Callable[..., Job], lessons: Lessons
) -> None:
    """One row a step: the first loss is the first row's."""
    one = {"per_device_train_batch_size": 1, "num_train_epochs": 1}
    base = learner.hello().base
    for examples in (lessons(4), lessons(4)[::-1]):
        trained = learner.train(job(examples=examples, settings=one, name=f"student-{examples[0].id}"))
        (reading,) = learner.read(base, [Canary(messages=examples[0].prompt, completion=examples[0].completion)])
        assert trained.steps == 4
        assert trained.first_loss == pytest.approx(-sum(reading) / len(reading), abs=1e-4)


def test_tokens_are_prompt_and_completion_of_all_rows_over_all_epochs(
    learner: TrlLearner, job: Callable[..., Job], lessons: Lessons
) -> None:
    chat = learner.base.chat
    pairs = [chat.pair(e.prompt, e.completion) for e in lessons(5)]
    trained = learner.train(job(examples=lessons(5), settings={"num_train_epochs": 3}))
    assert trained.tokens == 3 * sum(len(prompt) + len(reply) for prompt, reply in pairs)


def weighted_loss(learner: TrlLearner, examples: list[Example], weights: list[list[float]]) -> float:
    """Sum of weight times loss over the tokens, over the number of tokens."""
    total, count = 0.0, 0
    for example, row in zip(examples, weights, strict=True):
        (reading,) = learner.read(
            learner.hello().base, [Canary(messages=example.prompt, completion=example.completion)]
        )
        total -= sum(w * x for w, x in zip(row, reading, strict=True))
        count += len(row)
    return total / count


def test_the_weight_of_an_example_multiplies_its_loss(
    learner: TrlLearner, job: Callable[..., Job], lessons: Lessons
) -> None:
    examples = [replace(e, weight=i / 2) for i, e in enumerate(lessons(4))]
    weights = [[i / 2] * (len(e.completion) + 1) for i, e in enumerate(examples)]
    trained = learner.train(job(examples=examples))
    assert trained.first_loss == pytest.approx(weighted_loss(learner, examples, weights), abs=1e-4)


def test_spans_weigh_their_characters_and_nothing_else(
    learner: TrlLearner, job: Callable[..., Job], lessons: Lessons
) -> None:
    examples = [replace(e, spans=((0, 2, 3.0), (4, 6, 0.0))) for e in lessons(3)]
    weights = [[3.0, 3.0, 1.0, 1.0, 0.0, 0.0] + [1.0] * (len(e.completion) - 5) for e in examples]
    trained = learner.train(job(examples=examples))
    assert trained.first_loss == pytest.approx(weighted_loss(learner, examples, weights), abs=1e-4)


def test_weights_of_one_are_no_weights(learner: TrlLearner, job: Callable[..., Job], lessons: Lessons) -> None:
    """The same bytes come out of TRL's own loss and of ours."""
    weighted = [replace(e, spans=((0, 1, 1.0),)) for e in lessons()]
    assert TokenRows(learner.base.chat, job(examples=weighted)).weighted
    assert learner.train(job(examples=weighted)) == learner.train(job())


def test_weights_are_refused_where_they_cannot_be_honoured(
    learner: TrlLearner, job: Callable[..., Job], lessons: Lessons
) -> None:
    for change in ({"weight": 0.5}, {"spans": ((0, 1, 2.0),)}):
        with pytest.raises(ValueError, match="'e0' has a weight or spans, and DPO compares whole answers"):
            learner.train(job("dpo", examples=lessons(3, **change)))
    with pytest.raises(ValueError, match="is not inside it"):
        learner.train(job(examples=lessons(3, spans=((0, 99, 2.0),))))


def test_every_reply_ends_in_a_stop_token_that_is_learnt(
    learner: TrlLearner, job: Callable[..., Job], lessons: Lessons
) -> None:
    for row in TokenRows(learner.base.chat, job()).dataset:
        assert row["labels"][-1] == row["input_ids"][-1] == 1
        assert row["labels"].count(1) == 1
    for row in TokenRows(learner.base.chat, job("dpo")).dataset:
        assert row["chosen_ids"][-1] == row["rejected_ids"][-1] == 1


def test_a_template_that_writes_no_stop_token_is_refused(
    make_model: Callable[..., Path], spec: Callable[..., RoleSpec], job: Callable[..., Job], tmp_path: Path
) -> None:
    dropping = "{% for m in messages %}<u>{{ m.content }}{% endfor %}"
    learner = TrlLearner(spec("learner", model=str(make_model(tmp_path / "model", template=dropping))))
    with pytest.raises(ValueError, match="would never learn to stop"):
        learner.train(job(start=learner.hello().base))


def test_a_template_that_rewrites_the_question_is_refused(
    make_model: Callable[..., Path], spec: Callable[..., RoleSpec], job: Callable[..., Job], tmp_path: Path
) -> None:
    rewriting = "{{ messages|length }}{% for m in messages %}<u>{{ m.content }}<e>{% endfor %}"
    learner = TrlLearner(spec("learner", model=str(make_model(tmp_path / "model", template=rewriting))))
    with pytest.raises(ValueError, match="differently once it is answered"):
        learner.train(job(start=learner.hello().base))


@pytest.mark.parametrize(
    ("loss", "settings", "lora", "why"),
    [
        (
            "sft",
            {"lerning_rate": 1e-3},
            {},
            "`lerning_rate` is no field of `SFTConfig`. The nearest is `learning_rate`",
        ),
        ("sft", {"beta": 0.1}, {}, "`beta` is no field of `SFTConfig`"),
        ("dpo", {"betta": 0.1}, {}, "`betta` is no field of `DPOConfig`. The nearest is `beta`"),
        ("dpo", {"precompute_ref_log_probs": True}, {}, "`precompute_ref_log_probs` cannot be set: the reference"),
        ("sft", {"seed": 3}, {}, "`seed` cannot be set: it is the job's"),
        ("dpo", {"trust_remote_code": True}, {}, "`trust_remote_code` cannot be set: code that comes with a model"),
        ("sft", {"hub_token": "hf_1"}, {}, "`hub_token` cannot be set: nothing leaves the run folder"),
        ("sft", {}, {"rank": 8}, "`rank` is no field of `LoraConfig`"),
        ("sft", {}, {"modules_to_save": ["lm_head"]}, "`modules_to_save` cannot be set: .* cannot be served"),
        ("sft", {}, {"use_dora": True}, "`use_dora` cannot be set: .* cannot be served"),
        ("sft", {}, {"bias": "all"}, "`bias` 'all' cannot be served"),
        ("sft", {}, {"init_lora_weights": "pissa"}, "`init_lora_weights` 'pissa' cannot be served"),
    ],
)
def test_what_cannot_be_set_is_refused_by_name(
    learner: TrlLearner, job: Callable[..., Job], loss: str, settings: Any, lora: Any, why: str
) -> None:
    with pytest.raises(ValueError, match=why):
        learner.train(job(loss, settings=settings, lora=lora))


def test_a_training_in_a_kubeflow_job_does_not_report_to_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBEFLOW_TRAINER_SERVER_URL", "http://127.0.0.1:1")
    assert not integration_utils.is_kubeflow_available()


def test_an_adapter_keeps_its_shape(learner: TrlLearner, job: Callable[..., Job]) -> None:
    start = learner.train(job(lora={"r": 8, "lora_alpha": 16})).state
    learner.train(job(start=start, name="student-same", lora={"r": 8}))
    with pytest.raises(ValueError, match="was trained with `r` 8; the job says 16"):
        learner.train(job(start=start, lora={"r": 16}))


def test_a_warm_up_never_eats_a_short_training(learner: TrlLearner, job: Callable[..., Job]) -> None:
    """TRL would run this one step at a rate of zero."""
    trained = learner.train(job(settings={"warmup_steps": 5, "num_train_epochs": 1}))
    assert (trained.steps, trained.notes["warmup_steps"]) == (1, 0)
    longer = learner.train(job(settings={"warmup_steps": 0.1, "num_train_epochs": 20}))
    assert (longer.steps, longer.notes["warmup_steps"]) == (20, 2)


def test_rows_that_are_too_long_are_dropped_whole_and_counted(
    learner: TrlLearner, job: Callable[..., Job], lessons: Lessons
) -> None:
    long = replace(lessons(1)[0], id="long", completion="1" * 60)
    trained = learner.train(job(examples=[*lessons(3), long], settings={"max_length": 40}))
    assert (trained.notes["rows"], trained.notes["dropped_rows"]) == (3, 1)


def test_a_round_without_pairs_says_so(learner: TrlLearner, job: Callable[..., Job], lessons: Lessons) -> None:
    with pytest.raises(ValueError, match="no example with a rejected answer"):
        learner.train(job("dpo", examples=[replace(e, rejected="") for e in lessons(3)]))


def test_a_training_that_diverges_leaves_no_state(learner: TrlLearner, job: Callable[..., Job], tmp_path: Path) -> None:
    wild = {"learning_rate": 1e30, "max_grad_norm": 0.0, "num_train_epochs": 5}
    with pytest.raises(FloatingPointError, match="diverged"):
        learner.train(job(settings=wild))
    assert not list((tmp_path / "states").glob("*"))


def test_a_start_whose_weights_were_changed_is_refused(learner: TrlLearner, job: Callable[..., Job]) -> None:
    start = learner.train(job()).state
    with pytest.raises(ValueError, match="but what lies in"):
        learner.train(job(start=replace(start, digest="0" * 64)))
