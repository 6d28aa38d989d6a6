"""Every knob of the libraries: it arrives under its own name or is refused; what does nothing is told."""

import ast
import json
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import fields, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import transformers
from peft import LoraConfig
from trl.trainer import dpo_trainer
from trl.trainer.dpo_config import DPOConfig
from trl.trainer.sft_config import SFTConfig

from tutorloop.agents import settings
from tutorloop.agents.cast import Cast
from tutorloop.agents.declared import Kind, declared, generation_fields
from tutorloop.agents.decoding import HONOURED, decoder, refused
from tutorloop.agents.doubts import doubts
from tutorloop.agents.ignored import RULES, ignored
from tutorloop.agents.models import without_system
from tutorloop.agents.roles import Job, Request, RoleSpec
from tutorloop.agents.settings import LOSSES, check_settings
from tutorloop.agents.transformers_server import TransformersServer
from tutorloop.agents.trl_learner import TrlLearner
from tutorloop.agents.trl_rows import TokenRows
from tutorloop.evals.records import State, Turn, user
from tutorloop.loops.config import ConfigError, resolve
from tutorloop.loops.launch import prepare
from tutorloop.loops.methods import stages_of
from tutorloop.loops.plan import plan
from tutorloop.policies.records import Example

CLASSES: dict[Kind, Any] = {"sft": SFTConfig, "dpo": DPOConfig, "lora": LoraConfig}
Lessons = Callable[..., list[Example]]


@pytest.fixture
def learner(spec: Callable[..., RoleSpec]) -> Iterator[TrlLearner]:
    """One whose settings may change how this process logs and counts."""
    level, environment = transformers.logging.get_verbosity(), dict(os.environ)
    yield TrlLearner(spec("learner"))
    transformers.logging.set_verbosity(level)
    for name in os.environ.keys() - environment.keys():
        del os.environ[name]
    torch.use_deterministic_algorithms(True, warn_only=True)


@pytest.fixture
def job(learner: TrlLearner, tmp_path: Path, lessons: Lessons, rows: Callable[..., Any]) -> Callable[..., Job]:
    def make(loss: Any = "sft", examples: list[Example] | None = None, **changes: Any) -> Job:
        base = learner.hello().base
        examples = lessons() if examples is None else examples
        reference = base if loss == "dpo" else None
        plain = Job(loss=loss, start=base, reference=reference, examples=rows(tmp_path, examples), name=f"a-{loss}")
        return replace(plain, **changes)

    return make


# ---- every field of the three classes


TOGETHER: dict[str, str] = {
    "accelerator_config": "{split_batches: true}",
    "dataloader_multiprocessing_context": "spawn",
    "dataset_num_proc": "1",
    "dataset_kwargs": "{a: 1}",
    "debug": "underflow_overflow",
    "f_divergence_type": "js_divergence",
    "gradient_checkpointing": "true",  # TRL's own default, and not ours
    "gradient_checkpointing_kwargs": "{use_reentrant: false}",
    "hub_strategy": "end",
    "liger_kernel_config": "{rope: false}",
    "log_level": "error",
    "log_level_replica": "error",
    "loss_weights": "[0.5, 0.25]",
    "lr_scheduler_kwargs": "{num_cycles: 0.75}",
    "lr_scheduler_type": "polynomial",
    "max_length": "99",
    "model_init_kwargs": "{dtype: float32}",
    "optim": "adafactor",
    "packing_strategy": "wrapped",
    "per_device_train_batch_size": "5",
    "train_sampling_strategy": "group_by_length",
    "truncation_mode": "keep_end",
    "warmup_steps": "0.5",
}
"""Values as one writes them in YAML, where a field's type does not suggest one; those of `loss_type` differ."""
APART = {
    "bf16": ("true", ""),
    "activation_offloading": ("true", "'NoneType' object has no attribute 'type'"),  # there is no accelerator
    "bf16_full_eval": ("true", ""),
    "fp16": ("true", "fp16 mixed precision requires a GPU"),
    "report_to": ("codecarbon", "CodeCarbonCallback requires `codecarbon`"),
    "router_aux_loss_coef": ("0.5", "`router_aux_loss_coef` is set to 0.5"),
    "tf32": ("false", ""),
    "torch_compile": ("true", ""),
    "torch_compile_backend": ("eager", ""),
    "torch_compile_mode": ("default", ""),
    "use_liger_kernel": ("true", ""),
}
"""Those that exclude one another, or that a machine may not have: then the library says so, which shows it too."""


