"""`transformers` as the engine of a student, a teacher, or the evaluator's replica: one model, several adapters.

A state's adapter is loaded by `prove`, under the state's own name, and only a proven state answers. The last few that
were used stay loaded; an older one that is asked for again is loaded and proven anew, with the evidence of the first
time. The batch is the shard, padded on the left, decoded with a cache, and never cut down when rows finish: another
batch size moves log-probabilities by 1e-5, which is enough to flip a token now and then.

Not covered: sampling on the device (tokens are drawn on the CPU, one generator per row), and several devices.
"""

import hashlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from math import isfinite
from typing import Any
from uuid import uuid4

import torch

from ..evals.records import Finish, State
from .base import Base, read
from .decoding import decoder
from .roles import (
    Canary,
    Evidence,
    Hello,
    PublishError,
    Readings,
    Reply,
    Request,
    RoleSpec,
    Unproven,
    largest_difference,
)
from .weights import ADAPTER_FILE, adapter_digest, adapter_modules

Rule = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""One of transformers' processors: token ids and scores of a batch to scores."""

Answers = list[tuple[list[int], list[float]]]
"""Emitted ids and their log-probabilities, row by row."""

KEPT = 3
"""Adapters that stay loaded: the serving one, this round's after SFT, and after DPO."""


class TransformersServer:
    """Implements `Server` and `Stepwise`."""

    def __init__(self, spec: RoleSpec) -> None:
        self.base = Base(spec)
        self.decoder = decoder({"temperature": spec.temperature, **spec.options})
        self.net = self.base.load()
        self.peft: Any = None  # wraps `net` once there is an adapter
        self.names: dict[str, str] = {}  # digest of a loaded adapter -> its name; the last used one last
        self.proven: dict[str, Evidence] = {}  # by digest; loaded or not
        self._hello = Hello(incarnation=uuid4().hex, pid=os.getpid(), base=self.base.state)

    def hello(self) -> Hello:
        return self._hello

    def read(self, state: State, canaries: Sequence[Canary]) -> Readings:
        if state.weights and state.digest not in self.names:
            self._load(state)
        with self._active(state):
            return read(self.net, self.base.chat, canaries)

    def prove(self, evidence: Evidence) -> float:
        state = evidence.state
        try:
            self._same_digest(state)
            if state.weights:
                if state.digest not in self.proven or state.digest not in self.names:
                    self._load(state)
                self._same_tensors(state)
            difference = compare(evidence, self.read(state, evidence.canaries))
        except PublishError:
            self._unload(state.digest)
            self.proven.pop(state.digest, None)
            raise
        self.proven[state.digest] = evidence
        for digest in list(self.names)[:-KEPT]:
            self._unload(digest)
        return difference

    @torch.no_grad()
    def generate(self, state: State, requests: Sequence[Request]) -> list[Reply]:
        self._current(state)
        prompts, fits, steps = self._begin(state, requests)
        replies = [Reply(text="", finish="error", tokens_in=len(prompt)) for prompt in prompts]
        if not fits:
            return replies
        with self._active(state):
            *_, answers = steps
        for i, (ids, logprobs) in zip(fits, answers, strict=True):
            replies[i] = self._reply(len(prompts[i]), ids, logprobs)
        return replies

    def stream(self, state: State, request: Request) -> Iterator[Reply]:
        self._current(state)
        (prompt,), fits, steps = self._begin(state, [request])
        if not fits:
            yield Reply(text="", finish="error", tokens_in=len(prompt))
            return
        while True:
            self._current(state)
            with self._active(state):
                answers = next(steps, None)
            if answers is None:
                return
            ((ids, logprobs),) = answers
            yield self._reply(len(prompt), ids, logprobs)

    def _current(self, state: State) -> None:
        """See to it that a state is proven, and loaded."""
        evidence = self.proven.get(state.digest)
        if evidence is None:
            raise Unproven(
                f"{state.name} ({state.digest[:12]}) is not proven in incarnation {self._hello.incarnation[:8]} "
                f"of the {self.base.spec.role}. Call `prove` with its evidence first."
            )
        if state.weights and state.digest not in self.names:
            self.prove(evidence)  # it was unloaded meanwhile; what lies on disk may have changed

    def _begin(self, state: State, requests: Sequence[Request]) -> tuple[list[list[int]], list[int], Iterator[Answers]]:
        """Prompts, the places of those that fit in the model's context, and the steps of decoding these."""
        settings = decoder({**self.decoder, **state.decoder})
        prompts = [self.base.chat.prompt(r.messages, r.prefix) for r in requests]
        window = getattr(self.net.config.get_text_config(), "max_position_embeddings", None) or 1 << 30
        fits = [i for i, prompt in enumerate(prompts) if len(prompt) < window]
        dice = [self._dice(requests[i], len(prompts[i]), settings) for i in fits]
        limit = int(settings.get("max_new_tokens", self.base.spec.max_tokens))
        limit = min(limit, window - max((len(prompts[i]) for i in fits), default=0))
        return prompts, fits, self._decode([prompts[i] for i in fits], dice, limit)

    def _dice(self, request: Request, asked: int, settings: Mapping[str, float]) -> "Dice | None":
        """`None`: the likeliest token is taken, of all of them."""
        rules = _rules(settings, asked, sorted(self.base.chat.stops))
        return Dice(self.base.spec.seed, request, settings, rules) if rules or settings["temperature"] else None

    def _reply(self, tokens_in: int, ids: list[int], logprobs: list[float]) -> Reply:
        finish: Finish = "stop" if ids and ids[-1] in self.base.chat.stops else "length"
        return Reply(
            text=self.base.chat.text(ids),
            finish=finish,
            token_ids=tuple(ids),
            logprobs=tuple(logprobs),
            tokens_in=tokens_in,
            tokens_out=len(ids),
        )

    @torch.no_grad()
    def _decode(self, prompts: list[list[int]], dice: "list[Dice | None]", limit: int) -> Iterator[Answers]:
        """What there is after each token: the same lists, which grow."""
        stops, pad, rows = self.base.chat.stops, self.base.chat.pad, len(prompts)
        width = max(map(len, prompts))
        ids = torch.tensor([[pad] * (width - len(p)) + p for p in prompts], device=self.net.device)
        mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts], device=self.net.device)
        at = (mask.cumsum(-1) - 1).clamp(min=0)
        out: Answers = [([], []) for _ in prompts]
        live = set(range(rows))
        cache = None
        for _ in range(limit):
            step = self.net(
                input_ids=ids,
                attention_mask=mask,
                position_ids=at,
                past_key_values=cache,
                use_cache=True,
                logits_to_keep=1,
            )
            cache = step.past_key_values
            logits = step.logits[:, -1].float()
            logprobs = logits.log_softmax(-1)
            ids = logprobs.argmax(-1, keepdim=True)
            if any(dice):
                here = zip(dice, logits.cpu(), logprobs.cpu(), prompts, out, strict=True)
                drawn = [d(a, b, p + said) if d else int(b.argmax()) for d, a, b, p, (said, _) in here]
                ids = torch.tensor(drawn, device=self.net.device)[:, None]
            chosen = logprobs.gather(1, ids)[:, 0].tolist()
            for row, (token, logprob) in enumerate(zip(ids[:, 0].tolist(), chosen, strict=True)):
                if row in live:
                    out[row][0].append(token)
                    out[row][1].append(logprob)
                    if token in stops:
                        live.discard(row)
            yield out
            if not live:
                return
            mask = torch.cat([mask, mask.new_ones(rows, 1)], 1)
            at = at[:, -1:] + 1

    def _load(self, state: State) -> None:
        """Load the adapter afresh under the state's name."""
        from peft import PeftModel

        self._unload(state.digest)
        name = state.name.replace(".", "_")  # it becomes a part of parameter names
        if name in self.names.values():
            raise PublishError(f"the name {state.name} is taken by another adapter; a state's name is never reused.")
        folder = self.base.weights(state)
        self.names[state.digest] = name
        try:
            if self.peft is None:
                self.peft = PeftModel.from_pretrained(self.net, folder, adapter_name=name)
            else:
                self.peft.load_adapter(folder, adapter_name=name)
        except (ValueError, RuntimeError, KeyError, OSError) as e:
            raise PublishError(f"{state.name}: PEFT does not load {folder} on this base: {e}") from e
        self.peft.eval()

    def _unload(self, digest: str) -> None:
        name = self.names.pop(digest, None)
        if name is not None and self.peft is not None and name in self.peft.peft_config:
            self.peft.delete_adapter(name)

    @contextmanager
    def _active(self, state: State) -> Iterator[None]:
        """With exactly this state's weights in force."""
        from peft.tuners.tuners_utils import BaseTunerLayer

        layers = [m for m in self.net.modules() if isinstance(m, BaseTunerLayer)]
        if not state.weights:
            if self.peft is None:
                yield
            else:
                with self.peft.disable_adapter():
                    if not all(layer.disable_adapters for layer in layers):
                        raise PublishError(f"{state.name} is the base, and some layer still applies an adapter.")
                    yield
            return
        name = self.names[state.digest] = self.names.pop(state.digest)  # the last used one last
        self.peft.set_adapter(name, inference_mode=True)
        if not layers or any(layer.disable_adapters or list(layer.active_adapters) != [name] for layer in layers):
            raise PublishError(f"{state.name}: the adapter is not in force on every layer; the base would answer.")
        yield

    def _same_digest(self, state: State) -> None:
        """The base, and the tensors on disk, are those that the state names."""
        if not state.weights:
            here = self.base.state.digest
        else:
            try:
                here = adapter_digest(self.base.weights(state), self.base.state.digest)
            except ValueError as e:
                raise PublishError(f"{state.name}: {e}") from e
        if here != state.digest:
            where = self.base.weights(state) if state.weights else self.base.folder
            raise PublishError(
                f"{state.name} has digest {state.digest[:12]}, but what lies in {where} has {here[:12]}: "
                "it was changed after the training, or belongs to another base."
            )

    def _same_tensors(self, state: State) -> None:
        """What is in memory is what is on disk: as many modules, and the same numbers."""
        from peft import get_peft_model_state_dict
        from safetensors.torch import load_file

        name, folder = self.names[state.digest], self.base.weights(state)
        there = adapter_modules(folder)
        here = {n for n, m in self.net.named_modules() if name in getattr(m, "lora_A", ()) or _embeds(m, name)}
        if here != there:
            lacking, extra = sorted(here - there), sorted(there - here)
            raise PublishError(
                f"{state.name}: its config puts adapters on {len(here)} modules of this base, its file has {len(there)}"
                + (f"; without tensors: {', '.join(lacking[:3])}" if lacking else "")
                + (f"; unexpected: {', '.join(extra[:3])}" if extra else "")
                + ". PEFT fills a missing module with one that does nothing, without a word."
            )
        memory = get_peft_model_state_dict(self.peft, adapter_name=name)
        disk = load_file(folder / ADAPTER_FILE)
        for key in sorted(disk.keys() | memory.keys()):
            same = key in disk and key in memory and torch.equal(memory[key].cpu(), disk[key].to(memory[key].dtype))
            if not same:
                raise PublishError(f"{state.name}: {key} in memory is not what lies in {folder}.")


