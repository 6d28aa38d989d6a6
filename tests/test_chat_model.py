"""A student of a run is a LangChain chat model, and never the wrong student. Small real runs, made here."""

import importlib
import json
import logging
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
from langchain_core.callbacks import get_usage_metadata_callback
from langchain_core.exceptions import ContextOverflowError
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, AIMessageChunk, HumanMessage, ToolMessage
from langchain_tests.integration_tests import ChatModelIntegrationTests
from langchain_tests.unit_tests import ChatModelUnitTests

from tutorloop import ConfigError, JournalError, StudentChatModel, fork, launch
from tutorloop.agents.roles import Reply, Request
from tutorloop.agents.scripted import ScriptedStudent
from tutorloop.agents.weights import ADAPTER_FILE
from tutorloop.evals.records import State
from tutorloop.policies.rounds import RoundReport
from tutorloop.tests.policies_for_tests import small

SMALL: dict[str, Any] = {
    "method": "gold",
    "rounds": 1,
    "course": {"practice": 40, "quiz": 20, "exam": 10, "twins": 0, "retention": 0},
    "schedule": {"rows": 128},
    "update": {"sft": {"learning_rate": 1e-2}},  # so that a single round shows
    "placement": "local",
}
TALKATIVE = {"options": {"min_new_tokens": 1}}
"""The suites greet, and want an answer that is not empty. A student of sums has nothing to say to some greetings."""
QUESTION = "502-178"

