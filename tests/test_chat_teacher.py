"""One call of a provider over real HTTP: what comes back, or why nothing does."""

import asyncio
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from langchain_core.language_models import FakeListChatModel
from pydantic import Field
from pydantic_core import to_json

from tutorloop.agents import langchain_model
from tutorloop.agents.build import build
from tutorloop.agents.chat_teacher import ChatTeacher, state_of
from tutorloop.agents.faults import Fault, of_exception, of_status
from tutorloop.agents.roles import Evidence, PublishError, Reply, Request, RoleSpec
from tutorloop.evals.records import Turn, user
from tutorloop.evals.rows import adapter
from tutorloop.policies.teaching import Diagnosis
from tutorloop.tests.provider import Provider

PROMPT = "52-18\n2-8 put 6\n5-1 put 4\n=46"
RIGHT = "2-8 take 12 put 4\n5-1-1 put 3\n=34"
SOON = 20.0


@pytest.fixture(params=["by address", "by LangChain"])
def spec(request: pytest.FixtureRequest, provider: Provider, tmp_path: Path) -> RoleSpec:
    provider.behave()
    here: dict[str, Any] = {"url": provider.url}
    if request.param == "by LangChain":
        here = {"chat": "langchain_openai:ChatOpenAI", "options": {"base_url": provider.url, "api_key": "none"}}
    return RoleSpec(role="teacher", engine="chat", root=tmp_path, model="m-1", deadline=SOON, **here)


def asked(spec: RoleSpec, *requests: Request) -> list[Reply | Fault]:
    """What comes of calls, in their order."""
    teacher: ChatTeacher = build(spec)
    teacher.begin(list(enumerate(requests)))
    found: dict[int, Reply | Fault] = {}
    while len(found) < len(requests):
        found |= dict(teacher.ended(SOON))
    teacher.close()
    return [found[i] for i in range(len(requests))]


def ask(spec: RoleSpec, text: str = PROMPT, **changes: Any) -> Any:
    (came,) = asked(spec, Request(messages=user(text), **changes))
    return came


def test_a_reply_has_its_text_its_tokens_and_who_answered(spec: RoleSpec, provider: Provider) -> None:
    provider.behave(model="m-1-2026")
    came = ask(spec)
    assert came == Reply(text=RIGHT, tokens_in=8, tokens_out=9, model="m-1-2026")


def test_turns_settings_and_options_arrive_as_they_are_told(spec: RoleSpec, provider: Provider) -> None:
    options = {**spec.options, "top_p": 0.5}
    messages = (Turn(role="system", content="Be kind."), *user(PROMPT))
    asked(replace(spec, options=options, max_tokens=77, temperature=0.25), Request(messages=messages))
    last = provider.told().last
    assert last["messages"] == [{"role": t.role, "content": t.content} for t in messages]
    limit = last.get("max_tokens") or last["max_completion_tokens"]
    assert (last["model"], limit, last["temperature"], last["top_p"]) == ("m-1", 77, 0.25, 0.5)
    assert "response_format" not in last


@pytest.mark.parametrize(
    ("manner", "kind"),
    [
        ({"faults": {"429": 1}}, "rate limited"),
        ({"faults": {"429": 1}, "code": "insufficient_quota"}, "no credit"),
        ({"faults": {"500": 1}}, "server error"),
        ({"faults": {"529": 1}}, "server error"),
        ({"faults": {"malformed": 1}}, "malformed"),
        ({"faults": {"dropped": 1}}, "dropped"),
        ({"faults": {"refused": 1}}, "refused"),
        ({"faults": {"400": 1}}, "bad request"),
        ({"faults": {"400": 1}, "code": "context_length_exceeded"}, "too long"),
        ({"faults": {"404": 1}}, "not found"),
        ({"faults": {"401": 1}}, "authentication"),
    ],
)
def test_what_goes_wrong_has_a_kind_and_is_one_call(
    manner: Mapping[str, Any], kind: str, spec: RoleSpec, provider: Provider
) -> None:
    provider.behave(**manner)
    came = ask(spec)
    assert isinstance(came, Fault) and came.kind == kind, came
    assert provider.told().calls == 1, "nobody tries again behind our back"
    if kind == "rate limited":
        assert came.retry_after == 0.05


