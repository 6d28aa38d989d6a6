"""What a person may get wrong: one line (what, where, what to do), exit code 2, and not a byte changed.

And what looks wrong and is not: a student that is always right or always wrong, a teacher with nothing to say, any
character that a text may hold. Faults of single rows are in `test_datasets.py`, of policies in `test_policies.py`.
"""

import json
import os
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import pytest
import yaml

from tutorloop.agents.models import can_be_trained, fits
from tutorloop.agents.roles import Diverged, Job, Trained
from tutorloop.agents.scripted import ScriptedLearner
from tutorloop.evals.arithmetic import anything, solve, why_wrong
from tutorloop.evals.records import Problem, user
from tutorloop.tests.policies_for_tests import small
from tutorloop.tests.test_cli import Done, Shell

pytestmark = pytest.mark.usefixtures("no_power_cuts")

POLICIES = """
from dataclasses import dataclass, replace
from tutorloop.policies.checking import Sound
from tutorloop.policies.gold import METHOD as gold
from tutorloop.policies.tailored import METHOD as tailored

def nothing(case, room):
    return None

def scores(case, room):
    return None
scores.requires = ("logprobs",)

def guesses(case, room):
    return None
guesses.requires = "logprob"

def claims(case, room):
    return None
claims.requires = True

def counts(case, room):
    return None
counts.requires = ["gold", 3]

def work(case, room):
    return None
work.requires = "gold"

def surest(cases, room):
    return cases
surest.requires = ("logprobs",)

@dataclass(frozen=True)
class Likely(Sound):
    requires = ("logprobs",)

SCORED = replace(tailored, requires=("logprobs",))
CLAIMED = replace(tailored, requires=True)
CHECKED = replace(gold, check=Likely(kinds=("gold",)))
AIMED = replace(gold, rounds=replace(gold.rounds, settings={"lora": {"target_modules": ["query_key_value"]}}))
MISTYPED = replace(gold, rounds=replace(gold.rounds, settings={"lora": {"target_module": "q_proj"}}))
"""


def sums(first: int, n: int, **fields: Any) -> list[dict[str, Any]]:
    return [{"question": f"{i}+{i + 1}", "answer": 2 * i + 1, **fields} for i in range(first, first + n)]


def lines(rows: Sequence[Mapping[str, Any] | str]) -> str:
    return "".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows)


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    """`small.yaml`: the embedded world; `own.yaml`: rows of one's own, a file for each pool."""
    (tmp_path / "student").mkdir()
    (tmp_path / "student" / "provenance.json").write_text(json.dumps({"bugs": small.BUGS}))
    (tmp_path / "policies.py").write_text(POLICIES)
    plain = {"student": {"engine": "scripted", "model": "student"}, "placement": "local", "rounds": 2}
    sizes = {"practice": 100, "quiz": 60, "exam": 60, "twins": 0, "retention": 5}
    (tmp_path / "small.yaml").write_text(yaml.dump({**plain, "course": sizes}))
    pools = {pool: f"{pool}.jsonl" for pool in ("practice", "quiz", "exam")}
    own = {**plain, "course": {"kind": "jsonl", **pools}, "schedule": {"rows": 40}}
    (tmp_path / "own.yaml").write_text(yaml.dump(own))
    for i, pool in enumerate(pools):
        (tmp_path / f"{pool}.jsonl").write_text(lines(sums(10 + 20 * i, 12)))
    return Shell(tmp_path)


def refused(shell: Shell, args: Sequence[str], told: str) -> Done:
    before = shell.tree()
    done = shell(*args)
    assert (done.code, done.out) == (2, ""), done
    assert done.err.count("\n") == 1 and done.err.strip().isprintable(), done.err
    assert all(part in done.err for part in told.split(" ... ")), done.err
    assert shell.tree() == before and not (shell.folder / "runs").exists()
    return done


@dataclass(frozen=True)
class Bad:
    """What is given, and what is said: parts of the line, with ` ... ` between them."""

    args: tuple[str, ...]
    told: str
    files: Mapping[str, str] = field(default_factory=dict)
    planned: bool = True
    """Whether `plan` says the same."""


