"""The three families measured: `python -m llmbook record families_table`, then read the JSON.

Each shipped model is fine-tuned on each of the three tasks (tasks.py); each family takes its first
steps on little text, as in the chapter; the encoder goes on with and without next-sentence
prediction; and, where `LLMBOOK_DATA` holds them, all read film reviews (SST-2) and the encoder and
the decoder tag names in posts (WNUT-17); the encoder marks the answers to questions in made
passages (answers.py).
"""

import torch
from torch import nn

from llmbook.data import available, sst2, wnut17
from llmbook.data.corruption import next_sentence_batch
from llmbook.data.packing import pad
from llmbook.experiments.families import answers
from llmbook.experiments.families.family import FAMILIES, Encoder, Special, family_named
from llmbook.experiments.families.models import (
    first_steps,
    pretrain,
    read_corpus,
    shipped_families,
)
from llmbook.experiments.families.tasks import (
    TASKS,
    Task,
    evaluate,
    finetune,
    make_task,
    quick_config,
)
from llmbook.experiments.record import RECORDED
from llmbook.losses import IGNORED
from llmbook.models import load
from llmbook.models.bert import (
    BertForPreTraining,
    BertForQuestionAnswering,
    BertForTokenClassification,
)
from llmbook.models.heads import DecoderHead
from llmbook.training.log import Log
from llmbook.training.loop import train

NSP_SEEDS = 3
FIRST_STEPS = 100  # as many as the chapter takes live
FEW_WINDOWS = 2  # the live first steps of the chapter read so many windows each, not 16
LONGER_TASKS = {"camel": 4}  # to copy takes longer to learn,
LONGER_PARTS = {"qa": 2}  # and so does to match
TESTED = 600  # questions about passages
OUT = RECORDED / "families_table.json"


def tasks_part(steps, seed):
    """{task: {family: score}} after fine-tuning the shipped models."""
    _, tokenizer, _ = shipped_families()
    out = {}
    for name in TASKS:
        task = make_task(name, tokenizer, seed)
        out[name] = {}
        for family in FAMILIES:
            longer = LONGER_TASKS.get(name, 1)
            out[name][family] = _finetuned(family, task, tokenizer, longer * steps, seed)
            print(f"{name}, {family}: {out[name][family]:.3f}", flush=True)
    return out


def _finetuned(name, task, tokenizer, steps, seed):
    """The score of a shipped model after some steps on a task."""
    torch.manual_seed(seed)
    model, family = load(name), family_named(name, tokenizer)
    finetune(model, family, task, steps=steps, seed=seed)
    return evaluate(model, family, task, tokenizer, seed)[0]


def first_part(steps, seed):
    """{family: losses of the first steps, FEW_WINDOWS windows each}, as the chapter takes them."""
    _, tokenizer, _ = shipped_families()
    ids, _, _, _ = read_corpus(tokenizer)
    config = first_steps(steps, batch_size=FEW_WINDOWS, seed=seed)
    out = {}
    for family in FAMILIES:
        _, history = pretrain(family, ids, None, tokenizer, config)
        out[family] = [round(loss, 4) for loss in history.losses]
        print(f"first steps, {family}: {out[family][0]:.3f} to {out[family][-1]:.3f}", flush=True)
    return out


def reviews_part(steps, seed):
    """{family: accuracy} on SST-2's test side; a label is a word that is written."""
    _, tokenizer, _ = shipped_families()
    out = {}
    words = {0: tokenizer.encode(" bad"), 1: tokenizer.encode(" good")}

    def pairs(split):
        return [(tokenizer.encode(text, ())[:64], words[label]) for text, label in sst2(split)]

    canvas = 1 + max(map(len, words.values()))
    task = Task("reviews", pairs("train"), pairs("test")[:1000], canvas)
    for family in FAMILIES:
        out[family] = _finetuned(family, task, tokenizer, steps, seed)
        print(f"SST-2, {family}: {out[family]:.3f}", flush=True)
    return out


# --- names in posts


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
    """F1 over exact names of all posts, from pairs of tag lists.

    A prediction may be shorter than its post, where that didn't fit into the window: no name is
    found there, and those that are there are missed.
    """
    predicted, gold = ([found_names(tags) for tags in side] for side in (predicted, right))
    true_positives = sum(len(p & g) for p, g in zip(predicted, gold, strict=True))
    return 2 * true_positives / max(1, sum(map(len, predicted)) + sum(map(len, gold)))