def written(kind: Kind, name: str) -> str:
    """A value for a field, other than both defaults."""
    if name == "loss_type":
        return "dft" if kind == "sft" else "[hinge, ipo]"
    field = declared(kind)[name]
    if name in TOGETHER:
        return TOGETHER[name]
    if field.takes.startswith("bool"):
        return "false" if field.default == "True" or name == "disable_tqdm" else "true"  # ours is on
    if field.takes.startswith(("int", "float")):
        return "3" if field.takes.startswith("int") else "0.25"
    return "[a, b]" if "list" in field.takes and "dict" not in field.takes else "other"


def given(kind: Kind, told: dict[str, str]) -> dict[str, Any]:
    """What a job gets of `update.sft.max_steps=3` and the like: YAML, experiment, schedule."""
    overrides = [f"update.{kind}.{name}={text}" for name, text in told.items()]
    stages, _ = stages_of(resolve({}, overrides), Path())
    return dict(stages[-1].rounds.settings[kind])


def arrived(value: Any) -> Any:
    """As it was written: an enumeration as its text, a record as its fields."""
    if isinstance(value, list):
        return [arrived(x) for x in value]
    return getattr(value, "value", value)


def holds(args: Any, name: str, wanted: Any) -> bool:
    held = arrived(getattr(args, name))
    if name == "accelerator_config":
        return bool(held.split_batches)
    if name == "gradient_checkpointing_kwargs":
        return bool(wanted.items() <= (held or {}).items())
    if name == "debug":
        return bool(held == [wanted])
    return bool(held == wanted)


@pytest.mark.parametrize("kind", ["sft", "dpo"])
def test_every_field_of_a_training_arrives_in_what_the_trainer_holds_or_is_refused_with_its_reason(
    kind: Kind, learner: TrlLearner, job: Callable[..., Job]
) -> None:
    def trained_with(told: dict[str, str]) -> tuple[dict[str, Any], Any]:
        wanted = given(kind, told)
        check_settings({kind: wanted})
        asked = job(kind, settings=wanted)
        rows = TokenRows(learner.base.chat, asked)
        args = {**learner._arguments(asked, rows), "output_dir": str(learner.base.spec.root / "scratch")}
        return wanted, learner.trainer(asked, rows, args, learner._trainable(asked)).args

    together, seen = dict[str, str](), set[str]()
    for field in fields(CLASSES[kind]):
        name = field.name
        if why := settings.refused(kind, name):
            with pytest.raises(ValueError, match=f"`{name}` cannot be set: ") as told:
                check_settings({kind: {name: given(kind, {name: written(kind, name)})[name]}})
            assert why in str(told.value) and len(why) > 12
        elif name in APART:
            text, complaint = APART[name]
            try:
                wanted, args = trained_with({name: text})
                assert holds(args, name, wanted[name]), name
            except (ValueError, RuntimeError, ImportError, AttributeError) as e:
                assert complaint and complaint in str(e), (name, str(e))
        else:
            together[name] = written(kind, name)
        seen.add(name)
    wanted, args = trained_with(together)
    _, plain = trained_with({"weight_decay": "0.0"})  # as it is anyway
    for name, value in wanted.items():
        if name == "dataloader_pin_memory":  # off without a GPU, whatever is set; a plan says so
            assert (kind, name, "the learner has no GPU") in set(ignored({kind: wanted}, gpus=0))
            continue
        assert not holds(plain, name, value), f"{name} shows nothing: it is {value!r} anyway"
        # The learner counts a warm-up in steps of this training: half of one pass of three.
        assert holds(args, name, int(value * args.max_steps) if name == "warmup_steps" else value), name
    assert seen == set(declared(kind)), "what is read from the source is what the class has"
    assert len(wanted) > 80


