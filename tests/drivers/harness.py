"""What lm-evaluation-harness makes of rows and recorded answers. Run by a Python that has `lm_eval`; ours need not.

    python harness.py < {"rows": [{"question", "answer"}], "shots": [the same], "said": [[row's index, text]]}

Prints as JSON: the versions of harness and task, the user's turn for each row without and with the shots, and for each
text what strict and flexible read, and whether it counts. Task, filters and metric are the harness's own; ours are the
rows, and the first shots in place of drawn ones.
"""

import json
import sys
import tempfile
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any

import yaml

tasks: Any = import_module("lm_eval.tasks")
task_of: Any = import_module("lm_eval.api.task").ConfigurableTask
instance: Any = import_module("lm_eval.api.instance").Instance


def write(path: Path, rows: list[dict[str, str]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def loaded(rows: list[dict[str, str]], shots: list[dict[str, str]]) -> Any:
    """The harness's task with these rows to ask and these to show."""
    config = yaml.safe_load((Path(tasks.__file__).parent / "gsm8k" / "gsm8k.yaml").read_text())
    with tempfile.TemporaryDirectory() as folder:
        files = {
            "train": write(Path(folder) / "train.jsonl", shots),
            "test": write(Path(folder) / "test.jsonl", rows),
        }
        config |= {"dataset_path": "json", "dataset_name": None, "fewshot_config": {"sampler": "first_n"}}
        return task_of(config={**config, "dataset_kwargs": {"data_files": files, "cache_dir": folder}})


def turn(task: Any, doc: Any, shots: int) -> str:
    """What the harness hands to a chat template, which is one message of the user's."""
    said = {"apply_chat_template": True, "fewshot_as_multiturn": False}
    (message,) = json.loads(task.fewshot_context(doc, shots, chat_template=lambda m, **_: json.dumps(m), **said))
    assert message["role"] == "user"
    return str(message["content"])


def ended(task: Any, text: str) -> str:
    """As an engine leaves it that stops at the task's stop words."""
    for word in task.config.generation_kwargs["until"]:
        text = text.split(word)[0]
    return text


def read(task: Any, docs: Any, said: list[tuple[int, str]]) -> list[dict[str, tuple[str, float]]]:
    """For each text what each filter reads, and the metric on it."""
    asked = [
        instance(request_type="generate_until", doc=docs[row], arguments=("", {}), idx=0, resps=[ended(task, text)])
        for row, text in said
    ]
    for each in task._filters:
        each.apply(asked)
    return [
        {
            name.partition("-")[0]: (number, float(task.process_results(one.doc, [number])["exact_match"]))
            for name, number in one.filtered_resps.items()
        }
        for one in asked
    ]


def main() -> None:
    told = json.load(sys.stdin)
    task = loaded(told["rows"], told["shots"])
    docs = list(task.test_docs())
    answer = {
        "versions": {"lm_eval": version("lm_eval"), "task": task.VERSION},
        "zero": [turn(task, doc, 0) for doc in docs],
        "few": [turn(task, doc, len(told["shots"])) for doc in docs],
        "read": read(task, docs, told["said"]),
    }
    json.dump(answer, sys.stdout)


if __name__ == "__main__":
    main()
