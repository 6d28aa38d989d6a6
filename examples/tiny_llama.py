"""Make a tiny random Llama that can read a data set: a stand-in for a real student, to try the plumbing on a CPU.

    python examples/tiny_llama.py --rows train.jsonl --out runs/tiny-llama

A byte-level BPE tokenizer is trained on the rows (questions and answers, whatever pool they may fall into), a chat
template is added, and a Llama of 0.2 M parameters is drawn by seed. It is saved as safetensors, and `AutoTokenizer` and
`AutoModelForCausalLM` load it like any other. The same rows and seed give the same bytes on the same kind of machine.

It has learnt nothing, answers nonsense, and seldom stops. No figure of an experiment with it says anything about
teaching.
"""

import argparse
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"  # read when transformers is imported; nothing here needs the network

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from tutorloop.evals.jsonl import rows_of

PAD, END, USER, ASSISTANT = "<|pad|>", "<|end|>", "<|user|>", "<|assistant|>"
TEMPLATE = (
    "{% for message in messages %}"
    "{{ ('<|assistant|>' if message['role'] == 'assistant' else '<|user|>') + message['content'] }}"
    "{% if message['role'] == 'assistant' %}{{ '<|end|>' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
CONTEXT = 1024
"""Tokens: the longest row of GSM8K has about 600."""


def tokenizer(texts: Sequence[str], size: int) -> Any:
    """Any text can be written, whatever the rows were: what has no token of its own is spelt in bytes."""
    bpe: Any = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer: Any = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=[PAD, END, USER, ASSISTANT],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    bpe.train_from_iterator(texts, trainer)
    made: Any = transformers.PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        pad_token=PAD,
        eos_token=END,
        extra_special_tokens=[USER, ASSISTANT],
        padding_side="left",
        model_max_length=CONTEXT,
        clean_up_tokenization_spaces=False,
    )
    made.chat_template = TEMPLATE
    return made


def llama(words: Any, seed: int) -> Any:
    """A network of random numbers."""
    torch.manual_seed(seed)
    config = transformers.LlamaConfig(
        vocab_size=len(words),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=CONTEXT,
        initializer_range=0.2,  # far from uniform, so that a greedy answer is not a tie between two tokens
        tie_word_embeddings=False,
        bos_token_id=None,
        eos_token_id=words.eos_token_id,
        pad_token_id=words.pad_token_id,
    )
    model = transformers.LlamaForCausalLM(config)
    model.generation_config = transformers.GenerationConfig(
        eos_token_id=words.eos_token_id, pad_token_id=words.pad_token_id, bos_token_id=None, do_sample=False
    )
    return model


def make(rows: Path, out: Path, *, seed: int = 0, vocabulary: int = 1024) -> Path:
    """Write the model's folder."""
    texts = [str(row.fields.get(key, "")) for row in rows_of(rows) for key in ("question", "answer", "solution")]
    transformers.utils.logging.disable_progress_bar()
    words = tokenizer(texts, vocabulary)
    words.save_pretrained(out)
    llama(words, seed).save_pretrained(out)
    return out


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Make a tiny random Llama with a tokenizer for these rows.")
    parser.add_argument("--rows", type=Path, required=True, help="file of JSON lines with `question` and `answer`")
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--vocabulary", type=int, default=1024, help="tokens, at most")
    told = parser.parse_args(arguments)
    print(make(told.rows, told.out, seed=told.seed, vocabulary=told.vocabulary))


if __name__ == "__main__":
    main()