SERVED = {
    "r": "4",
    "lora_alpha": "12",
    "lora_dropout": "0.25",
    "target_modules": "[q_proj, v_proj]",
    "exclude_modules": "[k_proj]",
    "layers_to_transform": "[1]",
    "layers_pattern": "layers",
    "rank_pattern": "{q_proj: 2}",
    "alpha_pattern": "{q_proj: 3}",
    "use_rslora": "true",
    "init_lora_weights": "gaussian",
    "bias": "none",
    "task_type": "CAUSAL_LM",
}


def test_every_field_of_the_adapter_arrives_in_the_model_or_is_refused_with_its_reason(
    learner: TrlLearner, job: Callable[..., Job]
) -> None:
    wanted = given("lora", SERVED)
    held = learner._trainable(job(lora=wanted)).peft_config["default"]
    for field in fields(LoraConfig):
        name = field.name
        if name in wanted:
            value = getattr(held, name)
            assert (sorted(value) if isinstance(value, set) else arrived(value)) == wanted[name], name
        else:
            why = settings.refused("lora", name)
            assert len(why) > 15, name
            with pytest.raises(ValueError, match=f"`{name}` cannot be set: ") as told:
                check_settings({"lora": {name: None}})
            assert why in str(told.value)
    assert {f.name for f in fields(LoraConfig)} == set(declared("lora"))


def test_an_adapter_with_every_served_field_is_trained_on_from_where_it_stands(
    learner: TrlLearner, job: Callable[..., Job]
) -> None:
    lora = given("lora", SERVED)
    start = learner.train(job(lora=lora)).state
    assert learner.train(job("dpo", start=start, reference=start, lora=lora)).state.digest != start.digest


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("update.sft.learning_rate=fast", "`learning_rate` is 'fast'; it takes float"),
        ("update.sft.max_steps=1.5", "`max_steps` is 1.5; it takes int"),
        ("update.sft.max_steps=0", "`max_steps` is 0, which TRL takes for no limit"),
        ("update.sft.num_train_epochs=0", "`num_train_epochs` is 0; nothing is trained with that"),
        ("update.sft.shuffle_dataset=1", "`shuffle_dataset` is 1; it takes bool"),
        ("update.sft.lr_scheduler_type=cosin", "`lr_scheduler_type` is 'cosin'; it takes one of linear, cosine,"),
        ("update.sft.lr_scheduler_type=greedy", "`lr_scheduler_type` 'greedy' goes by evaluations"),
        ("update.sft.optim=adam", "`optim` is 'adam'; it takes one of adamw_torch,"),
        ("update.sft.dataloader_prefetch_factor=2", "needs `dataloader_num_workers` of 1 and more"),
        ("update.sft.warmup_ratio=0.1", "`warmup_ratio` is no field of `SFTConfig`. The nearest is `warmup_steps`"),
        (
            "update.dpo.max_prompt_length=9",
            "`max_prompt_length` is no field of `DPOConfig`. The nearest is `max_length`",
        ),
        ("update.dpo.loss_type=sigmod", "`sigmod` is no `loss_type` of DPO. The nearest is `sigmoid`"),
        ("update.dpo.loss_type=exo_pair", "needs a `label_smoothing` above 0"),
        ("update.dpo.loss_weights=[1, 2]", "has 2 weights for 1 losses"),
        ("update.dpo.fp16=true", "`dpo.fp16` needs a GPU"),
        ("update.lora.r=big", "`r` is 'big'; it takes int"),
        ("update.lora.layers_pattern=layers", "says what `layers_to_transform` counts"),
        ("update.lora.target_modules=[lm_head]", "names `lm_head`, and TRL reads its weight past any adapter"),
        ("update.lora.task_type=SEQ_CLS", "`task_type` 'SEQ_CLS' cannot be served"),
        (
            "teacher.options.eror_rate=0.1",
            "`eror_rate` is no option of a scripted teacher. The nearest is `error_rate`",
        ),
        ("student.options.top_l=3", "`top_l` is no setting of how a model answers. The nearest is `top_"),
        ("student.options.top_p=3", "`top_p` is 3; it takes a number of at least 0 and at most 1"),
        ("student.options.num_beams=3", "`num_beams` cannot be set: one token is chosen after another"),
        ("student.options.top_k=.inf", "`top_k` is inf; it takes a whole number of at least 0"),
    ],
)
def test_what_would_fail_once_a_teacher_was_paid_is_refused_before_anything_begins(override: str, told: str) -> None:
    with pytest.raises(ConfigError, match=told.replace("(", r"\(").replace("[", r"\[")):
        prepare({}, [override])


