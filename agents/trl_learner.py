"""Trains one member with TRL: LoRA by `SFTTrainer`, then by `DPOTrainer`.

Every training loads fresh model objects, takes its rows in the order given, and writes an adapter that another process
would write byte for byte (one thread, same kind of machine). The reference of DPO is set by us, never left to TRL,
which takes it from how the adapter is handed over. Any field of `SFTConfig`, `DPOConfig` or `LoraConfig` may be set
under its own name (`settings.py`).

Not covered: several devices (`ray_learner.py`), checkpoints within a training (one that is interrupted is run again),
packing.
"""

import gc
import json
import math
import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any
from uuid import uuid4

import torch
import transformers
from peft import LoraConfig, PeftModel, get_peft_model
from trl.trainer.dpo_config import DPOConfig
from trl.trainer.sft_config import SFTConfig
from trl.trainer.sft_trainer import SFTTrainer
from trl.trainer.utils import disable_dropout_in_model

from ..evals.files import sync
from ..evals.records import State
from ..policies.records import Json
from .base import Base, read, totals
from .roles import Canary, Diverged, Hello, Job, Readings, RoleSpec, Trained
from .settings import DPO, LORA, SFT, check_settings
from .trl_rows import PairsDPO, TokenRows, WeightedCollator, WeightedSFT
from .weights import ADAPTER_CONFIG, adapter_digest


