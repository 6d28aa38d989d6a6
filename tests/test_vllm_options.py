"""What an experiment may ask of vLLM is decided when it is read: neither vLLM nor a model is needed for it."""

import importlib.util
from collections.abc import Callable
from pathlib import Path
from shutil import copytree
from typing import Any

import pytest

from tutorloop.agents.roles import RoleSpec
from tutorloop.agents.vllm_heads import WIDTHS, Heads, heads_of
from tutorloop.agents.vllm_options import room_for, split
from tutorloop.loops.config import ConfigError
from tutorloop.loops.launch import Prepared, prepare, role_specs

SMALL: dict[str, Any] = {"course": {"practice": 20, "quiz": 10, "exam": 10, "twins": 0, "retention": 0}}


def prepared(**student: Any) -> Prepared:
    more = student.pop("more", {})
    return prepare({**SMALL, "student": {"engine": "vllm", **student}, **more})


@pytest.mark.parametrize(
    "options, why",
    [
        ({"max_modl_len": 512}, "`max_modl_len` is no option of the engine vllm. The nearest is `max_model_len`"),
        ({"temperatur": 1.0}, "`temperatur` is no option of the engine vllm. The nearest is `temperature`"),
        ({"max_model_len": "long"}, "`max_model_len` is 'long'; it takes int"),
        ({"enforce_eager": 1}, "`enforce_eager` is 1; it takes bool"),
        ({"block_size": True}, "`block_size` is True; it takes int"),
        ({"trust_remote_code": True}, "`trust_remote_code` cannot be set: code that comes with a model is never run"),
        ({"lora_target_modules": ["lm_head"]}, "the head, which breaks prompt log-probabilities"),
        ({"typical_p": 0.5}, "`typical_p` cannot be set: vLLM does not have it"),
        ({"num_beams": 2}, "`num_beams` cannot be set: one token is chosen after another"),
        ({"top_p": 2.0}, "`top_p` is 2.0; it takes a number of at least 0 and at most 1"),
        ({"max_lora_rank": 5}, "`max_lora_rank` is 5; vLLM takes one of 1, 8, 16"),
    ],
)
def test_an_option_that_cannot_be_is_refused_when_the_experiment_is_read(options: Any, why: str) -> None:
    with pytest.raises(ConfigError, match=r"`student\.options`: ") as caught:
        prepared(options=options)
    assert why in str(caught.value)


@pytest.mark.parametrize(
    "lora, why",
    [
        ({"use_dora": True}, "`use_dora` cannot be set: an adapter trained with it cannot be served by every engine"),
        ({"modules_to_save": ["lm_head"]}, "`modules_to_save` cannot be set"),
        ({"lora_bias": True}, "`lora_bias` cannot be set"),
        ({"bias": "lora_only"}, "an adapter trained with `bias` 'lora_only' cannot be served"),
        ({"init_lora_weights": "pissa"}, "an adapter trained with `init_lora_weights` 'pissa' cannot be served"),
        ({"r": 1024}, "an adapter of rank 1024 cannot be served by vLLM, whose largest is 512"),
        ({"rank_pattern": {"q_proj": 600}}, "an adapter of rank 600 cannot be served by vLLM"),
        ({"target_modules": ["embed_tokens", "q_proj"]}, "adapters on embeddings are not served by vLLM here"),
    ],
)
def test_an_adapter_that_vllm_cannot_serve_is_refused_when_the_experiment_is_read(lora: Any, why: str) -> None:
    with pytest.raises(ConfigError) as caught:
        prepared(more={"update": {"lora": lora}})
    assert why in str(caught.value)


def test_what_is_merged_may_have_any_rank() -> None:
    prepared(publish="merged", more={"update": {"lora": {"r": 1024}}})


def test_a_rank_above_the_one_that_is_set_is_refused() -> None:
    with pytest.raises(ConfigError, match="rank 32 does not fit into `max_lora_rank` 16"):
        prepared(options={"max_lora_rank": 16})


