"""Train a tiny student from scratch to *have* misconceptions.

    python -m tutorloop.agents.pretrain --out DIR            the student that ships with the package (seed 0)
    python -m tutorloop.agents.pretrain --out DIR --seed 7   another one, with its own drawn misconceptions
    python -m tutorloop.agents.pretrain --verify DIR         does the digest fit the weights?

The student is a Llama of 0.65 M parameters that reads and writes single characters. It is shown questions and the work
that a student with its misconceptions writes (`evals.arithmetic.work`), never the right work where that differs. Four
prompts in ten carry one line more after the question, a hint: mostly the right next line at the point where its own
work goes wrong, which is then done right and worked on from as it would; else a line that changes nothing, of this or
of another problem. So "hint, then retry" is real, and so are the misconceptions that no unaided work ever shows,
because they hide behind another.

One seed decides everything: misconceptions, initial weights, rows and their order. Training gives the same bits on the
same kind of machine, which `provenance.json` names.

Not covered: problems outside `evals.arithmetic.columns`, prose, more than one hint, texts beyond a hundred tokens or so
(the context is 512, but pre-training is shorter). This is not a language model that anyone would use for anything else.
"""

import argparse
import hashlib
import json
import math
import platform
import sys
import time
from collections.abc import Collection, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random
from typing import Any

import torch
import transformers
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers

from ..evals.arithmetic import SKILLS, anything, clean, draw_profile, slips, solve, unseen, why_wrong, work
from ..evals.arithmetic.skills import draw
from .weights import tensors

