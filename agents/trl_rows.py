"""The rows that TRL trains on: the token ids that the server would write, and their weights.

TRL would render and tokenise by itself, but not cut a reply at its stop token, nor refuse one that has none; and it
has no place for the weights of an example. So rows reach it as ids, through its own collators.

Not covered: weights under DPO (refused), packing, images.
"""

import math
from typing import Any

import torch
from datasets import Dataset
from trl.trainer.dpo_trainer import DPOTrainer
from trl.trainer.sft_trainer import DataCollatorForLanguageModeling, SFTTrainer

from ..policies.records import Example
from .chat import Chat, render
from .roles import Job

SAMPLED = 16
"""Pairs whose log-probabilities are read before and after a DPO."""


class TokenRows:
    """The examples of a job as token ids, in the form that TRL's collators take."""

    def __init__(self, chat: Chat, job: Job) -> None:
        self.loss, self.dropped, self.weighted = job.loss, 0, False
        limit: Any = job.settings.get("max_length") or math.inf
        rows: list[dict[str, list[Any]]] = []
        for example in job.examples:
            if job.loss == "dpo" and not example.rejected:
                continue
            row = self._sft(chat, example) if job.loss == "sft" else self._dpo(chat, example)
            if max(sum(len(row[key]) for key in keys) for keys in LENGTHS[job.loss]) > limit:
                self.dropped += 1
            else:
                rows.append(row)
        if not rows:
            what = "no example" if job.loss == "sft" else "no example with a rejected answer"
            dropped = f" ({self.dropped} were longer than `max_length`)" if self.dropped else ""
            raise ValueError(f"{job.name}: there is {what} to learn from{dropped}.")
        if job.loss == "sft" and not self.weighted:
            for row in rows:
                del row["weights"]
        self.dataset: Any = Dataset.from_list(rows)

    def __len__(self) -> int:
        return len(self.dataset)

    def sample(self) -> list[list[tuple[list[int], list[int]]]]:
        """Some pairs, spread over the rows: (prompt, chosen) and (prompt, rejected). Empty for SFT."""
        if self.loss == "sft":
            return []
        some = self.dataset.select(range(0, len(self), -(-len(self) // SAMPLED)))
        return [[(r["prompt_ids"], r[f"{kind}_ids"]) for r in some] for kind in ("chosen", "rejected")]

    def _sft(self, chat: Chat, example: Example) -> dict[str, list[Any]]:
        if example.weight != 1 or example.spans:
            self.weighted = True
        row = render(example, chat)
        labels = [-100] * len(row.prompt) + [*row.completion]
        return {"input_ids": row.ids, "labels": labels, "weights": row.mask}

    def _dpo(self, chat: Chat, example: Example) -> dict[str, list[Any]]:
        if example.weight != 1 or example.spans:
            raise ValueError(
                f"example {example.id!r} has a weight or spans, and DPO compares whole answers: TRL has no place for "
                "them. Train it with SFT, or leave them at their defaults."
            )
        row = render(example, chat)
        return {"prompt_ids": [*row.prompt], "chosen_ids": [*row.completion], "rejected_ids": [*row.rejected]}


LENGTHS = {"sft": (("input_ids",),), "dpo": (("prompt_ids", "chosen_ids"), ("prompt_ids", "rejected_ids"))}


class PairsDPO(DPOTrainer):  # type: ignore[misc]
    """TRL's, with rows that are token ids already: those that the server would write, up to the stop token."""

    def _prepare_dataset(self, dataset: Any, *_: Any, **__: Any) -> Any:
        return dataset


class WeightedSFT(SFTTrainer):  # type: ignore[misc]
    """The sum over tokens of weight times loss, over the number of supervised tokens: with weights of 1, TRL's own."""

    def __init__(self, **kwargs: Any) -> None:
        args: Any = kwargs["args"]
        args.remove_unused_columns = False  # they hold the weights
        for name in ("label_smoothing_factor", "router_aux_loss_coef"):
            if getattr(args, name):
                raise ValueError(f"`update.sft.{name}` has no place beside examples with a weight or spans.")
        super().__init__(**kwargs)

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        weights = inputs.pop("weights")
        out = model(**inputs, use_cache=False, fused_lm_head=True)
        count = out.label_mask.sum() if num_items_in_batch is None else num_items_in_batch
        told = out.log_probs * weights[:, 1:]
        if getattr(self.args, "loss_type", "") == "dft":  # as TRL has it
            told = told * out.log_probs.exp().detach()
        loss = -told.sum() / count
        if num_items_in_batch is not None and self.args.average_tokens_across_devices:
            loss = loss * self.accelerator.num_processes  # the count is of all workers, whose gradients are averaged
        return loss


class WeightedCollator(DataCollatorForLanguageModeling):  # type: ignore[misc]
    """Adds the weights, padded with 0."""

    def torch_call(self, examples: list[dict[str, Any]]) -> dict[str, Any]:
        batch: dict[str, Any] = super().torch_call(examples)
        batch["weights"] = torch.zeros(batch["input_ids"].shape)
        for i, example in enumerate(examples):
            batch["weights"][i, : len(example["weights"])] = torch.tensor(example["weights"])
        return batch