def own(told: str, *args: str, **pools: Sequence[Mapping[str, Any] | str]) -> Bad:
    return Bad(("own.yaml", *args), told, {f"{pool}.jsonl": lines(rows) for pool, rows in pools.items()})


def plain(told: str, *args: str, **files: str) -> Bad:
    return Bad(("small.yaml", *args), told, files)


GOLD = {"question": "17+25", "answer": 42}
BAD: dict[str, Bad] = {
    # data
    "an id twice": own("practice.jsonl, line 2 ... the id 'a' is that of ... line 1", practice=sums(10, 2, id="a")),
    "an id in two pools": own("'a' is in `quiz` and in `exam`", quiz=sums(30, 1, id="a"), exam=sums(50, 1, id="a")),
    "no gold": own("quiz.jsonl, line 3: there is no `answer`", quiz=[*sums(30, 2), {"question": "1+1"}]),
    "no gold work": own("no practice problem has any. Give the rows a `solution`", "method=gold"),
    "a problem in two pools": own(
        "`practice` and `exam` share a problem ... '17+25' ... '25+17'",
        practice=[GOLD, *sums(30, 3)],
        quiz=sums(70, 3),
        exam=[*sums(50, 3), {**GOLD, "question": "25+17"}],
    ),
    "no practice": own("practice.jsonl has no rows; a pool needs at least one problem", practice=[]),
    "only empty lines": own("practice.jsonl has no rows", practice=["", " ", ""]),
    "practice of none": plain("`course.practice` must be at least 1 problem, got 0", "course.practice=0"),
    "more practice than there is": plain(
        "`course`: `practice`: ... of which there are ... ask for fewer", "course.practice=1000000"
    ),
    "nobody is asked": plain("`ask` must be at least 1, got 0", "schedule.ask=0"),
    # what fits what
    "log-probabilities for a method": plain(
        "method 'policies:SCORED' needs log-probabilities (`logprobs`), and no model ... gives any so far ... another",
        "method=policies:SCORED",
    ),
    "log-probabilities for a policy": plain(
        "with the policy policies:scores needs log-probabilities", "teacher.policy=policies:scores"
    ),
    "log-probabilities of a model": plain(
        "with the policy policies:scores needs log-probabilities ... whatever its engine",
        *("method=gold", "teacher.policy=policies:scores", "teacher.engine=transformers"),
    ),
    "log-probabilities for a triage": plain(
        "method 'gold' with the triage policies:surest needs log-probabilities",
        *("method=gold", "triage=policies:surest"),
    ),
    "log-probabilities for a check": plain(
        "method 'policies:CHECKED' needs log-probabilities", "method=policies:CHECKED"
    ),
    "gold work for a policy": own("with the policy policies:work learns from", "teacher.policy=policies:work"),
    "a need that is a fact": plain(
        "`requires` of the `teach` slot of method 'tailored' is True; name what is needed, e.g. ('gold',)",
        "teacher.policy=policies:claims",
    ),
    "a need that is a number": plain("is ['gold', 3]; name what is needed", "teacher.policy=policies:counts"),
    "a method's need that is a fact": plain(
        "`requires` of method 'tailored' is True; name what is needed", "method=policies:CLAIMED"
    ),
    "a need that is none": plain("requires 'logprob' ... nearest is `logprobs`", "teacher.policy=policies:guesses"),
    "records of a model": plain("needs a teacher that fills records (`schema`)", "teacher.engine=transformers"),
    "a student without misconceptions": plain("provenance.json does not say under `bugs`", "student.model=papers"),
    "a student of unknown ones": Bad(
        ("small.yaml",),
        "names the bug 'forgets everything'",
        {"student/provenance.json": '{"bugs": ["forgets everything"]}'},
    ),
    # settings
    "no number": plain("`learning_rate` is nan; nothing can be trained", "update.sft.learning_rate=.nan"),
    "an endless number": plain("`beta` is inf", "update.dpo.beta=.inf"),
    "a word for a number": plain("`schedule.rows`: ... valid integer ... 'many'", "schedule.rows=many"),
    "a level that is none": plain("`gate` is a level between 0 and 1, got 5", "schedule.gate=5"),
    "no decay": plain("`decay` is a factor above 0", "schedule.decay=-1"),
    "a share below nothing": plain("`fill` is shares of at least 0", "schedule.fill={own: -1}"),
    "a round that never was": plain("`schedule.start` is round 7 ... 0 to 0", "schedule.start=7"),
    "modules by a number": plain(
        "`target_modules` is 5. It is a list of modules' names", "update.lora.target_modules=5"
    ),
    "modules by what is no expression": plain(
        "`target_modules` is '*proj', no regular expression (nothing to repeat at position 0). It is a list",
        "update.lora.target_modules='*proj'",
    ),
    "a setting of a method's own": plain(
        "the `settings` of method 'gold': `target_module` is no field ... nearest is `target_modules`",
        "method=policies:MISTYPED",
    ),
    "patience of none": plain("`patience` must be at least 1", "schedule.patience=0"),
    "a seed that no library takes": plain("`seed` ... greater than or equal to 0, got -1", "seed=-1"),
    "a type of number that is none": plain("`student.dtype` ... 'float32'", "student.dtype=float3"),
    # files
    "a folder for an experiment": Bad(("student",), "the experiment file student cannot be read: Is a directory"),
    "keys within themselves": Bad(("loop.yaml",), "loop.yaml holds itself", {"loop.yaml": "course: &a {x: *a}\n"}),
    "a list within itself": Bad(("loop.yaml",), "loop.yaml holds itself", {"loop.yaml": "check: &a [*a]\n"}),
    "an experiment without bottom": Bad(
        ("deep.yaml",), "deep.yaml is nested too deeply", {"deep.yaml": "a: " + "[" * 5000}
    ),
    "a policy that leaves": Bad(
        ("small.yaml", "teacher.policy=leaves:f"),
        "leaves.py does not import: SystemExit: 3",
        {"leaves.py": "import sys; sys.exit(3)"},
    ),
    "a file for a run folder": Bad(
        ("small.yaml", "--run-dir", "policies.py"), "policies.py is a file; a run needs a folder", planned=False
    ),
    # characters
    "half a character in a row": own("line 1: `question` has half of a character", quiz=['{"question": "\\ud83d"}']),
    "half a character in a file": Bad(
        ("half.yaml",), "`method` has half of a character ... '\\ud83d'", {"half.yaml": 'method: "\\uD83D"\n'}
    ),
    "half a character in a key": Bad(
        ("half.yaml",), "has half of a character", {"half.yaml": 'student: {options: {"\\uD83D": 1}}\n'}
    ),
    "half a character in a command": plain(
        "`teacher.options.a.b` has half of a character", "teacher.options.a.b=\udcff"
    ),
    "a student's name with a NUL": plain(
        "the student: `model` is 'a\\x00b'; no file's name ... has a NUL. Write it without",
        *('student.model="a\\0b"', "student.engine=transformers"),
    ),
    "a profile's name with a NUL": plain("a\\u0000b/provenance.json does not say", 'student.model="a\\0b"'),
    "a teacher's name with a NUL": plain(
        "the teacher: `model` is 'a\\x00b'; no file's name ... has a NUL",
        *("method=gold", 'teacher.model="a\\0b"', "teacher.engine=transformers"),
    ),
    "half a character in a folder's name": Bad(
        ("small.yaml", "--run-dir", "runs/\udcff"), "the run folder's name ... choose another", planned=False
    ),
    "what a terminal would obey": plain("unknown method '\\x1b[2J", "method=\x1b[2J\u202e\u2028"),
    "a policy whose name turns around": plain("\\u202e", "teacher.policy=\u202epolicies:nothing"),
}


