"""A secret of the environment is in nothing that a run leaves, prints or starts, whatever a user's code does."""

import base64
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml

from tutorloop.evals import redact
from tutorloop.evals.redact import public, redacted, secrets, without_secrets
from tutorloop.loops.config import ConfigError, holds_no_secret, resolve
from tutorloop.loops.journal import Journal
from tutorloop.policies.records import Cost
from tutorloop.policies.room import Asked, Recalled
from tutorloop.tests.policies_for_tests import leaky, leaky_training, once, small
from tutorloop.tests.provider import running

DRIVER = Path(__file__).parent / "drivers" / "watched.py"
CANARIES = {
    "A_TEST_KEY": "sk-canary-53f1",
    "A_TEST_PASSWORD": 'q"uo\\te\té-canary\n72c4',
    "DATABASE_URL": "postgres://me:canary-90be@localhost/db",
    "HF_TOKEN": "hf_canary1d8a",
}
OTHERS = {
    "A_TEST_KEY": "sk-something-else-entirely",
    "A_TEST_PASSWORD": "nothing-special-at-all-00",
    "DATABASE_URL": "postgres://me:another-one@localhost/db",
    "HF_TOKEN": "hf_fedcba9876",
}
SECRET = [value if name != "DATABASE_URL" else "canary-90be" for name, value in CANARIES.items()]


def written(secret: str) -> set[str]:
    """The forms in which a text may stand in a file: as it is, as Python, JSON or YAML write it, once and twice."""
    once = {secret, repr(secret)[1:-1], json.dumps(secret)[1:-1], json.dumps(secret, ensure_ascii=False)[1:-1]}
    return once | {json.dumps(form, ensure_ascii=a)[1:-1] for form in once for a in (True, False)}


NEEDLES = {form.encode() for secret in SECRET for form in written(secret)} | {b"canary"}
"""The last one would find a part of one too."""


def decoded(path: Path) -> bytes:
    """What a file holds: a Parquet part with its rows and its metadata in the open, anything else as it is."""
    raw = path.read_bytes()
    if path.suffix != ".parquet":
        return raw
    with pq.ParquetFile(path) as file:
        groups = [
            file.metadata.row_group(i).to_dict() for i in range(file.num_row_groups)
        ]  # smallest and largest values
        return raw + repr((file.read().to_pylist(), groups, file.schema_arrow.metadata)).encode()


def leaks(folder: Path) -> dict[str, str]:
    """Files below a folder that hold a canary, in their content or their name, with what they hold."""
    found = {}
    for path in folder.rglob("*"):
        content = decoded(path) if path.is_file() and not path.is_symlink() else b""
        content += path.name.encode(errors="surrogateescape")
        for needle in NEEDLES:
            if needle in content:
                at = content.index(needle)
                found[str(path.relative_to(folder))] = repr(content[max(0, at - 60) : at + 60])
    return found


def command(
    folder: Path, *args: str, secret: Mapping[str, str], driver: bool = False
) -> "subprocess.CompletedProcess[bytes]":
    """`tutorloop run` in a process of its own, with these secrets in its environment."""
    start = [str(DRIVER)] if driver else ["-m", "tutorloop"]
    return subprocess.run(
        [sys.executable, *start, "run", "leaky.yaml", "--run-dir", "run", *args],
        cwd=folder,
        env={**os.environ, **secret},
        capture_output=True,
    )


def furnish(folder: Path, **changes: Any) -> Path:
    usual = {"method": f"{leaky.__file__}:METHOD", "rounds": 1, "failures": 1.0, "student__model": "student"}
    told = small.experiment(folder, **{**usual, **changes})
    (folder / "leaky.yaml").write_text(yaml.safe_dump(told))
    return folder