def names_part(steps, seed):
    """{family: F1} on WNUT-17's test side, for the encoder and the decoder."""
    _, tokenizer, _ = shipped_families()
    special = Special.of(tokenizer)
    labels = sorted({tag for _, tags in wnut17("train") for tag in tags})
    out = {}
    for family in ("encoder", "decoder"):
        torch.manual_seed(seed)
        if family == "encoder":
            model = BertForTokenClassification.on(load(family), labels=tuple(labels))
        else:
            model = DecoderHead(load(family), len(labels))
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
        predicted, right = [], [tags for _, tags in wnut17("test")]
        with torch.no_grad():
            for ids, targets in tag_rows("test", tokenizer, labels, head):
                best = model(torch.tensor([ids]))[0].argmax(-1).tolist()
                predicted.append([labels[best[i]] for i, t in enumerate(targets) if t != IGNORED])
        out[family] = f1(predicted, right)
        print(f"WNUT-17, {family}: F1 {out[family]:.3f}", flush=True)
    return out


# --- answers in a passage


def qa_part(steps, seed):
    """{kind of question: {start: {"exact match", "F1"}, "by chance": …}}, on unseen pairs.

    The starts, "as shipped" and "fresh weights", take equally many steps on the same questions.
    """
    models, tokenizer, _ = shipped_families()
    special, out = Special.of(tokenizer), {}
    for kind in answers.ASKS:
        asked = answers.make_questions(TESTED, kind, tokenizer, special, unseen=True, seed=seed)
        out[kind] = {"by chance": answers.by_chance(asked)}
        for start in ("as shipped", "fresh weights"):
            torch.manual_seed(seed)
            body = Encoder(tokenizer).build()  # drawn in any case: what follows has the same draws
            body = models["encoder"] if start == "as shipped" else body
            torch.manual_seed(seed)
            model = BertForQuestionAnswering.on(body)
            history = answers.finetune(model, kind, tokenizer, special, steps=steps, seed=seed)
            out[kind][start] = answers.evaluate(model, asked, special)
            print(
                f"{kind}, {start}: {out[kind][start]}, loss {history.losses[-1]:.3f}", flush=True
            )
    return out


# --- next-sentence prediction


def nsp_part(steps, seed):
    """What a linear probe finds after pretraining went on with and without NSP; a value a seed.

    Both read the same pairs with the same tokens hidden, 15%; only the loss differs. Then the body
    is frozen and `probe` tells the library of a text. "as shipped": before any of it.
    "next sentence told": by the model with NSP, on pairs of the validation side. Three seeds.
    """
    models, tokenizer, _ = shipped_families()
    special = Special.of(tokenizer)
    streams = read_corpus(tokenizer)[:2]
    documents, unseen = (in_pieces(ids.tolist(), special.end) for ids in streams)
    task = make_task("library", tokenizer)
    torch.manual_seed(seed)
    fresh = Encoder(tokenizer).build().eval()
    out = {
        "fresh weights": [probe(fresh.body, task, special)],
        "as shipped": [probe(models["encoder"].body, task, special)],
        "with NSP": [],
        "without NSP": [],
        "next sentence told": [],
    }
    for s in range(seed, seed + NSP_SEEDS):
        for name in ("with NSP", "without NSP"):
            model = go_on(models["encoder"], documents, special, steps, s, name == "with NSP")
            out[name].append(probe(model.body, task, special))
            print(f"seed {s}, {name}: {out[name][-1]:.3f}", flush=True)
            if name == "with NSP":
                accuracy = next_sentence_accuracy(model, unseen, special)
                out["next sentence told"].append(accuracy)
                print(f"seed {s}, next sentence told: {accuracy:.3f}", flush=True)
    return out