class Dice:
    """Chooses one row's tokens: seeded by run seed, sample and messages, so its place in the batch does not count."""

    def __init__(self, seed: int, request: Request, settings: Mapping[str, float], rules: Sequence[Rule] = ()) -> None:
        asked = "\x1e".join(f"{t.role}\x1f{t.content}" for t in request.messages)
        key = hashlib.sha256(f"{seed}\0{request.sample}\0{asked}\0{request.prefix}".encode()).digest()
        self.generator = torch.Generator().manual_seed(int.from_bytes(key[:8], "little") >> 1)
        self.settings, self.rules = settings, rules
        self.filters = _filters(settings)

    def __call__(self, logits: torch.Tensor, logprobs: torch.Tensor, ids: list[int]) -> int:
        """One token id; rules, temperature, then the filters, in the order in which `transformers` applies them.

        Args:
            logits: Of the next token; its `logprobs` are given beside them.
            ids: Of the prompt and of what was said so far: rules look at them.
        """
        if self.rules:
            logprobs = _ruled(self.rules, ids, logits).log_softmax(-1)
        if not self.settings["temperature"]:
            return int(logprobs.argmax())
        scores = logprobs / self.settings["temperature"]
        if k := int(self.settings.get("top_k", 0)):
            scores[scores < scores.topk(min(k, len(scores))).values[-1]] = -torch.inf
        if (p := self.settings.get("top_p", 1.0)) < 1.0:
            best, order = scores.softmax(-1).sort(descending=True)
            scores[order[best.cumsum(-1) - best >= p]] = -torch.inf
        if m := self.settings.get("min_p", 0.0):
            chances = scores.softmax(-1)
            scores[chances < m * chances.max()] = -torch.inf
        scores = _ruled(self.filters, ids, scores)
        return int(torch.multinomial(scores.softmax(-1), 1, generator=self.generator))


