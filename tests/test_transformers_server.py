"""An engine with a model answers with the state that it was asked for, the same way each time."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from shutil import copytree
from typing import Any

import pytest

from tutorloop.agents.base import logprobs
from tutorloop.agents.build import build
from tutorloop.agents.roles import Canary, Evidence, Reply, Request, RoleSpec, Unproven
from tutorloop.agents.serving import ModelServer
from tutorloop.agents.transformers_server import TransformersServer
from tutorloop.evals.records import State, user

REQUESTS = [Request(messages=user(f"{i}+{i + 3}")) for i in range(6)]


@pytest.fixture
def server(
    spec: Callable[..., RoleSpec], canaries: tuple[Canary, ...], engine: str
) -> Callable[..., tuple[ModelServer, State]]:
    """`server(...)`: a server that has proven its base, and the base."""

    def make(**changes: object) -> tuple[ModelServer, State]:
        made: ModelServer = build(spec("student", engine=engine, **changes))
        base = made.hello().base
        readings = made.read(base, canaries)
        made.prove(Evidence(state=base, canaries=canaries, before=readings, after=readings, noise=0.0))
        return made, base

    return make


Made = Callable[..., tuple[Any, State]]
STEPWISE = pytest.mark.parametrize("engine", ["transformers"])
"""Of vLLM an answer comes whole."""


def test_nothing_is_answered_before_the_state_is_proven(spec: Callable[..., RoleSpec]) -> None:
    made = TransformersServer(spec("student"))
    with pytest.raises(Unproven, match="student-base"):
        made.generate(made.hello().base, REQUESTS)


def test_the_same_shard_gets_the_same_answer_to_the_last_bit(server: Made) -> None:
    made, base = server()
    assert made.generate(base, REQUESTS) == made.generate(base, REQUESTS)


def test_log_probabilities_of_a_cached_padded_batch_are_those_of_one_plain_forward(server: Made) -> None:
    made, base = server()
    for request, reply in zip(REQUESTS, made.generate(base, REQUESTS), strict=True):
        assert len(reply.logprobs) == len(reply.token_ids) == reply.tokens_out
        alone = logprobs(made.base.load(), made.base.chat.prompt(request.messages), list(reply.token_ids))
        assert reply.logprobs == pytest.approx(alone, abs=1e-4)


def test_an_answer_at_the_token_limit_is_cut_off_and_says_so(server: Made) -> None:
    made, base = server(max_tokens=3)
    cut = [r for r in made.generate(base, REQUESTS) if r.finish == "length"]
    assert cut
    assert {r.tokens_out for r in cut} == {3}


def test_an_answer_that_stops_ends_in_the_stop_token_which_is_not_in_its_text(server: Made) -> None:
    made, base = server(max_tokens=100, temperature=1.0)
    stopped = [r for r in made.generate(base, REQUESTS) if r.finish == "stop"]
    assert stopped
    assert all(r.token_ids[-1] == 1 and 1 not in r.token_ids[:-1] and "<e>" not in r.text for r in stopped)


def test_a_prefix_is_continued_and_not_repeated(server: Made) -> None:
    made, base = server()
    whole = next(r.text for r in made.generate(base, REQUESTS[:1]))
    begun = [replace(REQUESTS[0], prefix=whole[:5])]
    assert made.generate(base, begun)[0].text[: len(whole) - 5] == whole[5:]


def test_sampling_goes_by_seed_sample_and_question_and_not_by_the_place_in_the_shard(server: Made) -> None:
    made, base = server(temperature=1.0)
    texts = [r.text for r in made.generate(base, REQUESTS)]
    assert [r.text for r in made.generate(base, REQUESTS[::-1])] == texts[::-1]
    assert [r.text for r in made.generate(base, [replace(r, sample=1) for r in REQUESTS])] != texts
    other, base = server(temperature=1.0, seed=1)
    assert [r.text for r in other.generate(base, REQUESTS)] != texts


def test_top_k_of_one_is_greedy(server: Made) -> None:
    greedy, base = server()
    sharp, _ = server(temperature=1.0, options={"top_k": 1})
    assert sharp.generate(base, REQUESTS) == greedy.generate(base, REQUESTS)


def test_decoder_settings_of_a_state_win_over_those_of_the_role(server: Made) -> None:
    made, base = server(temperature=1.0)
    greedy, _ = server()
    assert made.generate(replace(base, decoder={"temperature": 0.0}), REQUESTS) == greedy.generate(base, REQUESTS)


def test_a_question_that_does_not_fit_fails_alone(server: Made) -> None:
    made, base = server()
    long = Request(messages=user("1+" * 100))
    replies = made.generate(base, [REQUESTS[0], long, REQUESTS[1]])
    assert [r.finish == "error" for r in replies] == [False, True, False]
    assert [replies[0], replies[2]] == made.generate(base, REQUESTS[:2])


def test_an_unknown_option_is_refused_by_its_nearest_name(spec: Callable[..., RoleSpec]) -> None:
    with pytest.raises(ValueError, match=r"`top_l` .* nearest is `top_"):
        TransformersServer(spec("student", options={"top_l": 3}))


def test_a_model_without_a_chat_template_is_refused(spec: Callable[..., RoleSpec], tiny: Path, tmp_path: Path) -> None:
    copy = copytree(tiny, tmp_path / "copy")
    (copy / "chat_template.jinja").unlink()
    with pytest.raises(ValueError, match="no chat template"):
        TransformersServer(spec("student", model=str(copy)))


@pytest.mark.parametrize("part", ["tokenizer_config.json", "config.json"])
def test_code_that_comes_with_a_model_is_never_run(
    spec: Callable[..., RoleSpec], tiny: Path, tmp_path: Path, part: str
) -> None:
    copy = copytree(tiny, tmp_path / "copy")
    (copy / "theirs.py").write_text(f"open({str(tmp_path / 'run')!r}, 'w')\n")
    told = json.loads((copy / part).read_bytes())
    names = ("AutoConfig", "AutoModelForCausalLM") if part == "config.json" else ("AutoTokenizer",)
    told["auto_map"] = {name: [None, "theirs.Theirs"] if name == "AutoTokenizer" else "theirs.Theirs" for name in names}
    told |= {"model_type": "theirs"} if part == "config.json" else {"tokenizer_class": "Theirs"}
    (copy / part).write_text(json.dumps(told))
    with pytest.raises(ValueError, match="trust_remote_code"):
        TransformersServer(spec("student", model=str(copy)))
    assert not (tmp_path / "run").exists()


def test_a_model_of_the_hub_that_is_not_here_is_not_downloaded_when_offline(spec: Callable[..., RoleSpec]) -> None:
    with pytest.raises(OSError, match=r"offline|cache"):
        TransformersServer(spec("student", model="nobody/nothing"))


def test_a_folder_that_is_not_there_is_named(spec: Callable[..., RoleSpec], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="there is no model folder"):
        TransformersServer(spec("student", model=str(tmp_path / "nowhere")))


def test_gpus_where_there_are_none_are_refused(spec: Callable[..., RoleSpec]) -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    with pytest.raises(ValueError, match="asks for 1 GPU and this process sees none"):
        TransformersServer(spec("student", gpus=1))


@STEPWISE
@pytest.mark.parametrize("temperature", [0.0, 1.5])
def test_a_streamed_answer_grows_by_a_token_and_ends_as_the_answer_that_is_given_whole(
    server: Made, temperature: float
) -> None:
    made, base = server(temperature=temperature)
    for request in REQUESTS:
        (whole,) = made.generate(base, [request])
        steps = list(made.stream(base, request))
        assert steps[-1] == whole and [s.tokens_out for s in steps] == list(range(1, whole.tokens_out + 1))
        assert all(s.token_ids == whole.token_ids[: s.tokens_out] and s.finish == "length" for s in steps[:-1])


@STEPWISE
def test_what_is_answered_between_two_tokens_of_a_stream_changes_neither(server: Made) -> None:
    made, base = server()
    alone, other = list(made.stream(base, REQUESTS[0])), made.generate(base, REQUESTS[1:])
    steps = list[Reply]()
    for step in made.stream(base, REQUESTS[0]):
        steps.append(step)
        assert made.generate(base, REQUESTS[1:]) == other
    assert steps == alone


@STEPWISE
def test_nothing_is_streamed_that_is_not_proven_or_does_not_fit(server: Made) -> None:
    made, base = server()
    with pytest.raises(Unproven, match="another"):
        next(made.stream(replace(base, name="another", digest="0" * 64), REQUESTS[0]))
    (reply,) = made.stream(base, Request(messages=user("1+" * 100)))
    assert (reply.finish, reply.text) == ("error", "")
