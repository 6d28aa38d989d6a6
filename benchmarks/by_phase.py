"""One round the way it is done today: a Python process for each phase, plain transformers and TRL, files in between.

    attempt     the student answers the practice problems
    teach       the scripted teacher corrects wrong work and writes practice; from that the data set
    sft         `SFTTrainer` with a LoRA; merged and saved
    dpo         `DPOTrainer` with a LoRA on what the SFT left; merged and saved
    evaluate    the new student answers the quiz

`python by_phase.py PHASE FOLDER` reads `FOLDER/task.json` and what the phases before have left there. As lean as such
scripts get, so that a comparison is in their favour: merging has no process of its own, nothing is read or written
that the next phase does not need, and TRL's own handling of the data set counts as building the trainer.

Not covered, and so not paid for: journal, resume, checks of what is taught, digests, proof of what answers, roll-back.
"""

import json
import sys
from collections.abc import Sequence
from itertools import cycle, islice
from pathlib import Path
from random import Random
from typing import Any

from timeline import Recorder

Lines = list[dict[str, Any]]
PHASES = ("attempt", "teach", "sft", "dpo", "evaluate")


class Phase:
    """One phase of one round; each method is a process."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.task: dict[str, Any] = json.loads((folder / "task.json").read_text(encoding="utf-8"))
        self.record = Recorder(folder / "spans")

    def attempt(self) -> None:
        self._write("attempts", self._answered(self.task["student"], self._read("practice")))

    def teach(self) -> None:
        with self.record("imports"):
            from tutorloop.agents.tutor import Tutor
        tutor, corrections, practice = Tutor(), Lines(), Lines()
        attempts = self._read("attempts")
        for a in islice(cycle([a for a in attempts if not a["right"]]), self.task["cases"]):
            with self.record("teacher"):
                corrected = tutor.reply(f"{a['question']}\n{a['work']}")
                bug = tutor.diagnose(a["question"], a["work"]).bug
                written = tutor.practice(bug, 4, a["question"]) if bug else tutor.drill(a["question"], a["work"], 4)
            corrections.append({**_asked(a["question"], corrected), "rejected": _said(a["work"])})
            practice += [_asked(question, work) for question, work in written]
        rows, new = self.task["rows"], [*({k: c[k] for k in ("prompt", "completion")} for c in corrections), *practice]
        own = [_asked(a["question"], a["work"]) for a in attempts if a["right"]]
        filled = [*new[: rows // 2], *islice(cycle(own or new), rows - len(new[: rows // 2]))]
        Random(self.task["seed"]).shuffle(filled)
        self._write("sft", filled)
        pairs = (
            {"prompt": c["prompt"], "chosen": c["completion"], "rejected": c["rejected"]} for c in cycle(corrections)
        )
        self._write("dpo", list(islice(pairs, self.task["pairs"])))

    def sft(self) -> None:
        with self.record("imports"):
            from trl.trainer.sft_config import SFTConfig
            from trl.trainer.sft_trainer import SFTTrainer
        self._train(SFTTrainer, SFTConfig, self.task["student"], "sft")

    def dpo(self) -> None:
        with self.record("imports"):
            from trl.trainer.dpo_config import DPOConfig
            from trl.trainer.dpo_trainer import DPOTrainer
        self._train(DPOTrainer, DPOConfig, str(self.folder / "sft"), "dpo")

    def evaluate(self) -> None:
        student = self.task["student"] if self.task["scripted"] else str(self.folder / "dpo")
        answered = self._answered(student, self._read("quiz"))
        right = sum(a["right"] for a in answered)
        (self.folder / "report.json").write_text(json.dumps({"n": len(answered), "right": right}), encoding="utf-8")

    def _answered(self, student: str, problems: Lines) -> Lines:
        questions = [p["question"] for p in problems]
        texts = self._scripted(questions) if self.task["scripted"] else self._answers(student, questions)
        return [
            {**p, "work": text, "right": text.endswith("=" + p["answer"])}
            for p, text in zip(problems, texts, strict=True)
        ]

    def _answers(self, student: str, questions: Sequence[str]) -> list[str]:
        with self.record("imports"):
            import torch
            from transformers import AutoModelForCausalLM, AutoTokenizer
        with self.record("loading"):
            tokenizer: Any = AutoTokenizer.from_pretrained(student, padding_side="left")
            model: Any = AutoModelForCausalLM.from_pretrained(student).to(self.task["device"]).eval()
        texts: list[str] = []
        for i in range(0, len(questions), self.task["batch"]):
            with self.record("generation"), torch.no_grad():
                batch: Any = tokenizer.apply_chat_template(
                    [[{"role": "user", "content": q}] for q in questions[i : i + self.task["batch"]]],
                    add_generation_prompt=True,
                    padding=True,
                    return_tensors="pt",
                    return_dict=True,
                ).to(self.task["device"])
                ids = model.generate(**batch, max_new_tokens=self.task["max_tokens"], do_sample=False)
                texts += tokenizer.batch_decode(ids[:, batch["input_ids"].shape[1] :], skip_special_tokens=True)
        return texts

    def _scripted(self, questions: Sequence[str]) -> list[str]:
        with self.record("imports"):
            from tutorloop.evals.arithmetic import profile, shipped, work
        with self.record("generation"):
            return [work(question, profile(shipped())) for question in questions]

    def _train(self, trainer_type: Any, config_type: Any, student: str, loss: str) -> None:
        with self.record("imports"):
            from datasets import Dataset
            from peft import LoraConfig
            from transformers import AutoModelForCausalLM, AutoTokenizer
        with self.record("loading"):
            tokenizer: Any = AutoTokenizer.from_pretrained(student)
            model: Any = AutoModelForCausalLM.from_pretrained(student)
            rows = Dataset.from_list(self._read(loss))
        with self.record("construction"):
            trainer = trainer_type(
                model=model,
                args=config_type(output_dir=str(self.folder / "scratch"), **self.task[loss]),
                train_dataset=rows,
                processing_class=tokenizer,
                peft_config=LoraConfig(**self.task["lora"]),
            )
        with self.record("training"):
            trainer.train()
        with self.record("saving"):
            trainer.model.merge_and_unload().save_pretrained(self.folder / loss)
            tokenizer.save_pretrained(self.folder / loss)

    def _read(self, name: str) -> Lines:
        return [json.loads(line) for line in (self.folder / f"{name}.jsonl").open(encoding="utf-8")]

    def _write(self, name: str, lines: Lines) -> None:
        (self.folder / f"{name}.jsonl").write_text("".join(json.dumps(x) + "\n" for x in lines), encoding="utf-8")


def _asked(question: str, work: str | None) -> dict[str, Any]:
    return {"prompt": [{"role": "user", "content": question}], "completion": _said(work or "")}


def _said(work: str) -> list[dict[str, str]]:
    return [{"role": "assistant", "content": work}]


if __name__ == "__main__":
    phase, folder = sys.argv[1:]
    getattr(Phase(Path(folder)), phase)()