@pytest.mark.parametrize("case", BAD)
def test_it_is_told_in_one_line_before_anything_is_written(case: str, shell: Shell) -> None:
    bad = BAD[case]
    (shell.folder / "papers").mkdir()
    for name, text in bad.files.items():
        (shell.folder / name).write_text(text)
    done = refused(shell, ["run", *bad.args], bad.told)
    if bad.planned:
        assert refused(shell, ["plan", *bad.args], bad.told).err == done.err


# ---- models


def without(*names: str) -> Callable[[Path], None]:
    def do(model: Path) -> None:
        for name in names:
            (model / name).unlink()

    return do


def cut(model: Path) -> None:
    path = model / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def nothing(model: Path) -> None:
    pass


LONG = [{"question": "1+" * 80 + "1", "answer": 81}]
FULL = [{"question": "1+" * 63 + "1", "answer": 64, "solution": "=64"}]  # 127 characters: with the template, 129 tokens
TIGHT = [{"question": "1+" * 60 + "1", "answer": 61}]  # 123 tokens of 128
A_MODEL_TEACHES = (
    "student.engine=scripted",
    "student.model=student",
    "teacher.engine=transformers",
    "teacher.model=model",
)
MODELS: dict[str, tuple[Callable[[Path], object], tuple[str, ...], str]] = {
    "no chat template": (without("chat_template.jinja"), (), "the student: the tokenizer of ... has no chat template"),
    "a pickle": (without("model.safetensors"), (), "holds no `*.safetensors` ... convert the weights"),
    "half of the weights": (cut, (), "model.safetensors is not a whole safetensors file: it is cut off"),
    "no model": (without("config.json"), (), "it has no `config.json`"),
    "no folder": (nothing, ("student.model=./nowhere",), "the student: there is no model folder nowhere"),
    "none of the modules": (
        nothing,
        ("update.lora.target_modules=[query_key_value, dense]",),
        "`update.lora`: ... ['query_key_value', 'dense'], and ... has none of these. It has ... q_proj",
    ),
    "none of the modules by an expression": (
        nothing,
        ("update.lora.target_modules=query_key_value",),
        "'query_key_value', and ... has none of these. It has ... q_proj ... a regular expression for a module's whole",
    ),
    "modules of a method's own": (
        nothing,
        ("method=policies:AIMED",),
        "the student: method 'gold': `target_modules` is ['query_key_value'] ... has none ... Set `update.lora",
    ),
    "an expression for more than layers": (
        nothing,
        ("update.lora.target_modules=.*attn.*",),
        "'.*attn.*', which names `model.layers.0.self_attn` of ... too, and that is no layer",
    ),
    "a question longer than the context": (
        nothing,
        ("course.exam=long.jsonl",),
        "problem 'exam-0001' is 163 tokens long ... and the context of ... is 128 ... Shorten it, leave it out",
    ),
    "a question that fits without its template": (
        nothing,
        ("course.practice=full.jsonl",),
        "the student: problem 'practice-0001' is 129 tokens long as the chat template writes it",
    ),
    "a question longer than the teacher's context": (
        nothing,
        (*A_MODEL_TEACHES, "teacher.policy=policies:nothing", "course.practice=full.jsonl"),
        "the teacher: problem 'practice-0001' is 129 tokens long as the chat template writes it, and the context of",
    ),
    "half of a tokenizer": (
        lambda model: (model / "tokenizer.json").write_text("{"),
        ("course.exam=long.jsonl",),
        "tokenizer.json is no tokenizer",
    ),
    "no chat template for the teacher": (
        without("chat_template.jinja"),
        A_MODEL_TEACHES,
        "the teacher: the tokenizer of ... has no chat template",
    ),
}