def test_an_answer_that_does_not_come_in_time_is_a_timeout(spec: RoleSpec, provider: Provider) -> None:
    provider.behave(faults={"slow": 1})
    assert ask(replace(spec, deadline=0.3)).kind == "timeout"


def test_a_server_that_is_not_there_is_a_dropped_connection(tmp_path: Path) -> None:
    nobody = RoleSpec(role="teacher", engine="chat", root=tmp_path, model="m", url="http://127.0.0.1:9/v1")
    assert ask(nobody).kind == "dropped"


def test_tokens_that_nobody_told_are_not_taken_for_none(spec: RoleSpec, provider: Provider) -> None:
    provider.behave(metered=False)
    came = ask(spec)
    assert came.text == RIGHT and not came.metered


def test_an_answer_that_was_cut_off_says_so(spec: RoleSpec, provider: Provider) -> None:
    provider.behave(faults={"length": 1})
    assert ask(spec).finish == "length"


def test_the_beginning_of_a_reply_cannot_be_given_and_is_not_paid_for(spec: RoleSpec, provider: Provider) -> None:
    assert ask(spec, prefix="2-8").kind == "bad request"
    assert provider.told().calls == 0


FORM = to_json(adapter(Diagnosis).json_schema()).decode()


def test_a_record_is_asked_for_by_the_providers_own_means(spec: RoleSpec, provider: Provider) -> None:
    came = ask(spec, schema="Diagnosis", json_schema=FORM)
    assert adapter(Diagnosis).validate_json(came.text) == Diagnosis(bug="smaller-from-larger", step=0)
    form = provider.told().last["response_format"]
    assert form["type"] == "json_schema" and form["json_schema"]["schema"]["properties"].keys() >= {"bug", "step"}


def test_a_record_can_be_asked_for_in_words(spec: RoleSpec, provider: Provider) -> None:
    ask(replace(spec, records="prompt"), schema="Diagnosis", json_schema=FORM)
    last = provider.told().last
    assert "response_format" not in last and FORM in last["messages"][-1]["content"]


def test_many_calls_are_in_flight_at_once(spec: RoleSpec, provider: Provider) -> None:
    provider.behave(latency=0.3)
    came = asked(spec, *(Request(messages=user(f"{PROMPT}\n#{i}")) for i in range(40)))
    assert [c.text for c in came if isinstance(c, Reply)] == [RIGHT] * 40
    assert provider.told().most == 40