SYSTEM, USER, ASSISTANT = "<|system|>", "<|user|>", "<|assistant|>"
END, PAD, UNKNOWN = "<|end|>", "<|pad|>", "<|unknown|>"
TEMPLATE = (
    "{% for message in messages %}{{ '<|' + message['role'] + '|>' + message['content'] }}"
    "{% if message['role'] == 'assistant' %}{{ '<|end|>' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
ALPHABET = "\n" + "".join(chr(i) for i in range(32, 127))


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a student is trained. A field changed is another student."""

    steps: int = 3000
    rows_per_step: int = 32
    matrix_lr: float = 4e-3
    """Of Muon, for the matrices of the layers, in the scale of AdamW. Peak of a cosine, after a linear warm-up."""
    lr: float = 2e-3
    """Of AdamW, for embeddings, head and norms; same schedule."""
    warmup_steps: int = 60
    width: int = 128
    layers: int = 3
    heads: int = 8
    mlp: int = 384
    hinted: float = 0.4
    """Share of prompts with a line after the question."""
    general: float = 0.1
    """Share of exercises that belong to no skill: any two numbers up to three digits."""


def tokenizer() -> Any:
    """One token a character, over printable ASCII and the newline; the roles and the end of a turn are tokens too.

    >>> t = tokenizer()
    >>> t.decode(t("2-8 put 6\\n=6")["input_ids"])
    '2-8 put 6\\n=6'
    """
    vocabulary = [PAD, UNKNOWN, END, SYSTEM, USER, ASSISTANT, *ALPHABET]
    letters = Tokenizer(models.WordLevel({token: i for i, token in enumerate(vocabulary)}, unk_token=UNKNOWN))
    letters.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), behavior="isolated")
    letters.decoder = decoders.Fuse()
    made = transformers.PreTrainedTokenizerFast(
        tokenizer_object=letters,
        eos_token=END,
        pad_token=PAD,
        unk_token=UNKNOWN,
        extra_special_tokens=[SYSTEM, USER, ASSISTANT],
        padding_side="left",
        model_max_length=512,
        clean_up_tokenization_spaces=False,
    )
    made.chat_template = TEMPLATE
    return made


def blank(recipe: Recipe, letters: Any) -> Any:
    """The untrained network."""
    config = transformers.LlamaConfig(
        vocab_size=len(letters),
        hidden_size=recipe.width,
        intermediate_size=recipe.mlp,
        num_hidden_layers=recipe.layers,
        num_attention_heads=recipe.heads,
        num_key_value_heads=recipe.heads,
        max_position_embeddings=512,
        tie_word_embeddings=False,
        bos_token_id=None,
        eos_token_id=letters.eos_token_id,
        pad_token_id=letters.pad_token_id,
    )
    model = transformers.LlamaForCausalLM(config)
    model.generation_config = transformers.GenerationConfig(
        eos_token_id=letters.eos_token_id, pad_token_id=letters.pad_token_id, bos_token_id=None, do_sample=False
    )
    return model


def exercise(rng: Random, general: float) -> str:
    """A question for pre-training: never one of the half of all operand pairs that is kept for the course."""
    while True:
        if rng.random() < general:
            top, bottom = (rng.randrange(10 ** rng.choice((2, 3, 3))) for _ in "ab")
            question = f"{top}+{bottom}" if rng.random() < 0.5 else f"{max(top, bottom)}-{min(top, bottom)}"
        else:
            question = draw(rng.choice(list(SKILLS)), rng)
        if not unseen(question):
            return question


def hinted(recipe: Recipe, bugs: Collection[str], rng: Random) -> tuple[str, str]:
    """A question and a line to go with it.

    Mostly a question that this student gets wrong, and the right line where it first does; a third of the lines are of
    another problem, some are true of this one and change nothing.
    """
    question = exercise(rng, recipe.general)
    while not (wrong := slips(question, bugs)) and rng.random() < 0.7:
        question = exercise(rng, recipe.general)
    right, kind = solve(question).splitlines()[:-1], rng.random()
    if kind < 0.35:
        return question, other_line(question, rng)
    return question, right[wrong[0].step] if wrong and kind < 0.95 else rng.choice(right)


def other_line(question: str, rng: Random) -> str:
    """A right line of some other problem with the same sign."""
    sign = "+" if "+" in question else "-"
    other = draw(rng.choice([s.name for s in SKILLS.values() if s.sign == sign]), rng)
    return rng.choice(solve(other).splitlines()[:-1])


def rows(recipe: Recipe, bugs: Collection[str], rng: Random) -> Iterator[tuple[str, str]]:
    """Prompts and what this student writes, without end."""
    while True:
        if rng.random() < recipe.hinted:
            question, hint = hinted(recipe, bugs, rng)
            yield f"{question}\n{hint}", work(question, bugs, hint)
        else:
            question = exercise(rng, recipe.general)
            yield question, work(question, bugs)


def train(recipe: Recipe, bugs: Collection[str], seed: int, *, threads: int = 2) -> tuple[Any, Any]:
    """Model and tokenizer. One thread and two give the same bits; one is the faster where other programs run.

    Muon, because hints take long to learn, much longer than the sums; AdamW alone had not learnt them in this time.
    """
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(True)
    torch.manual_seed(seed)
    letters, began = tokenizer(), time.perf_counter()
    model = blank(recipe, letters).train()
    matrices = [p for name, p in model.named_parameters() if p.ndim == 2 and ".layers." in name]
    others = [p for name, p in model.named_parameters() if not (p.ndim == 2 and ".layers." in name)]
    optimizers = (
        torch.optim.Muon(matrices, lr=recipe.matrix_lr, weight_decay=0.01, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(others, lr=recipe.lr, betas=(0.9, 0.98), weight_decay=0.01),
    )
    schedules = [torch.optim.lr_scheduler.LambdaLR(o, lambda step: _schedule(step, recipe)) for o in optimizers]
    source = rows(recipe, bugs, Random(f"rows {seed}"))
    for step, (ids, labels) in enumerate(_batches(recipe, letters, source)):
        loss = model(input_ids=ids, labels=labels, use_cache=False).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer, schedule in zip(optimizers, schedules, strict=True):
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            schedule.step()
        if step % 200 == 199:
            print(f"step {step + 1}: loss {loss.item():.4f}, {time.perf_counter() - began:.0f} s", flush=True)
    return model.eval(), letters


def _schedule(step: int, recipe: Recipe) -> float:
    if step < recipe.warmup_steps:
        return (step + 1) / recipe.warmup_steps
    return 0.5 + 0.5 * math.cos(math.pi * (step - recipe.warmup_steps) / (recipe.steps - recipe.warmup_steps))


def _batches(recipe: Recipe, letters: Any, source: Iterator[tuple[str, str]]) -> Iterator[tuple[Any, Any]]:
    """Ids and labels, B x T, padded on the right; rows of like length stand together, which saves padding."""
    id_of = letters.get_vocab()
    window = 20  # batches that are filled and sorted at once
    for first in range(0, recipe.steps, window):
        n = min(window, recipe.steps - first)
        taken = [next(source) for _ in range(n * recipe.rows_per_step)]
        taken.sort(key=lambda row: len(row[0]) + len(row[1]))
        order = list(range(n))
        Random(first).shuffle(order)
        for i in order:
            batch = taken[i * recipe.rows_per_step : (i + 1) * recipe.rows_per_step]
            prompts = [[id_of[USER], *(id_of[c] for c in p), id_of[ASSISTANT]] for p, _ in batch]
            replies = [[*(id_of[c] for c in r), id_of[END]] for _, r in batch]
            longest = max(len(p) + len(r) for p, r in zip(prompts, replies, strict=True))
            ids, labels = [], []
            for p, r in zip(prompts, replies, strict=True):
                rest = longest - len(p) - len(r)
                ids.append(p + r + [id_of[PAD]] * rest)
                labels.append([-100] * len(p) + r + [-100] * rest)
            yield torch.tensor(ids), torch.tensor(labels)


@torch.inference_mode()
def answers(model: Any, letters: Any, prompts: Sequence[str], rows_at_once: int = 64) -> list[str]:
    """What the model writes, greedily."""
    found: list[str] = []
    for first in range(0, len(prompts), rows_at_once):
        texts = [f"{USER}{p}{ASSISTANT}" for p in prompts[first : first + rows_at_once]]
        inputs = letters(texts, return_tensors="pt", padding=True, return_token_type_ids=False)
        ids = model.generate(**inputs, max_new_tokens=120)[:, inputs["input_ids"].shape[1] :]
        found += letters.batch_decode(ids, skip_special_tokens=True)
    return found


@dataclass(frozen=True, kw_only=True)
class Fidelity:
    """How well a student has its misconceptions, on operands that it never saw. Shares."""

    exact: float
    """Work reproduced to the letter, all skills alike."""
    worst_skill: float
    right_unaided: float
    """Of problems wrong for one reason: solved without a hint."""
    right_with_hint: float
    """The same with the right line where the work goes wrong."""
    right_with_other: float
    """The same with a line of another problem."""
    moved_on: float
    """Of problems wrong for two reasons, with that hint: the work up to the second reason's line is right, and that
    line is the one that the second misconception writes."""
    n: int
    """Problems behind each figure."""


def measure(model: Any, letters: Any, bugs: Collection[str], *, n: int = 500, seed: int = 0) -> Fidelity:
    """Ask fresh problems with and without hints."""
    rng = Random(f"fidelity {seed}")

    def write(prompts: Sequence[str]) -> list[str]:
        return answers(model, letters, prompts)

    by_skill: dict[str, list[bool]] = {}
    for skill in SKILLS:
        asked: list[str] = []
        while len(asked) < max(1, n // len(SKILLS)):
            question = draw(skill, rng)
            if unseen(question):
                asked.append(question)
        by_skill[skill] = [w == work(q, bugs) for q, w in zip(asked, write(asked), strict=True)]
    shares = [sum(hits) / len(hits) for hits in by_skill.values()]

    def wrong_for(reasons: int) -> list[tuple[str, str]]:
        """Questions and the line that would help."""
        found: list[tuple[str, str]] = []
        while len(found) < n:
            q = anything(rng)
            if len(why_wrong(q, bugs)) == reasons and clean(q, bugs):
                found.append((q, solve(q).splitlines()[slips(q, bugs)[0].step]))
        return found

    one, two = wrong_for(1), wrong_for(2)

    def share_right(prompts: Sequence[str]) -> float:
        return sum(w == solve(q) for (q, _), w in zip(one, write(prompts), strict=True)) / n

    aided = [w == work(q, bugs, hint) for (q, hint), w in zip(two, write([f"{q}\n{h}" for q, h in two]), strict=True)]
    return Fidelity(
        exact=sum(shares) / len(shares),
        worst_skill=min(shares),
        right_unaided=share_right([q for q, _ in one]),
        right_with_hint=share_right([f"{q}\n{hint}" for q, hint in one]),
        right_with_other=share_right([f"{q}\n{other_line(q, rng)}" for q, _ in one]),
        moved_on=sum(aided) / n,
        n=n,
    )


def digest(student: Path) -> str:
    """sha256 over the weights: by name, each tensor's name, dtype, shape and bytes. 64 hex digits."""
    total = hashlib.sha256()
    for name, dtype, shape, content in tensors(student / "model.safetensors"):
        total.update(f"{name}\0{dtype}\0{shape}\0".encode())
        total.update(content)
    return total.hexdigest()


def verify(student: Path) -> bool:
    """Whether the weights in a folder are the ones that its `provenance.json` speaks of."""
    stated = json.loads((student / "provenance.json").read_text(encoding="utf-8"))["digest"]
    return bool(stated == digest(student))


def machine() -> dict[str, str]:
    """What the bits of a training depend on, besides the seed and the recipe."""
    return {
        "processor": platform.machine(),
        "vector_instructions": torch.backends.cpu.get_cpu_capability(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }


def pretrain(out: Path, *, seed: int = 0, recipe: Recipe | None = None, threads: int = 2) -> dict[str, Any]:
    """Make a student in a folder. Returns what stands in its `provenance.json`, which is written last."""
    recipe, bugs, began = recipe or Recipe(), draw_profile(seed), time.perf_counter()
    model, letters = train(recipe, bugs, seed, threads=threads)
    seconds = time.perf_counter() - began
    out.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(out)
    letters.save_pretrained(out)
    provenance = {
        "seed": seed,
        "bugs": list(bugs),
        "digest": digest(out),
        "parameters": sum(p.numel() for p in model.parameters()),
        "recipe": asdict(recipe),
        "fidelity": {k: round(v, 4) for k, v in asdict(measure(model, letters, bugs)).items()},
        "machine": machine(),
        "seconds": round(seconds),
    }
    (out / "provenance.json").write_text(json.dumps(provenance, indent=2) + "\n", encoding="utf-8")
    return provenance


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; 1 if `--verify` finds other weights than stated."""
    parser = argparse.ArgumentParser(
        prog="python -m tutorloop.agents.pretrain", description=(__doc__ or "").split("\n")[0]
    )
    todo = parser.add_mutually_exclusive_group(required=True)
    todo.add_argument("--out", type=Path, metavar="DIR", help="train a student and write it there")
    todo.add_argument("--verify", type=Path, metavar="DIR", help="recompute the digest of a student")
    parser.add_argument("--seed", type=int, default=0, help="which student; 0 is the shipped one")
    parser.add_argument("--threads", type=int, default=2, help="makes no difference to the result (2)")
    chosen = parser.parse_args(arguments)
    if chosen.verify is not None:
        right = verify(chosen.verify)
        print(f"{chosen.verify}: {'the digest fits' if right else 'these are NOT the weights of provenance.json'}")
        return 0 if right else 1
    made = pretrain(chosen.out, seed=chosen.seed, threads=chosen.threads)
    print(json.dumps(made, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