@pytest.fixture
def modelled(shell: Shell, tiny: Path) -> Shell:
    """`own.yaml` has a random model of its own as its student, beside it."""
    shutil.copytree(tiny, shell.folder / "model")
    told = yaml.safe_load((shell.folder / "own.yaml").read_text())
    told |= {"student": {"model": "model", "max_tokens": 8}, "method": "gold", "rounds": 1}
    told |= {"schedule": {"rows": 8}, "check": ["gold"], "update": {"lora": {"r": 2}}}
    (shell.folder / "own.yaml").write_text(yaml.dump(told))
    for i, pool in enumerate(("practice", "quiz", "exam")):
        rows = [{**row, "solution": f"={row['answer']}"} for row in sums(10 + 20 * i, 8)]
        (shell.folder / f"{pool}.jsonl").write_text(lines(rows))
    for name, added in {"long": LONG, "full": FULL, "tight": TIGHT}.items():
        (shell.folder / f"{name}.jsonl").write_text(lines(added))
    return shell


@pytest.mark.parametrize("case", MODELS)
def test_a_model_that_could_not_work_is_refused_without_being_loaded(case: str, modelled: Shell) -> None:
    spoil, args, told = MODELS[case]
    spoil(modelled.folder / "model")
    done = refused(modelled, ["run", "own.yaml", *args], told)
    assert refused(modelled, ["plan", "own.yaml", *args], told).err == done.err