def printed(done: "subprocess.CompletedProcess[bytes]") -> list[bytes]:
    return [needle for needle in NEEDLES if needle in done.stdout + done.stderr]


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that crashed and was finished, and everything that it printed."""
    folder = furnish(tmp_path_factory.mktemp("leaky"))
    crashed = command(folder, secret=CANARIES)
    assert crashed.returncode == 1, crashed.stderr.decode()
    (folder / "crash").write_bytes(crashed.stdout + crashed.stderr)
    shutil.copytree(folder / "run", folder / "crashed")
    (folder / "mended").write_text("")
    done = command(folder, secret=CANARIES)
    assert done.returncode == 0, done.stderr.decode()
    (folder / "out").write_bytes(done.stdout + done.stderr)
    return folder


def test_no_secret_is_in_anything_that_a_run_leaves_or_prints(told: Path) -> None:
    assert leaks(told) == {}


def test_everything_that_could_leak_did_try(told: Path) -> None:
    """Else the test above shows nothing: the names stand where the secrets would."""
    names = {f"${name}" for name in leaky.NAMES}
    files = {
        path.relative_to(told): decoded(path).decode(errors="replace") for path in told.rglob("*") if path.is_file()
    }
    with_all = {str(name) for name, text in files.items() if all(n in text for n in names)}
    steps = {f"run/rows/1/{slot}/part-00000.parquet" for slot in ("select", "attempt", "teach", "check")}
    assert (
        steps
        | {"run/asks/1-teach.parquet", "run/steps/1/teach.json", "run/logs/driver.log", "crash", "crashed/status.json"}
        <= with_all
    )
    failures = files[Path("run/rows/1/teach/part-00000.failures.jsonl")]
    for error in ("RuntimeError: <$", "SystemExit: <$", "returned Named", "Lesson.text", "ExceptionGroup: <$"):
        assert error in failures
    log = files[Path("run/logs/driver.log")]
    assert "AssertionError: a crash: <$A_TEST_KEY>" in log
    assert log.count("$A_TEST_PASSWORD") >= 2, "the message, and the errors behind it"
    for text in ("<$A_TEST_KEY>", "the key is <$", "UserWarning: <$", "ValueError: <$"):
        assert text in files[Path("crash")]


def test_what_is_left_does_not_depend_on_the_secrets_nor_on_a_crash(told: Path, tmp_path: Path) -> None:
    folder = furnish(tmp_path)
    (folder / "mended").write_text("")
    assert command(folder, secret=OTHERS).returncode == 0
    here, there = small.transcript(told / "run"), small.transcript(folder / "run")
    for transcript in (here, there):
        transcript.pop("logs/driver.log", None)
    assert here == there


def test_what_a_step_or_a_model_said_is_known_as_it_would_be_read_back(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("A_TEST_KEY", CANARIES["A_TEST_KEY"])

    def said() -> str:
        return f"401: {CANARIES['A_TEST_KEY']} is no valid key"

    for _ in range(2):
        journal = Journal.open(tmp_path / "run")
        assert journal.step("1/say", said) == "401: $A_TEST_KEY is no valid key"
        if journal.recall("k") is None:
            journal.record("1/teach", asking={"k": Asked("teacher", "p1", said())})
            journal.record("1/teach", replies={"k": (said(), Cost())})
        assert journal.recall("k") == Recalled(reply="401: $A_TEST_KEY is no valid key", step="1/teach", item="p1")
        journal.release()
    assert leaks(tmp_path) == {}


@pytest.mark.ray
def test_a_crash_on_ray_leaves_no_secret_in_any_folder_or_process_and_ray_listens_to_this_machine_only(
    place: Path, tmp_path: Path
) -> None:
    folder = furnish(tmp_path, placement="ray", student__replicas=2, evaluator__replicas=2)
    done = command(folder, secret=CANARIES, driver=True)
    assert done.returncode == 1, done.stderr.decode()
    assert b"AssertionError: a crash: <$A_TEST_KEY>" in done.stderr
    assert printed(done) == []
    assert leaks(folder) == {}
    logs = {"driver.log", "student-0.log", "student-1.log", "evaluator-0.log", "evaluator-1.log"}
    assert logs <= {path.name for path in (folder / "run" / "logs").iterdir()}
    assert len(list((folder / "ray").rglob("*.log"))) > 3, "Ray's own folder, as it was before it was removed"
    watched = json.loads((folder / "watched.json").read_bytes())
    assert {"raylet", "gcs_server"} <= {Path(name.split(" ")[0]).name for name in watched["environments"]}
    assert watched["environments"] and not any(watched["environments"].values())
    assert all("--disable-frontend" in name for name in watched["environments"] if "/dashboard.py" in name)
    assert watched["listening"] and set(watched["listening"]) <= {"127.0.0.1", "::1", "::ffff:127.0.0.1"}
    assert set(watched["connected"]) <= {"127.0.0.1", "::1", "::ffff:127.0.0.1"}


@pytest.mark.parametrize("placement", ["local", pytest.param("ray", marks=[pytest.mark.ray, pytest.mark.slow])])
def test_a_providers_key_reaches_the_provider_and_nobody_else_however_its_variable_is_named(
    placement: str, place: Path, tmp_path: Path
) -> None:
    secret = {"MY_OWN_PLACE": "canary-77aa-0c4e"}
    with running() as provider:
        teacher = {"engine": "chat", "url": provider.url, "model": "m-1", "key": "MY_OWN_PLACE"}
        told = small.experiment(tmp_path, rounds=1, method=f"{once.__file__}:METHOD", teacher=teacher)
        (tmp_path / "leaky.yaml").write_text(yaml.safe_dump(told))
        provider.behave(key="another")  # whose answer says what it was sent
        refused = command(tmp_path, "placement=local", secret=secret)
        assert (
            refused.returncode == 2 and b"authentication: 401" in refused.stderr and b"$MY_OWN_PLACE" in refused.stderr
        )
        provider.behave(key=secret["MY_OWN_PLACE"])
        done = command(tmp_path, f"placement={placement}", secret=secret, driver=placement == "ray")
        assert done.returncode == 0, done.stderr.decode()
        assert provider.told().calls == 60 == len(provider.told().answered), "the key was right"
    assert printed(refused) == printed(done) == []
    assert leaks(tmp_path) == {}
    if placement == "ray":
        watched = json.loads((tmp_path / "watched.json").read_bytes())
        assert watched["environments"] and not any(watched["environments"].values())


@pytest.mark.slow
@pytest.mark.parametrize("placement", ["local", pytest.param("ray", marks=pytest.mark.ray)])
def test_a_crash_in_a_real_training_leaves_no_secret_in_any_folder_either(
    placement: str, place: Path, tmp_path: Path
) -> None:
    """The shipped student and TRL, with the temporary folder and the libraries' caches where we look."""
    folder = furnish(
        tmp_path,
        method=f"{leaky_training.__file__}:METHOD",
        student={"engine": "transformers"},
        placement=placement,
        course={"practice": 100, "quiz": 20, "exam": 10, "twins": 0, "retention": 0},
        update__sft__per_device_train_batch_size=4,
    )
    for name in ("tmp", "cache"):
        (folder / name).mkdir()
    told = {**CANARIES, "TMPDIR": str(folder / "tmp"), "HF_HOME": str(folder / "cache")}
    crashed = command(folder, secret=told, driver=placement == "ray")
    assert crashed.returncode == 1, crashed.stderr.decode()
    when = "in" if placement == "local" else "after"
    assert f"a crash {when} a training: <$A_TEST_KEY>".encode() in crashed.stderr
    assert f"a crash {when} a training: <$A_TEST_KEY>" in (folder / "run/logs/driver.log").read_text()
    assert printed(crashed) == []
    assert leaks(folder) == {}
    trained = [*folder.glob("run/states/student-r0001-1-sft-*")]
    if placement == "ray":
        assert (folder / "run/logs/learner-0.log").exists() and trained
        watched = json.loads((folder / "watched.json").read_bytes())
        assert watched["environments"] and not any(watched["environments"].values())
    else:
        assert b"the key is <$A_TEST_KEY>" in crashed.stderr and trained == [], "the training was under way"
    (folder / "mended").write_text("")
    done = command(folder, secret=told)
    assert done.returncode == 0, done.stderr.decode()
    assert printed(done) == []
    assert leaks(folder) == {}
    assert [*folder.glob("run/states/student-r0001-1-sft-*")]


