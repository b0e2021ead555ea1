"""The three families measured: `python -m llmbook.training.families_table`, then read the JSON.

Each shipped model is fine-tuned on each of the three tasks of families_tasks; the encoder goes on
with and without next-sentence prediction; and, where `LLMBOOK_DATA` holds them, all read film
reviews (SST-2) and the encoder and the decoder tag names in posts (WNUT-17). What is measured is
written to recorded/families_table.json after each part, with hardware, versions, command and date.
"""

import argparse
import json
import shlex
import sys
import time
from pathlib import Path

import torch
from torch import nn

import llmbook
from llmbook.data import available, sst2, wnut17
from llmbook.data.folders import write_atomically
from llmbook.models import load
from llmbook.models.bert import BertForPreTraining, BertForTokenClassification
from llmbook.training.families import FAMILIES, Special, read_corpus, trio
from llmbook.training.families_tasks import (
    TASKS,
    Task,
    finetune,
    make_task,
    measure,
    quick_config,
)
from llmbook.training.log import Log
from llmbook.training.loop import train
from llmbook.training.objectives import IGNORED, next_sentence_batch, pad

LONGER = {"camel": 4}  # to copy a name is a skill that takes longer to appear
TARGET = Path(llmbook.__file__).parent / "book" / "recorded" / "families_table.json"


def tasks_part(steps, seed):
    """{task: {family: score}} after fine-tuning the shipped models."""
    _, tokenizer, _ = trio()
    special, out = Special.of(tokenizer), {}
    for name in TASKS:
        task = make_task(name, tokenizer, seed)
        out[name] = {}
        for family in FAMILIES:
            torch.manual_seed(seed)
            model = load(family)
            finetune(model, family, task, special, steps=LONGER.get(name, 1) * steps, seed=seed)
            out[name][family], _ = measure(model, family, task, tokenizer, special, seed)
            print(f"{name}, {family}: {out[name][family]:.3f}", flush=True)
    return out


def reviews_part(steps, seed):
    """{family: accuracy} on SST-2's test side; a label is a word that is written."""
    _, tokenizer, _ = trio()
    special, out = Special.of(tokenizer), {}
    words = {0: tokenizer.encode(" bad"), 1: tokenizer.encode(" good")}

    def pairs(split):
        return [(tokenizer.encode(text, ())[:64], words[label]) for text, label in sst2(split)]

    canvas = 1 + max(map(len, words.values()))
    task = Task("reviews", pairs("train"), pairs("test")[:1000], canvas)
    for family in FAMILIES:
        torch.manual_seed(seed)
        model = load(family)
        finetune(model, family, task, special, steps=steps, seed=seed)
        out[family], _ = measure(model, family, task, tokenizer, special, seed)
        print(f"SST-2, {family}: {out[family]:.3f}", flush=True)
    return out


# --- names in posts ------------------------------------------------------------------------------


class DecoderTagger(nn.Module):
    """A GPT with a class for each token, for comparison with the encoder's."""

    def __init__(self, gpt, n_labels):
        super().__init__()
        self.gpt, self.classifier = gpt, nn.Linear(gpt.config.d_model, n_labels)

    def forward(self, input_ids, attention_mask=None):
        """(batch, tokens) → (batch, tokens, labels)."""
        return self.classifier(self.gpt.hidden(input_ids))


def tag_rows(split, tokenizer, labels, head):
    """(ids, targets) a post: the first token of each word carries its tag."""
    rows = []
    for words, tags in wnut17(split):
        ids, targets = list(head), [IGNORED] * len(head)
        for word, tag in zip(words, tags, strict=True):
            piece = tokenizer.encode(" " + word, ())[:8]
            ids += piece
            targets += [labels.index(tag)] + [IGNORED] * (len(piece) - 1)
        rows.append((ids[:120], targets[:120]))
    return rows


def found_names(tags):
    """Names as (first word, last word, kind), from B-/I-/O tags."""
    out, start = set(), None
    for i, tag in enumerate([*tags, "O"]):
        if start is not None and not (tag == "I-" + start[1]):
            out.add((start[0], i - 1, start[1]))
            start = None
        if tag.startswith("B-"):
            start = (i, tag[2:])
    return out


def f1(predicted, right):
    """F1 over exact names of all posts, from pairs of tag lists."""
    hit = sum(len(found_names(p) & found_names(r)) for p, r in zip(predicted, right, strict=True))
    said = sum(len(found_names(p)) for p in predicted)
    there = sum(len(found_names(r)) for r in right)
    return 2 * hit / max(1, said + there)


