"""What is shown is what is trained: conversations are written without transformers as transformers writes them."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from random import Random
from shutil import copytree
from typing import Any

import pytest
import transformers

from tutorloop.agents.chat import Chat, render
from tutorloop.agents.models import fits
from tutorloop.agents.roles import Job, RoleSpec
from tutorloop.agents.trl_learner import TrlLearner
from tutorloop.agents.trl_rows import TokenRows
from tutorloop.evals.arithmetic import shipped
from tutorloop.evals.records import Messages, Problem, Turn, user
from tutorloop.policies.records import Example

SHARED = Path(os.environ.get("TUTORLOOP_SHARED", Path(__file__).parents[2] / "shared"))
GPT2 = SHARED / "data/tokenizers/gpt2_tokenizer_json_apache2/tokenizer.json"
TALKS: tuple[Messages, ...] = (
    user("543-121"),
    user("  two\n\nlines \t<e> and <|end|> é 中\u200b\U0001f600 "),
    (Turn(role="system", content="Work it out."), *user("1+1"), Turn(role="assistant", content="=2"), *user("2+2")),
)
EACH = "{% for m in messages %}"
TEMPLATES = {
    "special tokens": EACH + "{{ bos_token }}[{{ m.role }}]{{ m.content }}{{ eos_token }}{% endfor %}",
    "blocks": EACH + "\n  {% if loop.first %}\n<u>\n  {% endif %}\n{{ m['content'] }}<e>\n{% endfor %}\n",
    "control": EACH + "{% if m.role == 'system' %}{% continue %}{% endif %}{{ m.content }}<e>{% endfor %}",
    "json": "{{ messages | tojson }}{{ messages[0] | tojson(indent=2) }}<e>",
    "not given": "{% if tools or documents is not none %}x{% endif %}{{ missing }}{{ messages[-1].content }}<e>",
    "generation": (
        EACH + "{% if m.role == 'assistant' %}{% set x = 'in' %}{% generation %}{% set x = 'out' %}"
        "{{ m.content }}<e>{% endgeneration %}{{ x }}{% else %}{{ m.content }}{% endif %}{% endfor %}"
    ),
    "date": EACH + "{{ strftime_now('%Y') }}{{ m.content | trim }}<e>{% endfor %}",
}


def theirs(folder: Path) -> Any:
    auto: Any = transformers.AutoTokenizer
    return auto.from_pretrained(folder)


def turns(messages: Messages) -> list[dict[str, str]]:
    return [{"role": t.role, "content": t.content} for t in messages]


def same(folder: Path) -> None:
    """Prompts, answered conversations, texts and stop tokens are those of transformers."""
    chat, words = Chat.of(folder), theirs(folder)
    for messages in TALKS:
        asked = words.apply_chat_template(turns(messages), add_generation_prompt=True)["input_ids"]
        assert chat.prompt(messages) == asked
        assert chat.text(asked) == words.decode(asked, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        whole = words.apply_chat_template([*turns(messages), {"role": "assistant", "content": "=1"}])["input_ids"]
        assert chat.encode(chat._written(messages, "=1")) == whole
    assert words.eos_token_id in chat.stops
    assert dict(chat.special) == words.special_tokens_map


@pytest.fixture
def tell(tiny: Path, tmp_path: Path) -> Callable[..., Path]:
    """`tell(...)`: the tiny model's folder with these fields in its `tokenizer_config.json`; `None` takes one away."""

    def change(**fields: Any) -> Path:
        copy = Path(copytree(tiny, tmp_path / "copy"))
        path = copy / "tokenizer_config.json"
        told = {**json.loads(path.read_bytes()), **fields}
        path.write_text(json.dumps({k: v for k, v in told.items() if v is not None}))
        return copy

    return change


def test_the_shipped_student_is_written_to_as_transformers_does() -> None:
    same(shipped())


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_template_writes_what_it_writes_in_transformers(tell: Callable[..., Path], name: str) -> None:
    folder = tell(bos_token="<u>")
    (folder / "chat_template.jinja").write_text(TEMPLATES[name])
    same(folder)