pytestmark = pytest.mark.usefixtures("no_power_cuts")


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One round of the student that ships."""
    root = tmp_path_factory.mktemp("real") / "run"
    launch({**SMALL, "student": TALKATIVE}, root)
    return root


@pytest.fixture(scope="module")
def scripted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("scripted") / "run"
    launch({**SMALL, "student": {"engine": "scripted"}}, root)
    return root


@pytest.fixture(scope="module")
def student(real: Path) -> StudentChatModel:
    """After the last round, loaded once."""
    return StudentChatModel(run=real)


@pytest.fixture
def copy(real: Path, tmp_path: Path) -> Path:
    return shutil.copytree(real, tmp_path / "copy")


def state_of(root: Path, number: int = 1) -> State:
    return report(root, number).candidate


def report(root: Path, number: int) -> RoundReport:
    found: RoundReport = small.value(root, f"{number}/gate" if number else "0", RoundReport)
    return found


def chunks(model: StudentChatModel, question: str = QUESTION, **asked: Any) -> list[AIMessageChunk]:
    return list(model.stream(question, **asked))


# ---- LangChain's own suites. What such a student has not is declared by their properties; no test is left out by name.


class Declared:
    """What both suites are told of this model."""

    root: ClassVar[Path]

    @pytest.fixture(autouse=True, scope="class")
    @classmethod
    def _on(cls, real: Path) -> None:
        cls.root = real

    @property
    def chat_model_class(self) -> type[BaseChatModel]:
        return StudentChatModel

    @property
    def chat_model_params(self) -> dict[str, Any]:
        return {"run": self.root, "round": 1}

    @property
    def has_tool_calling(self) -> bool:
        return False

    @property
    def has_tool_choice(self) -> bool:
        return False

    @property
    def has_structured_output(self) -> bool:
        return False

    @property
    def supports_json_mode(self) -> bool:
        return False

    @property
    def supports_image_inputs(self) -> bool:
        return False

    @property
    def supports_image_urls(self) -> bool:
        return False

    @property
    def supports_pdf_inputs(self) -> bool:
        return False

    @property
    def supports_audio_inputs(self) -> bool:
        return False

    @property
    def supports_video_inputs(self) -> bool:
        return False

    @property
    def supports_image_tool_message(self) -> bool:
        return False

    @property
    def supports_pdf_tool_message(self) -> bool:
        return False

    @property
    def supports_anthropic_inputs(self) -> bool:
        return False  # blocks of tools and images

    @property
    def supports_model_override(self) -> bool:
        return False  # another state is another model object, which proves itself

    @property
    def returns_usage_metadata(self) -> bool:
        return True


class TestUnit(Declared, ChatModelUnitTests):
    @property
    def standard_chat_model_params(self) -> dict[str, Any]:
        # No `timeout`, `max_retries` and `api_key`: nobody is called. They are refused like all that is not honoured.
        return {"temperature": 0, "max_tokens": 100, "stop": []}


class TestIntegration(Declared, ChatModelIntegrationTests): ...


# ---- which student it is


@pytest.mark.parametrize("number", [0, 1])
def test_the_student_of_a_round_gives_the_answers_that_the_run_has_on_record(real: Path, number: int) -> None:
    told = {n: {row.problem.question: row.attempt.text for row in report(real, n).quiz.rows} for n in (0, 1)}
    assert told[0] != told[1], "or it would not matter who answers"
    model = StudentChatModel(run=str(real), round=number)
    said = model.batch(list(told[number]))
    assert [message.text for message in said] == list(told[number].values())
    assert {message.response_metadata["state"] for message in said} == {state_of(real, number).digest}


def test_by_default_the_one_answers_that_serves_after_the_last_round(real: Path, student: StudentChatModel) -> None:
    serving = report(real, 1).serving["student"]
    assert student.model_name == f"{serving.name}@{serving.digest[:12]}"


def test_it_is_made_from_an_import_path_and_plain_options(real: Path) -> None:
    module, _, name = "tutorloop:StudentChatModel".partition(":")
    model = getattr(importlib.import_module(module), name)(**{"run": str(real), "round": 0})
    assert model.model_name.startswith("student-base@")


def test_asking_leaves_the_run_as_it_was(copy: Path) -> None:
    before, times = small.tree(copy), {p: p.stat().st_mtime_ns for p in copy.rglob("*")}
    chunks(StudentChatModel(run=copy))
    assert small.tree(copy) == before and {p: p.stat().st_mtime_ns for p in copy.rglob("*")} == times


def test_a_round_that_is_not_there_is_told_with_those_that_are(real: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"has no finished round 7; it has 0 to 1\."):
        StudentChatModel(run=real, round=7)
    with pytest.raises(ConfigError, match=r"`round` .* greater than or equal to 0"):
        StudentChatModel(run=real, round=-1)
    with pytest.raises(JournalError, match="there is no run in"):
        StudentChatModel(run=tmp_path / "nowhere")


def spoil_a_byte(root: Path) -> None:
    path = root / state_of(root).weights / ADAPTER_FILE
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def lose_the_adapter(root: Path) -> None:
    shutil.rmtree(root / state_of(root).weights)


def put_another_in_its_place(root: Path) -> None:
    weights = root / state_of(root).weights
    (other,) = [p for p in weights.parent.iterdir() if p != weights]
    shutil.rmtree(weights)
    shutil.copytree(other, weights)


@pytest.mark.parametrize("damage", [spoil_a_byte, lose_the_adapter, put_another_in_its_place])
def test_a_student_that_is_not_what_was_trained_never_answers(copy: Path, damage: Callable[[Path], None]) -> None:
    damage(copy)
    model = StudentChatModel(run=copy)
    for _ in range(2):  # nor when it is asked again
        with pytest.raises(ConfigError, match=f"{state_of(copy).name}.* So it is not asked"):
            model.invoke(QUESTION)
    assert StudentChatModel(run=copy, round=0).invoke(QUESTION).text, "the base is whole"


def test_weights_that_read_unlike_the_stored_evidence_never_answer(real: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The adapter loads, and some layer does not apply it."""
    from peft.tuners.lora import Linear

    def bare(self: Any, x: Any, *args: Any, **kwargs: Any) -> Any:
        return self.base_layer(x)

    monkeypatch.setattr(Linear, "forward", bare)
    with pytest.raises(ConfigError, match=r"differ from the trainer's .* reads like the state before the training"):
        StudentChatModel(run=real).invoke(QUESTION)


def change_the_evidence(path: Path) -> None:
    told = json.loads(path.read_bytes())
    told["noise"] = 100.0  # whatever answers would do
    path.write_text(json.dumps(told))


@pytest.mark.parametrize("damage", [change_the_evidence, Path.unlink])
def test_evidence_that_is_not_what_was_stored_proves_nothing(copy: Path, damage: Callable[[Path], None]) -> None:
    damage(copy / "proofs" / f"{state_of(copy).name}.json")
    with pytest.raises(ConfigError, match=r"evidence of student-r0001.* cannot be gone by"):
        StudentChatModel(run=copy)