def test_what_leaves_too_little_room_for_an_answer_is_told_with_its_cause_and_runs(modelled: Shell) -> None:
    done = modelled("run", "own.yaml", "course.exam=tight.jsonl", "rounds=0", "-q")
    assert done.code == 0 and done.err.count("\n") == 1, done.err
    assert "warning: the student: in 1 of the problems an answer has less room than `max_tokens` (8)" in done.err
    assert "is 128: 'exam-0001' leaves 5 tokens" in done.err and "a larger `max_tokens` does not help" in done.err
    args = ("student.max_tokens=5", "rounds=0", "-q", "--run-dir", "runs/b")
    assert modelled("run", "own.yaml", "course.exam=tight.jsonl", *args).err == ""


def test_a_teacher_may_have_a_context_of_any_length_for_what_it_is_not_asked(modelled: Shell) -> None:
    def plan(*args: str) -> int:
        return modelled("plan", "own.yaml", *A_MODEL_TEACHES, *args).code

    assert plan("course.practice=full.jsonl") == 0, "a control asks it nothing"
    assert plan("course.practice=full.jsonl", "check=[gold, blind]") == 2
    assert plan("course.exam=long.jsonl", "check=[gold, blind]") == 0, "nobody asks it the exam"


@pytest.mark.parametrize(
    "targets",
    [
        *("all-linear", "ALL-LINEAR", "q_proj", r".*\.q_proj", r".*\.(q|v)_proj", ".*proj", "model", ".*", ".*norm"),
        *(["q_proj"], ["model.layers.1.mlp.up_proj"], ["proj"], ["self_attn"], ["q_proj", "norm"], ["q_proj", "none"]),
        *(["embed_tokens"], "lm_head", [], None),
    ],
)
def test_of_target_modules_just_those_are_refused_that_peft_refuses(targets: Any, tiny: Path) -> None:
    import transformers
    from peft import LoraConfig, get_peft_model

    auto: Any = transformers.AutoModelForCausalLM
    told = {"r": 2, "target_modules": targets}
    try:
        get_peft_model(auto.from_pretrained(tiny), LoraConfig(task_type="CAUSAL_LM", **told))
    except ValueError:
        with pytest.raises(ValueError, match="`target_modules` is"):
            can_be_trained(tiny, told)
    else:
        can_be_trained(tiny, told)


EACH = "{% for m in messages %}<u>{{ m.content }}{% endfor %}"
TEMPLATES = {
    "plain": EACH + "{% if add_generation_prompt %}<a>{% endif %}",
    "with special tokens": "{{ bos_token }}{{ eos_token }}{% for m in messages %}{{ m.content | trim }}{% endfor %}",
    "with the day": "{% if tools is not none %}tools{% endif %}{{ strftime_now('%d %b %Y') | lower }}" + EACH,
    "with blocks": "{% for m in messages %}\n  {% if loop.last %}{{ m | tojson }}{% break %}{% endif %}\n{% endfor %}",
    "with what is generated": "<u> {%- generation -%} " + EACH + "\n{%- endgeneration %}\n<a>",
    "that fails": "{% if tools is none %}{{ raise_exception('no') }}{% endif %}",
}