@pytest.mark.parametrize(
    "student, why",
    [
        (
            {"engine": "transformers", "publish": "merged"},
            "`student.publish` is merged, which the engine 'transformers'",
        ),
        ({"python": "x/bin/python", "more": {"placement": "local"}}, "`student.python` needs a process of its own"),
        ({"python": "x/bin/python", "more": {"limit": 4}}, "and a `limit` puts all roles into one"),
    ],
)
def test_what_a_role_cannot_have_where_it_is_is_refused(student: Any, why: str) -> None:
    with pytest.raises(ConfigError, match=why):
        prepared(**student)


def test_the_engine_is_told_the_rank_of_what_it_will_serve() -> None:
    specs = role_specs(prepared(more={"update": {"lora": {"rank_pattern": {"up_proj": 40}}}}), Path())
    assert specs["student"].options == specs["evaluator"].options == {"max_lora_rank": 64}
    assert specs["learner"].options == specs["teacher"].options == {}
    assert (specs["student"].publish, specs["learner"].publish) == ("adapter", "adapter")


def test_an_environment_of_its_own_is_the_engines_and_not_the_learners() -> None:
    specs = role_specs(prepared(python="/venv/bin/python"), Path())
    assert {name: spec.python for name, spec in specs.items()} == {
        **dict.fromkeys(("student", "evaluator"), "/venv/bin/python"),
        **dict.fromkeys(("teacher", "learner"), ""),
    }


def test_how_to_decode_and_how_to_run_are_told_apart() -> None:
    told = {"top_k": 5, "kv_cache_memory_bytes": 1 << 26, "max_new_tokens": 9}
    assert split(told) == ({"top_k": 5, "max_new_tokens": 9}, {"kv_cache_memory_bytes": 1 << 26})
    assert [room_for(r) for r in (1, 2, 8, 9, 512)] == [1, 8, 8, 16, 512]


def test_without_vllm_the_role_says_what_to_do(spec: Callable[..., RoleSpec]) -> None:
    if importlib.util.find_spec("vllm"):
        pytest.skip("vLLM is installed here")
    from tutorloop.agents.build import build

    with pytest.raises(ValueError, match=r"no vLLM that works .* name a Python that has it: `python`"):
        build(spec("student", engine="vllm"))


# ---- heads


def test_heads_that_are_wide_enough_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "qwen2", "num_attention_heads": 14, "hidden_size": 896}')
    assert heads_of(tmp_path) is None


@pytest.mark.parametrize(
    "change", ['"model_type": "gemma"', '"rope_parameters": {"rope_type": "yarn"}', '"head_dim": 7']
)
def test_heads_that_cannot_be_widened_are_refused(tmp_path: Path, change: str) -> None:
    told = f'{{"model_type": "llama", "num_attention_heads": 4, "hidden_size": 64, {change}}}'
    (tmp_path / "config.json").write_text(told)
    with pytest.raises(ValueError, match=f"vLLM's attention on a CPU has {WIDTHS[0]}"):
        heads_of(tmp_path)


def test_a_model_with_wider_heads_says_what_the_narrow_one_says(taught: Any, tiny: Path, tmp_path: Path) -> None:
    """With an adapter and without."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    heads = heads_of(tiny)
    assert heads == Heads(8, 32) and heads
    adapter = copytree(taught[0] / taught[1][1].state.weights, tmp_path / "adapter")
    auto: Any = AutoModelForCausalLM
    models = [auto.from_pretrained(tiny), auto.from_pretrained(heads.model(tiny, tmp_path / "wide"))]
    ids = torch.arange(2, 40)[None]
    with torch.no_grad():
        plain = [model(ids).logits for model in models]
        models = [
            PeftModel.from_pretrained(models[0], adapter),
            PeftModel.from_pretrained(models[1], heads.adapter(adapter, tmp_path / "wide-adapter")),
        ]
        taught_ = [model(ids).logits for model in models]
    assert torch.allclose(plain[0], plain[1], atol=1e-4)
    assert torch.allclose(taught_[0], taught_[1], atol=1e-4)
    assert not torch.allclose(plain[0], taught_[0], atol=0.1)