def test_a_reply_is_limited_by_one_number_under_either_name() -> None:
    assert plan_of(["student.options.max_new_tokens=50"]).roles[0]["max_tokens"] == 50
    with pytest.raises(ConfigError, match="They are one thing"):
        prepare({}, ["student.options.max_new_tokens=50", "student.max_tokens=60"])


def test_the_losses_of_dpo_are_those_that_trl_computes() -> None:
    tree = ast.parse(Path(dpo_trainer.__file__).read_text())
    compared = [n for n in ast.walk(tree) if isinstance(n, ast.Compare) and ast.unparse(n.left) == "loss_type"]
    texts = [n.comparators[0] for n in compared]
    assert {t.value for t in texts if isinstance(t, ast.Constant)} == set(LOSSES)


# ---- how an answer is decoded


REQUESTS = [Request(messages=user(f"{n}+{n + 1}")) for n in (1, 22, 333)]


def test_every_field_of_a_generation_config_is_honoured_or_refused_with_its_reason() -> None:
    known = {n for n in vars(transformers.GenerationConfig()) if not n.startswith("_")}
    assert known == generation_fields()
    for name in known:
        if name not in HONOURED:
            with pytest.raises(ValueError, match=f"`{name}` cannot be set: ") as told:
                decoder({name: 1})
            assert refused(name) in str(told.value)
    assert decoder({"do_sample": True}) == {"temperature": 1.0}
    assert decoder({"do_sample": False, "temperature": 0.5}) == {"temperature": 0.0}


@pytest.mark.parametrize(
    "options",
    [
        {"repetition_penalty": 1.7},
        {"no_repeat_ngram_size": 2},
        {"max_new_tokens": 5},
        {"repetition_penalty": 1.2, "no_repeat_ngram_size": 3, "min_new_tokens": 9},
    ],
)
def test_greedy_answers_are_those_of_transformers_own_generate(
    options: dict[str, Any], spec: Callable[..., RoleSpec]
) -> None:
    server = TransformersServer(spec("student", options=options))
    base = proven(server)
    replies = server.generate(base, REQUESTS)
    plain = TransformersServer(spec("student"))
    assert [r.token_ids for r in replies] != [r.token_ids for r in plain.generate(proven(plain), REQUESTS)]
    for request, reply in zip(REQUESTS, replies, strict=True):
        ids = torch.tensor([server.base.chat.prompt(request.messages)])
        theirs = server.net.generate(
            ids, attention_mask=torch.ones_like(ids), do_sample=False, **{"max_new_tokens": 16, **options}
        )
        assert list(reply.token_ids) == theirs[0, ids.shape[1] :].tolist()


def test_no_answer_stops_before_it_may(spec: Callable[..., RoleSpec]) -> None:
    many = [replace(r, sample=i) for r in REQUESTS for i in range(8)]
    for least in (0, 10):
        server = TransformersServer(spec("student", temperature=2.0, max_tokens=40, options={"min_new_tokens": least}))
        stopped = [r.tokens_out for r in server.generate(proven(server), many) if r.finish == "stop"]
        assert stopped and (min(stopped) > 10) == (least == 10)


@pytest.mark.parametrize(
    "option", [{"typical_p": 1e-6}, {"epsilon_cutoff": 0.999}, {"top_p": 1e-6}, {"min_p": 1.0}, {"top_k": 1}]
)
def test_a_filter_that_leaves_one_token_leaves_what_transformers_leaves(
    option: dict[str, float], spec: Callable[..., RoleSpec]
) -> None:
    from transformers.generation import logits_process as theirs

    server = TransformersServer(spec("student", temperature=2.0, options=option))
    kinds = {"typical_p": theirs.TypicalLogitsWarper, "epsilon_cutoff": theirs.EpsilonLogitsWarper}
    kinds |= {"top_p": theirs.TopPLogitsWarper, "min_p": theirs.MinPLogitsWarper, "top_k": theirs.TopKLogitsWarper}
    ((name, value),) = option.items()
    (reply,) = server.generate(proven(server), REQUESTS[:1])
    prompt = server.base.chat.prompt(REQUESTS[0].messages)
    for i, token in enumerate(reply.token_ids):
        ids = torch.tensor([prompt + list(reply.token_ids[:i])])
        with torch.no_grad():
            left = kinds[name](value)(ids, server.net(ids).logits[:, -1] / 2.0)[0]
        assert left.isfinite().sum() == 1
        assert int(left.argmax()) == token