def test_special_tokens_are_found_wherever_they_are_told_of(tell: Callable[..., Path], tmp_path: Path) -> None:
    named = {
        "__type": "AddedToken",
        "content": "<new>",
        "lstrip": True,
        "rstrip": False,
        "normalized": False,
        "single_word": False,
    }
    folder = tell(bos_token=named, extra_special_tokens={"boi": "<boi>"}, image_token="<image>")
    (folder / "chat_template.jinja").write_text(TEMPLATES["special tokens"] + "{{ boi }}{{ image_token }}")
    same(folder)


def test_tokens_that_the_config_adds_are_tokens(tell: Callable[..., Path]) -> None:
    added = {"content": "lines", "lstrip": False, "rstrip": False, "normalized": True, "single_word": False}
    folder = tell(added_tokens_decoder={"48": {**added, "special": False}})
    same(folder)
    assert len(Chat.of(folder).encode("lines")) == 1


def test_an_older_map_of_special_tokens_is_heard(tell: Callable[..., Path]) -> None:
    folder = tell(eos_token=None)
    (folder / "special_tokens_map.json").write_text('{"eos_token": "<e>", "bos_token": {"content": "<u>"}}')
    same(folder)


def test_a_template_among_several_is_the_default_one(tell: Callable[..., Path]) -> None:
    folder = tell(
        chat_template=[{"name": "tools", "template": "x"}, {"name": "default", "template": TEMPLATES["json"]}]
    )
    (folder / "chat_template.jinja").unlink()
    same(folder)


def test_a_byte_level_tokenizer_of_ordinary_size_splits_alike(tell: Callable[..., Path]) -> None:
    if not GPT2.exists():
        pytest.skip(f"no {GPT2}")
    folder = tell(eos_token="<|endoftext|>", pad_token=None, unk_token=None, extra_special_tokens=None)
    (folder / "tokenizer.json").write_bytes(GPT2.read_bytes())
    (folder / "chat_template.jinja").write_text("{% for m in messages %}{{ m.content }}{{ eos_token }}{% endfor %}")
    same(folder)
    chat, words, rng = Chat.of(folder), theirs(folder), Random(0)
    assert chat.pad == words.eos_token_id
    for _ in range(200):
        text = "".join(rng.choices("ab1 2'\n\té中<|>.,", k=40))
        assert chat.encode(text) == words(text, add_special_tokens=False)["input_ids"]


def test_a_model_without_its_tokenizer_file_borrows_one(tmp_path: Path) -> None:
    (tmp_path / "vocab.json").write_text(json.dumps({"a": 0, "b": 1, "<e>": 2}))
    (tmp_path / "merges.txt").write_text("#version: 0.2\n")
    told = {"tokenizer_class": "GPT2Tokenizer", "eos_token": "<e>", "unk_token": "<e>", "bos_token": "<e>"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(told))
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "gpt2", "eos_token_id": 2}))
    (tmp_path / "chat_template.jinja").write_text("{% for m in messages %}{{ m.content }}{{ eos_token }}{% endfor %}")
    assert Chat.of(tmp_path).pair(user("ab"), "b") == ([0, 1, 2], [1, 2])


@pytest.mark.parametrize(
    ("damage", "why"),
    [
        (lambda m: (m / "chat_template.jinja").unlink(), "has no chat template"),
        (lambda m: (m / "tokenizer.json").write_text("{"), "tokenizer.json is no tokenizer"),
        (lambda m: (m / "tokenizer_config.json").write_text("{"), "tokenizer_config.json is no JSON"),
    ],
)
def test_what_a_folder_lacks_is_said(tell: Callable[..., Path], damage: Callable[[Path], Any], why: str) -> None:
    folder = tell()
    damage(folder)
    with pytest.raises(ValueError, match=why):
        Chat.of(folder)


def test_a_model_that_names_no_stop_token_is_refused(tell: Callable[..., Path]) -> None:
    folder = tell(eos_token=None)
    (folder / "generation_config.json").write_text("{}")
    with pytest.raises(ValueError, match="names no stop token"):
        Chat.of(folder)