@pytest.mark.parametrize("template", TEMPLATES)
def test_a_question_is_as_long_as_the_engine_will_find_it(
    template: str, make_model: Callable[..., Path], tmp_path: Path
) -> None:
    import jinja2
    from transformers import AutoTokenizer

    model = make_model(tmp_path / "model", TEMPLATES[template])
    loaded: Any = AutoTokenizer
    words = loaded.from_pretrained(model)
    for n in range(60, 129):
        problem = Problem(id="a", messages=user(" " + "1" * n))
        try:
            asked = [{"role": "user", "content": problem.question}]
            room = 128 - len(words.apply_chat_template(asked, add_generation_prompt=True)["input_ids"])
        except jinja2.TemplateError:
            room = 127 - n  # what is asked is no shorter than the bare question
        if room > 0:
            told = fits(model, [problem], 8)
            assert (f"leaves {room} tokens" in told) is (room < 8), (n, told)
        else:
            with pytest.raises(ValueError, match=f"is {128 - room} tokens long"):
                fits(model, [problem], 8)


@pytest.mark.parametrize("placement", ["local", pytest.param("ray", marks=pytest.mark.ray)])
def test_gpus_where_there_are_none_are_refused_before_anything_is_written(placement: str, shell: Shell) -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("there is one")
    told = "asks for 1 GPU and this process sees none" if placement == "local" else "1 GPUs (learner 1) and Ray has 0"
    refused(shell, ["run", "small.yaml", "learner.gpus=1", f"placement={placement}"], told)


def test_losses_that_are_no_numbers_end_the_training_by_name_and_publish_nothing(modelled: Shell) -> None:
    args = ["run", "own.yaml", "--run-dir", "runs/a", "update.sft.learning_rate=1e30", "-q"]
    for _ in range(2):  # nothing is asked again, and the same training comes to the same
        done = modelled(*args)
        assert done.code == 2 and done.err.count("\n") == 1, done.err
        assert "the training of student-r0001-1-sft diverged" in done.err
        assert "Nothing was published. Lower `update.sft.learning_rate` (1e+30)" in done.err
        root = modelled.folder / "runs" / "a"
        assert not (root / "states").exists() and not (root / "steps/1/update.json").exists()
        assert modelled("runs", "--json").json[0]["status"] == "failed"