def proven(server: TransformersServer) -> State:
    from tutorloop.agents.roles import Evidence

    base = server.hello().base
    server.prove(Evidence(state=base, canaries=(), before=(), after=(), noise=0.0))
    return base


# ---- what does nothing


def plan_of(overrides: list[str]) -> Any:
    return plan_from({"course": {"practice": 60, "quiz": 60, "exam": 60}}, overrides)


def plan_from(told: dict[str, Any], overrides: list[str]) -> Any:
    return plan(told, overrides)  # type: ignore[arg-type]


NOTHING: dict[str, Any] = {
    "sft": {
        "completion_only_loss": True,
        "dataset_text_field": "question",
        "truncation_mode": "keep_end",
        "model_init_kwargs": {"dtype": "bfloat16"},
        "eval_steps": 1,
        "bf16_full_eval": True,
        "label_names": ["nothing"],
        "save_steps": 1,
        "save_total_limit": 1,
        "remove_unused_columns": False,
        "use_cache": True,
        "lr_scheduler_type": "constant",
        "warmup_steps": 2,
        "optim_args": "lr=1",
        "gradient_checkpointing_kwargs": {"use_reentrant": True},
        "average_tokens_across_devices": False,
    },
    "dpo": {
        "label_smoothing": 0.3,
        "discopop_tau": 0.9,
        "f_alpha_divergence_coef": 0.9,
        "label_smoothing_factor": 0.3,
        "ref_model_mixup_alpha": 0.1,
        "ref_model_sync_steps": 1,
        "precompute_ref_batch_size": 1,
        "max_steps": 2,
        "num_train_epochs": 7,
        "dataset_num_proc": 2,
    },
}


@pytest.mark.parametrize("kind", ["sft", "dpo"])
def test_what_is_said_to_have_no_effect_changes_no_byte_of_a_training(
    kind: Kind, learner: TrlLearner, job: Callable[..., Job]
) -> None:
    told = NOTHING[kind]
    idle = {name for _, name, _ in ignored({kind: told}, gpus=0)}
    counts = {name: value for name, value in told.items() if name not in idle}
    assert set(counts) == ({"lr_scheduler_type"} if kind == "sft" else {"max_steps"})
    with_them, without = (learner.train(job(kind, settings=s)).state for s in (told, counts))
    assert with_them.digest == without.digest
    for name, other in (("sft", {"lr_scheduler_type": "linear"}), ("dpo", {"max_steps": 1})):
        if name == kind:
            assert learner.train(job(kind, settings=other)).state.digest != without.digest


def test_rules_name_fields_that_exist_and_may_be_set() -> None:
    for rule in RULES:
        for kind in rule.kinds:
            for name in rule.fields:
                if name == "eval_packing" and kind == "dpo":
                    continue
                assert name in declared(kind), f"{kind}.{name}"
                assert not settings.refused(kind, name)


def test_a_plan_marks_what_has_no_effect_and_says_why() -> None:
    made = plan_of(
        [
            *("update.sft.completion_only_loss=true", "update.dpo.label_smoothing=0.1", "update.sft.max_steps=3"),
            *("update.lora.lora_dropout=0.1", "student.options.top_k=5", "student.options.repetition_penalty=1.1"),
        ]
    )
    found = {(s.group, s.name): s for s in made.settings}
    assert "TRL neither renders nor masks" in found["sft", "completion_only_loss"].without_effect
    assert "only the losses robust" in found["dpo", "label_smoothing"].without_effect
    assert "none is drawn" in found["student", "top_k"].without_effect
    assert not found["sft", "max_steps"].without_effect
    assert not found["student", "repetition_penalty"].without_effect
    assert any("`lora.lora_dropout` counts in the SFT alone" in line for line in made.warnings)
    assert any("`dpo.label_smoothing` has no effect" in line for line in made.warnings)