def test_every_stop_token_of_the_generation_config_ends_a_reply(tell: Callable[..., Path]) -> None:
    folder = tell()
    (folder / "generation_config.json").write_text('{"eos_token_id": [2, 3]}')
    assert Chat.of(folder).stops == {1, 2, 3}


# ---- examples


def test_the_prompt_is_masked_and_the_stop_token_is_learnt(tiny: Path) -> None:
    chat = Chat.of(tiny)
    row = render(Example(id="e", prompt=user("1+1"), completion="=2", rejected="=3"), chat)
    assert row.pieces(chat) == [("<u>1+1<a>", 0.0), ("=2<e>", 1.0)]
    assert row.mask == [0.0] * 5 + [1.0] * 3 and len(row.ids) == 8
    assert chat.text(row.rejected, special=True) == "=3<e>"


def test_spans_and_weights_are_those_of_the_example(tiny: Path) -> None:
    chat = Chat.of(tiny)
    example = Example(id="e", prompt=user("1+1"), completion="so =2", spans=((0, 3, 0.0), (3, 4, 3.0)), weight=0.5)
    assert render(example, chat).pieces(chat) == [("<u>1+1<a>so ", 0.0), ("=", 1.5), ("2<e>", 0.5)]
    with pytest.raises(ValueError, match="is not inside it"):
        render(replace(example, spans=((0, 9, 2.0),)), chat)


def test_the_rows_that_reach_trl_are_the_rendered_ones(
    spec: Callable[..., RoleSpec], lessons: Callable[..., list[Example]], rows: Callable[..., Any], tmp_path: Path
) -> None:
    base = TrlLearner(spec("learner")).base
    chat = Chat.of(base.folder)
    examples = [replace(e, weight=1 + i, spans=((0, 1, 0.0),)) for i, e in enumerate(lessons(4))]
    job = Job(loss="sft", start=base.state, reference=None, examples=rows(tmp_path, examples), name="a")
    for row, example in zip(TokenRows(base.chat, job).dataset, examples, strict=True):
        shown = render(example, chat)
        learnt = [w if label != -100 else 0.0 for w, label in zip(row["weights"], row["labels"], strict=True)]
        assert (row["input_ids"], learnt) == (shown.ids, shown.mask)
    pairs = replace(job, loss="dpo", examples=rows(tmp_path, lessons(4)))
    for row, example in zip(TokenRows(base.chat, pairs).dataset, lessons(4), strict=True):
        shown = render(example, chat)
        assert row["prompt_ids"] + row["chosen_ids"] == shown.ids
        assert row["rejected_ids"] == shown.rejected


def test_a_tokenizer_of_transformers_that_departs_from_the_files_is_told_of(
    spec: Callable[..., RoleSpec], tell: Callable[..., Path], caplog: pytest.LogCaptureFixture
) -> None:
    TrlLearner(spec("learner"))
    assert not caplog.records
    # This class begins every conversation with a token that the files do not name.
    TrlLearner(spec("learner", model=str(tell(tokenizer_class="LlamaTokenizer", unk_token="?"))))
    assert "departs from its `tokenizer.json`" in caplog.text


def test_a_template_that_fails_leaves_the_bare_question_to_be_measured(tell: Callable[..., Path]) -> None:
    folder = tell()
    (folder / "chat_template.jinja").write_text("{{ raise_exception('no') }}")
    assert fits(folder, [Problem(id="p", messages=user("1+1"))], answer=16) == ""


def test_rendering_loads_neither_torch_nor_transformers() -> None:
    code = (
        "import sys; from tutorloop.agents.chat import Chat; from tutorloop.evals.arithmetic import shipped;"
        "from tutorloop.evals.records import user; Chat.of(shipped()).pair(user('1+1'), '=2');"
        "print(*{'torch', 'transformers', 'datasets', 'trl'} & set(sys.modules))"
    )
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == ""