@torch.no_grad()
def probe(body, task, special, ridge=10.0):
    """Accuracy of a ridge regression that tells a text's label from the mean hidden state."""
    labels = sorted({tuple(target) for _, target in task.train})

    def read(pairs):
        features = []
        for i in range(0, len(pairs), 64):
            rows = [[special.cls, *source, special.sep] for source, _ in pairs[i : i + 64]]
            ids, mask = pad(rows, special.pad)
            weight = mask[..., None].float()
            features.append((body(ids, mask) * weight).sum(1) / weight.sum(1))
        answers = torch.tensor([labels.index(tuple(target)) for _, target in pairs])
        return torch.cat(features).double(), answers

    (x, y), (tested, wanted) = read(task.train[:1500]), read(task.test)
    mean, spread = x.mean(0), x.std(0) + 1e-6
    x, tested = (x - mean) / spread, (tested - mean) / spread
    hot = nn.functional.one_hot(y, len(labels)).double()
    gram = x.T @ x + ridge * torch.eye(x.shape[1], dtype=x.dtype)
    weights = torch.linalg.solve(gram, x.T @ (hot - hot.mean(0)))
    return ((tested @ weights + hot.mean(0)).argmax(1) == wanted).double().mean().item()


def in_pieces(ids, end, size=60):
    """Documents of two pieces of `size` tokens or more, from a stream with `end` after each.

    A piece begins only where more than 20 tokens are left.
    """
    documents, current = [], []
    for token in ids:
        if token == end:
            pieces = [current[i : i + size] for i in range(0, len(current) - 20, size)]
            documents += [pieces] if len(pieces) > 1 else []
            current = []
        else:
            current.append(token)
    return documents


def nsp_batch(documents, special, vocab_size, seed):
    """Sixteen pairs: (ids, targets, is_random, attention mask, segments)."""
    batch = next_sentence_batch(
        documents,
        16,
        cls_id=special.cls,
        sep_id=special.sep,
        mask_id=special.mask,
        pad_id=special.pad,
        vocab_size=vocab_size,
        max_len=126,
        generator=torch.Generator().manual_seed(seed),
    )
    return (
        batch["input_ids"],
        batch["targets"],
        batch["is_random"],
        batch["attention_mask"],
        batch["segment_ids"],
    )


def go_on(encoder, documents, special, steps, seed, with_nsp):
    """The encoder's pretraining goes on with pairs of pieces: a `BertForPreTraining`."""
    torch.manual_seed(seed)
    model = BertForPreTraining.on(encoder)
    model.head.load_state_dict(encoder.head.state_dict())
    vocab_size = model.config.vocab_size

    def loss(model, ids, targets, is_random, mask, segments):
        if with_nsp:
            return model.loss(ids, targets, is_random, mask, segment_ids=segments)
        hidden = model.body(ids, mask, segments)
        asked = targets >= 0
        return nn.functional.cross_entropy(model.head(hidden[asked]), targets[asked])

    def batch_at(step):  # not seeds.number: the recorded table was drawn so
        return nsp_batch(documents, special, vocab_size, 1000 * seed + step)

    config = quick_config(steps, seed, batch_size=16)
    train(model, batch_at, config, loss=loss, log=Log(progress=False))
    return model


@torch.no_grad()
def next_sentence_accuracy(model, documents, special, batches=25):
    """The share of pairs, 16 a batch, of which the model tells whether the second is random."""
    right = []
    for i in range(batches):
        ids, _, is_random, mask, segments = nsp_batch(
            documents, special, model.config.vocab_size, 10**6 + i
        )
        _, answers = model(ids, mask, segment_ids=segments)
        right.append(answers.argmax(-1) == is_random)
    return torch.cat(right).double().mean().item()


# --- python -m llmbook record families_table

PARTS = {
    "tasks": tasks_part,
    "first": first_part,
    "nsp": nsp_part,
    "qa": qa_part,
    "sst2": reviews_part,
    "wnut17": names_part,
}
SETS = ("sst2", "wnut17")  # parts whose data are downloaded


def add_arguments(parser):
    """How long, and which."""
    parser.add_argument("--seed", type=int, default=0, help="of weights and order")
    parser.add_argument("--steps", type=int, default=200, help="of fine-tuning, for most tasks")
    parser.add_argument("--only", choices=tuple(PARTS), help="one part; the others are kept")


def run(options, record):
    """Measure every part that the data allow, or one, and write the record after each."""
    names = [name for name in PARTS if name not in SETS or available(name)]
    for name in names if options.only is None else (options.only,):
        steps = FIRST_STEPS if name == "first" else LONGER_PARTS.get(name, 1) * options.steps
        values = PARTS[name](steps, options.seed)
        record.write(name, values, steps=steps, seed=options.seed)