def test_a_plan_says_who_set_how_an_answer_is_decoded() -> None:
    made = plan_of(
        ["method=gold", "student.temperature=0.7", "student.options.top_p=0.9", "teacher.engine=transformers"]
    )
    found = {(s.group, s.name): (s.value, s.origin, s.otherwise) for s in made.settings}
    assert found["student", "temperature"] == (0.7, "yours", "0.0 (ours)")
    assert found["student", "top_p"] == (0.9, "yours", "1.0")
    assert found["student", "max_new_tokens"] == (160, "ours", "")
    assert found["student", "top_k"] == (0, "the library's", "")
    assert found["sft", "seed"] == (0, "ours", "42")
    assert ("teacher", "top_k") in found


# ---- figures


def test_a_dpo_that_moves_nothing_is_told_of_with_figures(
    learner: TrlLearner, job: Callable[..., Job], lessons: Lessons
) -> None:
    start = learner.train(job()).state
    still = job("dpo", start=start, reference=start, settings={"learning_rate": 1e-9})
    (line,) = doubts(still, learner.train(still), tolerance=1e-4)
    assert "moved nothing" in line and "1e-09" in line and "1.0e-04" in line
    well = job("dpo", start=start, reference=start, name="b", settings={"learning_rate": 1e-4})
    assert not any("moved nothing" in line for line in doubts(well, learner.train(well), tolerance=1e-4))
    assert any("below 1e-05 a lora" in line.lower() for line in plan_of(["update.dpo.learning_rate=1e-6"]).warnings)
    assert not any("hardly moves" in line for line in plan_of([]).warnings)


def test_right_answers_that_become_less_likely_under_dpo_are_told_of_with_figures(
    learner: TrlLearner, job: Callable[..., Job]
) -> None:
    start = learner.train(job()).state
    wild = job("dpo", start=start, reference=start, settings={"learning_rate": 3e-3, "loss_type": "apo_down"})
    trained = learner.train(wild)
    fell = -float(str(trained.notes["logp_chosen_change"]))
    assert fell > 0.1
    (line,) = doubts(wild, trained, tolerance=1e-4)
    assert f"less likely, by {fell:.2f} nats each" in line


def test_rows_that_are_too_long_are_told_of_with_their_share(
    learner: TrlLearner, job: Callable[..., Job], lessons: Lessons
) -> None:
    long = replace(lessons(1)[0], id="long", completion="1" * 90)
    asked = job(examples=[*lessons(3), long], settings={"max_length": 60})
    trained = learner.train(asked)
    assert list(doubts(asked, trained, tolerance=1e-4)) == [
        "1 of 4 rows (25.0%) were longer than `update.sft.max_length` and were not trained on."
    ]


def test_a_training_of_no_step_says_why(learner: TrlLearner, job: Callable[..., Job], lessons: Lessons) -> None:
    with pytest.raises(ValueError, match="3 rows make no step, as `dataloader_drop_last`"):
        learner.train(job(examples=lessons(3), settings={"dataloader_drop_last": True}))


def test_weights_go_with_the_loss_dft_and_not_with_label_smoothing(
    learner: TrlLearner, job: Callable[..., Job], lessons: Lessons
) -> None:
    weighted = [replace(e, spans=((0, 1, 1.0),)) for e in lessons()]
    dft = {"loss_type": "dft"}
    assert learner.train(job(examples=weighted, settings=dft)) == learner.train(job(settings=dft))
    with pytest.raises(ValueError, match="has no place beside examples with a weight"):
        learner.train(job(examples=weighted, settings={"label_smoothing_factor": 0.1}))


# ---- the stop token