def names_part(steps, seed):
    """{family: F1} on WNUT-17's test side, for the encoder and the decoder."""
    _, tokenizer, _ = trio()
    special = Special.of(tokenizer)
    labels = sorted({tag for _, tags in wnut17("train") for tag in tags})
    out = {}
    for family in ("encoder", "decoder"):
        torch.manual_seed(seed)
        if family == "encoder":
            model = BertForTokenClassification.on(load(family), labels=tuple(labels))
        else:
            model = DecoderTagger(load(family), len(labels))
        head = [special.cls] if family == "encoder" else []
        rows = tag_rows("train", tokenizer, labels, head)
        order = torch.Generator().manual_seed(seed)
        places = torch.randint(len(rows), (steps, 32), generator=order).tolist()

        def batch_at(step, rows=rows, places=places):
            ids, mask = pad([rows[i][0] for i in places[step]], special.pad)
            return ids, pad([rows[i][1] for i in places[step]], IGNORED)[0], mask

        def loss(model, ids, targets, mask):
            return nn.functional.cross_entropy(model(ids, mask).flatten(0, 1), targets.flatten())

        train(model, batch_at, quick_config(steps, seed), loss=loss, log=Log(progress=False))
        predicted, right = [], []
        with torch.no_grad():
            for ids, targets in tag_rows("test", tokenizer, labels, head):
                best = model(torch.tensor([ids]))[0].argmax(-1).tolist()
                asked = [i for i, t in enumerate(targets) if t != IGNORED]
                predicted.append([labels[best[i]] for i in asked])
                right.append([labels[targets[i]] for i in asked])
        out[family] = f1(predicted, right)
        print(f"WNUT-17, {family}: F1 {out[family]:.3f}", flush=True)
    return out


# --- next-sentence prediction --------------------------------------------------------------------


def nsp_part(steps, seed):
    """{"with NSP", "without NSP": accuracy on the library task} after going on with either."""
    models, tokenizer, _ = trio()
    special = Special.of(tokenizer)
    ids, _, _, _ = read_corpus(tokenizer)
    documents, current = [], []
    for token in ids.tolist():  # documents in pieces of 60 tokens
        if token == special.end:
            pieces = [current[i : i + 60] for i in range(0, len(current) - 20, 60)]
            documents += [pieces] if len(pieces) > 1 else []
            current = []
        else:
            current.append(token)
    task, out = make_task("library", tokenizer, seed), {}
    for name in ("with NSP", "without NSP"):
        torch.manual_seed(seed)
        model = BertForPreTraining.on(models["encoder"])
        model.head.load_state_dict(models["encoder"].head.state_dict())

        def batch_at(step):
            g = torch.Generator().manual_seed(1000 * seed + step)
            batch = next_sentence_batch(
                documents, 16, cls_id=special.cls, sep_id=special.sep, mask_id=special.mask,
                pad_id=special.pad, vocab_size=len(tokenizer), max_len=126, generator=g)
            return (batch["input_ids"], batch["targets"], batch["is_random"],
                    batch["attention_mask"], batch["segment_ids"])

        def loss(model, ids, targets, is_random, mask, segments, name=name):
            if name == "with NSP":
                return model.loss(ids, targets, is_random, mask, segment_ids=segments)
            hidden = model.body(ids, mask, segments)
            asked = targets >= 0
            return nn.functional.cross_entropy(model.head(hidden[asked]), targets[asked])

        train(model, batch_at, quick_config(steps, seed, batch_size=16), loss=loss,
              log=Log(progress=False))  # fmt: skip
        encoder = load("encoder")
        encoder.body.load_state_dict(model.body.state_dict())
        encoder.head.load_state_dict(model.head.state_dict())
        finetune(encoder, "encoder", task, special, steps=steps, seed=seed)
        out[name], _ = measure(encoder, "encoder", task, tokenizer, special, seed)
        print(f"{name}: {out[name]:.3f}", flush=True)
    return out


def main(argv=None):
    """Measure every part that the data allow, or one, and write the record after each."""
    from llmbook.bench.race import machine

    argv = sys.argv[1:] if argv is None else argv
    parser = argparse.ArgumentParser(prog="python -m llmbook.training.families_table",
                                     description=__doc__.splitlines()[0])  # fmt: skip
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=TARGET)
    parser.add_argument("--only", help="one part, beside what the record has: tasks, nsp, sst2 …")
    options = parser.parse_args(argv)
    torch.set_num_threads(options.threads)
    command = shlex.join(["python", "-m", "llmbook.training.families_table", *argv])
    parts = {"tasks": tasks_part, "nsp": nsp_part}
    if available("sst2"):
        parts["sst2"] = reviews_part
    if available("wnut17"):
        parts["wnut17"] = names_part
    if options.only is not None and options.only not in parts:
        parser.error(f"--only must be one of {', '.join(parts)}: got {options.only!r}")
    record = {}
    if options.only is not None and options.out.is_file():
        record = json.loads(options.out.read_text("utf-8"))
    for name in parts if options.only is None else (options.only,):
        began = time.monotonic()
        record[name] = parts[name](options.steps, options.seed)
        record.setdefault("_runs", {})[name] = {
            **machine(torch.device("cpu")), "command": command, "steps": options.steps,
            "seed": options.seed, "seconds": round(time.monotonic() - began),
        }  # fmt: skip
        write_atomically(options.out, (json.dumps(record, indent=1) + "\n").encode())
    return 0


if __name__ == "__main__":
    sys.exit(main())