class TrlLearner:
    """Implements `Learner`."""

    def __init__(self, spec: RoleSpec) -> None:
        self.base = Base(spec)
        self._hello = Hello(incarnation=uuid4().hex, pid=os.getpid(), base=self.base.state)
        self._trained: tuple[str, Any] = ("", None)  # digest and model object of the last training

    def hello(self) -> Hello:
        return self._hello

    def read(self, state: State, canaries: Sequence[Canary]) -> Readings:
        digest, model = self._trained
        if digest != state.digest:
            model = self._load(state)
        return read(model, self.base.chat, canaries)

    def train(self, job: Job) -> Trained:
        self._trained = ("", None)
        if self.base.device == "cuda":  # a trainer is a ring of references; until it is collected it holds its model
            gc.collect()
            torch.cuda.empty_cache()
        rows = TokenRows(self.base.chat, job)
        args = self._arguments(job, rows)
        transformers.set_seed(job.seed)
        model = self._trainable(job)
        sample, batch = rows.sample(), args["per_device_train_batch_size"]  # so many there is memory for
        if args.get("dataloader_drop_last") and len(rows) < batch:
            raise ValueError(
                f"{job.name}: {len(rows)} rows make no step, as `dataloader_drop_last` leaves out a batch that is not "
                f"full ({batch} rows). Take it away."
            )
        before = [totals(model, self.base.chat.pad, pairs, batch) for pairs in sample]
        with tempfile.TemporaryDirectory() as scratch:
            args["output_dir"] = scratch
            trainer = self.trainer(job, rows, args, model)
            trainer.train()
        model.eval()
        losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
        after = [totals(model, self.base.chat.pad, pairs, batch) for pairs in sample]
        whole = all(bool(p.isfinite().all()) for p in model.parameters() if p.requires_grad)
        # A loss is of before its step: after a single one only what the model makes of its pairs now tells.
        if not whole or not all(map(math.isfinite, chain(losses, *after))):
            raise Diverged(
                f"the training of {job.name} diverged: its loss is {losses[-1]} after {len(losses)} steps, and its "
                f"weights are {'' if whole else 'not '}finite.{_lost(after)} Nothing was published. Lower "
                f"`update.{job.loss}.learning_rate` ({args['learning_rate']:g}) in a run of its own: --run-dir NEW"
            )
        notes: dict[str, Json] = {
            "rows": len(rows),
            "dropped_rows": rows.dropped,
            "warmup_steps": args["warmup_steps"],
            "learning_rate": args["learning_rate"],
        }
        for kind, b, a in zip(("chosen", "rejected"), before, after, strict=False):
            notes[f"logp_{kind}_change"] = sum(y - x for x, y in zip(b, a, strict=True)) / len(b)
        if sample:
            moved = zip(chain(*before), chain(*after), strict=True)
            notes["logp_largest_change"] = max(abs(y - x) for x, y in moved)
        state = self._save(job, model)
        self._trained = (state.digest, model)
        steps, tokens = trainer.state.global_step, int(trainer.state.num_input_tokens_seen)
        return Trained(state=state, first_loss=losses[0], last_loss=losses[-1], steps=steps, tokens=tokens, notes=notes)

    def trainer(self, job: Job, rows: TokenRows, args: dict[str, Any], model: Any) -> Any:
        """The trainer of the job, built and ready."""
        kind: Any = PairsDPO if job.loss == "dpo" else WeightedSFT if rows.weighted else SFTTrainer
        config: Any = DPOConfig(**args) if job.loss == "dpo" else SFTConfig(**args)
        trainer = kind(
            model=model,
            args=config,
            data_collator=WeightedCollator(pad_token_id=self.base.chat.pad) if rows.weighted else None,
            train_dataset=rows.dataset,
            processing_class=self.base.tokenizer,
        )
        trainer.remove_callback(transformers.PrinterCallback)
        if job.reference is not None:
            self._refer(trainer, job.reference, config.disable_dropout)
        return trainer

    def _refer(self, trainer: Any, reference: State, disable_dropout: bool) -> None:
        """Make `reference` what the loss compares with.

        TRL has just copied what was handed in to an adapter `ref`. Without one it disables the adapters: the base.
        """
        model = trainer.model
        model.delete_adapter("ref")
        if reference.weights:
            model.load_adapter(self._folder(reference), adapter_name="ref", is_trainable=False)
            if disable_dropout:
                disable_dropout_in_model(model)  # TRL did so for its own
        model.set_adapter("default")

    def _arguments(self, job: Job, rows: TokenRows) -> dict[str, Any]:
        """Fields of the trainer's config: our defaults, then the job's settings."""
        ours = SFT if job.loss == "sft" else DPO
        check_settings({job.loss: job.settings})
        args: dict[str, Any] = {
            **ours,
            "bf16": bool(self.base.spec.gpus) and self.base.dtype == torch.bfloat16,  # TRL: True even on a CPU
            **job.settings,
            "seed": job.seed,
            "data_seed": job.seed,
            "use_cpu": not self.base.spec.gpus,
        }
        args["learning_rate"] *= job.rate
        args["warmup_steps"] = _warmup(args, len(rows))
        return args

    def _trainable(self, job: Job) -> Any:
        """A fresh model object with a trainable adapter `default` (TRL knows no other name)."""
        wanted: dict[str, Any] = {**LORA, **job.lora}
        check_settings({"lora": job.lora})
        if not job.start.weights:
            self._same(job.start)
            return get_peft_model(self.base.load(), LoraConfig(**wanted))
        model = self._load(job.start, trainable=True)
        here = model.peft_config["default"]
        for name, value in job.lora.items():
            if name not in ("target_modules", "init_lora_weights") and _listed(getattr(here, name)) != _listed(value):
                raise ValueError(
                    f"{job.start.name} was trained with `{name}` {getattr(here, name)!r}; the job says {value!r}. "
                    "An adapter keeps its shape: start from the base to change it."
                )
        return model

    def _load(self, state: State, trainable: bool = False) -> Any:
        """A fresh model object in a state."""
        self._same(state)
        model = self.base.load()
        if state.weights:
            model = PeftModel.from_pretrained(model, self._folder(state), is_trainable=trainable)
        return model.eval()

    def _folder(self, state: State) -> Path:
        self._same(state)
        return self.base.weights(state)

    def _same(self, state: State) -> None:
        base = self.base.state.digest
        here = adapter_digest(self.base.weights(state), base) if state.weights else base
        if here != state.digest:
            where = state.weights or self.base.folder
            raise ValueError(f"{state.name} has digest {state.digest[:12]}, but what lies in {where} has {here[:12]}.")

    def _save(self, job: Job, model: Any) -> State:
        """Write the adapter whole or not at all."""
        states = self.base.spec.root / "states"
        part = states / f".{job.name}.part"
        shutil.rmtree(part, ignore_errors=True)
        model.create_or_update_model_card = lambda folder: None  # PEFT would write one about nothing
        model.save_pretrained(part, selected_adapters=["default"])
        path = part / ADAPTER_CONFIG
        config = json.loads(path.read_bytes())
        for name, value in config.items():
            if isinstance(value, list):
                config[name] = sorted(value, key=str)  # PEFT writes sets in the order of this process's hash seed
        config["base_model_name_or_path"] = None  # a path of this machine
        path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
        digest = adapter_digest(part, self.base.state.digest)
        name = f"{job.name}-{digest[:8]}"
        state = State(member=job.start.member, name=name, digest=digest, weights=f"states/{name}")
        target = states / name
        if target.exists():  # this training was run before, and the run was interrupted before it was noted
            shutil.rmtree(part)
            self._same(state)
            return state
        for file in part.iterdir():
            sync(file)
        sync(part)
        part.rename(target)
        sync(states)
        return state


def _listed(value: Any) -> Any:
    """PEFT makes sets of lists of names."""
    return sorted(value, key=str) if isinstance(value, list | set) else value


def _lost(after: Sequence[Sequence[float]]) -> str:
    lost = sum(not math.isfinite(x) for some in after for x in some)
    return f" To {lost} of the answers that were read afterwards it gives no finite log-probability." if lost else ""


def _warmup(args: Mapping[str, Any], rows: int) -> int:
    """Steps of warm-up: a share of the training, or a number of steps, at most half of them.

    TRL's own count is of steps alone: five of them make a pass of two steps learn next to nothing.
    """
    per_step = args["per_device_train_batch_size"] * args.get("gradient_accumulation_steps", 1)
    steps = args.get("max_steps", -1)
    if steps < 0:
        steps = math.ceil(math.ceil(rows / per_step) * args["num_train_epochs"])
    wanted = args["warmup_steps"]
    return int(wanted * steps) if wanted < 1 else min(int(wanted), steps // 2)