@pytest.mark.parametrize("kind", ["sft", "dpo"])
def test_a_stop_token_that_is_also_the_padding_is_learnt_all_the_same(
    kind: Kind, learner: TrlLearner, job: Callable[..., Job]
) -> None:
    """The usual way to lose it: what pads a batch is masked wherever it stands."""
    chat, theirs = learner.base.chat, learner.base.tokenizer
    theirs.pad_token, chat.pad = theirs.eos_token, theirs.eos_token_id
    assert chat.pad in chat.stops
    asked = job(kind)
    rows = TokenRows(chat, asked)
    args = {**learner._arguments(asked, rows), "output_dir": str(learner.base.spec.root / "scratch")}
    trainer = learner.trainer(asked, rows, args, learner._trainable(asked))
    (batch,) = trainer.get_train_dataloader()
    ids = batch["input_ids"]
    learnt = batch["labels"] != -100 if kind == "sft" else batch["completion_mask"] == 1
    assert (ids == chat.pad).sum() > len(ids), "some rows are padded"
    for row, mask, seen in zip(ids, learnt, batch["attention_mask"], strict=True):
        last = int(seen.nonzero()[-1])
        assert int(row[last]) in chat.stops and bool(mask[last])
        assert not mask[last + 1 :].any()


# ---- a system turn


def system(word: str = "{{ m.content }}") -> str:
    """A template that writes a system turn so."""
    return (
        "{% for m in messages %}{% if m.role == 'system' %}"
        + word
        + "{% elif m.role == 'assistant' %}<a>{{ m.content }}<e>"
        "{% else %}<u>{{ m.content }}{% endif %}{% endfor %}{% if add_generation_prompt %}<a>{% endif %}"
    )


@pytest.mark.parametrize(
    ("template", "does"),
    [
        (system(), ""),
        (system(""), "drops"),
        (system("You are kind."), "drops"),
        (system("{{ raise_exception('no') }}"), "refuses"),
    ],
)
def test_a_chat_template_that_does_not_write_a_system_turn_is_told_of_when_there_is_one(
    template: str,
    does: str,
    make_model: Callable[..., Path],
    spec: Callable[..., RoleSpec],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    folder = make_model(tmp_path / "model", template=template)
    assert without_system(folder) == does
    seat: Any = SimpleNamespace(spec=spec("teacher", model=str(folder)), proven={"base"}, replicas=[])
    cast = Cast(root=tmp_path, seats={"teacher": seat}, shelf=None)  # type: ignore[arg-type]
    cast._answer = lambda *_: []  # type: ignore[method-assign]
    state, kind = State(member="teacher", name="base", digest=""), Turn(role="system", content="Be kind.")
    for request in (REQUESTS[0], *[Request(messages=(kind, *user("1+1")))] * 2):
        cast.generate("teacher", state, [request])
    told = [r.getMessage() for r in caplog.records if "a system turn" in r.getMessage()]
    assert len(told) == bool(does) and all(f" {does} a system turn: what is said there is not read" in t for t in told)


def test_a_policy_of_ones_own_is_told_beforehand_that_a_system_turn_would_be_dropped(
    make_model: Callable[..., Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = make_model(tmp_path / "model", template=system(""))
    (tmp_path / "own.py").write_text("def policy(case, room):\n    return None\n")
    told = {"student": {"model": str(model)}, "course": {"practice": 60, "quiz": 60, "exam": 60}}
    prepare(told, [])
    assert "system turn" not in caplog.text
    prepare(told, [f"teacher.policy={tmp_path / 'own.py'}:policy"])
    assert "drops a system turn, should a policy use one" in caplog.text


def test_a_plan_tells_what_a_models_makers_would_decode_it_with(tiny: Path, tmp_path: Path) -> None:
    model = shutil.copytree(tiny, tmp_path / "model")
    path = model / "generation_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "do_sample": True, "top_p": 0.8, "temperature": 0.7}))
    told = {"student": {"model": str(model)}, "course": {"practice": 60, "quiz": 60, "exam": 60}}
    (line,) = [w for w in plan_from(told, []).warnings if "generation_config" in w]
    assert "says temperature 0.7, top_p 0.8, and none of it is used" in line
    same = plan_from(told, ["student.options.top_p=0.8", "student.temperature=0.7"])
    assert not [w for w in same.warnings if "generation_config" in w]
    assert not [w for w in plan_of([]).warnings if "generation_config" in w]