def test_what_a_rolled_back_round_left_can_be_asked_and_is_said_aloud(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    generate = ScriptedStudent.generate

    def forgets(self: Any, state: State, requests: Sequence[Request]) -> list[Reply]:
        replies = generate(self, state, requests)
        return [replace(reply, text="=0") for reply in replies] if "r0001" in state.name else replies

    monkeypatch.setattr(ScriptedStudent, "generate", forgets)
    root = tmp_path / "run"
    launch(small.experiment(tmp_path, rounds=1), root)
    with caplog.at_level(logging.WARNING):
        assert StudentChatModel(run=root).model_name.startswith("student-base@") and not caplog.records
        left = StudentChatModel(run=root, round=1)
    assert left.model_name.startswith(state_of(root).name) and left.invoke(QUESTION).text == "=0"
    assert f"round 1 of {root} was rolled back" in caplog.text
    with pytest.raises(ConfigError, match="it has 0 to 1, of which 1 was rolled back"):
        StudentChatModel(run=root, round=2)


def test_a_fork_has_the_students_of_the_rounds_that_it_shares(scripted: Path, tmp_path: Path) -> None:
    fork(scripted, tmp_path / "fork", 0, ["seed=5"])
    model = StudentChatModel(run=tmp_path / "fork", round=0)
    assert model.model_name == StudentChatModel(run=scripted, round=0).model_name
    assert model.invoke(QUESTION).text == StudentChatModel(run=scripted, round=0).invoke(QUESTION).text


# ---- how it answers


def test_tokens_are_handed_out_as_they_are_made(student: StudentChatModel, monkeypatch: pytest.MonkeyPatch) -> None:
    student.invoke(QUESTION)
    net, steps = student._server.net, list[int]()
    forward = net.forward

    def counted(*args: Any, **kwargs: Any) -> Any:
        steps.append(1)
        return forward(*args, **kwargs)

    monkeypatch.setattr(net, "forward", counted)
    stream = student.stream(QUESTION)
    for heard, _ in enumerate(zip(range(5), stream, strict=False), 1):
        assert len(steps) == heard
    del stream


def test_what_is_streamed_is_what_is_answered_and_only_its_end_counts_tokens(student: StudentChatModel) -> None:
    whole, pieces = student.invoke(QUESTION), chunks(student)
    assert len(pieces) > 10 and "".join(piece.text for piece in pieces) == whole.text
    *before, last = pieces
    assert not any(piece.usage_metadata or piece.response_metadata for piece in before)
    assert last.usage_metadata == whole.usage_metadata and last.response_metadata == whole.response_metadata
    assert (
        whole.usage_metadata and whole.usage_metadata["output_tokens"] == len(whole.text) + 1
    )  # characters, and a stop
    assert whole.response_metadata["finish_reason"] == "stop"


def test_an_answer_ends_before_a_stop_text_of_which_nothing_is_ever_heard(student: StudentChatModel) -> None:
    whole = student.invoke(QUESTION)
    cut = student.invoke(QUESTION, stop=["\n=", "no such"])
    assert cut.text == whole.text[: whole.text.index("\n=")]
    assert cut.response_metadata["finish_reason"] == "stop"
    assert cut.usage_metadata and whole.usage_metadata
    assert cut.usage_metadata["output_tokens"] == len(cut.text) + len("\n=") < whole.usage_metadata["output_tokens"]
    pieces = [str(piece.text) for piece in chunks(student, stop=["\n="])]
    assert "".join(pieces) == cut.text and all(pieces[:-1]), "what is held back is no piece"
    of_its_own = StudentChatModel(run=student.run, stop=["\n="])
    assert of_its_own.invoke(QUESTION).text == cut.text
    assert of_its_own.invoke(QUESTION, stop=[]).text == whole.text
    with pytest.raises(ValueError, match="`stop` has an empty text"):
        student.invoke(QUESTION, stop=[""])


def test_an_answer_that_is_cut_off_says_so(student: StudentChatModel) -> None:
    cut = student.invoke(QUESTION, max_tokens=4)
    assert cut.response_metadata["finish_reason"] == "length"
    assert cut.usage_metadata and cut.usage_metadata["output_tokens"] == len(cut.text) == 4
    assert StudentChatModel(run=student.run, max_tokens=4).invoke(QUESTION).text == cut.text


def test_drawn_answers_go_by_the_seed(student: StudentChatModel) -> None:
    def drawn(**asked: Any) -> str:
        return str(student.invoke(QUESTION, temperature=3.0, **asked).text)

    assert drawn() == drawn(seed=0) == drawn(seed=0)
    assert len({drawn(seed=i) for i in range(4)}) == 4
    assert student.invoke(QUESTION, seed=3).text == student.invoke(QUESTION).text, "the run takes the likeliest token"
    model = StudentChatModel(run=student.run, temperature=3.0, seed=2)
    assert model.invoke(QUESTION).text == drawn(seed=2)
    assert model.asdict() != student.asdict(), "a cache goes by it"


async def test_who_listens_may_ask_something_else_meanwhile(student: StudentChatModel) -> None:
    alone = student.invoke(QUESTION).text
    pieces = list[str]()
    async for piece in student.astream(QUESTION):
        pieces.append(str(piece.text))
        if len(pieces) < 3:
            assert student.invoke("1+1").text == (await student.ainvoke("1+1")).text
    assert "".join(pieces) == alone


def test_a_meter_of_langchain_counts_by_the_state(student: StudentChatModel) -> None:
    with get_usage_metadata_callback() as meter:
        said = [student.invoke("1+1"), *student.batch(["2+2", "3+3"])]
        chunks(student)
    ((name, counted),) = meter.usage_metadata.items()
    assert name == student.model_name
    apart = [m.usage_metadata["total_tokens"] for m in [*said, student.invoke(QUESTION)] if m.usage_metadata]
    assert counted["total_tokens"] == sum(apart)


def test_earlier_turns_are_part_of_what_is_asked(student: StudentChatModel) -> None:
    told = [HumanMessage("1+1"), AIMessage("=2"), HumanMessage([{"type": "text", "text": QUESTION}])]
    plain, long = student.invoke(QUESTION), student.invoke(told)
    assert plain.usage_metadata and long.usage_metadata
    assert long.usage_metadata["input_tokens"] == plain.usage_metadata["input_tokens"] + len("<u>1+1<a>=2<e>") - 6
    assert student.get_num_tokens(QUESTION) == len(QUESTION)


IMAGE: list[str | dict[Any, Any]] = [{"type": "image", "base64": "AAAA", "mime_type": "image/png"}]
CALL = {"name": "add", "args": {}, "id": "1"}


@pytest.mark.parametrize(
    ("asked", "given", "why"),
    [
        ([], {}, "nothing was asked"),
        ([HumanMessage(IMAGE)], {}, "reads text, and a message has a block of type 'image'"),
        ([ToolMessage("3", tool_call_id="1")], {}, "a message of type 'tool' is nothing that a student reads"),
        ([AIMessage("", tool_calls=[CALL])], {}, "a call of a tool is nothing"),
        ("1+1", {"tools": [CALL]}, "`tools` is nothing that a student can be asked with. It takes temperature"),
        ("1+1", {"model": "student-base"}, "another state of it is another StudentChatModel"),
        ("1+1", {"temperature": -1.0}, "`temperature` is -1.0; it takes a number of at least 0"),
    ],
)
def test_what_it_cannot_do_is_refused_with_the_reason(
    student: StudentChatModel, asked: Any, given: dict[str, Any], why: str
) -> None:
    for ask in (student.invoke, lambda *a, **k: list(student.stream(*a, **k))):
        with pytest.raises(ValueError, match=why):
            ask(asked, **given)


def test_what_does_not_fit_in_the_context_is_refused(student: StudentChatModel) -> None:
    with pytest.raises(ContextOverflowError, match="more than the student's context"):
        student.invoke("1+" * 400)


@pytest.mark.parametrize("given", [{"temprature": 0.5}, {"timeout": 60}, {"api_key": "x"}, {"max_tokens": 0}])
def test_an_option_that_would_not_be_honoured_is_refused(real: Path, given: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=f"`{next(iter(given))}` of a student: .* It takes run, round, temperature"):
        StudentChatModel(run=real, **given)


# ---- other engines


def test_a_scripted_student_answers_too_in_one_piece(scripted: Path) -> None:
    for number in (0, 1):
        told = {row.problem.question: row.attempt.text for row in report(scripted, number).quiz.rows}
        model = StudentChatModel(run=scripted, round=number)
        assert [message.text for message in model.batch(list(told))] == list(told.values())
    question, work = next(iter(told.items()))
    assert [str(piece.text) for piece in chunks(model, question)] == [work, ""]
    assert model.invoke(question, stop=["\n="]).text == work[: work.index("\n=")]


@pytest.mark.parametrize("given", [{"temperature": 0.5}, {"max_tokens": 5}, {"seed": 1}])
def test_what_changes_nothing_about_a_scripted_student_is_refused(scripted: Path, given: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="changes nothing: a scripted student"):
        StudentChatModel(run=scripted, **given)
    with pytest.raises(ConfigError, match="changes nothing: a scripted student"):
        StudentChatModel(run=scripted).invoke(QUESTION, **given)


def test_a_damaged_state_of_a_scripted_student_never_answers(scripted: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(scripted, tmp_path / "copy")
    library = copy / state_of(copy).library
    for content in (b'{"gone": []}', b"{", b"{}"):
        library.write_bytes(content)
        with pytest.raises(ConfigError, match=f"{state_of(copy).name}.* So it is not asked"):
            StudentChatModel(run=copy).invoke(QUESTION)
