"""`transformers` as the engine of a student, a teacher, or the evaluator's replica: one model, several adapters.

The batch is the shard, padded on the left, decoded with a cache, and never cut down when rows finish: another batch
size moves log-probabilities by 1e-5, which is enough to flip a token now and then.

Not covered: sampling on the device (tokens are drawn on the CPU, one generator per row), and several devices.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from ..evals.records import State
from .base import read
from .roles import Canary, PublishError, Readings, Reply, Request, RoleSpec
from .serving import ModelServer, Said, adapted, same_modules, seed_of, taken
from .weights import ADAPTER_FILE, adapter_modules

Rule = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""One of transformers' processors: token ids and scores of a batch to scores."""


class TransformersServer(ModelServer):
    """Implements `Server` and `Stepwise`."""

    def __init__(self, spec: RoleSpec) -> None:
        super().__init__(spec, spec.options)
        self.net = self.base.load()
        self.peft: Any = None  # wraps `net` once there is an adapter

    @property
    def window(self) -> int:
        return getattr(self.net.config.get_text_config(), "max_position_embeddings", None) or 1 << 30

    def readings(self, state: State, canaries: Sequence[Canary]) -> Readings:
        with self._active(state):
            return read(self.net, self.base.chat, canaries)

    def answers(
        self,
        state: State,
        requests: Sequence[Request],
        prompts: Sequence[list[int]],
        settings: Mapping[str, float],
        limit: int,
    ) -> list[Said]:
        with self._active(state):
            *_, said = self._steps(requests, prompts, settings, limit)
        return said

    def stream(self, state: State, request: Request) -> Iterator[Reply]:
        self.current(state)
        (prompt,), fits, settings, limit = self.begun(state, [request])
        if not fits:
            yield Reply(text="", finish="error", tokens_in=len(prompt))
            return
        steps = self._steps([request], [prompt], settings, limit)
        while True:
            self.current(state)
            with self._active(state):
                said = next(steps, None)
            if said is None:
                return
            ((ids, logprobs),) = said
            yield self.reply(len(prompt), ids, logprobs)

    def _steps(
        self, requests: Sequence[Request], prompts: Sequence[list[int]], settings: Mapping[str, float], limit: int
    ) -> Iterator[list[Said]]:
        dice = [self._dice(r, len(p), settings) for r, p in zip(requests, prompts, strict=True)]
        return self._decode(prompts, dice, limit)

    def _dice(self, request: Request, asked: int, settings: Mapping[str, float]) -> "Dice | None":
        """`None`: the likeliest token is taken, of all of them."""
        rules = _rules(settings, asked, sorted(self.base.chat.stops))
        return Dice(self.base.spec.seed, request, settings, rules) if rules or settings["temperature"] else None

    @torch.no_grad()
    def _decode(self, prompts: Sequence[list[int]], dice: "Sequence[Dice | None]", limit: int) -> Iterator[list[Said]]:
        """What there is after each token, row by row: the same lists, which grow."""
        stops, pad, rows = self.base.chat.stops, self.base.chat.pad, len(prompts)
        width = max(map(len, prompts))
        ids = torch.tensor([[pad] * (width - len(p)) + p for p in prompts], device=self.net.device)
        mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts], device=self.net.device)
        at = (mask.cumsum(-1) - 1).clamp(min=0)
        out: list[Said] = [([], []) for _ in prompts]
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

    def load(self, state: State) -> None:
        """Load the adapter afresh under the state's name."""
        from peft import PeftModel

        self.unload(state.digest)
        name = state.name.replace(".", "_")  # it becomes a part of parameter names
        taken(name, self.names)
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

    def unload(self, digest: str) -> None:
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

    def same_tensors(self, state: State) -> None:
        """What is in memory is what is on disk: as many modules, and the same numbers."""
        from peft import get_peft_model_state_dict
        from safetensors.torch import load_file

        name, folder = self.names[state.digest], self.base.weights(state)
        same_modules(state.name, adapted(self.net, name), adapter_modules(folder))
        memory = get_peft_model_state_dict(self.peft, adapter_name=name)
        disk = load_file(folder / ADAPTER_FILE)
        for key in sorted(disk.keys() | memory.keys()):
            same = key in disk and key in memory and torch.equal(memory[key].cpu(), disk[key].to(memory[key].dtype))
            if not same:
                raise PublishError(f"{state.name}: {key} in memory is not what lies in {folder}.")


class Dice:
    """Chooses one row's tokens: seeded by run seed, sample and messages, so its place in the batch does not count."""

    def __init__(self, seed: int, request: Request, settings: Mapping[str, float], rules: Sequence[Rule] = ()) -> None:
        self.generator = torch.Generator().manual_seed(seed_of(seed, request))
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