def compare(evidence: Evidence, readings: Readings) -> float:
    """Whether the server's readings are the trainer's; the largest difference in nats.

    Raises:
        PublishError: they are not; says whether they look like the state from which the training started.
    """
    name, tolerance = evidence.state.name, evidence.tolerance
    if not all(isfinite(x) for row in (*readings, *evidence.after) for x in row):
        raise PublishError(f"{name}: a log-probability is not a finite number; the training diverged.")
    try:
        difference = largest_difference(readings, evidence.after)
        moved = largest_difference(readings, evidence.before)
    except ValueError as e:
        raise PublishError(f"{name}: server and trainer split the canaries into other tokens.") from e
    if difference > tolerance:
        stale = "; it reads like the state before the training" if moved <= tolerance < evidence.effect else ""
        raise PublishError(
            f"{name}: the server's log-probabilities differ from the trainer's by {difference:.2e} nats, more than "
            f"{tolerance:.1e}{stale}."
        )
    if evidence.effect > tolerance >= moved:
        raise PublishError(
            f"{name}: the trainer sees an effect of {evidence.effect:.2e} nats, the server only {moved:.2e}."
        )
    return difference


def _embeds(module: Any, name: str) -> bool:
    return name in getattr(module, "lora_embedding_A", ())


def _rules(settings: Mapping[str, float], asked: int, stops: list[int]) -> list[Rule]:
    """What may be said at all, whether tokens are drawn or not. `asked`: tokens of the prompt."""
    from transformers.generation import logits_process

    theirs: Any = logits_process  # their types ask for tensors of narrower kinds than anybody has
    rules: list[Rule] = []
    if (penalty := settings.get("repetition_penalty", 1.0)) != 1.0:
        rules.append(theirs.RepetitionPenaltyLogitsProcessor(penalty))
    if n := int(settings.get("no_repeat_ngram_size", 0)):
        rules.append(theirs.NoRepeatNGramLogitsProcessor(n))
    if least := int(settings.get("min_new_tokens", 0)):
        rules.append(theirs.MinNewTokensLengthLogitsProcessor(asked, least, stops))
    return rules


def _filters(settings: Mapping[str, float]) -> list[Rule]:
    """Those of transformers' own filters of what is drawn from that `Dice` does not do by itself."""
    from transformers.generation import logits_process

    theirs: Any = logits_process
    filters: list[Rule] = []
    if (mass := settings.get("typical_p", 1.0)) < 1.0:
        filters.append(theirs.TypicalLogitsWarper(mass))
    for name, kind in (("epsilon_cutoff", theirs.EpsilonLogitsWarper), ("eta_cutoff", theirs.EtaLogitsWarper)):
        if 0.0 < (cut := settings.get(name, 0.0)) < 1.0:
            filters.append(kind(cut))
    return filters


def _ruled(rules: Sequence[Rule], ids: list[int], scores: torch.Tensor) -> torch.Tensor:
    """Scores of one row, as transformers' processors leave them."""
    for rule in rules:
        scores = rule(torch.tensor([ids]), scores[None])[0]
    return scores