def test_the_key_is_sent_and_is_in_nothing_that_comes_back(
    spec: RoleSpec, provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MY_OWN_PLACE", "sk-canary-77aa")
    options = {name: value for name, value in spec.options.items() if name != "api_key"}
    mine = replace(spec, key="MY_OWN_PLACE", options=options)
    provider.behave(key="sk-canary-77aa")
    assert ask(mine).text == RIGHT
    provider.behave(key="sk-another")
    came = ask(mine)
    assert came.kind == "authentication" and "canary" not in came.why and "$MY_OWN_PLACE" in came.why
    monkeypatch.delenv("MY_OWN_PLACE")
    with pytest.raises(ValueError, match="MY_OWN_PLACE, which is not set"):
        build(mine)


def test_another_model_server_or_option_is_another_teacher_and_another_key_is_not(tmp_path: Path) -> None:
    spec = RoleSpec(role="teacher", engine="chat", root=tmp_path, model="m", url="http://127.0.0.1:9/v1")
    others = [
        replace(spec, model="n"),
        replace(spec, url="http://127.0.0.1:8/v1"),
        replace(spec, options={"top_p": 0.5}),
        replace(spec, temperature=1.0),
        replace(spec, chat="x:Y", url=""),
    ]
    assert len({state_of(s).digest for s in (spec, *others)}) == 6
    assert state_of(replace(spec, key="A_KEY", deadline=1.0, replicas=3)) == state_of(spec)
    nothing: Any = {"canaries": (), "before": (), "after": (), "noise": 0.0}
    teacher = build(spec)
    assert teacher.prove(Evidence(state=state_of(spec), **nothing)) == 0.0
    with pytest.raises(PublishError, match="only its base state"):
        teacher.prove(Evidence(state=state_of(others[0]), **nothing))
    teacher.close()


# ---- LangChain's


class Slow(FakeListChatModel):
    """It has no asynchronous call of its own; and settings that would spoil samples."""

    responses: list[str] = Field(default_factory=lambda: ["one", "two", "three"])
    max_retries: int = 7
    made: Mapping[str, Any] = Field(default_factory=dict)


def local(tmp_path: Path, **changes: Any) -> RoleSpec:
    name = f"{__name__ if '.' in __name__ else 'tutorloop.tests.test_chat_teacher'}:Slow"
    return RoleSpec(role="teacher", engine="chat", root=tmp_path, **{"chat": name, **changes})


def test_a_chat_model_is_made_without_its_own_retries_and_cache(tmp_path: Path) -> None:
    async def made() -> Any:
        return langchain_model.LangChainModel(local(tmp_path)).model

    model = asyncio.run(made())
    assert (model.max_retries, model.cache) == (0, False)


def test_a_cache_that_was_set_for_all_of_langchain_gives_no_sample_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from langchain_core.caches import InMemoryCache
    from langchain_core.globals import set_llm_cache

    set_llm_cache(InMemoryCache())
    try:
        came = asked(local(tmp_path), *(Request(messages=user("same"), sample=i) for i in range(3)))
    finally:
        set_llm_cache(None)
    assert sorted(c.text for c in came if isinstance(c, Reply)) == ["one", "three", "two"]


def test_no_call_is_traced_whatever_the_environment_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from langsmith import utils

    get_env_var: Any = utils.get_env_var
    for name in ("LANGSMITH_TRACING", "LANGCHAIN_TRACING_V2"):
        monkeypatch.setenv(name, "true")
    monkeypatch.setenv("LANGSMITH_ENDPOINT", "http://127.0.0.1:9")
    get_env_var.cache_clear()
    seen = list[Any]()
    monkeypatch.setattr("langchain_core.tracers.langchain.LangChainTracer.__init__", lambda *a, **k: seen.append(a))
    try:
        assert ask(local(tmp_path)).text in ("one", "two", "three")
    finally:
        get_env_var.cache_clear()
    assert seen == []


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"chat": "langchain_core.nowhere:Model"}, "there is no such class"),
        ({"chat": "langchain_core.messages:HumanMessage"}, "no chat model"),
        ({"chat": "langchain_openai:ChatOpenAI", "model": "m", "options": {"temperature": "warm"}}, "cannot be made"),
    ],
)
def test_what_is_no_chat_model_is_refused_when_it_is_built(changes: Any, told: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=told):
        build(local(tmp_path, **changes))


def test_an_error_of_any_client_is_read_by_its_status_or_its_name() -> None:
    class Answer:
        status_code = 429
        headers: Mapping[str, str] = {"Retry-After": "3"}

    class SomeClientError(Exception):
        response = Answer()

    class ReadTimeoutError(Exception): ...

    assert of_exception(SomeClientError("slow down")).retry_after == 3.0
    assert of_exception(SomeClientError("slow down")).kind == "rate limited"
    assert of_exception(ReadTimeoutError()).kind == "timeout"
    assert of_exception(KeyError("x")).kind == "unknown"
    assert of_status(302, "", {}).kind == "not found", "a key is not sent on to wherever it is told to"