def test_a_training_that_diverges_once_leaves_a_run_that_goes_on(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    """As it may on a GPU, where no two trainings are quite the same."""

    def diverges(learner: ScriptedLearner, job: Job) -> Trained:
        raise Diverged(f"the training of {job.name} diverged")

    with monkeypatch.context() as patched:
        patched.setattr(ScriptedLearner, "train", diverges)
        assert shell("run", "small.yaml", "-q").code == 2
    steps = sorted(p.name for p in (shell.folder / "runs/small/steps/1").iterdir())
    assert "curate.json" in steps and "update.json" not in steps
    assert shell("run", "small.yaml", "-q").code == 0
    whole = shell("run", "small.yaml", "--run-dir", "runs/whole", "--json").json
    assert [r["state"] for r in shell("show", "runs/small", "--json").json["rounds"]] == [
        r["state"] for r in whole["rounds"]
    ]


# ---- what is no error


def questions(bugs: Sequence[str], wrong: bool, n: int) -> list[dict[str, Any]]:
    """Questions that a student with these misconceptions gets right, or wrong."""
    rng, found = Random(0), dict[str, None]()
    while len(found) < n:
        question = anything(rng)
        if bool(why_wrong(question, bugs)) == wrong:
            found[question] = None
    return [{"question": q, "answer": solve(q).rpartition("=")[2], "solution": solve(q)} for q in found]


def ended(shell: Shell, *args: str) -> tuple[dict[str, Any], str]:
    """What a run came to that ends as it should, and what is printed of it."""
    done = shell("run", "own.yaml", "--run-dir", "runs/a", *args)
    assert done.code == 0, done.err
    view = shell("show", "runs/a", "--json").json
    assert view["status"] == "finished" and view["exam"]["after"] is not None
    return view, done.out


def course(shell: Shell, wrong: bool) -> None:
    rows = questions(small.BUGS, wrong, 36)
    for i, pool in enumerate(("practice", "quiz", "exam")):
        (shell.folder / f"{pool}.jsonl").write_text(lines(rows[12 * i : 12 * i + 12]))


@pytest.mark.parametrize("method", ["tailored", "gold"])
def test_a_student_that_is_always_right_is_told_so_and_nothing_is_trained(method: str, shell: Shell) -> None:
    course(shell, wrong=False)
    view, out = ended(shell, f"method={method}")
    assert [r["quiz_accuracy"] for r in view["rounds"]] == [1, 1]
    assert "round 1: nothing to learn: the state is unchanged; all that was asked was right" in out
    assert view["exam"] == {"before": 1, "after": 1, "n": 12}


@pytest.mark.parametrize("method", ["tailored", "gold"])
def test_a_student_that_is_always_wrong_is_taught(method: str, shell: Shell) -> None:
    """There is no right answer of its own to rehearse."""
    course(shell, wrong=True)
    view, out = ended(shell, f"method={method}", "check=[gold, answer, steps]")
    assert view["rounds"][0]["quiz_accuracy"] == 0 and view["rounds"][1]["cases"] == 12
    assert view["exam"]["before"] == 0 < view["exam"]["after"]
    assert re.search(r"^ +0  0\.000  0\.000-0\.242  12 +0\.0%$", out, re.M), "none of twelve, and how sure that is"
    assert re.search(r"^ +1  0\.333 .* yes +12 ", out, re.M), "each was a case, and what was learnt of them is kept"
    assert "nothing to learn" not in out and "warning" not in out


def test_a_teacher_that_always_abstains_is_told_of_and_the_student_stays_as_it_is(shell: Shell) -> None:
    """The scripted teacher knows column arithmetic, and here it is asked in prose."""
    for i, pool in enumerate(("practice", "quiz", "exam")):
        rows = [
            {"question": f"Tom has {n} pens and finds one. How many?", "answer": n + 1} for n in range(9 * i, 9 * i + 9)
        ]
        (shell.folder / f"{pool}.jsonl").write_text(lines(rows))
    view, out = ended(shell)
    assert "round 1: nothing to learn: the state is unchanged; the teacher had nothing to say on any of 9 cases" in out
    assert [r["teacher_calls"] > 0 for r in view["rounds"]] == [False, True]
    assert view["rounds"][1]["state"] == view["rounds"][0]["state"]


def test_lessons_of_which_none_is_sound_are_told_of(shell: Shell) -> None:
    course(shell, wrong=True)
    _, out = ended(shell, "method=tailored", "check=[own]")
    assert "lessons was sound" in out


@pytest.mark.parametrize("chosen", ["[]", "None", "()"])
def test_a_selection_of_nothing_is_told_of_and_the_student_stays_as_it_is(chosen: str, shell: Shell) -> None:
    (shell.folder / "mine.py").write_text(
        "from dataclasses import replace\nfrom tutorloop.policies.tailored import METHOD\n"
        f"METHOD = replace(METHOD, select=lambda problems, room: {chosen})\n"
    )
    view, out = ended(shell, "method=mine:METHOD")
    for n in (1, 2):
        assert f"round {n}: nothing to learn: the state is unchanged; nothing was asked" in out
    assert len({r["state"] for r in view["rounds"]}) == 1 and not any(r["teacher_calls"] for r in view["rounds"])


# ---- any character

ODD = "Ünï 日本 🙂 \u202eturned\u200f \x1b[2J\x07 \x00 \u2028 a/../b #2 %s {} ' \" end"
UNICODE_POLICY = """
from tutorloop import Lesson

def policy(case, room):
    room.note({odd!r}, {{"{{}}": {odd!r}}})
    said = room.teacher.ask({odd!r} + "\\n" + case.question + "\\n" + case.work)
    return Lesson(text=said + {odd!r}, target=said, about={odd!r}, act={odd!r})

def triage(cases, room):
    return [*cases[:1], *cases, *cases]
"""


def test_any_character_goes_through_every_place_that_takes_text(shell: Shell) -> None:
    """Ids, problems, skills, files' and folders' names, what a policy says and notes."""
    name = ODD.replace("\x00", "").replace("/", "-")
    folder = shell.folder / name
    folder.mkdir()
    shutil.copytree(shell.folder / "student", folder / name)
    (folder / f"{name}.py").write_text(UNICODE_POLICY.format(odd=ODD))
    rows = questions(small.BUGS, True, 12)
    named = [
        {**row, "id": f"{ODD}{'' if i == 0 else '#2' if i == 1 else i}", "skill": ODD} for i, row in enumerate(rows)
    ]
    ids = [str(row["id"]) for row in named]
    prose = [{"question": ODD + str(n), "answer": n, "id": f"{n} {ODD}", "skill": ODD} for n in range(8)]
    (folder / "p.jsonl").write_text(lines([*named, *prose[:2]]))
    (folder / "q.jsonl").write_text(lines(prose[2:4]))
    (folder / f"{name}.jsonl").write_text(lines(prose[4:]))
    told = {
        "student": {"engine": "scripted", "model": name},
        "placement": "local",
        "rounds": 2,
        "course": {"kind": "jsonl", "practice": "p.jsonl", "quiz": "q.jsonl", "exam": f"{name}.jsonl"},
        "teacher": {"policy": f"{name}.py:policy"},
        "triage": f"{name}.py:triage",
        "schedule": {"rows": 20},
        "failures": 1.0,
    }
    (folder / f"{name}.yaml").write_text(yaml.dump(told, allow_unicode=True))
    command = ["run", f"{name}/{name}.yaml", "--run-dir", f"{name}/{name}-run"]
    done = shell(*command)
    assert done.code == 0, done.err
    assert all(line.isprintable() for line in (done.out + done.err).splitlines())
    assert shell(*command, "--quiet").code == 0, "and once more"
    for id in (*ids[:2], *(str(prose[i]["id"]) for i in (0, 4))):
        shown = shell("show", command[-1], id)
        assert shown.code == 0 and all(line.isprintable() for line in shown.out.splitlines())
        assert shell("show", command[-1], id, "--json").json["problem"] == id
    root = shell.folder / name / f"{name}-run"
    cases = {c.id: c.problem.id for c in small.table(root, "1/triage")}
    assert len(cases) == 29 and cases[ids[1]] == ids[1], "`#2` is somebody's own"
    assert cases[f"{ids[0]}#3"] == cases[f"{ids[0]}#4"] == ids[0]
    assert small.report(root, 1).notes[ODD] == {"{}": ODD}
    assert shell("runs", name, "--json").json[0]["status"] == "finished"
    assert all(line.isprintable() for line in shell("runs", name).out.splitlines())


def test_an_id_that_no_problem_can_have_is_unknown(shell: Shell) -> None:
    assert shell("run", "small.yaml", "rounds=0", "-q").code == 0
    done = shell("show", "runs/small", "\udcff")
    assert done.code == 2 and done.err.count("\n") == 1 and done.err.strip().isprintable()


def test_a_run_folder_with_a_name_that_is_no_text_is_listed_with_the_others(shell: Shell) -> None:
    assert shell("run", "small.yaml", "rounds=0", "-q").code == 0
    shutil.copytree(shell.folder / "runs" / "small", shell.folder / "runs" / os.fsdecode(b"\xff"))
    listed = shell("runs", "--json")
    assert listed.code == 0 and [line["status"] for line in listed.json] == ["finished"] * 2
    assert shell("runs").code == 0