# ---- what is one


def test_a_variable_that_was_declared_to_hold_a_secret_does_so_whatever_its_name(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(redact, "_declared", set[str]())
    monkeypatch.setenv("MY_OWN_SPOT", "sk-of-my-own-11")
    assert redacted("sk-of-my-own-11") == "sk-of-my-own-11"
    redact.declare("MY_OWN_SPOT")
    assert redacted("sk-of-my-own-11") == "$MY_OWN_SPOT"
    assert "MY_OWN_SPOT" not in public()


@pytest.mark.parametrize(
    ("name", "value", "hidden"),
    [
        ("OPENAI_API_KEY", "sk-1234-5678", True),
        ("openai_api_key", "sk-1234-5678", True),
        ("AWS_SECRET_ACCESS_KEY", "/wJalrXUtnFEMI/K7MDENG", True),
        ("GITHUB_PAT", "ghp_12345678", True),
        ("PGPASSWORD", "hunter2hunter2", True),
        ("SLACK_WEBHOOK_URL", "https://hooks.example/T0/B0/x", True),
        ("A_SECRET", "correcthorsebatterystaple", True),
        ("A_TEST_KEY", "  sk-1234-5678\n", True),
        ("TOKENIZERS_PARALLELISM", "not-a-secret", False),
        ("MAX_TOKENS", "16000000000", False),
        ("GIT_AUTHOR_NAME", "Ada Lovelace", False),
        ("KEYBOARD", "us-intl-dead", False),
        ("PYTHONPATH", "somewhere/else", False),
        ("A_TEST_KEY", "short", False),
        ("A_TEST_KEY", "practice", False),
        ("GOOGLE_APPLICATION_CREDENTIALS", str(Path(__file__)), False),
    ],
)
def test_a_variable_holds_a_secret_if_its_name_says_so_and_its_value_could_be_one(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, hidden: bool
) -> None:
    for known in secrets().values():
        monkeypatch.delenv(known)
    monkeypatch.setenv(name, value)
    assert secrets() == ({value.strip(): name} if hidden else {})
    assert (name in public()) is not hidden
    assert public().keys() | {name} == os.environ.keys()


@pytest.mark.parametrize("text", [str, str.encode])
def test_a_secret_is_replaced_in_every_form_in_which_it_is_written(
    monkeypatch: pytest.MonkeyPatch, text: Callable[[str], Any]
) -> None:
    for name, value in CANARIES.items():
        monkeypatch.setenv(name, value)
    for name, secret in zip(CANARIES, SECRET, strict=True):
        for form in written(secret):
            assert redacted(text(f"a {form} b")) == text(f"a ${name} b")
    assert redacted(text("nothing")) == text("nothing")
    hidden = base64.b64encode(SECRET[0].encode()).decode()
    assert redacted(text(hidden)) == text(hidden), "as the module says"


def test_of_two_secrets_the_longer_one_is_replaced_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("A_TEST_KEY", "sk-1234-5678")
    monkeypatch.setenv("A_TEST_TOKEN", "user:sk-1234-5678:end")
    assert redacted("user:sk-1234-5678:end sk-1234-5678") == "$A_TEST_TOKEN $A_TEST_KEY"


def test_a_secret_that_was_taken_out_of_the_environment_is_still_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("A_TEST_KEY", "sk-once-and-for-all")
    assert "sk-once-and-for-all" in secrets()
    monkeypatch.delenv("A_TEST_KEY")
    assert redacted("sk-once-and-for-all") == "$A_TEST_KEY"


def test_what_is_started_without_secrets_has_none_and_this_process_keeps_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("A_TEST_KEY", "sk-1234-5678")
    ask = [sys.executable, "-c", "import os; print(os.environ.get('A_TEST_KEY'))"]
    with pytest.raises(RuntimeError), without_secrets():
        assert subprocess.check_output(ask, text=True).strip() == "None"
        raise RuntimeError("whatever happens")
    assert os.environ["A_TEST_KEY"] == "sk-1234-5678"


# ---- experiments


@pytest.mark.parametrize(
    ("override", "held"),
    [
        ("teacher.policy_options.key=sk-1234-5678", True),
        ("teacher.policy_options.urls=[http://x?key=sk-1234-5678]", True),
        ("teacher.policy_options.api_key=abc", True),
        ("teacher.options.access_token=sk_live", True),
        ("teacher.policy_options.api_key=A_TEST_KEY", False),
        ("teacher.policy_options.api_key=", False),
        ("update.sft.eos_token=<e>", False),
    ],
)
def test_an_experiment_names_a_secret_and_never_holds_one(
    monkeypatch: pytest.MonkeyPatch, override: str, held: bool
) -> None:
    monkeypatch.setenv("A_TEST_KEY", "sk-1234-5678")
    config = resolve({}, [override])
    if not held:
        return holds_no_secret(config)
    with pytest.raises(ConfigError, match=r"holds a secret.*environment variable") as caught:
        holds_no_secret(config)
    assert "sk-" not in str(caught.value)
    assert override.partition("=")[0] in str(caught.value)


def test_an_experiment_that_holds_a_secret_is_refused_in_one_line_and_leaves_nothing(tmp_path: Path) -> None:
    folder = furnish(tmp_path)
    before = small.tree(folder)
    done = command(folder, f"student.options.note={CANARIES['A_TEST_KEY']}", secret=CANARIES)
    assert done.returncode == 2
    assert done.stderr.count(b"\n") == 1 and b"`student.options.note` holds a secret" in done.stderr
    assert printed(done) == []
    assert small.tree(folder) == before
