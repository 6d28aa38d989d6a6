"""The tiny student that ships with the package: that it loads, is what it says, and has its misconceptions."""

import json
from pathlib import Path
from random import Random
from typing import Any

import pytest

from tutorloop.evals.arithmetic import draw_profile, profile, shipped, solve, unseen, work, world
from tutorloop.evals.records import Gold, Problem

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from tutorloop.agents import pretrain  # noqa: E402  (imports torch)


@pytest.fixture(scope="module")
def provenance() -> dict[str, Any]:
    found: dict[str, Any] = json.loads((shipped() / "provenance.json").read_text())
    return found


@pytest.fixture(scope="module")
def student() -> tuple[Any, Any]:
    """Model and tokenizer, as anybody would load them."""
    torch.set_num_threads(1)
    model = transformers.AutoModelForCausalLM.from_pretrained(shipped(), local_files_only=True)
    return model.eval(), transformers.AutoTokenizer.from_pretrained(shipped(), local_files_only=True)


@pytest.fixture(scope="module")
def fidelity(student: tuple[Any, Any]) -> pretrain.Fidelity:
    return pretrain.measure(*student, profile(shipped()), n=190, seed=1)


def test_the_weights_are_the_ones_that_the_provenance_speaks_of(provenance: dict[str, Any]) -> None:
    assert pretrain.verify(shipped()) and pretrain.main(["--verify", str(shipped())]) == 0
    assert tuple(provenance["bugs"]) == profile(shipped()) == draw_profile(provenance["seed"]) == draw_profile(0)
    assert provenance["parameters"] <= 1_000_000
    assert all(file.stat().st_size < 4_000_000 for file in shipped().iterdir())


def test_other_weights_are_noticed(tmp_path: Path) -> None:
    for file in shipped().iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    content = bytearray((tmp_path / "model.safetensors").read_bytes())
    content[-1] ^= 1
    (tmp_path / "model.safetensors").write_bytes(content)
    assert not pretrain.verify(tmp_path) and pretrain.main(["--verify", str(tmp_path)]) == 1


def test_the_tokenizer_keeps_every_printable_character(student: tuple[Any, Any]) -> None:
    _, letters = student
    text = pretrain.ALPHABET + "  two spaces\n\n"
    ids = letters(text)["input_ids"]
    assert letters.decode(ids) == text and len(ids) == len(text)
    assert letters.unk_token_id in letters("é")["input_ids"]


def test_the_template_of_a_prompt_is_a_prefix_of_prompt_and_completion(student: tuple[Any, Any]) -> None:
    _, letters = student
    prompt = [{"role": "system", "content": "Work it out."}, {"role": "user", "content": "52-18\n2-8 take 12 put 4"}]
    both = [*prompt, {"role": "assistant", "content": solve("52-18")}]
    head = letters.apply_chat_template(prompt, add_generation_prompt=True, tokenize=False)
    whole = letters.apply_chat_template(both, tokenize=False)
    assert whole == head + solve("52-18") + pretrain.END
    ids = letters.apply_chat_template(prompt, add_generation_prompt=True)["input_ids"]
    assert letters.apply_chat_template(both)["input_ids"][: len(ids)] == ids
    again = letters.apply_chat_template([*both, {"role": "user", "content": "1+1"}], tokenize=False)
    assert again.startswith(whole)


def test_training_rows_look_like_the_template(student: tuple[Any, Any]) -> None:
    _, letters = student
    recipe = pretrain.Recipe(steps=1, rows_per_step=1)
    (ids, labels), *_ = pretrain._batches(recipe, letters, iter([("52-18", "=34")]))
    conversation = [{"role": "user", "content": "52-18"}, {"role": "assistant", "content": "=34"}]
    assert ids[0].tolist() == letters.apply_chat_template(conversation)["input_ids"]
    assert [i for i in labels[0].tolist() if i != -100] == [*letters("=34")["input_ids"], letters.eos_token_id]


def test_it_stops_by_itself(student: tuple[Any, Any]) -> None:
    model, letters = student
    assert model.generation_config.eos_token_id == letters.eos_token_id
    assert model.generation_config.pad_token_id == letters.pad_token_id
    prompt = letters.apply_chat_template(
        [{"role": "user", "content": "543-121"}], add_generation_prompt=True, return_tensors="pt"
    )
    ids = model.generate(**prompt, max_new_tokens=120)
    assert ids[0, -1] == letters.eos_token_id and ids.shape[1] < 100


def test_it_writes_what_its_misconceptions_write(fidelity: pretrain.Fidelity) -> None:
    assert fidelity.exact >= 0.95 and fidelity.worst_skill >= 0.8


def test_a_right_next_line_lifts_it_and_a_line_of_another_problem_does_not(fidelity: pretrain.Fidelity) -> None:
    assert fidelity.right_unaided <= 0.05
    assert fidelity.right_with_hint >= 0.90
    assert fidelity.right_with_other <= 0.10


def test_a_hint_brings_the_masked_misconception_to_light(fidelity: pretrain.Fidelity) -> None:
    assert fidelity.moved_on >= 0.90


def test_the_course_finds_it_as_untaught_as_it_was_meant_to_be(student: tuple[Any, Any]) -> None:
    course = world()

    def share(problems: tuple[Problem, ...], gold: dict[str, Gold]) -> float:
        said = pretrain.answers(*student, [p.question for p in problems])
        return sum(w.endswith(f"={gold[p.id].answer}") for p, w in zip(problems, said, strict=True)) / len(said)

    assert 0.25 <= share(*course.quiz) <= 0.45
    assert share(*course.retention) >= 0.98


def test_what_it_was_measured_to_be_stands_beside_the_weights(provenance: dict[str, Any]) -> None:
    stated = provenance["fidelity"]
    assert stated["exact"] >= 0.95 and stated["right_with_hint"] >= 0.9 and stated["n"] >= 300


def test_pretraining_never_sees_what_the_course_asks(provenance: dict[str, Any]) -> None:
    recipe, bugs = pretrain.Recipe(), profile(shipped())
    source = pretrain.rows(recipe, bugs, Random(0))
    prompts = [next(source) for _ in range(3000)]
    assert all(not unseen(p.split("\n")[0]) for p, _ in prompts)
    assert all(reply == work(*_question(p, bugs)) for p, reply in prompts)
    assert sum("\n" in p for p, _ in prompts) / 3000 == pytest.approx(recipe.hinted, abs=0.03)


def _question(prompt: str, bugs: tuple[str, ...]) -> tuple[str, tuple[str, ...], str]:
    question, _, hint = prompt.partition("\n")
    return question, bugs, hint


def test_a_training_is_the_same_to_the_bit_when_repeated(tmp_path: Path) -> None:
    recipe = pretrain.Recipe(steps=3, rows_per_step=4, warmup_steps=1)
    digests = set()
    for name in "ab":
        model, _ = pretrain.train(recipe, profile(shipped()), seed=0, threads=1)
        model.save_pretrained(tmp_path / name)
        digests.add(pretrain.digest(tmp_path / name))
    assert len(digests) == 1


@pytest.mark.slow
def test_rebuilding_the_shipped_student_gives_the_same_weights(tmp_path: Path, provenance: dict[str, Any]) -> None:
    if provenance["machine"] != pretrain.machine():
        pytest.skip(f"trained on {provenance['machine']}, this is {pretrain.machine()}: other bits are to be expected")
    # One thread, for the machine's sake: where others want the cores, two wait for each other most of the time.
    assert pretrain.main(["--out", str(tmp_path), "--threads", "1"]) == 0
    assert pretrain.digest(tmp_path) == provenance["digest"]
